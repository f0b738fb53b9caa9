"""Collections that are dropped, renamed and created again, while zmsd runs and while it is down."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest
from pymongo.errors import OperationFailure

from tests.faults.load import MAPPINGS, SCHEMA, received
from tests.faults.tally import Tally, pick
from tests.support.chance import chance
from tests.support.client import ChangeSourceClient
from tests.support.compare import assert_same, differences
from tests.support.types import Db, Follow, Serve
from tests.support.wait import wait_until
from tests.support.writer import Writer

_numbers = itertools.count()


def fill(database: Db, name: str, count: int = 3) -> None:
    database[name].insert_many({"_id": f"{name}-{next(_numbers)}", "n": number} for number in range(count))


def drop(database: Db) -> None:
    database.a.drop()


def drop_and_fill(database: Db) -> None:
    database.a.drop()
    fill(database, "a", 2)
    database.a.update_many({}, {"$set": {"n": 7}})


def drop_and_fill_repeatedly(database: Db) -> None:
    for number in range(5):
        database.a.drop()
        fill(database, "a", number) if number else database.create_collection("a")


def rename_away(database: Db) -> None:
    database.a.rename("elsewhere")


def rename_away_and_back(database: Db) -> None:
    database.a.rename("elsewhere")
    fill(database, "elsewhere")
    database.elsewhere.rename("a")
    fill(database, "a")


def rename_away_and_fill(database: Db) -> None:
    database.a.rename("elsewhere")
    fill(database, "a")
    database.elsewhere.update_many({}, {"$set": {"n": 9}})


def rename_onto(database: Db) -> None:
    fill(database, "other", 5)
    database.other.rename("a", dropTarget=True)
    database.a.update_many({}, {"$set": {"n": 8}})


def rename_onto_what_is_gone(database: Db) -> None:
    fill(database, "other", 5)
    database.a.drop()
    database.other.rename("a")
    fill(database, "a", 1)


def rename_one_onto_the_other(database: Db) -> None:
    """Both are watched."""
    database.a.rename("b", dropTarget=True)
    fill(database, "a", 1)
    fill(database, "b", 1)


def swap(database: Db) -> None:
    database.a.rename("elsewhere")
    database.b.rename("a")
    database.elsewhere.rename("b")
    database.a.delete_one({})


def drop_database(database: Db) -> None:
    database.client.drop_database(database.name)


def drop_database_and_fill(database: Db) -> None:
    database.client.drop_database(database.name)
    fill(database, "a", 2)
    database.create_collection("b")


def images_off(database: Db) -> None:
    """Changes until the images are on again have no images."""
    database.command("collMod", "a", changeStreamPreAndPostImages={"enabled": False})
    database.a.update_many({}, {"$set": {"n": 5}})
    database.a.update_one({}, {"$set": {"n": 6}})
    database.a.delete_one({})


def validator(database: Db) -> None:
    database.command("collMod", "a", validator={"n": {"$type": "number"}})
    fill(database, "a", 1)


def to_capped(database: Db) -> None:
    """Make the collection capped, for which the server creates a new collection under the old name."""
    database.command("convertToCapped", "a", size=1 << 20)
    fill(database, "a", 1)


CHANGES: list[Callable[[Db], None]] = [
    drop,
    drop_and_fill,
    drop_and_fill_repeatedly,
    rename_away,
    rename_away_and_back,
    rename_away_and_fill,
    rename_onto,
    rename_onto_what_is_gone,
    rename_one_onto_the_other,
    swap,
    drop_database,
    drop_database_and_fill,
    images_off,
    validator,
    to_capped,
]


@pytest.mark.parametrize("meanwhile", ["runs", "is down"])
@pytest.mark.parametrize("scope", ["collection", "database"])
def test_drop_rename_and_recreate_one_by_one_are_followed(
    meanwhile: str, scope: str, loaded: Db, serve: Serve, follow: Follow, tally: Tally
) -> None:
    """After each change the client has the collections as they are then."""
    zmsd = serve(SCHEMA, MAPPINGS, settings={"feed": {"scope": scope}})
    client = follow(zmsd)
    for change in CHANGES:
        for name in ("a", "b"):
            fill(loaded, name)
        same(loaded, client)
        if meanwhile == "is down":
            zmsd.kill()
        change(loaded)
        if meanwhile == "is down":
            zmsd.start()
        fill(loaded, "c", 1)
        same(loaded, client, change.__name__)
        tally.survived += 1
        assert client.replica.reset_required is None, client.replica.reset_required
        loaded.elsewhere.drop()


def same(database: Db, client: ChangeSourceClient, what: str = "the beginning") -> None:
    """Wait until the client's rows are those in MongoDB."""
    try:
        client.wait_for(lambda replica: not differences(database, SCHEMA, MAPPINGS, replica), what, 20)
    except AssertionError as error:
        raise AssertionError(f"{error}; {differences(database, SCHEMA, MAPPINGS, client.replica)}") from None


def test_collection_renamed_onto_a_watched_name_gets_images(loaded: Db, serve: Serve, follow: Follow) -> None:
    """Images are a property of the collection, not of its name."""
    client = follow(serve(SCHEMA, MAPPINGS))
    fill(loaded, "other")
    loaded.other.rename("a", dropTarget=True)
    fill(loaded, "a")

    def has_images() -> bool:
        (info,) = loaded.list_collections(filter={"name": "a"})
        return bool(info["options"].get("changeStreamPreAndPostImages", {}).get("enabled"))

    wait_until(has_images, "the new a has images")
    same(loaded, client)


@pytest.mark.parametrize("scope", ["collection", "database"])
def test_random_namespace_changes_under_load_are_followed(
    scope: str, loaded: Db, serve: Serve, follow: Follow, tally: Tally
) -> None:
    """On two collections, while writers write a third collection whose every change is checked."""
    rng = chance(6)
    zmsd = serve(SCHEMA, MAPPINGS, settings={"feed": {"scope": scope}})
    client = follow(zmsd)
    database = loaded
    with Writer(database.client, database.name, ["c"], threads=1, pause=pick(0.01, 0.002)) as writer:
        writer.start()
        for number in range(pick(200, 5000)):
            step(rng, database)
            tally.survived += 1
            if number % 100 == 50:
                received(client)
                zmsd.kill()
                for _ in range(10):
                    step(rng, database)
                zmsd.start()
        writer.stop()
    database.c.insert_one({"_id": "end", "n": 0})
    client.wait_for(lambda replica: ("end",) in replica.rows["c"], "the end", 60)
    assert_same(database, SCHEMA, MAPPINGS, client.replica)
    del client.replica.transactions[-1]
    tally.check(writer.log, client.replica)


def step(rng: random.Random, database: Db) -> None:
    """Change one of three names at random, two of which are watched."""
    name, other = rng.sample(["a", "b", "elsewhere"], 2)
    try:
        match rng.randrange(8):
            case 0:
                database[name].drop()
            case 1:
                database[name].rename(other, dropTarget=rng.random() < 0.7)
            case 2:
                database.command("create", name, changeStreamPreAndPostImages={"enabled": rng.random() < 0.5})
            case 3:
                database.command("collMod", name, changeStreamPreAndPostImages={"enabled": rng.random() < 0.5})
            case 4:
                database[name].delete_one({})
            case 5:
                database[name].update_many({}, {"$inc": {"n": 1}})
            case _:
                fill(database, name, rng.randint(1, 5))
    except OperationFailure as error:
        if error.code not in (26, 48):  # the collection does not exist, or exists already
            raise
