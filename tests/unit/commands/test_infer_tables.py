"""The tables that documents suggest: types, paths, keys, and several tables of one collection."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from bson import Binary, Code, Decimal128, ObjectId

from zmsd.commands.infer_tables import Table, camel, find_discriminator, guess, unique

Documents = list[dict[str, Any]]


def table(*documents: dict[str, Any], collection: str = "things") -> Table:
    """Return the only table of documents, which get an ``_id`` if they have none."""
    (found,) = guess(collection, [{"_id": f"k{n}"} | one for n, one in enumerate(documents)], set())
    return found


def column(*values: Any) -> tuple[str, bool]:
    """Return type and optional of the column of these values."""
    found = table(*({"value": value} for value in values)).columns["value"]
    return found["type"], found.get("optional", False)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["a", "b"], "string"),
        ([1, 2.5], "number"),
        ([1, 2**53 + 1], "string"),
        ([1.5, 2**53 + 1], "number"),
        ([True, False], "boolean"),
        ([datetime(2026, 1, 1)], "number"),
        ([ObjectId()], "string"),
        ([ObjectId(), "a"], "string"),
        ([Binary(b"x")], "string"),
        ([Decimal128("1.10")], "string"),
        ([Decimal128("1.10"), 2], "string"),
        ([[1, 2]], "json"),
        ([1, "a"], "json"),
        ([True, 1], "json"),
        ([{"a": 1}, "a"], "json"),
        ([{}, {}], "json"),
    ],
)
def test_column_type_is_inferred_from_values(values: list[Any], expected: str) -> None:
    assert column(*values) == (expected, False)
    assert column(*values, None) == (expected, True), "null is not a type of its own"


def test_field_that_is_always_null_becomes_json_with_a_note() -> None:
    found = table({"value": None})
    assert found.columns["value"] == {"type": "json", "optional": True}
    assert found.notes == ["value is null in every document: it became json"]


def test_missing_fields_are_optional_in_first_seen_order() -> None:
    found = table({"b": 1, "a": 1}, {"b": 1, "c": 1})
    assert list(found.columns) == ["id", "b", "a", "c"]
    assert [name for name, one in found.columns.items() if one.get("optional")] == ["a", "c"]
    assert found.primary_key == ["id"]


def test_objects_are_flattened_into_columns() -> None:
    found = table({"author": {"id": "x", "name": {"first": "Ann"}}, "first-name": 1}, {"author": {"id": "y"}})
    assert found.fields == {
        "id": "_id",
        "authorId": "author.id",
        "authorNameFirst": "author.name.first",
        "firstName": "first-name",
    }
    assert found.columns["authorId"] == {"type": "string"}
    assert found.columns["authorNameFirst"] == {"type": "string", "optional": True}


@pytest.mark.parametrize(
    "objects",
    [
        [{"a": 1}, [1]],
        [{f"key{n}{m}": True for m in range(3)} for n in range(20)],
        [{"0": 1}, {"1": 2}],
        [{str(ObjectId(b"0" * 12)): 1}],
        [{"a.b": 1}],
        [{"$a": 1}],
        [{"": 1}],
        [{"a@example.org": 1}],
    ],
    ids=["beside a list", "names are data", "numbers", "ids", "a dot", "a dollar", "no name", "addresses"],
)
def test_irregular_objects_become_json(objects: list[Any]) -> None:
    found = table(*({"value": value} for value in objects))
    assert found.columns["value"] == {"type": "json"}
    assert found.fields == {"id": "_id", "value": "value"}


def test_deep_objects_become_json() -> None:
    found = table({"a": {"b": {"c": {"d": {"e": {"f": 1}}}}}})
    assert found.fields["aBCD"] == "a.b.c.d"
    assert found.columns["aBCD"] == {"type": "json"}


def test_very_wide_documents_are_not_flattened() -> None:
    found = table({f"part{n}": {f"x{m}": m for m in range(5)} for n in range(50)})
    assert len(found.columns) == 51
    assert found.columns["part7"] == {"type": "json"}
    assert len(found.notes) == 1


def test_too_many_fields_keeps_the_most_frequent() -> None:
    """zero-cache's SQLite takes at most 2000 columns."""
    found = table(*({**{f"f{n}x{m}": 1 for m in range(30)}, "name": "x"} for n in range(100)))
    assert list(found.columns)[:3] == ["id", "name", "f0x0"]
    assert len(found.columns) == 1001
    assert found.notes[1:] == ["has 3001 fields: the 1000 most frequent ones became columns"]


def test_field_names_that_cannot_be_paths_are_skipped_with_a_note() -> None:
    found = table({"a.b": 1, "$c": 1, "d": 1})
    assert list(found.fields) == ["id", "d"]
    assert len(found.notes) == 2


