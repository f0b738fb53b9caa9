"""Dataclasses from a document and the environment. test_settings.py reads the settings of zmsd."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from zmsd.config.document import ConfigDocument, parse
from zmsd.config.reader import CredentialDirectory, Reader, kind, setting


@dataclass(frozen=True)
class Inner:
    name: str | None = setting(None)
    secret: str | None = setting(None, secret=True)
    file: Path | None = setting(None, credential=True)


@dataclass(frozen=True)
class Outer:
    count: int = setting(3, low=1, high=9)
    seconds: float = setting(1.5, low=0)
    wanted: bool = setting(False)
    level: Literal["debug", "info"] = setting("info", same={"verbose": "debug"})
    words: tuple[str, ...] = setting((), separated=True)
    headers: Mapping[str, str] | None = setting(None)
    state: Path = setting(Path("own.db"), state=True)
    inner: Inner = field(default_factory=Inner)


@dataclass(frozen=True)
class Required:
    name: str = setting(MISSING)


VARIABLES = {
    "COUNT": ("top", "count", ()),
    "WORDS": ("top", "words", ()),
    "NAME": ("inner", "name", ("secret",)),
    "NAME_2": ("inner", "name", ()),
    "SECRET": ("inner", "secret", ("name",)),
}


def document(text: str) -> ConfigDocument:
    return parse(text, "etc/f.yaml", kind="yaml")


def build(text: str, environ: Mapping[str, str] | None = None) -> tuple[Outer, list[str]]:
    """Return the object of a text, and its errors."""
    read = document(text)
    reader = Reader(read, environ or {}, {}, "")
    return reader.build(Outer, read.data), [str(issue).removeprefix("etc/f.yaml:") for issue in reader.issues]


def test_values_of_all_kinds_are_read() -> None:
    found, issues = build(
        "count: 4\nseconds: 2\nwanted: true\nlevel: verbose\nwords: [a, b]\nheaders: {h: v}\nstate: s.db\n"
        "inner: {name: n, file: f}"
    )
    assert not issues
    inner = Inner("n", None, Path("etc/f"))
    assert found == Outer(4, 2.0, True, "debug", ("a", "b"), {"h": "v"}, Path("etc/s.db"), inner)
    assert isinstance(found.seconds, float)


def test_key_without_a_value_has_its_default() -> None:
    found, issues = build("count:\nwords: one\ninner: ~")
    assert not issues
    assert (found.count, found.words, found.inner) == (3, ("one",), Inner())


def test_default_of_a_state_file_is_in_the_state_directory() -> None:
    assert build("count: 4")[0].state == Path("etc/own.db")
    assert build("count: 4", {"STATE_DIRECTORY": "/a:/b"})[0].state == Path("/a/own.db")
    assert build("state: x.db", {"STATE_DIRECTORY": "/a"})[0].state == Path("etc/x.db"), "a setting decides"


@pytest.mark.parametrize(
    ("text", "issue"),
    [
        ("count: 10", "1:1: count: must be a whole number from 1 to 9, got 10"),
        ("count: 0", "1:1: count: must be a whole number from 1 to 9, got 0"),
        ("count: 1.5", "1:1: count: must be a whole number from 1 to 9, got 1.5"),
        ("count: true", "1:1: count: must be a whole number from 1 to 9, got True"),
        ("count: '5'", "1:1: count: must be a whole number from 1 to 9, got '5'"),
        ("seconds: -1", "1:1: seconds: must be a number of at least 0, got -1"),
        ("seconds: .inf", "1:1: seconds: must be a number of at least 0, got inf"),
        ("seconds: .nan", "1:1: seconds: must be a number of at least 0, got nan"),
        ("wanted: 1", "1:1: wanted: must be true or false, got 1"),
        ("level: loud", "1:1: level: must be one of debug, info, got 'loud'"),
        ("level: [debug]", "1:1: level: must be one of debug, info, got a list"),
        ("words: [a, 5]", "1:12: words[1]: must be text (in quotes), got 5"),
        ("words: ['']", "1:9: words[0]: must not be empty"),
        ("headers: 5", "1:1: headers: must be an object, got a number"),
        ("headers: {a: {}}", "1:11: headers.a: must be text, got an object"),
        ('inner: {name: "a\\tb"}', "1:9: inner.name: contains an unprintable character"),
        ("inner: {secret: 5}", "1:9: inner.secret: must be text (in quotes), got a number"),
        ("inner: text", "1:1: inner: must be an object, got text"),
        ("cuont: 4", "1:1: cuont: unknown setting; did you mean count?"),
        ("inner: {zzz: 1}", "1:9: inner.zzz: unknown setting; known: name, secret, file"),
    ],
)
def test_value_that_does_not_fit_is_an_error(text: str, issue: str) -> None:
    assert build(text)[1] == [issue]


def test_required_setting_that_is_missing_is_an_error_with_the_hint() -> None:
    reader = Reader(None, {}, {"NAME": ("top", "name", ())}, " (there is no file)")
    section: dict[str, Any] = {}
    reader.build(Required, section, ("top",))
    assert [str(issue) for issue in reader.issues] == ["environment: NAME: is required (there is no file)"]
    assert not reader.sound(("top",), "name")
    assert not reader.sound((), "top")
    assert reader.sound((), "other")


def overlaid(text: str, **environ: str) -> Reader:
    return Reader(document(text), environ, VARIABLES, "")


def test_variable_overrides_the_file_and_what_it_replaces() -> None:
    reader = overlaid("inner: {name: old, file: f}\nother: 1", SECRET="new")
    assert reader.data == {"inner": {"file": "f", "secret": "new"}, "other": 1}
    assert overlaid("inner: {name: old}", SECRET="").data == {"inner": {"name": "old"}}, "an empty one is not set"


def test_variable_of_a_number_or_list_is_text_that_is_read() -> None:
    reader = overlaid("top: {count: 4}", COUNT="7", WORDS="a, b")
    found = reader.build(Outer, reader.data["top"], ("top",))
    assert (found.count, found.words) == (7, ("a", "b"))
    assert not reader.issues


def test_error_of_a_variable_names_the_variable() -> None:
    reader = overlaid("top: {}", COUNT="many")
    reader.build(Outer, reader.data["top"], ("top",))
    assert [str(issue) for issue in reader.issues] == [
        "environment: COUNT: must be a whole number from 1 to 9, got 'many'"
    ]


def test_variables_that_contradict_each_other_are_errors() -> None:
    assert [str(issue) for issue in overlaid("{}", NAME="a", NAME_2="b").issues] == [
        "environment: NAME: NAME_2 is set too, to another value; unset one of them"
    ]
    assert not overlaid("{}", NAME="a", NAME_2="a").issues
    assert [str(issue) for issue in overlaid("{}", NAME="a", SECRET="b").issues] == [
        "environment: NAME: SECRET is set too; unset one of them"
    ]


def test_variable_for_a_section_that_is_a_number_leaves_the_error_of_the_file() -> None:
    assert overlaid("inner: 5", NAME="a").data == {"inner": 5}


def test_errors_that_do_not_concern_the_command_are_not_reported() -> None:
    reader = Reader(document("{}"), {}, {}, "", concerns=lambda path: path[:1] == ("a",))
    reader.add_issue(("a", "b"), "is wrong", transient=True)
    reader.add_issue(("c",), "is wrong")
    assert [(issue.key, issue.transient) for issue in reader.issues] == [("a.b", True)]
    assert not reader.sound((), "c"), "and still it is wrong"


def test_secret_is_the_text_of_its_file_without_blanks(tmp_path: Path) -> None:
    reader = Reader(document("{}"), {}, {}, "")
    (tmp_path / "s").write_text("\n secret \n")
    assert reader.secret(tmp_path / "s", ("a",)) == "secret"
    (tmp_path / "s").write_text("\n")
    assert reader.secret(tmp_path / "s", ("a",)) == ""
    assert reader.secret(tmp_path / "none", ("b",)) == ""
    assert [(issue.key, issue.reason, issue.transient) for issue in reader.issues] == [
        ("a", f"{tmp_path}/s is empty", True),
        ("b", f"{tmp_path}/none cannot be read: No such file or directory", True),
    ]


def test_credential_is_taken_before_the_file_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    assert CredentialDirectory({}).find("f") is None
    assert CredentialDirectory({}).searched("f") == ""
    assert CredentialDirectory({"CREDENTIALS_DIRECTORY": str(tmp_path)}).find("f") == tmp_path / "f"
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert build("inner: {file: f}", environ)[0].inner.file == tmp_path / "f"
    assert build("inner: {file: g}", environ)[0].inner.file == Path("etc/g")
    reader = Reader(document("{}"), environ, {}, "")
    found = reader.build(Inner, {"file": "g"}, ("inner",))
    assert found.file is not None
    reader.secret(found.file, ("inner", "file"))
    assert "there is no credential g either" in reader.issues[0].reason


@pytest.mark.parametrize(
    ("value", "words"),
    [({}, "an object"), ([], "a list"), ("", "text"), (True, "true or false"), (5, "a number"), (None, "nothing")],
)
def test_kind_of_a_value_is_named(value: object, words: str) -> None:
    assert kind(value) == words
