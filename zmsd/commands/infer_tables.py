"""Documents of a collection -> the tables that they suggest. Knows no database.

An object whose members are the same everywhere becomes columns, ``author.id`` authorId; any other is a json column. A
text field of few values that tell apart what other fields a document has makes several tables of a collection.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from zmsd.bson_types import MAX_EXACT_INTEGER, Document, type_of
from zmsd.config.mongodb_names import path_problem

_DEPTH = 4
_MANY_COLUMNS = 200
"""With more than so many columns nothing is flattened."""
_MOST_COLUMNS = 1000
"""Half of what zero-cache takes."""
_MOST_VALUES = 12
_DOCUMENTS_PER_VALUE = 5
_ALWAYS = 0.8
"""The part of the documents of a kind that must have a field for it to belong to the kind."""


@dataclass
class Table:
    """A table of the two documents, as plain data."""

    name: str
    collection: str
    columns: dict[str, Document]
    fields: dict[str, str]
    primary_key: list[str]
    filter: dict[str, str] | None = None
    documents: int = 0
    """Of the sample."""
    notes: list[str] = field(default_factory=list)

    @property
    def schema(self) -> Document:
        """Return the table as it appears in a schema document."""
        return {"columns": self.columns, "primaryKey": self.primary_key}

    @property
    def mapping(self) -> Document:
        """Return the table as it appears in a mapping document."""
        condition = {"filter": self.filter} if self.filter else {}
        return {"collection": self.collection, **condition, "fields": self.fields}


def guess(collection: str, documents: Sequence[Document], names: set[str]) -> list[Table]:
    """The tables of a collection; none where its documents have no key.

    :param names: of tables that there are already, in lower case; the new ones are added
    """
    discriminator = find_discriminator(documents)
    if discriminator is None:
        kinds: list[tuple[dict[str, str] | None, Sequence[Document]]] = [(None, documents)]
    else:
        values = sorted({document[discriminator] for document in documents})
        kinds = [({discriminator: v}, [one for one in documents if one[discriminator] == v]) for v in values]
    tables = []
    for condition, those in kinds:
        found = _table(collection, those, condition)
        if found is not None:
            found.name = unique(camel(collection, *(condition or {}).values()), names)
            tables.append(found)
    return tables


def find_discriminator(documents: Sequence[Document]) -> str | None:
    """The field whose values tell apart what other fields a document has; None where there is none.

    At least two of its values must have fields of their own: a state that adds one (closedAt) does not make a kind of
    document.
    """
    best: tuple[tuple[int, int], str] | None = None
    shapes = [(document, frozenset(_names(document))) for document in documents]
    for name in documents[0] if documents else ():
        if _name_problem(name):
            continue
        values = Counter(value for one in documents if isinstance(value := one.get(name), str))
        few = 2 <= len(values) <= min(_MOST_VALUES, len(documents) // _DOCUMENTS_PER_VALUE)
        if values.total() < len(documents) or not few or min(values.values()) < 2:
            continue
        counts: dict[str, Counter[str]] = {value: Counter() for value in values}
        for document, shape in shapes:
            counts[document[name]].update(shape)
        own = {
            value: sum(
                count >= _ALWAYS * values[value] and not any(counts[other][path] for other in values if other != value)
                for path, count in counts[value].items()
            )
            for value in values
        }
        score = (sum(map(bool, own.values())), sum(own.values()))
        if score[0] >= 2 and (best is None or score > best[0]):
            best = (score, name)
    return best[1] if best else None


def camel(*parts: str) -> str:
    """A name of a table or column: ``author.first-name`` is authorFirstName; ``_id`` is id."""
    words = [word for part in parts for word in re.split(r"\W+", "id" if part == "_id" else part) if word]
    rest = [word.lstrip("_") for word in words[1:]]
    name = "".join([*words[:1], *(word[:1].upper() + word[1:] for word in rest)])
    return name if name and not name[0].isdigit() and not name.lower().startswith("sqlite_") else f"n{name}"


def unique(name: str, taken: set[str]) -> str:
    """``name``, or with a number behind it; case does not count, as in zero-cache's SQLite."""
    names = (f"{name}{number}" if number > 1 else name for number in range(1, len(taken) + 2))
    found = next(one for one in names if one.lower() not in taken)
    taken.add(found.lower())
    return found


