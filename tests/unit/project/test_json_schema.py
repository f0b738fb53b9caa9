"""The JSON Schemas in etc/: made from the code, and true of the documents that zmsd brings."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
SPEC = importlib.util.spec_from_file_location("json_schema", ROOT / "packaging/json_schema.py")
assert SPEC is not None
assert SPEC.loader is not None
MAKER = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(MAKER)
MADE: dict[str, str] = MAKER.made()


def validator(name: str) -> jsonschema.Draft7Validator:
    schema = json.loads(MADE[f"{name}.schema.json"])
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


def test_files_are_what_the_code_makes() -> None:
    files = {file.name: file.read_text() for file in (ROOT / "etc").glob("*.schema.json")}
    assert files == MADE, "python packaging/json_schema.py"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("settings", "etc/zmsd.yaml"),
        ("settings", "examples/chat/zmsd.yaml"),
        ("tables", "etc/schema.json"),
        ("tables", "examples/chat/schema.json"),
        ("mappings", "etc/mappings.json"),
        ("mappings", "examples/chat/mappings.json"),
    ],
)
def test_documents_of_the_project_are_valid(name: str, file: str) -> None:
    document = yaml.safe_load((ROOT / file).read_text())
    assert not [error.message for error in validator(name).iter_errors(document)]


def test_example_with_everything_set_is_valid() -> None:
    text = re.sub(r"^  # (\w+: )", r"  \1", (ROOT / "etc/zmsd.yaml").read_text(), flags=re.MULTILINE)
    assert not [error.message for error in validator("settings").iter_errors(yaml.safe_load(text))]


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("settings", {"server": {"prot": 3000}}),
        ("settings", {"server": {"port": "3000"}}),
        ("settings", {"server": {"port": 70000}}),
        ("settings", {"feed": {"scope": "all"}}),
        ("settings", {"server": {"tls": {"cert": "a"}}}),
        ("tables", {"tables": {"user": {"columns": {"id": {"type": "int"}}, "primaryKey": ["id"]}}}),
        ("tables", {"user": {"columns": {"id": {"type": "string"}}}}),
        ("mappings", {"user": {"fields": {"id": "_id"}}}),
        ("mappings", {"user": {"collection": "users", "field": {}}}),
        ("mappings", {"user": {"collection": "users", "revision": -1}}),
    ],
)
def test_wrong_documents_are_not_valid(name: str, document: Any) -> None:
    assert list(validator(name).iter_errors(document))


def test_example_settings_name_their_schema_for_editors() -> None:
    assert (ROOT / "etc/zmsd.yaml").read_text().startswith("# yaml-language-server: $schema=settings.schema.json\n")
