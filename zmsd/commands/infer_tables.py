"""Infer tables from the documents of a collection. No I/O.

An object that has the same members in all documents becomes columns: ``author.id`` becomes ``authorId``. Any other
object becomes a json column. If a text field has few values, and the documents of each value have fields of their own,
the collection is a discriminated union, and each value gets a table.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from zmsd.bson_types import MAX_EXACT_INTEGER, Document, type_of
from zmsd.config.mongodb_names import path_problem
from zmsd.schema.tables import UNREADABLE_COLUMN, is_hidden

_MAX_DEPTH = 4
"""Levels of objects that are flattened into columns."""
_MAX_FLATTENED_COLUMNS = 200
"""Columns above which no object is flattened."""
_MAX_COLUMNS = 1000
"""Half of the columns that zero-cache's SQLite accepts."""
_MAX_VALUES = 12
"""Values that a discriminator may have."""
_DOCUMENTS_PER_VALUE = 5
"""Documents that a sample must have for each value of a discriminator."""
_COMMON = 0.8
"""Part of the documents with one value that must have a field for it to be a field of that value."""


@dataclass
class Table:
    """A table as it appears in the schema document and the mapping document, as plain data."""

    name: str
    collection: str
    columns: dict[str, Document]
    fields: dict[str, str]
    primary_key: list[str]
    filter: dict[str, str] | None = None
    documents: int = 0
    """Documents of the sample that make rows of this table."""
    notes: list[str] = field(default_factory=list)
    """What an operator should check."""

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
    """Return the tables of a collection; none if its documents have no usable key.

    :param names: names of the tables so far, in lower case; the new ones are added
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
    """Return the field whose value decides which other fields a document has; None if no field does.

    At least two of its values must have fields of their own: a state that adds a field (``closedAt``) does not make
    another kind of document.
    """
    best: tuple[tuple[int, int], str] | None = None
    shapes = [(document, frozenset(_names(document))) for document in documents]
    for name in documents[0] if documents else ():
        if _name_problem(name):
            continue
        values = Counter(value for one in documents if type(value := one.get(name)) is str)  # Code is a str, unhashable
        few = 2 <= len(values) <= min(_MAX_VALUES, len(documents) // _DOCUMENTS_PER_VALUE)
        if values.total() < len(documents) or not few or min(values.values()) < 2:
            continue
        counts: dict[str, Counter[str]] = {value: Counter() for value in values}
        for document, shape in shapes:
            counts[document[name]].update(shape)
        own = {
            value: sum(
                count >= _COMMON * values[value] and not any(counts[other][path] for other in values if other != value)
                for path, count in counts[value].items()
            )
            for value in values
        }
        score = (sum(map(bool, own.values())), sum(own.values()))
        if score[0] >= 2 and (best is None or score > best[0]):
            best = (score, name)
    return best[1] if best else None


def camel(*parts: str) -> str:
    """Return the name of a table or column: ``author.first-name`` becomes ``authorFirstName``; ``_id``, ``id``."""
    words = [word for part in parts for word in re.split(r"\W+", "id" if part == "_id" else part) if word]
    rest = [word.lstrip("_") for word in words[1:]]
    name = "".join([*words[:1], *(word[:1].upper() + word[1:] for word in rest)])
    name = re.sub("_pkey$", "Pkey", name, flags=re.IGNORECASE)  # the index of a table is named so
    usable = name and not name[0].isdigit() and not is_hidden(name) and name != UNREADABLE_COLUMN
    return name if usable else f"n{name}"


def unique(name: str, taken: set[str]) -> str:
    """Return ``name``, with a number after it if it is taken, and add it to ``taken``.

    Upper and lower case count as equal, as in zero-cache's SQLite.
    """
    names = (f"{name}{number}" if number > 1 else name for number in range(1, len(taken) + 2))
    found = next(one for one in names if one.lower() not in taken)
    taken.add(found.lower())
    return found


class _Node:
    """The values that a sample has at one path."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.large = False
        """Whether a value is an integer that a double cannot represent."""
        self.members: dict[str, _Node] = {}

    def add(self, value: Any, depth: int = 0) -> None:
        kind = _kind(value)
        if kind is None:
            return
        self.kinds[kind] += 1
        if kind == "int":
            self.large = self.large or abs(value) > MAX_EXACT_INTEGER
        elif kind == "object" and depth < _MAX_DEPTH:
            for name, member in value.items():
                self.members.setdefault(name, _Node()).add(member, depth + 1)

    @property
    def regular(self) -> bool:
        """Return whether the value is an object with the same members everywhere, whose names may be used in a path."""
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

    def mixed_note(self, path: str, type_: str) -> str | None:
        """Return a note about values of several types with the share of each; None for one type.

        :param type_: type of the column
        """
        numbers = {"int", "double"}
        if len(self.kinds) < 2 or self.kinds.keys() <= numbers:
            return None
        total = self.kinds.total()
        shares = ", ".join(f"{max(round(100 * count / total), 1)} % {kind}" for kind, count in self.kinds.most_common())
        return f"{path} has values of several types ({shares}): it became {type_}"

    def keys_note(self, path: str, type_: str) -> str | None:
        """Return a note about an object whose keys are data, or differ from document to document; None otherwise."""
        if type_ != "json" or set(self.kinds) != {"object"} or not self.members or self.regular:
            return None
        data = next(filter(_is_data, self.members), None)
        if data is not None:
            return f"{path} has keys that are data, such as {data}: it became json"
        return f"{path} has {len(self.members)} keys that differ between documents: it became json"

    def key_type(self) -> str | None:
        """Return the column type for a part of the primary key; None if no type can hold the values."""
        if self.kinds.keys() & {"object", "other"}:
            return None
        type_ = self.column_type()
        return "string" if type_ == "json" or self.large else type_  # two large integers may round to one number


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
            table.notes.append(
                f'{".".join(path)} has values of several types; all become text, so 1 and "1" are one key'
            )
        table.primary_key.append(_add(table, path, {"type": type_}, taken))
    leaves = list(_leaves(top, (), True))
    if len(leaves) > _MAX_FLATTENED_COLUMNS:
        leaves = list(_leaves(top, (), False))
        table.notes.append("has many fields: objects became json columns")
    if len(leaves) > _MAX_COLUMNS:
        table.notes.append(f"has {len(leaves)} fields: the {_MAX_COLUMNS} most frequent ones became columns")
        leaves = sorted(leaves, key=lambda leaf: -leaf[1].kinds.total())[:_MAX_COLUMNS]
    for path, node in leaves:
        problem = next(filter(None, map(_name_problem, path)), None)
        if problem:
            table.notes.append(f"field left out: {problem}")
            continue
        if not node.kinds:
            table.notes.append(f"{'.'.join(path)} is null in every document: it became json")
        type_ = node.column_type()
        table.notes += filter(None, [node.mixed_note(".".join(path), type_), node.keys_note(".".join(path), type_)])
        optional = {} if node.kinds.total() == len(documents) else {"optional": True}
        _add(table, path, {"type": type_, **optional}, taken)
    return table


