"""Read JSON as plain data, and find the offsets of its members.

Both take time and memory in proportion to the text.
"""

from __future__ import annotations

import itertools
import json
import re
from array import array
from collections.abc import Iterator
from typing import Any

from zmsd.errors import MAX_ISSUES, ConfigError, ConfigIssue, KeyPath, issue_at

MAX_DEPTH = 200
"""Maximum depth of objects and lists. MongoDB takes 100 levels in a document (manual, "Limits and Thresholds")."""
TOO_DEEP = "is nested too deeply"
HALF_OF_A_PAIR = "is not valid text: it contains half of a surrogate pair"
SURROGATE = re.compile("[\ud800-\udfff]")

_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')
_JSON_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]]')
_BLANKS = re.compile(r"[ \t\n\r]*")


def parse_json(text: str, name: str) -> Any:
    """Return plain data; raises ConfigError and RecursionError."""
    repeated = False

    def to_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeated
        data = dict(pairs)
        repeated = repeated or len(data) != len(pairs)
        return data

    def refuse_constant(constant: str) -> None:
        raise ValueError(f"{constant} is not a JSON number")

    _check_depth(text, name)
    try:
        data = json.loads(text, object_pairs_hook=to_object, parse_constant=refuse_constant)
    except json.JSONDecodeError as exc:
        raise ConfigError([ConfigIssue(name, exc.lineno, exc.colno, "", f"not JSON: {exc.msg}")]) from exc
    except ValueError as exc:  # a constant, or an integer of thousands of digits
        raise ConfigError([ConfigIssue(name, None, None, "", f"not JSON: {exc}")]) from exc
    if r"\ud" in text.lower():
        escaped = (token for token in _JSON_TOKEN.finditer(text) if token[0].startswith('"'))
        halves = (token.start() for token in escaped if SURROGATE.search(json.loads(token[0])))
        issues = [issue_at(name, text, at, (), HALF_OF_A_PAIR) for at in itertools.islice(halves, MAX_ISSUES)]
        if issues:
            raise ConfigError(issues)
    if repeated:
        repetitions = itertools.islice(_repeated_keys(text), MAX_ISSUES)
        raise ConfigError([issue_at(name, text, at, path, "is given twice") for path, at in repetitions])
    return data


def _check_depth(text: str, name: str) -> None:
    """Raise ConfigError for JSON deeper than MAX_DEPTH: the limit of json depends on the stack of its caller."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for token in _JSON_BRACKET.finditer(text):
        if token[0] in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise ConfigError([issue_at(name, text, token.start(), (), TOO_DEEP)])
        elif token[0] in "]}":
            depth -= 1


def _repeated_keys(text: str) -> Iterator[tuple[KeyPath, int]]:
    """Yield (path, offset) of every key that was in its object already; ``text`` is JSON that json has accepted."""
    stack: list[tuple[set[str] | None, KeyPath]] = []  # the open containers: keys of an object, path
    key: str | None = None
    index = [0]
    for match in _JSON_TOKEN.finditer(text):
        token = match[0]
        if token in ",:":
            continue
        if token in "]}":
            stack.pop()
            index.pop()
            continue
        keys, path = stack[-1] if stack else (None, ())
        if keys is not None and key is None:
            key = json.loads(token)
            if key in keys:
                yield (*path, key), match.start()
            keys.add(key)
            continue
        if token in "{[":
            here = () if not stack else (*path, index[-1] if key is None else key)
            stack.append((set() if token == "{" else None, here))
            index.append(0)
        if keys is None:
            index[len(index) - 1 - (token in "{[")] += 1
        key = None


class JsonMarks:
    """Offsets of the members of containers in which an error was found; ``text`` is JSON that json has accepted.

    A container is scanned once. json's scanner in C skips the content of its members, so that a scan costs about as
    much as reading the document, and memory only for the containers that lead to an error.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._skip = json.JSONDecoder().raw_decode
        self._known: dict[int, dict[str, int] | array[int]] = {}

    def offset(self, path: KeyPath) -> int:
        """Return where the value at ``path`` begins (for a member of an object: its key), or the nearest around it."""
        at = value = self._blank(0)
        for part in path:
            members = self._members(value)
            if isinstance(part, str) and isinstance(members, dict) and part in members:
                at = members[part]
                value = self._value_of(at)[1]
            elif isinstance(part, int) and isinstance(members, array) and part < len(members):
                at = value = members[part]
            else:
                break
        return at

    def _members(self, at: int) -> dict[str, int] | array[int]:
        members = self._known.get(at)
        if members is None:
            kind = self._text[at]
            members = self._known[at] = self._object(at) if kind == "{" else array("L", self._list(at, kind))
        return members

    def _object(self, at: int) -> dict[str, int]:
        members: dict[str, int] = {}
        at = self._blank(at + 1)
        while self._text[at] != "}":
            key, value = self._value_of(at)
            members[key] = at
            at = self._after(value)
        return members

    def _list(self, at: int, kind: str) -> Iterator[int]:
        at = self._blank(at + 1)
        while kind == "[" and self._text[at] != "]":
            yield at
            at = self._after(at)

    def _value_of(self, key: int) -> tuple[str, int]:
        """Return the key that begins at an offset, and the offset of its value."""
        name, end = self._skip(self._text, key)
        return name, self._blank(self._blank(end) + 1)

    def _after(self, value: int) -> int:
        """Return the offset of what follows a value and its comma."""
        at = self._blank(self._skip(self._text, value)[1])
        return self._blank(at + 1) if self._text[at] == "," else at

    def _blank(self, at: int) -> int:
        found = _BLANKS.match(self._text, at)
        assert found is not None
        return found.end()