def test_clashing_column_names_get_numbers() -> None:
    found = table({"id": "mine", "ID": 1, "a-b": 1, "aB": 1, "_0_version": 1})
    assert found.fields == {
        "id": "_id",
        "id2": "id",
        "ID3": "ID",
        "aB": "a-b",
        "aB2": "aB",
        "_0_version2": "_0_version",
    }


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([ObjectId(), ObjectId()], "string"),
        ([1, 2.5], "number"),
        ([2**60, 1], "string"),
        ([2**60, 2.5], "string"),
        ([1, "1"], "string"),
        ([True, False], "boolean"),
    ],
)
def test_key_type_is_inferred_from_ids(ids: list[Any], expected: str) -> None:
    (found,) = guess("things", [{"_id": one} for one in ids], set())
    assert found.columns == {"id": {"type": expected}}
    assert len(found.notes) == (ids in ([2**60, 2.5], [1, "1"]))


def test_object_ids_become_several_key_columns() -> None:
    (found,) = guess("things", [{"_id": {"shop": "a", "n": n}, "x": 1} for n in range(3)], set())
    assert found.primary_key == ["idShop", "idN"]
    assert found.fields == {"idShop": "_id.shop", "idN": "_id.n", "x": "x"}
    assert guess("things", [{"_id": {"a": 1}}, {"_id": "b"}], set()) == []
    assert guess("things", [{"_id": {"a": 1}}, {"_id": {"b": 1}}], set()) == []
    assert guess("things", [{"_id": {"a": [1]}}], set()) == []


def messages() -> Documents:
    kinds: Documents = [
        {"t": "user", "author": {"id": "x"}, "edited": False},
        {"t": "system"},
        {"t": "image", "author": {"id": "x"}, "url": "u", "width": 1},
    ]
    return [{"_id": f"m{n}", "room": f"r{n % 7}", **kinds[n % 3]} for n in range(60)]


def test_discriminated_collection_becomes_several_tables() -> None:
    names = {"messagesuser"}
    tables = {one.name: one for one in guess("messages", messages(), names)}
    assert list(tables) == ["messagesImage", "messagesSystem", "messagesUser2"]
    assert tables["messagesImage"].filter == {"t": "image"}
    assert list(tables["messagesImage"].columns) == ["id", "room", "t", "authorId", "url", "width"]
    assert list(tables["messagesSystem"].columns) == ["id", "room", "t"]
    assert not any(one.get("optional") for found in tables.values() for one in found.columns.values())
    assert tables["messagesImage"].documents == 20
    assert "messagesimage" in names


def test_field_that_does_not_discriminate_is_ignored() -> None:
    assert find_discriminator([]) is None
    states = [{"state": "open"} if n % 2 else {"state": "closed", "closedAt": 1} for n in range(60)]
    assert find_discriminator(states) is None, "a state that adds a field"
    many = [{"name": f"n{n % 30}", f"f{n % 30}": 1} for n in range(600)]
    assert find_discriminator(many) is None, "too many values"
    assert find_discriminator(messages()[:12]) is None, "too few documents"
    assert find_discriminator([*messages(), {"_id": "x"}]) is None, "not in every document"
    for name in ("$t", "meta.t", "", "t\0"):
        renamed = [{name if key == "t" else key: value for key, value in one.items()} for one in messages()]
        assert find_discriminator(renamed) is None, "no filter can name it"
    code = [{**one, "t": Code(one["t"])} for one in messages()]
    assert find_discriminator(code) is None, "code is not text"
    rare = [{"kind": "ab"[n % 2], f"own{n % 2}": 1 if n % 20 < 2 else None} for n in range(60)]
    assert find_discriminator(rare) is None, "fields that are mostly missing"


def test_column_names_are_camel_case_and_unique() -> None:
    assert camel("_id") == "id"
    assert camel("author", "_id") == "authorId"
    assert camel("fs.files") == "fsFiles"
    assert camel("a", "b-c d") == "aBCD"
    assert camel("_class") == "_class"
    assert camel("1st") == "n1st"
    assert camel("sqlite_x") == "nsqlite_x"
    assert camel("_litestream_seq") == "n_litestream_seq"
    assert camel("users_pkey") == "usersPkey"
    assert camel("__proto__") == "n__proto__"
    assert camel("größe") == "größe"
    assert camel("--") == "n"
    taken = {"a"}
    assert [unique("A", taken), unique("a", taken), unique("b", taken)] == ["A2", "a3", "b"]


def test_mixed_types_are_noted_with_their_shares() -> None:
    found = table(*[{"value": "x"}] * 7, *[{"value": 1}] * 2, {"value": True}, {"value": None})
    assert found.columns["value"]["type"] == "json"
    assert found.notes == ["value has values of several types (70 % text, 20 % int, 10 % bool): it became json"]
    assert table({"value": 1}, {"value": 1.5}).notes == []


def test_dynamic_keys_are_noted_and_become_json() -> None:
    ids = table(*({"votes": {f"65f00000000000000000000{n}": 1}} for n in range(3)))
    assert ids.columns["votes"]["type"] == "json"
    assert ids.notes == ["votes has keys that are data, such as 65f000000000000000000000: it became json"]
    words = table(*({"flags": {f"flag{n}": True}} for n in range(9)))
    assert words.notes == ["flags has 9 keys that differ between documents: it became json"]
