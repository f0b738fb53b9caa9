"""Mutations of the example application: confirmed, refused, across restarts, and in its web page."""

from __future__ import annotations

import contextlib
import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId

from tests.e2e import chat
from tests.support.browser import Page, require_chromium
from tests.support.daemon import ZmsdProcess
from tests.support.mongod import ReplicaSet
from tests.support.node import CHAT, Workspace
from tests.support.ports import free_ports
from tests.support.postgres import Postgres
from tests.support.scripts import Api, NodeClient
from tests.support.types import Db, Serve
from tests.support.wait import wait_until
from tests.support.zero import ZeroCache, kill_zero_cache

BENS = "65f000000000000000000001"


@pytest.fixture
def api(database: Db, replica_set: ReplicaSet, workspace: Workspace, stack: contextlib.ExitStack) -> Api:
    chat.fill(database)
    return stack.enter_context(chat.server(workspace, replica_set.uri(database.name)))


@pytest.fixture
def zmsd(database: Db, serve: Serve, api: Api) -> ZmsdProcess:
    return serve(chat.SCHEMA, chat.MAPPINGS, settings=chat.SETTINGS)


@pytest.fixture
def cache(zmsd: ZmsdProcess, zero_cache: Callable[..., ZeroCache], api: Api) -> ZeroCache:
    return zero_cache(zmsd, query_url=api.query_url, mutate_url=api.mutate_url)


@pytest.fixture
def ada(workspace: Workspace, cache: ZeroCache) -> Iterator[NodeClient]:
    with chat.client(workspace, cache) as client:
        wait_until(lambda: client.rows("messages"), "the first message is shown", 60)
        yield client


def test_mutations_are_confirmed_or_refused(database: Db, ada: NodeClient) -> None:
    # The server strips blanks and has its own clock, so its row differs from the optimistic row.
    message, number = chat.send(ada, "  hello ")
    assert ada.result(number, "client") == {"type": "success"}
    assert ada.result(number) == {"type": "success"}
    stored = database.messages.find_one({"_id": ObjectId(message)})
    assert stored is not None
    assert stored["text"] == "hello"
    wait_until(lambda: len(chat.versions(ada, message)) == 3, "the server's row is shown", 60)
    absent, optimistic, confirmed = chat.versions(ada, message)
    assert absent is None
    assert optimistic is not None and optimistic["text"] == "  hello "  # noqa: PT018
    assert confirmed is not None and confirmed["text"] == "hello"  # noqa: PT018

    edit = ada.mutate("message.edit", {"id": BENS, "text": "mine now"})
    refusal = {"type": "app", "message": "Only the author may do that.", "details": {"author": "ben"}}
    assert ada.result(edit) == {"type": "error", "error": refusal}

    def texts() -> list[str]:
        return [row["text"] for row in chat.versions(ada, BENS) if row]

    wait_until(lambda: texts()[-1] == "from ben", "the message is shown as it was", 60)
    assert texts() == ["from ben", "mine now", "from ben"]

    message, number = chat.send(ada, "lost", room="nowhere")
    assert ada.result(number)["error"]["message"] == "The room is gone."

    # Both refusals have reached the client: zero-cache asks the application to delete them.
    wait_until(lambda: not database.zeroMutations.count_documents({}), "the results are cleaned up", 60)
    message, number = chat.send(ada, "after the cleaning")
    assert ada.result(number) == {"type": "success"}


def test_mutations_during_restarts_are_confirmed_once(zmsd: ZmsdProcess, cache: ZeroCache, ada: NodeClient) -> None:
    numbers = [chat.send(ada, f"before {n}")[1] for n in range(10)]
    zmsd.kill()
    numbers += [chat.send(ada, f"away {n}")[1] for n in range(10)]
    zmsd.start()
    for number in numbers:
        assert ada.result(number) == {"type": "success"}
    cache.kill()
    numbers = [chat.send(ada, f"cache away {n}")[1] for n in range(5)]
    cache.start()
    refused = chat.send(ada, " ")[1]
    for number in numbers:
        assert ada.result(number) == {"type": "success"}
    assert ada.result(refused)["error"]["message"] == "A message needs a text."
    rows = ada.rows("messages")
    assert rows is not None
    assert len(rows) == 26


def test_mutation_collections_created_after_start_work(
    database: Db,
    replica_set: ReplicaSet,
    serve: Serve,
    zero_cache: Callable[..., ZeroCache],
    workspace: Workspace,
    stack: contextlib.ExitStack,
) -> None:
    """The application creates its two collections at its first start; zmsd may already run."""
    chat.fill(database)
    process = serve(chat.SCHEMA, chat.MAPPINGS, settings=chat.SETTINGS)
    api = stack.enter_context(chat.server(workspace, replica_set.uri(database.name)))
    cache = zero_cache(process, query_url=api.query_url, mutate_url=api.mutate_url)
    ada = stack.enter_context(chat.client(workspace, cache))
    wait_until(lambda: ada.rows("messages"), "the first message is shown", 60)
    assert ada.result(chat.send(ada, "hello")[1]) == {"type": "success"}
    assert ada.result(chat.send(ada, " ")[1])["type"] == "error"
    wait_until(lambda: not database.zeroMutations.count_documents({}), "the results are cleaned up", 60)
    assert ada.result(chat.send(ada, " ")[1])["type"] == "error"