def _add(table: Table, path: tuple[str, ...], column: Document, taken: set[str]) -> str:
    name = unique(camel(*path), taken)
    table.columns[name] = column
    table.fields[name] = ".".join(path)
    return name


def _leaves(node: _Node, path: tuple[str, ...], flat: bool) -> Iterator[tuple[tuple[str, ...], _Node]]:
    """Yield every path that becomes a column, except those of the key."""
    for name, member in node.members.items():
        here = (*path, name)
        if here == ("_id",):
            continue
        if flat and member.regular and len(here) < _MAX_DEPTH:
            yield from _leaves(member, here, flat)
        else:
            yield here, member


def _names(document: Document) -> Iterator[str]:
    """Yield the names of a document's fields, and of the fields of objects in it."""
    for name, value in document.items():
        if value is not None:
            yield name
        if isinstance(value, dict):
            yield from (f"{name}.{inner}" for inner in value)


def _kind(value: Any) -> str | None:
    """Return the family of a value's BSON type; None for null."""
    found = type_of(value)
    if found is None:
        return "other"
    return None if found.is_empty else found.family


def _is_data(name: str) -> bool:
    """Return whether the name of a member is data itself: a number, an id or an address."""
    return name.isdigit() or "@" in name or re.fullmatch(r"[0-9a-f]{24}|[0-9a-f-]{36}", name) is not None


def _name_problem(name: str) -> str | None:
    """Return why a path cannot have this name; None if it can."""
    return path_problem(name) or (f"{name!r} has a dot in its name" if "." in name else None)
