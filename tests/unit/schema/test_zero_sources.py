"""The document forms of zero-sources, from files and URLs."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from zmsd.commands.check import check
from zmsd.config.document import ConfigDocument, parse
from zmsd.errors import ConfigError
from zmsd.schema.catalog import Catalog, load_catalog

TYPES = {"text": "string", "numeric": "number", "float8": "number", "boolean": "boolean", "json": "json"}
COLUMNS = {
    "_id": {"pos": 1, "dataType": "text", "notNull": True},
    **{f"a {kind}": {"pos": 2, "dataType": kind, "notNull": kind == "json"} for kind in TYPES},
}
EXPORTED = {
    "version": "1.0.0",
    "tables": [{"schema": "public", "name": "message", "columns": COLUMNS, "primaryKey": ["_id"]}],
    "metadata": {"generatedAt": "2025-01-01"},
}
MAPPINGS = {"message": {"source": "messages", "fields": {"_id": "_id"}}}


def document(data: Any) -> ConfigDocument:
    return parse(json.dumps(data), "d.json", kind="json")


def load(schema: Any, mappings: Any = None) -> Catalog:
    return load_catalog(document(schema), None if mappings is None else document(mappings))


def test_exported_schema_loads() -> None:
    (table,) = load(EXPORTED).tables
    assert (table.name, table.spec.primary_key) == ("message", ("_id",))
    columns = {column.name: (column.type, column.optional) for column in table.spec.columns}
    expected = {f"a {kind}": (TYPES[kind], kind != "json") for kind in TYPES}
    assert columns == {"_id": ("string", False), **expected}
    assert load({"schema": EXPORTED}).fingerprint == load(EXPORTED).fingerprint


def test_exported_schema_brings_its_mappings() -> None:
    tables = [{**EXPORTED["tables"][0], "tableMapping": {"collection": "messages"}}]  # type: ignore[index]
    for data in ({**EXPORTED, "tables": tables}, {"schema": {**EXPORTED, "tables": tables}}):
        assert load(data).collections == ("messages",)
        assert load(data, data).collections == ("messages",)
        assert load(data, {"message": {"collection": "others"}}).collections == ("others",)
    tables[0]["tableMapping"] = {"collection": "a$"}
    with pytest.raises(ConfigError, match=r"tables\[0\]\.tableMapping\.collection: not a name that MongoDB takes"):
        load({**EXPORTED, "tables": tables})


@pytest.mark.parametrize("mapping", [MAPPINGS, {"mappings": MAPPINGS}, {"version": "1", "mappings": MAPPINGS}])
def test_combined_document_is_schema_and_mappings(mapping: Any) -> None:
    combined = {"schema": EXPORTED, "mapping": mapping}
    assert load(combined).collections == ("messages",)
    assert load(combined, combined) == load(combined)


def test_table_mappings_load() -> None:
    assert load(EXPORTED, {"version": "1", "mappings": MAPPINGS, "metadata": {"a": 1}}).collections == ("messages",)


@pytest.mark.parametrize(("value", "condition"), [("USER", "USER"), (["USER", "BOT"], {"$in": ["USER", "BOT"]})])
def test_discriminator_is_a_filter(value: Any, condition: Any) -> None:
    one = {"collection": "m", "discriminator": {"field": "t", "value": value}, "fields": {"_id": "_id"}}
    (table,) = load(EXPORTED, {"message": {**one, "filter": {"hidden": False}}}).tables
    assert table.mapping.filter == {"hidden": False, "t": condition}
    assert table.mapping.plain
    for wrong in (
        {"field": "t"},
        {"field": 1, "value": 1},
        {"field": "hidden", "value": 1},
        {"field": "a..b", "value": 1},
    ):
        with pytest.raises(ConfigError, match=r"message\.discriminator"):
            load(EXPORTED, {"message": {**one, "filter": {"hidden": False}, "discriminator": wrong}})


def test_projection_beside_a_pipeline_is_its_end() -> None:
    stages = [{"$unwind": "$lines"}]
    projection = {"_id": {"$toString": "$n"}, "a text": "$lines.text"}
    (table,) = load(EXPORTED, {"message": {"source": "m", "pipeline": stages, "projection": projection}}).tables
    *before, last = table.mapping.pipeline
    assert before == stages
    assert last["$project"]["_id"] == {"$toString": "$n"}
    assert last["$project"]["a text"] == "$lines.text"
    with pytest.raises(ConfigError, match="cannot be combined with"):
        load(EXPORTED, {"message": {"source": "m", "pipeline": stages, "fields": {}}})


def test_example_of_moving_page_is_as_check_reports_it() -> None:
    page = (Path(__file__).parents[3] / "docs/moving.rst").read_text()
    parts = re.split(r"^  (\S.*)\n", page.partition("a renamed column::")[2], flags=re.MULTILINE)
    examples = dict(zip(parts[1::2], map(textwrap.dedent, parts[2::2]), strict=True))
    catalog = load_catalog(*(parse(examples[name], name, kind="json") for name in ("schema.json", "mappings.json")))
    assert not catalog.warnings
    lines = [
        f"ok: table {table.name} from {table.mapping.collection}: "
        + ", ".join(f"{column.name} {column.type}" for column in table.spec.columns)
        for table in catalog.tables
    ]
    assert lines == examples["zmsd check --offline"].split("\n")[: len(lines)]


ROOM = {
    "schema": "public",
    "name": "chat",
    "columns": {"_id": {"pos": 1, "dataType": "text", "notNull": True}, "topic": {"pos": 2, "dataType": "text"}},
    "primaryKey": ["_id"],
}
MEMBER = {
    "schema": "public",
    "name": "member",
    "columns": {"id": {"pos": 1, "dataType": "text", "notNull": True}, "since": {"pos": 2, "dataType": "numeric"}},
    "primaryKey": ["id"],
}
CHAT = {"source": "rooms", "filter": {"t": "d", "archived": {"$ne": True}}, "projection": {"_id": 1, "topic": 1}}
UNION = {"collection": "rooms", "discriminator": {"field": "t", "value": ["d", "p"]}, "fields": {"_id": "_id"}}
UNWOUND = {
    "source": "rooms",
    "pipeline": [
        {"$match": {"members": {"$exists": True}}},
        {"$unwind": {"path": "$members", "includeArrayIndex": "n"}},
    ],
    "projection": {"id": {"$concat": [{"$hexToBase64Url": "$_id"}, {"$toString": "$n"}]}, "since": "$members.since"},
}
OF_CHAT = "ok: table chat from rooms: _id string, topic string"
OF_MEMBER = "ok: table member from rooms: id string, since number"


@pytest.mark.parametrize(
    ("schema", "mappings", "expected"),
    [
        ({"version": "1", "tables": [ROOM], "metadata": {}}, {"version": "1", "mappings": {"chat": CHAT}}, [OF_CHAT]),
        ({"version": "1", "tables": [ROOM], "metadata": {}}, {"chat": UNION}, [OF_CHAT]),
        ({"tables": [{**ROOM, "tableMapping": CHAT}]}, None, [OF_CHAT]),
        ({"schema": {"tables": [ROOM]}, "mapping": {"mappings": {"chat": CHAT}}}, None, [OF_CHAT]),
        ({"tables": [ROOM, MEMBER]}, {"mappings": {"chat": CHAT, "member": UNWOUND}}, [OF_CHAT, OF_MEMBER]),
    ],
    ids=["export", "discriminator", "tableMapping", "combined", "unwinding"],
)
def test_check_reports_the_tables_of_each_documented_form(
    schema: Any, mappings: Any, expected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {"mongodb": {"uri": "mongodb://127.0.0.1/x"}, "schema": {"file": "s.json"}}
    (tmp_path / "s.json").write_text(json.dumps(schema))
    if mappings is not None:
        (tmp_path / "m.json").write_text(json.dumps(mappings))
        settings["mappings"] = {"file": "m.json"}
    (tmp_path / "zmsd.json").write_text(json.dumps({**settings, "server": {"port": 0}}))
    assert check(tmp_path / "zmsd.json", {}, offline=True) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("ok: table ")] == expected
    assert not [line for line in lines if line.startswith(("warning", "error"))]


def test_unknown_data_type_is_a_configuration_error() -> None:
    columns = {"_id": {"dataType": "point", "notNull": True}}
    with pytest.raises(ConfigError, match=r"_id\.dataType: must be one of text, .*, got 'point'"):
        load({"tables": [{"name": "a", "columns": columns, "primaryKey": ["_id"]}]})
