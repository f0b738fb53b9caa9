"""The application of the demo: a small chat that fills a database and continues to write."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from threading import Event
from typing import Any

from pymongo import InsertOne
from pymongo.database import Database
from pymongo.errors import PyMongoError

Document = dict[str, Any]

COLLECTIONS = ("users", "rooms", "messages", "zeroClients", "zeroMutations")
"""The last two stay empty here: an application with mutations, such as examples/chat, writes to them."""

_NAMES = ("ada", "barbara", "edsger", "grace", "ken", "leslie", "margaret", "niklaus", "radia", "tony")
_ROOMS = {"general": "anything at all", "help": "ask here", "random": "not work"}
_TEXTS = ("good morning", "who has seen the build?", "it works here", "look at this", "lunch?", "on it", "thanks!")


class Chat:
    """The chat. For one thread."""

    def __init__(self, db: Database[Document], messages: int = 20_000, seed: int = 1) -> None:
        """Write nothing yet.

        :param messages: length of the history that ``fill`` writes
        :param seed: seed of the random numbers
        """
        self._db = db
        self._messages = messages
        self._random = random.Random(seed)

    def fill(self) -> None:
        """Write users, rooms and a history of messages of three kinds in one collection."""
        for name in COLLECTIONS:
            self._db.create_collection(name)
        self._db.users.insert_many([{"_id": name, "name": name.title(), "online": False} for name in _NAMES])
        self._db.rooms.insert_many([{"_id": name, "name": name, "topic": topic} for name, topic in _ROOMS.items()])
        start = datetime.utcnow() - timedelta(seconds=self._messages)
        history = [InsertOne(self._message(start + timedelta(seconds=second))) for second in range(self._messages)]
        self._db.messages.bulk_write(history, ordered=False)

    def go_on(self, stop: Event, pause: float = 0.4) -> None:
        """Write a change about every ``pause`` seconds, until stopped or until MongoDB is gone."""
        acts = (self._say, self._say, self._say, self._edit, self._remove, self._presence, self._move)
        try:
            while not stop.wait(self._random.uniform(0.5, 1.5) * pause):
                self._random.choice(acts)()
        except PyMongoError:
            if not stop.is_set():
                raise

    def _message(self, when: datetime) -> Document:
        kind = self._random.choice(("user", "user", "user", "image", "system"))
        message: Document = {"room": self._random.choice(list(_ROOMS)), "t": kind, "sentAt": when}
        if kind == "system":
            return {**message, "text": f"{self._random.choice(_NAMES)} has joined"}
        message["author"] = {"id": self._random.choice(_NAMES)}
        if kind == "image":
            return {**message, "url": "https://example.com/cat.jpg", "width": 640, "height": 480}
        return {**message, "text": self._random.choice(_TEXTS), "edited": False}

    def _say(self) -> None:
        self._db.messages.insert_one(self._message(datetime.utcnow()))

    def _edit(self) -> None:
        text = self._random.choice(_TEXTS) + " (edited)"
        self._db.messages.update_one({"_id": self._any("user")}, {"$set": {"text": text, "edited": True}})

    def _remove(self) -> None:
        self._db.messages.delete_one({"_id": self._any("image")})

    def _presence(self) -> None:
        self._db.users.update_one({"_id": self._random.choice(_NAMES)}, [{"$set": {"online": {"$not": "$online"}}}])

    def _move(self) -> None:
        """Change the topic of a room and add a system message, in one transaction over two collections."""
        room, topic = self._random.choice(list(_ROOMS)), self._random.choice(_TEXTS)
        message = {"room": room, "t": "system", "sentAt": datetime.utcnow(), "text": f"the topic is now: {topic}"}
        with self._db.client.start_session() as session, session.start_transaction():
            self._db.rooms.update_one({"_id": room}, {"$set": {"topic": topic}}, session=session)
            self._db.messages.insert_one(message, session=session)

    def _any(self, kind: str) -> Any:
        found = self._db.messages.find_one({"t": kind}, {"_id": 1}, sort=[("_id", -1)])
        return found and found["_id"]
