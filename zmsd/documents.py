"""A document that a person or a program wrote, YAML or JSON: plain data that knows where each value stands.

JSON is read by the json module, and its positions are looked for only when a fault is asked for. YAML is composed by
PyYAML and read by the core schema of YAML 1.2: only ``true`` and ``false`` are booleans (``images: off`` is text),
dates are text, every key is text. In both a key that stands twice in one object is a fault.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import yaml

from zmsd.errors import ConfigError, Fault

Kind = Literal["json", "yaml"]
Keys = tuple[str | int, ...]
"""The way from the top of a document to a value: keys of objects, indexes of lists."""

LIMIT = 16 << 20
"""Bytes; no document is larger."""

_MAX_NODES = 1_000_000  # aliases let a few lines of YAML stand for more values than any memory holds


class Document:
    """Plain data (dict, list, str, int, float, bool, None) and the text it was read from.

    ``name`` is the file or URL as faults show it.
    """

    def __init__(self, name: str, text: str, data: Any, marks: _Mark | None = None) -> None:
        self.name = name
        self.text = text
        self.data = data
        self._marks = marks

    def __repr__(self) -> str:
        return f"Document({self.name!r})"

    def fault(self, path: Keys, reason: str) -> Fault:
        """A fault at the key or list item at ``path``; where that is missing, at the nearest thing around it."""
        if self._marks is None:
            self._marks = _json_marks(self.text)[0]
        mark = self._marks
        for part in path:
            if part not in mark.children:
                break
            mark = mark.children[part]
        return _fault_at(self.name, self.text, mark.offset, path, reason)


def parse(text: str, name: str, *, kind: Kind) -> Document:
    """The document in ``text``; ConfigError for bad syntax, for nothing at all, and for every key that stands twice."""
    if not text.strip():
        raise ConfigError([Fault(name, None, None, "", "is empty")])
    try:
        return _parse_json(text, name) if kind == "json" else _parse_yaml(text, name)
    except RecursionError:
        raise ConfigError([Fault(name, None, None, "", "is nested too deeply")]) from None


def read(path: Path) -> str:
    """The text of a UTF-8 file of at most LIMIT bytes; ConfigError says why not."""
    try:
        with path.open("rb") as file:
            return decode(file.read(LIMIT + 1), str(path))
    except OSError as exc:
        raise ConfigError([Fault(str(path), None, None, "", f"cannot be read: {exc.strerror or exc}")]) from exc


def decode(raw: bytes, name: str) -> str:
    """``raw`` as UTF-8 text without a byte order mark; ConfigError if it is none, or more than LIMIT bytes."""
    if len(raw) > LIMIT:
        raise ConfigError([Fault(name, None, None, "", f"is larger than {LIMIT >> 20} MiB")])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line, column = raw.count(b"\n", 0, exc.start) + 1, exc.start - raw.rfind(b"\n", 0, exc.start)
        raise ConfigError([Fault(name, line, column, "", "is not UTF-8 text")]) from exc


def suggestion(word: str, known: Iterable[str]) -> str:
    """``; did you mean port?``, or nothing when nothing known is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def dotted(path: Keys) -> str:
    """``nats.servers[0]``; a key that does not print as a literal, a URI (by mistake, and with a password) as ``…``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{_printable(part)}" for part in path).removeprefix(".")


def _printable(key: str) -> str:
    if "://" in key:
        return "…"
    return key if key.isprintable() else repr(key)


class _Mark:
    """Where one value stands (for a member of an object: its key), as an offset in the text, and what is in it."""

    __slots__ = ("children", "offset")

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.children: dict[str | int, _Mark] = {}


def _fault_at(name: str, text: str, offset: int, path: Keys, reason: str) -> Fault:
    line, column = text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)
    return Fault(name, line, column, dotted(path), reason)


_HALF = "is no text: it has half of a surrogate pair in it"
_SURROGATE = re.compile("[\ud800-\udfff]")


# JSON

_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


def _parse_json(text: str, name: str) -> Document:
    repeated = False

    def to_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeated
        data = dict(pairs)
        repeated = repeated or len(data) != len(pairs)
        return data

    def refuse_constant(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON number")

    try:
        data = json.loads(text, object_pairs_hook=to_object, parse_constant=refuse_constant)
    except json.JSONDecodeError as exc:
        raise ConfigError([Fault(name, exc.lineno, exc.colno, "", f"not JSON: {exc.msg}")]) from exc
    except ValueError as exc:  # a constant, or an integer of thousands of digits
        raise ConfigError([Fault(name, None, None, "", f"not JSON: {exc}")]) from exc
    if r"\ud" in text.lower():
        escaped = (token for token in _JSON_TOKEN.finditer(text) if token[0].startswith('"'))
        halves = [token.start() for token in escaped if _SURROGATE.search(json.loads(token[0]))]
        if halves:
            raise ConfigError([_fault_at(name, text, at, (), _HALF) for at in halves])
    if not repeated:
        return Document(name, text, data)
    raise ConfigError([_fault_at(name, text, at, path, "stands here twice") for path, at in _json_marks(text)[1]])


def _json_marks(text: str) -> tuple[_Mark, list[tuple[Keys, int]]]:
    """The marks of a text that json has accepted, and (path, offset) of every key that was there already."""
    top = _Mark(0)
    repeated: list[tuple[Keys, int]] = []
    stack: list[tuple[_Mark, bool, Keys]] = [(top, False, ())]  # the open containers: mark, is it an object, path
    key: tuple[str, int] | None = None
    for match in _JSON_TOKEN.finditer(text):
        token, offset = match[0], match.start()
        parent, is_object, path = stack[-1]
        if token in ",:":
            continue
        if token in "]}":
            stack.pop()
            continue
        if is_object and key is None:
            key = (json.loads(token), offset)
            continue
        if len(stack) == 1:
            mark, here = top, path
            mark.offset = offset
        else:
            part, offset = key or (len(parent.children), offset)
            mark, here = _Mark(offset), (*path, part)
            if part in parent.children:
                repeated.append((here, offset))
            parent.children[part] = mark
        key = None
        if token in "{[":
            stack.append((mark, token == "{", here))
    return top, repeated


# YAML


class _Loader(yaml.SafeLoader):
    """Composes nodes, with the scalars of the core schema of YAML 1.2."""

    yaml_implicit_resolvers = {}


_TAG = "tag:yaml.org,2002:"
for _name, _pattern, _first in (
    ("null", r"(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", list("-+0123456789")),
    (
        "float",
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list("-+.0123456789"),
    ),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(_pattern), _first)


def _parse_yaml(text: str, name: str) -> Document:
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        reason = "not YAML: " + ", ".join(part for part in (exc.context, exc.problem) if part)
        if mark and any("://" in line for line in text.splitlines()[mark.line : mark.line + 1]):
            reason += ": put the URI in quotes"
        line, column = (mark.line + 1, mark.column + 1) if mark else (None, None)
        raise ConfigError([Fault(name, line, column, "", reason)]) from exc
    except yaml.reader.ReaderError as exc:
        raise ConfigError([_fault_at(name, text, exc.position, (), f"not YAML: {exc.reason}")]) from exc
    if node is None:
        raise ConfigError([Fault(name, None, None, "", "is empty")])
    builder = _YamlBuilder(name, text)
    top = _Mark(node.start_mark.index)
    data = builder.build(node, top, ())
    if builder.faults:
        raise ConfigError(builder.faults)
    return Document(name, text, data, top)


class _YamlBuilder:
    """Plain data and marks from nodes; what cannot be data goes to ``faults``."""

    def __init__(self, name: str, text: str) -> None:
        self._name, self._text = name, text
        self._count = 0
        self.faults: list[Fault] = []

    def build(self, node: yaml.Node, mark: _Mark, path: Keys) -> Any:
        self._count += 1
        if self._count > _MAX_NODES:
            raise ConfigError([Fault(self._name, None, None, "", f"has more than {_MAX_NODES} values")])
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if isinstance(node, yaml.SequenceNode):
            items = []
            for index, child in enumerate(node.value):
                mark.children[index] = _Mark(child.start_mark.index)
                items.append(self.build(child, mark.children[index], (*path, index)))
            return items
        data: dict[str, Any] = {}
        for key, child in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._fault(key, path, "a key must be text")
                continue
            name = self._word(key, path)
            here = (*path, name)
            if name in data:
                self._fault(key, here, "stands here twice")
            mark.children[name] = _Mark(key.start_mark.index)
            data[name] = self.build(child, mark.children[name], here)
        return data

    def _word(self, node: yaml.ScalarNode, path: Keys) -> str:
        """Its text, in which a character may be written as in JSON: as a surrogate pair."""
        value: str = node.value
        if _SURROGATE.search(value):
            try:
                return value.encode("utf-16", "surrogatepass").decode("utf-16")
            except UnicodeDecodeError:
                self._fault(node, path, _HALF)
        return value

    def _scalar(self, node: yaml.ScalarNode, path: Keys) -> Any:
        value: str = node.value
        try:
            match node.tag.removeprefix(_TAG):
                case "str":
                    return self._word(node, path)
                case "null":
                    return None
                case "bool":
                    return value.lower() == "true"
                case "int":
                    return int(value, 0 if value.startswith(("0x", "0o")) else 10)
                case "float":
                    return float(value.lower().replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError as exc:
            return self._fault(node, path, str(exc))
        return self._fault(node, path, f"unknown tag {node.tag}")

    def _fault(self, node: yaml.Node, path: Keys, reason: str) -> None:
        self.faults.append(_fault_at(self._name, self._text, node.start_mark.index, path, reason))