def post(url: str, body: Any, user: str | None = "ada") -> tuple[int, Any]:
    headers = {} if user is None else {"Authorization": f"Bearer {chat.token(user)}"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_api_server_handles_repeated_and_out_of_order_mutations(database: Db, api: Api) -> None:
    """A client of zero-cache does not normally send these."""
    url = f"{api.mutate_url}?schema=zero_0&appID=zero"
    message = {"id": str(ObjectId()), "roomId": "general", "text": "once"}

    def mutate(number: int, user: str | None = "ada") -> Any:
        return post(url, chat.push("c", number, "message.send", message), user)[1]

    assert mutate(1)["mutations"] == [{"id": {"clientID": "c", "id": 1}, "result": {}}]
    assert mutate(1)["mutations"][0]["result"]["error"] == "alreadyProcessed"
    assert mutate(3)["reason"] == "oooMutation"
    assert mutate(2, user=None)["mutations"][0]["result"] == {"error": "app", "message": "Log in first."}
    assert database.messages.count_documents({"text": "once"}) == 1
    clients = [{"shard": "zero_0", "clientGroupID": "group", "clientID": "c", "lastMutationID": 2}]
    assert list(database.zeroClients.find({}, {"_id": 0})) == clients
    results = list(database.zeroMutations.find({}, {"_id": 0, "result": 0}))
    assert results == [{"shard": "zero_0", "clientGroupID": "group", "clientID": "c", "mutationID": 2}]

    cleanup = {"type": "single", "clientGroupID": "group", "clientID": "c", "upToMutationID": 2}
    assert post(url, chat.push("c", 0, "_zero_cleanupResults", cleanup))[0] == 200
    assert database.zeroMutations.count_documents({}) == 0
    assert post(url, chat.push("c", 3, "message.send", message), user="ada:forged")[0] == 401


def test_page_in_browser_sends_and_shows_messages(
    database: Db,
    replica_set: ReplicaSet,
    serve: Serve,
    workspace: Workspace,
    postgres: Postgres,
    tmp_path: Path,
    stack: contextlib.ExitStack,
) -> None:
    """Run ``npm start``, and use the page in a real browser."""
    require_chromium()
    chat.fill(database)
    process = serve(chat.SCHEMA, chat.MAPPINGS, settings=chat.SETTINGS)
    port, replica = free_ports(4), tmp_path / "zero.db"
    env = {
        "MONGODB_URI": replica_set.uri(database.name),
        "POSTGRES_URL": postgres.create(f"page_{ObjectId()}"),
        "ZMSD_URL": f"ws://127.0.0.1:{process.port}/changes/v0/stream",
        "PORT": str(port),
        "ZERO_PORT": str(port + 2),
        "ZERO_REPLICA_FILE": str(replica),
    }
    with (tmp_path / "npm-start.log").open("wb") as log:
        started = workspace.popen(["chat/start.mjs"], env=env, stdout=log, stderr=subprocess.STDOUT)
    stack.callback(started.wait)
    stack.callback(started.terminate)
    stack.callback(kill_zero_cache, replica)
    url = f"http://127.0.0.1:{port}/"
    wait_until(lambda: reachable(url) and reachable(f"http://127.0.0.1:{port + 2}/"), "npm start is up", 180)

    with Page(url) as page:
        messages = "document.querySelector('#messages').innerText"
        page.wait(f"{messages}.includes('from ben')")
        page.fill_and_submit("#send", "text", "from the page")
        page.wait(f"{messages}.includes('from the page')")
        wait_until(lambda: database.messages.find_one({"text": "from the page"}), "it is in MongoDB", 60)
        database.messages.update_one({"_id": ObjectId(BENS)}, {"$set": {"text": "changed in MongoDB"}})
        page.wait(f"{messages}.includes('changed in MongoDB')")
        page.fill_and_submit("#send", "text", "x" * 501)
        page.wait("document.querySelector('#notice').innerText.includes('500 characters')")
        page.wait(f"!{messages}.includes('xxx')")
        page.fill_and_submit("#open", "name", "lobby")
        page.wait("document.querySelector('#rooms').innerText.includes('lobby')")
        assert page.errors == []

    started.terminate()
    assert started.wait(60) == 0


def reachable(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_example_dependencies_are_pinned() -> None:
    lock = json.loads((CHAT / "package-lock.json").read_text())
    assert lock["packages"]["node_modules/@rocicorp/zero"]["version"] == "1.9.0"
    assert not [name for name, package in lock["packages"].items() if "resolved" in package]
