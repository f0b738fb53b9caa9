"""The example application of examples/chat, for tests."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from datetime import UTC, datetime
from typing import Any

from bson import ObjectId

from tests.support.node import CHAT, Workspace
from tests.support.scripts import Api, NodeClient, Row
from tests.support.types import Db
from tests.support.zero import ZeroCache

SCHEMA = json.loads((CHAT / "schema.json").read_text())
MAPPINGS = json.loads((CHAT / "mappings.json").read_text())
SETTINGS = {"zero": {"clients_collection": "zeroClients", "mutations_collection": "zeroMutations"}}


def fill(database: Db) -> None:
    database.users.insert_many([{"_id": name, "name": name.title(), "online": True} for name in ("ada", "ben")])
    database.rooms.insert_many([{"_id": name, "name": name, "topic": f"about {name}"} for name in ("general", "other")])
    database.messages.insert_one(
        {
            "_id": ObjectId("65f000000000000000000001"),
            "room": "general",
            "t": "user",
            "author": {"id": "ben"},
            "text": "from ben",
            "edited": False,
            "sentAt": datetime(2024, 1, 1, tzinfo=UTC),
        }
    )


def server(workspace: Workspace, uri: str, **env: str) -> Api:
    """Run the API server on a database."""
    return Api(workspace, "chat/server.mjs", {"MONGODB_URI": uri, **env})


def token(user: str) -> str:
    """Return the token that the server gives to a user who logs in."""
    proof = hmac.new(b"an example", user.encode(), hashlib.sha256).digest()
    return f"{user}:{base64.urlsafe_b64encode(proof).decode().rstrip('=')}"


def client(workspace: Workspace, cache: ZeroCache, user: str = "ada") -> NodeClient:
    """Return a client that is logged in, with the user's messages of the room general as the view ``messages``."""
    env = {"USER_ID": user, "AUTH": token(user)}
    opened = NodeClient(workspace, cache, app="chat/app.mjs", every=True, env=env)
    opened.materialize("messages", "messages.user", {"roomId": "general"})
    return opened


def send(client: NodeClient, text: str, room: str = "general") -> tuple[str, int]:
    """Send a message, and return its id and the mutation's number."""
    message = str(ObjectId())
    return message, client.mutate("message.send", {"id": message, "roomId": room, "text": text})


def versions(client: NodeClient, message: str) -> list[Row | None]:
    """Return each state in which the view has shown a message; None while the message is missing."""
    shown: list[Row | None] = []
    for _, rows, _ in client.history("messages"):
        row = next((row for row in rows if row["id"] == message), None)
        if not shown or shown[-1] != row:
            shown.append(row)
    return shown


def push(client_id: str, number: int, name: str, arguments: Any) -> dict[str, Any]:
    """Return the body of a request to /mutate, as zero-cache makes it."""
    mutation = {"type": "custom", "id": number, "clientID": client_id, "name": name, "args": [arguments]}
    return {
        "clientGroupID": "group",
        "mutations": [mutation | {"timestamp": time.time() * 1000}],
        "pushVersion": 1,
        "timestamp": time.time() * 1000,
        "requestID": "request",
    }
