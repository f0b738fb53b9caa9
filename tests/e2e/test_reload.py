"""SIGHUP changes the publication, and neither zero-cache nor its clients sync again where Zero can follow."""

from __future__ import annotations

import copy
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.e2e.conftest import Zero
from tests.support.compare import expected_rows
from tests.support.daemon import ZmsdProcess
from tests.support.postgres import Postgres
from tests.support.scripts import NodeClient, Row
from tests.support.types import Db, Serve
from tests.support.wait import wait_until


def table(name: str, /, **columns: str) -> dict[str, Any]:
    """The key is ``id``."""
    return {"tableName": name, "columns": {c: {"type": t} for c, t in columns.items()}, "primaryKey": ["id"]}


def tables(*specs: dict[str, Any]) -> dict[str, Any]:
    return {spec["tableName"]: spec for spec in specs}


SCHEMA = tables(
    table("person", id="string", name="string", city="string"),
    table("room", id="string", title="string"),
    table("task", id="string", text="string"),
    table("note", id="string", text="string", shout="string"),
)
MAPPINGS: dict[str, Any] = {
    "person": {"collection": "people", "fields": {"id": "_id", "name": "name", "city": "address.city"}},
    "room": {"collection": "rooms", "fields": {"id": "_id", "title": "title"}},
    "task": {"collection": "tasks", "filter": {"done": False}, "fields": {"id": "_id", "text": "text"}},
    "note": {"source": "notes", "projection": {"id": "$_id", "text": 1, "shout": {"$toUpper": "$text"}}},
}
# The tables that exist before and after every change: the schema of a client that sees all of them.
STEADY = tables(table("person", id="string", name="string"), SCHEMA["task"], SCHEMA["note"])


@dataclass
class Edition:
    """A publication. Each method makes one change of it."""

    schema: dict[str, Any]
    mappings: dict[str, Any]

    def add_table(self) -> None:
        self.schema["tag"] = table("tag", id="string", label="string")
        self.mappings["tag"] = {"collection": "tags", "fields": {"id": "_id", "label": "label"}}

    def add_column(self) -> None:
        self.schema["person"]["columns"]["age"] = {"type": "number", "optional": True}
        self.mappings["person"]["fields"]["age"] = "age"

    def drop_column(self) -> None:
        del self.schema["person"]["columns"]["city"], self.mappings["person"]["fields"]["city"]

    def drop_table(self) -> None:
        del self.schema["room"], self.mappings["room"]

    def change_filter(self) -> None:
        self.mappings["task"]["filter"] = {"done": True}

    def change_computed_column(self) -> None:
        self.mappings["note"]["projection"]["shout"] = {"$concat": [{"$toUpper": "$text"}, "!"]}

    def changes(self) -> list[Callable[[], None]]:
        return [
            self.add_table,
            self.add_column,
            self.drop_column,
            self.drop_table,
            self.change_filter,
            self.change_computed_column,
        ]

    def rows(self, database: Db, spec: dict[str, Any]) -> list[Row]:
        """Return the rows that a client's table shows of the database."""
        mapping = self.mappings[spec["tableName"]]
        if "fields" in mapping:
            rows = expected_rows(database, spec, mapping)
            return [rows[key] for key in sorted(rows)]
        return list(database[mapping["source"]].aggregate([{"$project": {"_id": 0, **mapping["projection"]}}, _BY_ID]))

    def wait_same(self, client: NodeClient, database: Db, schema: dict[str, Any] | None = None) -> None:
        """Wait until every view of a client with this schema, by default the publication's, shows the database."""
        for name, spec in (schema or self.schema).items():
            client.wait_rows(name, self.rows(database, spec))


_BY_ID = {"$sort": {"id": 1}}


def first() -> Edition:
    return Edition(copy.deepcopy(SCHEMA), copy.deepcopy(MAPPINGS))


def last() -> Edition:
    """Return the publication with every change applied."""
    edition = first()
    for change in edition.changes():
        change()
    return edition


def fill(database: Db) -> None:
    people = [{"_id": f"p{n:02}", "name": f"name {n}", "address": {"city": f"c{n}"}, "age": n} for n in range(50)]
    database.people.insert_many(people)
    database.rooms.insert_many([{"_id": f"r{n}", "title": f"room {n}"} for n in range(5)])
    database.tags.insert_many([{"_id": f"t{n}", "label": f"label {n}"} for n in range(9)])
    database.tasks.insert_many([{"_id": f"k{n:02}", "text": f"task {n}", "done": n % 3 == 0} for n in range(30)])
    database.notes.insert_many([{"_id": f"n{n}", "text": f"note {n}"} for n in range(9)])


def write(database: Db, mark: str) -> None:
    """Insert, update and delete one document in every collection, and move tasks into and out of the filter."""
    database.people.insert_one({"_id": f"q{mark}", "name": mark, "address": {"city": mark}, "age": 1})
    database.people.update_one({"_id": "p01"}, {"$set": {"name": mark, "address.city": mark, "age": len(mark)}})
    for name in ("rooms", "tags", "notes"):
        database[name].insert_one({"_id": f"x{mark}", "title": mark, "label": mark, "text": mark})
        database[name].update_one({"_id": f"{name[0]}1"}, {"$set": {"title": mark, "label": mark, "text": mark}})
        database[name].find_one_and_delete({"_id": {"$lt": "x"}}, sort=[("_id", -1)])
    for done in (True, False):
        database.tasks.find_one_and_update({"done": done}, {"$set": {"done": not done, "text": mark}})


def publish(process: ZmsdProcess, app: Zero, edition: Edition) -> None:
    """Write zmsd's documents, and tell the query endpoint the tables."""
    process.write(edition.schema, edition.mappings)
    app.publish(edition.schema)


