"""Settings, schema and mapping documents in YAML or JSON: plain data with the line and column of each value.

JSON is read by the json module, and lines and columns are computed only for errors. YAML is composed by PyYAML and read
by the core schema of YAML 1.2: only ``true`` and ``false`` are booleans (``images: off`` is text), dates are text, and
so is every key. In both formats a repeated key in one object is an error.

A document may be malicious, or come from a program with a bug. Its size, its depth, the number of its YAML values and
the number of errors with line and column are bounded, so that reading and checking any document takes at most seconds
and tens of megabytes.
"""

from __future__ import annotations

import difflib
import errno
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from zmsd.config.json_text import TOO_DEEP, JsonMarks, parse_json
from zmsd.config.yaml_text import YamlMarks, parse_yaml
from zmsd.errors import ConfigError, ConfigIssue, KeyPath, dotted, issue_at, shortened

Kind = Literal["json", "yaml"]
LIMIT = 1 << 20
"""Maximum size of a document in bytes."""
SUGGESTIONS = 20
"""Maximum of suggestions for a document: each takes up to 50 ms."""

_LASTING = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG)
"""Errors of open(2) and read(2) that last until the file or the setting is changed."""
_LOCATED_ISSUES = 300  # errors of a document that get line and column; ConfigError shows MAX_ISSUES of them
_SUGGESTED_FROM = 2000  # known names that are compared
_LONGEST_NAME = 100  # characters of a name for which a similar one is looked for


class ConfigDocument:
    """Plain data (dict, list, str, int, float, bool, None) and the text from which it was read.

    ``name`` is the file or URL that errors show. Documents are equal if their names and data are.
    """

    def __init__(
        self, name: str, text: str, data: Any, marks: YamlMarks | JsonMarks | None = None, above: KeyPath = ()
    ) -> None:
        """
        :param marks: the offsets of the values in ``text``; None looks for them in JSON when they are needed
        :param above: the key path of ``data`` in ``text``, of which it is a part
        """
        self.name = name
        self._above = above
        self.text = text
        self.data = data
        self._marks: YamlMarks | JsonMarks | None = marks
        self._located_left = _LOCATED_ISSUES
        self._suggestions_left = SUGGESTIONS

    def __repr__(self) -> str:
        return f"ConfigDocument({self.name!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ConfigDocument) and (self.name, self.data) == (other.name, other.data)

    def part(self, path: KeyPath) -> ConfigDocument:
        """Return the object at ``path`` as a document, whose errors have their line and column in this one."""
        data = self.data
        for key in path:
            data = data[key]
        return ConfigDocument(self.name, self.text, data, self._marks, (*self._above, *path))

    def issue(self, path: KeyPath, reason: str) -> ConfigIssue:
        """Return an error at the key or list item at ``path``; if it is missing, at the nearest value around it.

        From the 301st error of a document on, the error has no line and column.
        """
        path = (*self._above, *path)
        if not self._located_left:
            return ConfigIssue(self.name, None, None, dotted(path), shortened(reason))
        self._located_left -= 1
        if self._marks is None:
            self._marks = JsonMarks(self.text)
        return issue_at(self.name, self.text, self._marks.offset(path), path, reason)

    def suggestion(self, word: str, known: Iterable[str]) -> str:
        """Return ``; did you mean port?``, or "" when no known name is similar. From the 21st call on return ""."""
        if not self._suggestions_left or len(word) > _LONGEST_NAME:
            return ""
        self._suggestions_left -= 1
        near = difflib.get_close_matches(word, itertools.islice(known, _SUGGESTED_FROM), n=1)
        return f"; did you mean {near[0]}?" if near else ""


def parse(text: str, name: str, *, kind: Kind) -> ConfigDocument:
    """Return the document in ``text``. Raises ConfigError for bad syntax, an empty text, and each repeated key."""
    if not text.strip():
        raise ConfigError([ConfigIssue(name, None, None, "", "is empty")])
    try:
        if kind == "json":
            return ConfigDocument(name, text, parse_json(text, name))
        return ConfigDocument(name, text, *parse_yaml(text, name))
    except RecursionError:
        raise ConfigError([ConfigIssue(name, None, None, "", TOO_DEEP)]) from None


def read(path: Path) -> str:
    """Return the text of a UTF-8 file of at most LIMIT bytes. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            return decode(file.read(LIMIT + 1), str(path))
    except ValueError as exc:  # a NUL in its name
        raise ConfigError([ConfigIssue(repr(str(path)), None, None, "", f"cannot be read: {exc}")]) from exc
    except OSError as exc:
        reason = f"cannot be read: {exc.strerror or exc}"
        raise ConfigError([ConfigIssue(str(path), None, None, "", reason, exc.errno not in _LASTING)]) from exc


def decode(raw: bytes, name: str) -> str:
    """Decode UTF-8 and remove a byte order mark. Raises ConfigError for other text, and for more than LIMIT bytes."""
    if len(raw) > LIMIT:
        raise ConfigError([ConfigIssue(name, None, None, "", f"is larger than {LIMIT >> 20} MiB")])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line, column = raw.count(b"\n", 0, exc.start) + 1, exc.start - raw.rfind(b"\n", 0, exc.start)
        raise ConfigError([ConfigIssue(name, line, column, "", "is not UTF-8 text")]) from exc


__all__ = ["ConfigDocument", "KeyPath", "Kind", "decode", "dotted", "parse", "read"]
