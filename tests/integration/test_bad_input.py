"""Configuration errors: one line for each, with its location, all at once, and exit status 78."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import run_zmsd
from tests.support.types import Serve

CONFIG = """\
mongodb: {uri: "mongodb://127.0.0.1:1/db?replicaSet=rs0"}
schema: {file: schema.json}
mappings: {file: mappings.json}
server:
  port: 3000
"""
SCHEMA = """\
{
  "item": {
    "tableName": "item",
    "columns": {"id": {"type": "string"}, "n": {"type": "number"}},
    "primaryKey": ["id"]
  }
}
"""
MAPPINGS = """\
{
  "item": {"collection": "items", "fields": {"id": "_id", "n": "n"}}
}
"""


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Write the files of a correct configuration."""
    return {"zmsd.yaml": CONFIG, "schema.json": SCHEMA, "mappings.json": MAPPINGS}


def run(files: dict[str, str], directory: Path, command: str = "run") -> subprocess.CompletedProcess[str]:
    for name, text in files.items():
        (directory / name).write_text(text)
    return run_zmsd(command, "--config", "zmsd.yaml", cwd=directory)


def assert_refused(done: subprocess.CompletedProcess[str], *expected: str) -> None:
    """Assert exit status 78, and on stderr one line for each pattern, in any order, and nothing else."""
    lines = done.stderr.splitlines()
    assert done.returncode == 78, done.stderr
    assert "Traceback" not in done.stderr
    assert len(lines) == len(expected), done.stderr
    for pattern in expected:
        assert any(re.search(pattern, line, re.IGNORECASE) for line in lines), (
            f"no line like {pattern!r} in\n{done.stderr}"
        )


# The file, the text to replace in it, the replacement, and the expected error line.
FAULTS: dict[str, tuple[str, str, str, str]] = {
    "bad YAML": ("zmsd.yaml", "server:\n  port", "server: [\n  port", r"zmsd\.yaml:\d+:\d+: "),
    "an unknown key": ("zmsd.yaml", "  port: 3000", "  prot: 3000", r"zmsd\.yaml:5:\d+: server\.prot: .*port"),
    "an unknown section": ("zmsd.yaml", "server:\n  port: 3000", "sever: {}", r"zmsd\.yaml:4:\d+: sever: .*server"),
    "a duplicate key": (
        "zmsd.yaml",
        "  port: 3000",
        "  port: 3000\n  port: 3001",
        r"zmsd\.yaml:6:\d+: .*port.*(twice|duplicate|again)",
    ),
    "a wrong type": ("zmsd.yaml", "3000", "many", r"zmsd\.yaml:5:\d+: server\.port: "),
    "a value out of range": ("zmsd.yaml", "3000", "99999", r"zmsd\.yaml:5:\d+: server\.port: .*65535"),
    "a host that needs a token": ("zmsd.yaml", "  port: 3000", "  host: 0.0.0.0", r"zmsd\.yaml:\d+:\d+: server.*token"),
    "no database": ("zmsd.yaml", "/db?", "/?", r"zmsd\.yaml:1:\d+: mongodb\.uri: .*database"),
    "a URI that is none": ("zmsd.yaml", "mongodb://127.0.0.1:1/", "mango://", r"zmsd\.yaml:1:\d+: mongodb\.uri: "),
    "a missing schema file": ("zmsd.yaml", "schema.json", "nowhere.json", r"nowhere\.json: .*(no such|not found)"),
    "bad JSON": ("schema.json", '"tableName": "item",', '"tableName": "item"', r"schema\.json:4:\d+: "),
    "a duplicate key in JSON": (
        "schema.json",
        '"tableName": "item",',
        '"tableName": "item", "tableName": "x",',
        r"schema\.json:3:\d+: .*tableName",
    ),
    "an unknown column type": ("schema.json", '"number"', '"integer"', r"schema\.json:4:\d+: .*n.*type.*integer"),
    "a table without primary key": (
        "schema.json",
        '"primaryKey": ["id"]',
        '"primaryKey": []',
        r"schema\.json:\d+:\d+: item\.primaryKey: ",
    ),
    "a primary key without a column": (
        "schema.json",
        '"primaryKey": ["id"]',
        '"primaryKey": ["key"]',
        r"schema\.json:5:\d+: item\.primaryKey.*key",
    ),
    "a mapping for no table": ("mappings.json", '"item": {', '"itme": {', r"mappings\.json:2:\d+: itme: .*item"),
    "a mapping without a collection": (
        "mappings.json",
        '"collection": "items", ',
        "",
        r"mappings\.json:2:\d+: item.*(collection|source)",
    ),
    "half of a surrogate pair": (
        "mappings.json",
        '"items"',
        r'"\ud83d"',
        r"mappings\.json:2:\d+: is not valid text: .*half",
    ),
    "a NUL in the name of a field": (
        "mappings.json",
        '"fields"',
        r'"filter": {"$or": [{"a\u0000b": 1}]}, "fields"',
        r"mappings\.json:2:\d+: item\.filter\.\$or\[0\]\.'a\\x00b': .*NUL",
    ),
    "an unknown key in a mapping": (
        "mappings.json",
        '"fields"',
        '"feilds"',
        r"mappings\.json:2:\d+: item\.feilds: .*fields",
    ),
}