class _Node:
    """What a sample has at one path."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.large = False
        """An integer that no double has."""
        self.members: dict[str, _Node] = {}

    def add(self, value: Any, depth: int = 0) -> None:
        kind = _kind(value)
        if kind is None:
            return
        self.kinds[kind] += 1
        if kind == "int":
            self.large = self.large or abs(value) > MAX_EXACT_INTEGER
        elif kind == "object" and depth < _DEPTH:
            for name, member in value.items():
                self.members.setdefault(name, _Node()).add(member, depth + 1)

    @property
    def regular(self) -> bool:
        """Whether it is an object with the same members everywhere, whose names can stand in a path."""
        if set(self.kinds) != {"object"} or not self.members:
            return False
        if any(_name_problem(name) or _is_data(name) for name in self.members):
            return False
        there = sum(member.kinds.total() for member in self.members.values())
        return len(self.members) <= 5 or there >= 0.25 * len(self.members) * self.kinds["object"]

    def column_type(self) -> str:
        kinds = set(self.kinds)
        if kinds == {"bool"}:
            return "boolean"
        if kinds and kinds <= {"int", "double", "date"}:
            return "string" if self.large and kinds == {"int"} else "number"
        exact = "decimal" in kinds and kinds <= {"decimal", "int", "double"}
        return "string" if exact or kinds == {"text"} else "json"

    def key_type(self) -> str | None:
        """As column_type, of a part of the primary key; None where no column holds it."""
        if self.kinds.keys() & {"object", "other"}:
            return None
        type_ = self.column_type()
        return "string" if type_ == "json" or self.large else type_  # two large integers may be one number


def _table(collection: str, documents: Sequence[Document], condition: dict[str, str] | None) -> Table | None:
    top = _Node()
    for document in documents:
        top.add(document)
    table = Table("", collection, {}, {}, [], condition, len(documents))
    key = top.members.get("_id", _Node())
    parts: list[tuple[tuple[str, ...], _Node]] = [(("_id",), key)]
    if key.regular:
        parts = [(("_id", name), member) for name, member in key.members.items()]
        if any(member.kinds.total() < len(documents) for _, member in parts):
            return None
    types = [member.key_type() for _, member in parts]
    taken = {"_0_version"}
    for (path, member), type_ in zip(parts, types, strict=True):
        if type_ is None:
            return None
        if type_ == "string" and len(member.kinds) > 1:
            table.notes.append(f'{".".join(path)} has values of several types, all become text: 1 and "1" are one key')
        table.primary_key.append(_add(table, path, {"type": type_}, taken))
    leaves = list(_leaves(top, (), True))
    if len(leaves) > _MANY_COLUMNS:
        leaves = list(_leaves(top, (), False))
        table.notes.append("has many fields: objects were left whole, as json")
    if len(leaves) > _MOST_COLUMNS:
        table.notes.append(f"has {len(leaves)} fields: the {_MOST_COLUMNS} most frequent ones became columns")
        leaves = sorted(leaves, key=lambda leaf: -leaf[1].kinds.total())[:_MOST_COLUMNS]
    for path, node in leaves:
        problem = next(filter(None, map(_name_problem, path)), None)
        if problem:
            table.notes.append(f"field left out: {problem}")
            continue
        if not node.kinds:
            table.notes.append(f"{'.'.join(path)} is null wherever it is: it became json")
        type_ = node.column_type()
        optional = {} if node.kinds.total() == len(documents) else {"optional": True}
        _add(table, path, {"type": type_, **optional}, taken)
    return table


def _add(table: Table, path: tuple[str, ...], column: Document, taken: set[str]) -> str:
    name = unique(camel(*path), taken)
    table.columns[name] = column
    table.fields[name] = ".".join(path)
    return name


def _leaves(node: _Node, path: tuple[str, ...], flat: bool) -> Iterator[tuple[tuple[str, ...], _Node]]:
    """Every path that becomes a column, but for the key's."""
    for name, member in node.members.items():
        here = (*path, name)
        if here == ("_id",):
            continue
        if flat and member.regular and len(here) < _DEPTH:
            yield from _leaves(member, here, flat)
        else:
            yield here, member


def _names(document: Document) -> Iterator[str]:
    """Its fields, and those of the objects in it."""
    for name, value in document.items():
        if value is not None:
            yield name
        if isinstance(value, dict):
            yield from (f"{name}.{inner}" for inner in value)


def _kind(value: Any) -> str | None:
    """Return the family of a value's BSON type, or None for a value that is null."""
    found = type_of(value)
    if found is None:
        return "other"
    return None if found.is_empty else found.family


def _is_data(name: str) -> bool:
    """Whether the name of a member is data itself: a number, an id, an address."""
    return name.isdigit() or "@" in name or re.fullmatch(r"[0-9a-f]{24}|[0-9a-f-]{36}", name) is not None


def _name_problem(name: str) -> str | None:
    """Why no path can have it."""
    return path_problem(name) or (f"{name!r} has a dot in its name" if "." in name else None)
