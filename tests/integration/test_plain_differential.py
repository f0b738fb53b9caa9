"""zmsd's evaluation in Python agrees with mongod: plain filters, plain paths, equal ids."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import bson
from bson import Binary, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.code import Code
from bson.datetime_ms import DatetimeMS
from bson.dbref import DBRef
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pymongo.errors import DuplicateKeyError

from tests.faults.tally import pick
from tests.support.types import Db
from zmsd.mongodb.client import CODEC
from zmsd.rows.filters import compile_filter, identity
from zmsd.rows.plain import walk

BATCH = 10
CASES = pick(2_500, 50_000)

NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(".".join)

# Few values of each kind, so that a filter often meets an equal value, or one that is equal only in other languages.
NUMBERS: list[Any] = [
    *(0, 1, -1, 2, 2**31 - 1, Int64(0), Int64(1), Int64(2**53), Int64(2**53 + 1), Int64(2**63 - 1), Int64(-(2**63))),
    *(0.0, -0.0, 1.0, 0.1, 1.5, float(2**53), float(2**63), 5e-324, 1e308, float("nan"), float("inf"), -float("inf")),
    *map(Decimal128, ("0", "-0", "0E+3", "1", "1.0", "1E+0", "0.1", "1.5", "9007199254740993", "9223372036854775807")),
    *map(Decimal128, ("0.1000000000000000055511151231257827", "1E+6144", "1E-6176", "NaN", "sNaN", "Infinity")),
    Decimal128("-Infinity"),
]
SCALARS: list[Any] = [
    *(None, True, False, "", "x", "1", "true", "null", "é", "\x00", *NUMBERS),
    *(datetime(1970, 1, 1), datetime(2024, 2, 29, 12, 30, 15, 123000), DatetimeMS(0), DatetimeMS(2**62)),
    *(DatetimeMS(-(2**62)), Timestamp(1, 1), Timestamp(0, 1), ObjectId(b"0" * 12), ObjectId(b"1" * 12)),
    *(b"", b"x", Binary(b"x", 5), Binary(b"0" * 16, 4), Binary(b"0" * 16, 3), Binary(b"short", 4), Binary(b"x", 128)),
]
# Values that documents may have, but plain filters do not compare with.
OTHERS: list[Any] = [Regex("x"), Code("x"), Code("x", {"a": 1}), MinKey(), MaxKey()]


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    objects = st.dictionaries(NAMES, inner, max_size=3)
    references = st.builds(lambda key, extra: DBRef("x", key, **extra), st.sampled_from([1, {"a": 1}]), objects)
    return st.lists(inner, max_size=3) | objects | objects | references


OPERANDS = st.sampled_from(SCALARS)
VALUES = st.recursive(OPERANDS | st.sampled_from([*NUMBERS, *OTHERS]), _nested, max_leaves=6)
DOCUMENTS = st.dictionaries(NAMES, VALUES, max_size=3)
OPERATORS = st.one_of(
    OPERANDS,
    st.fixed_dictionaries({"$eq": OPERANDS}),
    st.fixed_dictionaries({"$ne": OPERANDS}),
    st.fixed_dictionaries({"$in": st.lists(OPERANDS, max_size=4)}),
    st.fixed_dictionaries({"$nin": st.lists(OPERANDS, max_size=4)}),
    st.fixed_dictionaries({"$exists": st.sampled_from([True, False, 1, 0, 1.0, 0.0, None])}),
    st.fixed_dictionaries({"$exists": st.booleans(), "$ne": OPERANDS}),
)
FILTERS = st.dictionaries(PATHS, OPERATORS, min_size=1, max_size=2)

# The same cases in every run: a difference found here must not depend on luck.
unhurried = settings(
    max_examples=CASES // BATCH,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],
)


def test_plain_filters_match_as_mongod(database: Db) -> None:
    @unhurried
    @given(batch(DOCUMENTS), batch(FILTERS))
    def check(documents: list[dict[str, Any]], filters: list[dict[str, Any]]) -> None:
        stored = store(database, documents)
        for condition in filters:
            found = {document["_id"] for document in database.c.find(condition, {"_id": 1})}
            matches = compile_filter(condition)
            for document in stored:
                ours, theirs = matches(document), document["_id"] in found
                assert ours is theirs, f"{condition} on {document}: {ours}, mongod says {theirs}"

    check()


def test_plain_paths_read_as_mongod(database: Db) -> None:
    @unhurried
    @given(batch(DOCUMENTS), batch(PATHS))
    def check(documents: list[dict[str, Any]], paths: list[str]) -> None:
        stored = store(database, documents)
        project = {f"v{number}": f"${path}" for number, path in enumerate(paths)}
        projected = database.get_collection("c", CODEC).aggregate([{"$sort": {"_id": 1}}, {"$project": project}])
        for document, values in zip(stored, projected, strict=True):
            for number, path in enumerate(paths):
                ours, theirs = walk(document, tuple(path.split("."))), values.get(f"v{number}")
                # As BSON, where 1, 1.0 and True differ and NaN is equal to itself.
                assert bson.encode({"": ours}) == bson.encode({"": theirs}), f"{path} of {document}"

    check()


def test_ids_equal_for_zmsd_are_equal_for_mongod(database: Db) -> None:
    """mongod accepts each of them once, whatever its type."""
    values = [*SCALARS, *OTHERS[1:], Code("x", {"a": 1.0}), Code("x", {}), DBRef("x", 1), DBRef("x", 1.0)]
    inside = [inner for value in [*values, Regex("x")] for inner in ({"a": value}, {"a": [value]}, {"b": [[value], 0]})]
    orders = [{"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1.0, "b": 2}, {"a": {"a": 1, "b": 2}}, {"a": {"b": 2, "a": 1}}]
    there: list[Any] = []
    for value in [*values, *inside, *orders]:
        one = identity(bson.decode(bson.encode({"_id": value}), CODEC)["_id"])
        try:
            database.c.insert_one({"_id": value})
        except DuplicateKeyError:
            assert one in there, f"{value!r} is there for mongod"
        else:
            assert one not in there, f"{value!r} is not there for mongod"
            there.append(one)


def batch(items: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(items, min_size=BATCH, max_size=BATCH)


def store(database: Db, documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Replace the content of the collection, and return the documents as zmsd gets them."""
    database.c.delete_many({})
    database.c.insert_many([{"_id": number, **document} for number, document in enumerate(documents)])
    return list(database.get_collection("c", CODEC).find().sort("_id"))
