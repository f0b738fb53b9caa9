"""Names that MongoDB accepts for databases, collections and fields."""

from __future__ import annotations

import string
from pathlib import Path
from urllib.parse import quote

import pytest
from pymongo.errors import OperationFailure

from tests.integration.chat import named, table
from tests.support.daemon import run_zmsd
from tests.support.mongod import Client, ReplicaSet
from tests.support.types import Db, Follow, Serve
from zmsd.config.mongodb_names import collection_problem, database_problem

ODD = "\u200c\u200d\u00a0\u00ad\u202e\ufeff"
"""ZWNJ and ZWJ, which Persian and emoji need; NBSP; soft hyphen; an override of the direction; a byte order mark."""
SERVED = ODD.translate(dict.fromkeys(map(ord, "\u00a0\ufeff")))
"""Those that the name of a table or column may have: the others are white space in JavaScript."""


def test_names_of_collections_are_those_that_mongod_takes(database: Db) -> None:
    odd = ["a.", ".a", "a..b", "system.x", "a.system.x", "systema", " ", "a" * 300, "system", "$a", "a$"]
    for name in [*(f"c{character}d" for character in string.printable + ODD), *odd]:
        try:
            database.command({"insert": name, "documents": [{"_id": 1}]})
        except OperationFailure:
            assert collection_problem(name), name
        else:
            assert collection_problem(name) is None, name


def test_names_of_databases_are_those_that_mongod_takes(mongo: Client) -> None:
    for character in string.printable + ODD:
        name = f"zmsd{character}names"
        if problem := database_problem(name):
            assert repr(character) in problem
            continue
        mongo[name].command({"insert": "c", "documents": [{"_id": 1}]})
        mongo.drop_database(name)
    assert database_problem("x" * 63) is None
    assert database_problem("\u00e9" * 32) is not None, "63 bytes"


def test_odd_names_are_served(mongo: Client, replica_set: ReplicaSet, serve: Serve, follow: Follow) -> None:
    name, collection, field = "zmsd:|*<>?@" + ODD, f"it.ems..{ODD}.", f"fi{ODD}eld\n"
    column, upper = f"col{SERVED}", f"upper{SERVED}"
    try:
        mongo[name].command({"insert": collection, "documents": [{"_id": "a", field: 1, "plain": "x"}]})
        schema = named(item={"columns": {"id": {"type": "string"}, column: {"type": "number"}}, "primaryKey": ["id"]})
        schema["upper"] = {"tableName": upper, **table(id="string", text="string")}
        mappings = {
            "item": {"collection": collection, "fields": {"id": "_id", column: field}},
            "upper": {"source": collection, "projection": {"id": "$_id", "text": {"$toUpper": "$plain"}}},
        }
        uri = replica_set.uri(quote(name, safe=""))
        zmsd = serve(schema, mappings, uri=uri, start=False)
        checked = run_zmsd("check", "--config", str(zmsd.config_file), cwd=zmsd.directory)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        client = follow(zmsd.start())
        assert client.rows("item")["a",][column] == 1
        assert client.rows(upper)["a",]["text"] == "X"
        mongo[name].command({"update": collection, "updates": [{"q": {"_id": "a"}, "u": {"$set": {field: 2}}}]})
        client.wait_for(lambda replica: replica.rows["item"]["a",][column] == 2, "the change")
    finally:
        mongo.drop_database(name)


@pytest.mark.parametrize("name", ["a..b.", f"c{ODD}"])
def test_infer_reads_a_collection_of_an_odd_name(
    name: str, database: Db, replica_set: ReplicaSet, tmp_path: Path
) -> None:
    database.command({"insert": name, "documents": [{"_id": "a", "n": 1}]})
    done = run_zmsd("infer", "--uri", replica_set.uri(database.name), "--out", str(tmp_path), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert name in (tmp_path / "mappings.json").read_text()
