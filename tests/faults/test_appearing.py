"""Collections that appear under load: their images are switched on at once, and nothing is lost, doubled or torn."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest
from pymongo import UpdateOne

from tests.faults.load import COLLECTIONS, MAPPINGS, SCHEMA, caught_up, forget, settle, written
from tests.faults.tally import Tally, pick
from tests.support.compare import assert_same
from tests.support.types import Db, Follow, Serve
from tests.support.wait import FACTOR, wait_until
from tests.support.writer import Writer, mappings_of, schema_of

RATES = {18: (1, 0.053), 200: (2, 0.005), 2000: (2, 0.005)}
"""Writes per second -> threads and pause of the writers. At 2000 most of the writes are those of ``in_bulk``."""
SOME = [
    ("collection", "auto", 2000),
    ("database", "auto", 18),
    ("collection", "required", 200),
    ("database", "off", 2000),
]
ALL = [(scope, images, rate) for scope, images, _ in SOME for rate in RATES]
"""Scope, images and rate: each mode at one rate, and in the long version at each rate."""


class ImagesWatch:
    """Records when each collection first appears, and when it first has images."""

    def __init__(self, database: Db) -> None:
        self.first: dict[str, float] = {}
        self.on: dict[str, float] = {}
        self._database = database
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="images-watch")

    def __enter__(self) -> ImagesWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def seconds(self) -> float:
        """Return the longest time from the appearance of a collection until it had images."""
        return max(self.on[name] - self.first[name] for name in self.first)

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            for info in self._database.list_collections():
                self.first.setdefault(info["name"], time.monotonic())
                if info["options"].get("changeStreamPreAndPostImages", {}).get("enabled"):
                    self.on.setdefault(info["name"], time.monotonic())


@contextlib.contextmanager
def in_bulk(database: Db, per_second: int) -> Iterator[list[int]]:
    """Update documents of ``b`` without a pause, delete them in the end, and yield the number of writes."""
    stop, count = threading.Event(), [0]
    ids = [f"bulk-{number}" for number in range(50)]

    def run() -> None:
        while not stop.is_set():
            began = time.monotonic()
            database.b.bulk_write([UpdateOne({"_id": one}, {"$inc": {"n": 1}}, upsert=True) for one in ids])
            count[0] += len(ids)
            stop.wait(max(began + len(ids) / per_second - time.monotonic(), 0))
        database.b.delete_many({"_id": {"$in": ids}})

    thread = threading.Thread(target=run, name="in-bulk")
    thread.start()
    try:
        yield count
    finally:
        stop.set()
        thread.join(30)


@pytest.mark.parametrize(("scope", "images", "rate"), pick(SOME, ALL))
def test_collections_created_under_load_get_images_and_lose_nothing(
    scope: str, images: str, rate: int, database: Db, serve: Serve, follow: Follow, tally: Tally
) -> None:
    database.create_collection("a")
    zmsd = serve(SCHEMA, MAPPINGS, settings={"feed": {"scope": scope, "images": images}})
    client = follow(zmsd)
    threads, pause = RATES[rate]
    began = time.monotonic()
    with (
        ImagesWatch(database) as watch,
        Writer(database.client, database.name, COLLECTIONS, threads=threads, pause=pause, transactions=0.3) as writer,
        contextlib.ExitStack() as others,
    ):
        bulk = others.enter_context(in_bulk(database, rate)) if rate > 1000 else [0]
        writer.start()
        written(writer, 20 if rate < 100 else 100)
        if images != "off":
            wait_until(lambda: set(watch.on) == set(COLLECTIONS), "all have images while writers write", 20)
        written(writer, pick(40 if rate < 100 else 400, 4 * rate))
        per_second = (len(writer.log) + bulk[0]) / (time.monotonic() - began)
        writer.stop()
    if images != "off":
        tally.note(f"{per_second:.0f} writes/s, images after {watch.seconds():.3f} s")
        assert watch.seconds() < 5 * FACTOR
    tally.survived += 2
    caught_up(client, writer)
    client.wait_for(
        lambda replica: not any(key[0].startswith("bulk-") for key in replica.rows["b"]), "bulk is gone", 60
    )
    forget(client, "bulk-")
    settle(database, writer, client, tally=tally)


@pytest.mark.parametrize("scope", ["collection", "database"])
def test_many_collections_created_under_load_lose_nothing(
    scope: str, database: Db, serve: Serve, follow: Follow, tally: Tally
) -> None:
    """Each collection is updated at once, in transactions with the other collections."""
    names = [f"new{number}" for number in range(pick(12, 40))]
    schema, mappings = schema_of(names), mappings_of(names)
    client = follow(serve(schema, mappings, settings={"feed": {"scope": scope}}))
    with Writer(database.client, database.name, names, threads=3, transactions=0.6) as writer:
        writer.start(pick(500, 5000))
        writer.wait()
    tally.survived += len(names)
    caught_up(client, writer)
    tally.check(writer.log, client.replica)
    assert_same(database, schema, mappings, client.replica)
