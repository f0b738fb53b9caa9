"""Read YAML as plain data, with the offsets of its values."""

from __future__ import annotations

import re
from typing import Any

import yaml

from zmsd.config.json_text import HALF_OF_A_PAIR, MAX_DEPTH, SURROGATE, TOO_DEEP
from zmsd.errors import MAX_ISSUES, ConfigError, ConfigIssue, KeyPath, issue_at

MAX_YAML_VALUES = 100_000
"""Maximum of values in a YAML document: PyYAML takes 50 microseconds and 1 kB for each, and aliases multiply them."""
_TOO_MANY = f"has more than {MAX_YAML_VALUES} values; a larger document must be JSON"


class _Loader(yaml.SafeLoader):
    """Composes nodes, with the scalars of the core schema of YAML 1.2."""

    yaml_implicit_resolvers = {}
    _depth = _values = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose one value; raises ConfigError (without the document's name) before there are too many."""
        self._depth += 1
        self._values += 1
        if self._depth > MAX_DEPTH or self._values > MAX_YAML_VALUES:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise _TooMuch(mark.index, TOO_DEEP if self._depth > MAX_DEPTH else _TOO_MANY)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class _TooMuch(Exception):
    """A YAML document passes a limit: (offset, reason)."""


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


def parse_yaml(text: str, name: str) -> tuple[Any, YamlMarks]:
    """Return plain data and the offsets of its values. Raises ConfigError and RecursionError."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        reason = "not YAML: " + ", ".join(part for part in (exc.context, exc.problem) if part)
        if mark and any("://" in line for line in text.splitlines()[mark.line : mark.line + 1]):
            reason += ": put the URI in quotes"
        line, column = (mark.line + 1, mark.column + 1) if mark else (None, None)
        raise ConfigError([ConfigIssue(name, line, column, "", reason)]) from exc
    except yaml.reader.ReaderError as exc:
        raise ConfigError([issue_at(name, text, exc.position, (), f"not YAML: {exc.reason}")]) from exc
    except _TooMuch as exc:
        raise ConfigError([issue_at(name, text, exc.args[0], (), exc.args[1])]) from None
    if node is None:
        raise ConfigError([ConfigIssue(name, None, None, "", "is empty")])
    builder = _YamlBuilder(name, text)
    top = YamlMarks(node.start_mark.index)
    data = builder.build(node, top, ())
    if builder.issues:
        raise ConfigError(builder.issues)
    return data, top


class YamlMarks:
    """The offset of a value in the text (for a member of an object: of its key), and those of the values in it."""

    __slots__ = ("_offset", "children")

    def __init__(self, offset: int) -> None:
        self._offset = offset
        self.children: dict[str | int, YamlMarks] = {}

    def offset(self, path: KeyPath) -> int:
        """Return where the value at ``path`` begins, or the nearest around it."""
        mark = self
        for part in path:
            if part not in mark.children:
                break
            mark = mark.children[part]
        return mark._offset


class _YamlBuilder:
    """Build plain data and marks from nodes; errors go to ``issues``."""

    def __init__(self, name: str, text: str) -> None:
        self._name, self._text = name, text
        self._count = 0
        self.issues: list[ConfigIssue] = []

    def build(self, node: yaml.Node, mark: YamlMarks, path: KeyPath) -> Any:
        self._count += 1
        if self._count > MAX_YAML_VALUES:  # an alias counts as many values as its anchor
            raise ConfigError([ConfigIssue(self._name, None, None, "", _TOO_MANY)])
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if isinstance(node, yaml.SequenceNode):
            items = []
            for index, child in enumerate(node.value):
                mark.children[index] = YamlMarks(child.start_mark.index)
                items.append(self.build(child, mark.children[index], (*path, index)))
            return items
        data: dict[str, Any] = {}
        for key, child in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._add_issue(key, path, "a key must be text")
                continue
            name = self._word(key, path)
            here = (*path, name)
            if name in data:
                self._add_issue(key, here, "is given twice")
            mark.children[name] = YamlMarks(key.start_mark.index)
            data[name] = self.build(child, mark.children[name], here)
        return data

    def _word(self, node: yaml.ScalarNode, path: KeyPath) -> str:
        """Return the text of a node. A character may be a surrogate pair, as in JSON."""
        value: str = node.value
        if SURROGATE.search(value):
            try:
                return value.encode("utf-16", "surrogatepass").decode("utf-16")
            except UnicodeDecodeError:
                self._add_issue(node, path, HALF_OF_A_PAIR)
        return value

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
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
            return self._add_issue(node, path, str(exc))
        return self._add_issue(node, path, f"unknown tag {node.tag}")

    def _add_issue(self, node: yaml.Node, path: KeyPath, reason: str) -> None:
        if len(self.issues) < MAX_ISSUES:
            self.issues.append(issue_at(self._name, self._text, node.start_mark.index, path, reason))