@pytest.mark.parametrize("case", FAULTS.values(), ids=FAULTS.keys())
def test_each_configuration_error_is_one_line_with_position(
    case: tuple[str, str, str, str], files: dict[str, str], tmp_path: Path
) -> None:
    name, old, new, expected = case
    assert old in files[name]
    files[name] = files[name].replace(old, new)
    assert_refused(run(files, tmp_path), expected)


def test_name_that_the_locale_cannot_write_is_escaped(files: dict[str, str], tmp_path: Path) -> None:
    schema = json.loads(files["schema.json"])
    schema["item"]["columns"]["größe"] = {"type": "json"}
    (tmp_path / "zmsd.yaml").write_text(files["zmsd.yaml"].split("mappings:")[0])
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    environment = {"PYTHONIOENCODING": "ascii"}
    done = run_zmsd("check", "--offline", "--config", "zmsd.yaml", cwd=tmp_path, environment=environment)
    assert r"gr\xf6\xdfe json" in done.stdout, done.stderr
    assert done.returncode == 0


def test_missing_configuration_file_is_reported(tmp_path: Path) -> None:
    done = run_zmsd("run", "--config", "nowhere.yaml", cwd=tmp_path)
    assert_refused(done, r"nowhere\.yaml: .*(no such|not found)")


def test_all_errors_of_the_settings_are_reported_at_once(files: dict[str, str], tmp_path: Path) -> None:
    files["zmsd.yaml"] = CONFIG.replace("3000", "many") + "feed: {heartbeat: never, images: some}\nlog: {levle: info}\n"
    for command in ("run", "check"):
        assert_refused(
            run(files, tmp_path, command),
            r"zmsd\.yaml:5:\d+: server\.port: ",
            r"zmsd\.yaml:6:\d+: feed\.heartbeat: ",
            r"zmsd\.yaml:6:\d+: feed\.images: ",
            r"zmsd\.yaml:7:\d+: log\.levle: ",
        )


def test_all_errors_of_both_documents_are_reported_at_once(files: dict[str, str], tmp_path: Path) -> None:
    files["schema.json"] = SCHEMA.replace('"number"', '"integer"').replace('"string"', '"varchar"')
    files["mappings.json"] = '{\n"itme": {"collection": "items"},\n"unknown": {"collection": "items"}\n}\n'
    for command in ("run", "check"):
        assert_refused(
            run(files, tmp_path, command),
            r"schema\.json:4:\d+: .*integer",
            r"schema\.json:4:\d+: .*varchar",
            r"mappings\.json:2:\d+: itme: ",
            r"mappings\.json:3:\d+: unknown: ",
        )


def test_check_of_a_good_configuration_reports_no_error(files: dict[str, str], tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text.replace("3000", "0"))
    done = run_zmsd("check", "--config", "zmsd.yaml", "--offline", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_configuration_error_shows_no_secret(files: dict[str, str], tmp_path: Path) -> None:
    files["zmsd.yaml"] = CONFIG.replace("127.0.0.1:1/db", "me:hunter2@127.0.0.1:1/") + "feed: {scope: all}\n"
    done = run(files, tmp_path)
    assert done.returncode == 78
    assert "hunter2" not in done.stderr + done.stdout


def test_server_start_fails_when_port_in_use(serve: Serve) -> None:
    """A port in use is not a configuration error and may become free: exit status 1, after which systemd starts
    zmsd again.
    """
    schema: dict[str, Any] = json.loads(SCHEMA)
    first = serve(schema)
    second = serve(schema, settings={"server": {"port": first.port}}, start=False)
    second.launch()
    assert second.wait_exit() == 1
    (line,) = second.stderr().splitlines()
    assert str(first.port) in line
    assert "in use" in line
