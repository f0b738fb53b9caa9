"""``zmsd demo``: a MongoDB, a small chat that writes to it, zmsd, and its stream on the terminal."""

from __future__ import annotations

import json
import logging
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from zmsd import log as logs
from zmsd.commands.change_source_client import SourceClient
from zmsd.commands.tail import Viewer
from zmsd.config import mongodb_uri
from zmsd.config import settings as config
from zmsd.daemon import Daemon
from zmsd.demo.chat import COLLECTIONS, Chat
from zmsd.demo.mongod import temporary_replica_set
from zmsd.errors import PeerGone, ZmsdError, reason_of_bind
from zmsd.log import redact_uri
from zmsd.mongodb.client import classified_errors
from zmsd.mongodb.deployment import ask
from zmsd.schema.loading import load_documents
from zmsd.zero.protocol import PATH

DATABASE = "zmsd_demo"
_FILES = Path(__file__).parent


def demo(uri: str | None, port: int, seconds: float | None) -> int:
    """Run the demo until ``seconds`` are over, or until Ctrl-C, SIGTERM or SIGHUP, and return the exit code.

    :param uri: URI of a replica set to use; None starts a temporary one
    :param port: port on 127.0.0.1 to serve on
    :param seconds: None without a limit
    :raises ZmsdError: something cannot be started
    """
    _check_port(port)  # before a MongoDB is started and filled
    logs.setup("warning")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    # The driver logs every connection that ends with the mongod, and here all of them do.
    logging.getLogger("pymongo").setLevel(logging.CRITICAL)
    stop = Event()
    try:
        with ExitStack() as stack:
            if uri is None:
                print("starting a temporary MongoDB …", flush=True)
                uri = stack.enter_context(temporary_replica_set()).uri(DATABASE)
            chat = stack.enter_context(_chat(uri))
            daemon = stack.enter_context(_served(uri, port))
            address = "{}:{}".format(*daemon.address)
            print(f"MongoDB:        {redact_uri(uri)}")
            print(f"change source:  ws://{address}{PATH}")
            print(f"zero-cache:     ZERO_UPSTREAM_TYPE=custom ZERO_UPSTREAM_DB=ws://{address}{PATH}")
            print(f"status page:    http://{address}/status  (Ctrl-C ends the demo)\n")
            client = SourceClient(f"ws://{address}", app=DATABASE)  # a zero-cache may connect too, with its own appID
            stack.callback(client.close)
            writer = Thread(target=chat.go_on, args=(stop,), name="chat", daemon=True)
            writer.start()
            stack.callback(writer.join, 5)
            stack.callback(stop.set)
            _show(client, seconds)
    except KeyboardInterrupt:
        print("\nended", flush=True)
    return 0


def _check_port(port: int) -> None:
    """Raise ZmsdError if zmsd cannot listen on a port of 127.0.0.1, with the option of the demo as the remedy."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        example = 3002 if port == 3001 else 3001
        raise ZmsdError(
            f"cannot listen on 127.0.0.1:{port}: {reason_of_bind(error)}: "
            f'choose another port with --port, such as make demo ARGS="--port {example}"'
        ) from error


def _show(client: SourceClient, seconds: float | None) -> None:
    end = None if seconds is None else time.monotonic() + seconds
    viewer = Viewer()
    viewer.expect_initial_sync()
    try:
        for message in client.messages(0.2):
            if message is not None:
                viewer.show(message)
            if end is not None and time.monotonic() >= end:
                break
    except PeerGone as error:
        raise ZmsdError(f"the stream ended: {error}") from error
    print(f"\nended after {viewer.transactions} transactions", flush=True)


@contextmanager
def _chat(uri: str) -> Iterator[Chat]:
    """Fill the database of the URI with the data of the chat, and remove them at the end."""
    with classified_errors():
        client: MongoClient[dict[str, object]] = MongoClient(uri, serverSelectionTimeoutMS=5000)
        with client:
            db = client.get_database(_database(uri))
            ask(db.command, db.command).check()
            there = sorted(set(COLLECTIONS).intersection(db.list_collection_names()))
            if there:
                raise ZmsdError(
                    f"database {db.name} has collections {', '.join(there)} already, which the demo would write to: "
                    f"name another database in --uri (mongodb://HOST/{DATABASE}?…)"
                )
            chat = Chat(db)
            print(f"filling database {db.name} with a small chat …", flush=True)
            try:
                chat.fill()
                yield chat
            finally:
                try:
                    for name in COLLECTIONS:
                        db.drop_collection(name)
                except PyMongoError:
                    pass  # the server is gone, and its temporary data with it


def _database(uri: str) -> str:
    try:
        return mongodb_uri.database_of(uri) or DATABASE
    except ValueError as error:
        raise ZmsdError(f"--uri: {error}") from error


@contextmanager
def _served(uri: str, port: int) -> Iterator[Daemon]:
    """Run zmsd as ``zmsd run`` does, in a thread of this process."""
    with tempfile.TemporaryDirectory(prefix="zmsd-demo-") as directory:
        file = Path(directory, "zmsd.json")
        settings = {
            "mongodb": {"uri": uri, "database": _database(uri)},
            "schema": {"file": str(_FILES / "schema.json")},
            "mappings": {"file": str(_FILES / "mappings.json")},
            "server": {"port": port},
            "zero": {"clients_collection": "zeroClients", "mutations_collection": "zeroMutations"},
            "watermarks": {"path": str(Path(directory, "watermarks.db"))},
        }
        file.write_text(json.dumps(settings))
        loaded = config.load(file, {})
        daemon = Daemon(loaded, load_documents(loaded), file, {})
        thread = Thread(target=daemon.run, name="zmsd", daemon=True)
        thread.start()
        try:
            if not daemon.readiness.wait(30):
                raise ZmsdError(f"not ready: {daemon.readiness.reason}")
            yield daemon
        finally:
            daemon.stop()
            thread.join(30)