def reload(process: ZmsdProcess) -> None:
    count = len(process.log("reloaded"))
    process.signal(signal.SIGHUP)
    process.wait_log("reloaded", count=count + 1)


def never_reset(process: ZmsdProcess, app: Zero) -> bool:
    return not process.log("reset required") and app.cache.log().count("finished initial-sync of") == 1


def taken(postgres: Postgres, app: Zero) -> list[tuple[str, list[str]]]:
    """Return (watermark, data tags) of the transactions that zero-cache keeps, except empty ones."""
    sql = """
        SELECT watermark, string_agg(change->>'tag', ' ' ORDER BY pos) FROM "zero_0/cdc"."changeLog" GROUP BY watermark
        HAVING bool_or(change->>'tag' NOT IN ('begin', 'commit')) ORDER BY watermark
    """
    return [(watermark, tags.split()[1:-1]) for watermark, tags in postgres.query(app.cache.database, sql)]


def wait_taken(postgres: Postgres, app: Zero, count: int) -> list[tuple[str, list[str]]]:
    """Wait until there are that many transactions, and return all."""
    wait_until(lambda: len(taken(postgres, app)) >= count, f"zero-cache has taken {count} transactions", 60)
    return taken(postgres, app)


def states(client: NodeClient, view: str) -> list[list[Row]]:
    """Return the states that the view of a client with STEADY has shown, in order."""
    shown: list[list[Row]] = []
    for _, rows, complete in client.history(view):
        # A row may have more columns than the client's schema.
        own = [{name: row.get(name) for name in STEADY[view]["columns"]} for row in rows]
        if complete and (not shown or shown[-1] != own):
            shown.append(own)
    return shown


def test_reload_with_connected_clients_keeps_views_consistent(
    database: Db, serve: Serve, zero: Callable[..., Zero], postgres: Postgres
) -> None:
    fill(database)
    edition = first()
    process = serve(edition.schema, edition.mappings)
    app = zero(process, edition.schema)
    steady = app.client(STEADY, every=True)
    edition.wait_same(steady, database, STEADY)
    before = edition.rows(database, STEADY["task"]), edition.rows(database, STEADY["note"])

    for number, change in enumerate(edition.changes(), 1):
        change()
        publish(process, app, edition)
        reload(process)
        transactions = wait_taken(postgres, app, number)
        assert len(transactions) == number, (change.__name__, transactions[-2:])
        edition.wait_same(steady, database, STEADY)
        if number <= 4:  # As in a new version of the application, which can name the new columns.
            fresh = app.client()
            edition.wait_same(fresh, database)
            fresh.close()

    # Each view went from one state to the next: none was empty or incomplete in between.
    assert states(steady, "task") == [before[0], edition.rows(database, STEADY["task"])]
    assert states(steady, "note") == [before[1], edition.rows(database, STEADY["note"])]
    assert len(states(steady, "person")) == 1
    write(database, "later")
    edition.wait_same(steady, database, STEADY)
    assert never_reset(process, app)


def test_reload_while_one_part_is_down_needs_no_reset(database: Db, serve: Serve, zero: Callable[..., Zero]) -> None:
    """All changes are made at once, and undone, while one of the three processes is down; MongoDB's documents change
    too."""
    fill(database)
    edition = first()
    process = serve(edition.schema, edition.mappings)
    app = zero(process, edition.schema)
    steady = app.client(STEADY)
    edition.wait_same(steady, database, STEADY)

    process.stop()
    write(database, "zmsd")
    edition = last()
    publish(process, app, edition)
    process.start()
    edition.wait_same(steady, database, STEADY)
    edition.wait_same(app.client(), database)

    app.cache.kill()
    write(database, "cache")
    edition = first()
    publish(process, app, edition)
    reload(process)
    write(database, "caches")
    app.cache.start()
    edition.wait_same(steady, database, STEADY)
    edition.wait_same(app.client(), database)

    steady.send({"op": "offline"})
    online = app.client(STEADY)
    edition.wait_same(online, database, STEADY)
    write(database, "client")
    edition = last()
    publish(process, app, edition)
    reload(process)
    write(database, "clients")
    edition.wait_same(online, database, STEADY)  # A client that names a column too early gives up.
    edition.wait_same(app.client(), database)
    steady.send({"op": "online"})
    edition.wait_same(steady, database, STEADY)
    assert never_reset(process, app)


def test_reload_that_zero_cannot_follow_starts_a_new_sync(
    database: Db, serve: Serve, zero: Callable[..., Zero]
) -> None:
    """zero-cache must sync again: it exits with 14, and its supervisor restarts it."""
    fill(database)
    edition = first()
    process = serve(edition.schema, edition.mappings)
    app = zero(process, edition.schema, one_process=False)
    schema = tables(STEADY["task"], STEADY["note"])
    steady = app.client(schema)
    edition.wait_same(steady, database, schema)

    edition.schema["person"]["columns"]["city"]["type"] = "json"
    publish(process, app, edition)
    reload(process)
    assert app.cache.wait_exit() == 14
    app.cache.start()
    edition.wait_same(steady, database, schema)
    edition.wait_same(app.client(), database)

    app.cache.kill()
    edition.schema["person"]["primaryKey"] = ["name", "id"]
    publish(process, app, edition)
    reload(process)
    write(database, "away")
    assert app.cache.start(wait=False).wait_exit() == 14
    app.cache.start()
    edition.wait_same(steady, database, schema)
    edition.wait_same(app.client(), database)
    assert app.cache.log().count("finished initial-sync of") == 3
