from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.wait import FACTOR
from zmsd.config import document as documents
from zmsd.config.document import Kind, parse
from zmsd.errors import ConfigError, ConfigIssue


def fault_of(text: str, kind: Kind) -> ConfigIssue:
    with pytest.raises(ConfigError) as caught:
        parse(text, "file", kind=kind)
    assert len(caught.value.issues) == 1
    return caught.value.issues[0]


SAME = [
    ("a: 1\nb: [x, {c: true}]\n", '{"a": 1, "b": ["x", {"c": true}]}'),
    ("a: null\nb:\nc: ~", '{"a": null, "b": null, "c": null}'),
    ("a: 1.5\nb: -3\nc: 0x1f\nd: 0o17\ne: 1e3\nf: 007", '{"a": 1.5, "b": -3, "c": 31, "d": 15, "e": 1000.0, "f": 7}'),
    ("a: !!str 1\nb: '2'", '{"a": "1", "b": "2"}'),
    ("a: &x [1]\nb: *x", '{"a": [1], "b": [1]}'),
    (r'"\ud83d\ude00": "\uD83D\uDE00!"', r'{"\ud83d\ude00": "\uD83D\uDE00!"}'),
]


@pytest.mark.parametrize(("yaml", "same"), SAME)
def test_yaml_and_json_give_the_same_data(yaml: str, same: str) -> None:
    assert parse(yaml, "f.yaml", kind="yaml").data == parse(same, "f.json", kind="json").data == json.loads(same)


TEXTS: list[tuple[Kind, str]] = [
    ("yaml", "top:\n  list:\n    - one\n    - {key: value}\n  other: 1\n"),
    ("json", '{"top":\n  {"list":\n    [ "one",\n      {"key": "value"}],\n  "other": 1}}'),
]


@pytest.mark.parametrize(("kind", "text"), TEXTS)
def test_configuration_error_has_line_and_column(kind: Kind, text: str) -> None:
    document = parse(text, "dir/file", kind=kind)
    lines = text.split("\n")

    def word_at(*path: str | int) -> str:
        issue = document.issue(path, "is wrong")
        assert issue.line is not None
        assert issue.column is not None
        return lines[issue.line - 1][issue.column - 1 :].lstrip('"')

    assert word_at("top", "list", 0).startswith("one")
    assert word_at("top", "list", 1, "key").startswith("key")
    assert word_at("top", "other").startswith("other")
    assert word_at("top", "missing", "deeper").startswith("top"), "a missing key has its parent's place"
    assert str(document.issue(("top", "list", 1, "key"), "is wrong")).startswith("dir/file:4:")
    assert str(document.issue(("top", "list", 1, "key"), "is wrong")).endswith(": top.list[1].key: is wrong")
    assert str(document.issue((), "is wrong")) == "dir/file:1:1: is wrong"


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("yaml", "", "file: is empty"),
        ("json", " \n", "file: is empty"),
        ("yaml", "# nothing\n", "file: is empty"),
        ("json", '{"a": 1,\n "b" 2}', "file:2:6: not JSON: Expecting ':' delimiter"),
        ("json", '{"a": NaN}', "file: not JSON: NaN is not a JSON number"),
        ("json", "[" * 100_000, "file:1:201: is nested too deeply"),
        ("yaml", "[" * 500, "file:1:201: is nested too deeply"),
        ("yaml", "a: &a [*a]", "file: is nested too deeply"),
        ("yaml", "a: b: c", "file:1:5: not YAML: mapping values are not allowed here"),
        ("yaml", "a: b: m://h", "file:1:5: not YAML: mapping values are not allowed here: put the URI in quotes"),
        ("yaml", "a: 1\nb: \x01", "file:2:4: not YAML: special characters are not allowed"),
        ("yaml", "a: 1\n---\nb: 1", "file:2:1: not YAML: expected a single document in the stream, but found"),
        ("yaml", "a: 1\n? [b]\n: 1", "file:2:3: a key must be text"),
        ("yaml", "a:\n  - !!python/name:os.system x", "file:2:5: a[0]: unknown tag tag:yaml.org,2002:python/name"),
        ("yaml", "a: !!int x", "file:1:4: a: invalid literal"),
        ("json", '{"a":\n "\\ud83d"}', "file:2:2: is not valid text: it contains half of a surrogate pair"),
        ("json", '[{"\\uDE00": 1}]', "file:1:3: is not valid text"),
        ("yaml", 'a:\n  - "\\ud83d"', "file:2:5: a[0]: is not valid text: it contains half of a surrogate pair"),
        ("yaml", '"\\ude00": 1', "file:1:1: is not valid text"),
    ],
)
def test_unreadable_document_is_reported_with_position(kind: Kind, text: str, expected: str) -> None:
    assert str(fault_of(text, kind)).startswith(expected)


def test_depth_at_the_limit_is_read() -> None:
    text = "[" * 200 + "]" * 200
    assert parse(text, "f", kind="json").issue((0,) * 199, "").column == 200
    assert parse(text, "f", kind="yaml").issue((0,) * 199, "").column == 200
    assert parse('["' + "[" * 300 + '\\""]', "f", kind="json").data == ["[" * 300 + '"']


def test_configuration_errors_beyond_the_limit_are_counted() -> None:
    text = "{" + ",".join(['"a": 1'] * 50) + "," + ",".join(f'"k{i}": [{{}}]' for i in range(500)) + "}"
    with pytest.raises(ConfigError) as caught:
        parse(text, "f", kind="json")
    assert len(caught.value.issues) == 49
    document = parse(text.replace('"a": 1,', ""), "f", kind="json")
    issues = [document.issue((f"k{i}", 0), "x" * 1000) for i in range(500)]
    lines = str(ConfigError(issues)).splitlines()
    assert len(lines) == 101
    assert all(len(line) < 400 for line in lines)
    assert lines[99].startswith("f:1:")
    assert lines[100] == "and 400 more configuration errors, which are not shown"


BUDGET = """
import json, resource, sys, time
from zmsd.config.document import parse
from zmsd.errors import ConfigError
from zmsd.schema.catalog import load_catalog

TABLE = {"columns": {"id": {"type": "string"}}, "primaryKey": ["id"]}
SCHEMA = json.dumps({f"table{i:05d}": TABLE for i in range(8000)})
MISSPELT = json.dumps({f"public_tabel{i:05d}": {"collection": "x"} for i in range(20000)})
def repeated(unit, before, after):
    return before + unit * (((1 << 20) - len(before) - len(after)) // len(unit)) + after
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for schema, mappings in [
    (SCHEMA, MISSPELT),
    (repeated("0,", "[", "0]"), None),
    (repeated("[" * 199 + "]" * 199 + ",", "[", "0]"), None),
    (repeated('"id",', '{"t": {"columns": {"id": {"type": "string"}}, "primaryKey": [', '"id"]}}'), None),
    (SCHEMA, repeated("0,", '{"table00000": {"collection": "x", "pipeline": [', '0]}}')),
    (SCHEMA, repeated('{"$out": 1},', '{"table00000": {"collection": "x", "pipeline": [', '0]}}')),
]:
    start = time.process_time()
    try:
        load_catalog(parse(schema, "s", kind="json"), mappings and parse(mappings, "m", kind="json"))
        sys.exit("accepted")
    except ConfigError as error:
        assert len(str(error).splitlines()) <= 101
    print(time.process_time() - start)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_document_of_the_largest_size_is_checked_within_the_budget() -> None:
    """Processor seconds and megabytes for each: a refresh must not overload the machine."""
    done = subprocess.run([sys.executable, "-c", BUDGET], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    *seconds, megabytes = map(float, done.stdout.split())
    assert max(seconds) < 10 * FACTOR
    assert megabytes < 250


@pytest.mark.parametrize(
    ("raw", "expected"),
    [(b"ok\n  \xff", ":2:3: is not UTF-8 text"), (b"x" * (documents.LIMIT + 1), ": is larger than 1 MiB")],
)
def test_file_that_is_not_text_is_an_error(tmp_path: Path, raw: bytes, expected: str) -> None:
    file = tmp_path / "f"
    file.write_bytes(raw)
    with pytest.raises(ConfigError) as caught:
        documents.read(file)
    assert str(caught.value) == f"{file}{expected}"


def test_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert parse(documents.read(tmp_path / "f"), "f", kind="json").data == {"a": 1}


@pytest.mark.parametrize(("name", "reason"), [("", "Is a directory"), ("none", "No such file or directory")])
def test_unreadable_file_is_an_error(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        documents.read(tmp_path / name)
    assert str(caught.value) == f"{tmp_path / name}: cannot be read: {reason}"


def test_file_with_a_nul_in_its_name_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: embedded null byte"):
        documents.read(tmp_path / "a\0b")


def test_suggestion_names_the_similar_key() -> None:
    document = parse("{}", "f", kind="json")
    known: list[Any] = ["port", "host"]
    assert document.suggestion("prot", known) == "; did you mean port?"
    assert document.suggestion("zzz", known) == ""
    assert document.suggestion("port" * 1000, known) == ""
    assert [document.suggestion("prot", known) for _ in range(30)].count("; did you mean port?") == 18
