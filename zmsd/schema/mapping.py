"""Mapping documents -> where in MongoDB the rows of each table come from.

Three forms with one meaning: ``{collection, fields}``, ``{source, filter, projection}``, ``{source, pipeline}``. What
consists of paths becomes ``Mapping.fields``, in whichever form it was written; what needs an expression stays as
``projection`` or ``pipeline``, for mongod to evaluate. Literals in extended JSON (``{"$oid": …}``) become BSON values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from zmsd.bson_types import MAX_EXACT_INTEGER, is_compared
from zmsd.config.document import ConfigDocument, KeyPath, dotted
from zmsd.config.mongodb_names import collection_problem, path_problem
from zmsd.errors import MAX_ISSUES, ConfigIssue
from zmsd.schema import restrictions
from zmsd.schema.expressions import expanded
from zmsd.schema.literals import literals
from zmsd.schema.tables import SchemaTable


class Origin(NamedTuple):
    """Where a mapping was written."""

    document: ConfigDocument
    key_path: KeyPath


@dataclass(frozen=True, slots=True)
class Mapping:
    """Where the rows of a table come from.

    ``fields`` is (column, path) for every column of the table, or None where ``projection`` (an expression for every
    column) or ``pipeline`` (stages whose documents have the columns) computes them. ``filter`` says which documents
    have rows at all, and goes before both. Columns go by their server names.
    """

    collection: str
    fields: tuple[tuple[str, str], ...] | None
    filter: Any = None
    projection: Any = None
    pipeline: Any = None
    revision: int = 0
    """Another number means that all rows of the table are sent again (a resync by a change of the mapping)."""
    origin: Origin | None = field(default=None, compare=False, repr=False)
    """For errors that are found later; it does not count in comparisons."""

    @property
    def plain(self) -> bool:
        """Whether zmsd evaluates the mapping in Python: it has paths, and a filter that only compares with scalars.

        mongod evaluates all other mappings.
        """
        return self.fields is not None and all(_is_plain(path, value) for path, value in (self.filter or {}).items())

    def issue(self, key_path: KeyPath, reason: str) -> ConfigIssue:
        """Return an error at a key path in the mapping, such as ``("pipeline", 0)``."""
        if self.origin is None:
            return ConfigIssue(f"mapping of collection {self.collection}", None, None, dotted(key_path), reason)
        return self.origin.document.issue((*self.origin.key_path, *key_path), reason)


def parse_mappings(
    document: ConfigDocument, tables: Iterable[SchemaTable]
) -> tuple[dict[str, Mapping], list[ConfigIssue], list[ConfigIssue]]:
    """Return the mappings of a document by the server names of their tables, its errors, and its warnings."""
    by_name = {table.server_name: table for table in tables} | {table.key: table for table in tables}
    parser = _Parser(document)
    found, key_path = _mappings(document.data, by_name)
    if found is None:
        return {}, [document.issue(key_path, "must be an object of mappings by table")], []
    mappings: dict[str, Mapping] = {}
    for key, data, here in found:
        table = by_name.get(key) or by_name.get(key.removeprefix("public."))
        if table is None:
            parser.add_issue(here, f"the schema has no such table{document.suggestion(key, by_name)}")
        elif table.server_name in mappings:
            parser.add_issue(here, f"table {table.server_name} is mapped twice")
        elif table.spec is not None and (mapping := parser.mapping(data, here, table)):
            mappings[table.server_name] = mapping
    return mappings, parser.issues, parser.warnings


def default_mapping(table: SchemaTable) -> Mapping:
    """Return the mapping to the collection of the table's name, each column from the field of its name."""
    assert table.spec is not None
    return Mapping(table.spec.name, _complete(table, {}))


_REFERENCE = re.compile(r"\.\$(?:ref|id|db)\b")  # the members of a DBRef, which may be asked for


FORMS = ("fields", "projection", "pipeline")
"""The members of a mapping that say what its columns are. Only projection and pipeline go together."""
KEYS = ("collection", "source", "fields", "filter", "discriminator", "projection", "pipeline", "revision")
"""The members that a mapping may have."""


def _is_plain(path: str, condition: Any) -> bool:
    """Return whether rows/filters.py evaluates a member of a filter. In its path a number may be an array index."""
    if any(name.startswith("$") or name.isdigit() for name in path.split(".")):
        return False
    if not isinstance(condition, dict):
        return is_compared(condition)
    return bool(condition) and all(_is_plain_test(operator, value) for operator, value in condition.items())


def _is_plain_test(operator: str, operand: Any) -> bool:
    if operator in ("$in", "$nin"):
        return isinstance(operand, list) and all(map(is_compared, operand))
    if operator == "$exists":
        return operand is None or isinstance(operand, bool | int | float)
    return operator in ("$eq", "$ne") and is_compared(operand)


def has_mappings(document: ConfigDocument) -> bool:
    """Return whether a schema document has mappings as well: in ``mapping``, or with its tables."""
    data = document.data
    return isinstance(data, dict) and bool(isinstance(_wrapped(data), dict) or _exported(data))


_Written = list[tuple[str, Any, KeyPath]]
"""(table, mapping, key path)"""


def _mappings(data: Any, tables: dict[str, SchemaTable]) -> tuple[_Written | None, KeyPath]:
    """Return the mappings and their key path: the top, or a wrapper that is not itself the mapping of a table."""
    key_path: KeyPath = ()
    if isinstance(data, dict) and (exported := _exported(data)):
        return exported, key_path
    if isinstance(data, dict) and "mapping" not in tables and (inner := _wrapped(data)) is not None:
        data, key_path = inner, ("mapping",)
    for wrapper in ("tables", "mappings"):
        inner = data.get(wrapper) if isinstance(data, dict) and wrapper not in tables else None
        if isinstance(inner, dict) and all(isinstance(value, dict) for value in inner.values()):
            data, key_path = inner, (*key_path, wrapper)
            break
    if not isinstance(data, dict):
        return None, key_path
    return [(key, value, (*key_path, key)) for key, value in data.items()], key_path


def _wrapped(data: dict[str, Any]) -> Any:
    """Return ``mapping`` of a document that has ``schema`` as well (zero-sources, ``/api/schema/combined``)."""
    return data.get("mapping") if isinstance(data.get("schema"), dict) else None


def _exported(data: dict[str, Any]) -> _Written:
    """Return the mappings of tables in a list (zero-sources, ``/api/schema/export``)."""
    outer: KeyPath = ("schema",) if isinstance(data.get("schema"), dict) else ()
    if outer and "mapping" in data:
        return []
    tables = (data["schema"] if outer else data).get("tables")
    return [
        (str(one.get("name")), one["tableMapping"], (*outer, "tables", index, "tableMapping"))
        for index, one in enumerate(tables if isinstance(tables, list) else ())
        if isinstance(one, dict) and one.get("tableMapping") is not None
    ]


def _path(key: str, value: Any) -> str | None:
    """Return the path that a member of a projection selects; None for an expression. A number but 0 means ``key``."""
    if isinstance(value, bool | int | float) and value:
        return key
    if isinstance(value, str) and value.startswith("$") and not value.startswith("$$"):
        return value[1:]
    return None


def _is_exclusion(value: Any) -> bool:
    return isinstance(value, bool | int | float) and not value


def _includes_parts(value: Any) -> bool:
    """Return whether a member of a projection is ``{part: 1}``, which selects a part of the field ``key``."""
    if not isinstance(value, dict) or any(key.startswith("$") for key in value):
        return False
    return any(isinstance(item, bool | int | float) or _includes_parts(item) for item in value.values())


def _is_stage(stage: Any) -> bool:
    return isinstance(stage, dict) and len(stage) == 1 and next(iter(stage)).startswith("$")


def _complete(table: SchemaTable, mapped: dict[str, str]) -> tuple[tuple[str, str], ...]:
    assert table.spec is not None
    return tuple((column.name, mapped.get(column.name, column.name)) for column in table.spec.columns)


class _Parser:
    def __init__(self, document: ConfigDocument) -> None:
        self._document = document
        self.issues: list[ConfigIssue] = []
        self.warnings: list[ConfigIssue] = []

    def add_issue(self, key_path: KeyPath, reason: str) -> None:
        self.issues.append(self._document.issue(key_path, reason))

    def warn(self, key_path: KeyPath, reason: str) -> None:
        if len(self.warnings) < MAX_ISSUES:
            self.warnings.append(self._document.issue(key_path, reason))

    def mapping(self, data: Any, key_path: KeyPath, table: SchemaTable) -> Mapping | None:
        before = len(self.issues)
        if not isinstance(data, dict):
            self.add_issue(key_path, "must be an object with a collection")
            return None
        for key in [key for key in data if key not in KEYS]:
            near = self._document.suggestion(key, KEYS) or f"; known: {', '.join(KEYS)}"
            self.add_issue((*key_path, key), f"unknown key{near}")
        forms = [form for form in FORMS if data.get(form) is not None]
        ends_projected = forms == ["projection", "pipeline"]  # the projection is the pipeline's end
        for form in () if ends_projected else forms[1:]:
            self.add_issue((*key_path, form), f"cannot be combined with {forms[0]}")
        collection = self._collection(data, key_path)
        condition = self._filter(data, key_path)
        paths, expressions = self._columns(data, key_path, table)
        pipeline = self._pipeline(data, key_path)
        revision = self._revision(data, key_path)
        if len(self.issues) > before:
            return None
        fields = _complete(table, paths)
        origin = Origin(self._document, key_path)
        if pipeline and ends_projected:
            pipeline = [
                *pipeline,
                {"$project": {"_id": 0, **{name: f"${path}" for name, path in fields}, **expressions}},
            ]
        if pipeline:
            return Mapping(collection, None, condition, pipeline=pipeline, revision=revision, origin=origin)
        if expressions:
            projection = {name: f"${path}" for name, path in fields} | expressions
            return Mapping(collection, None, condition, projection, revision=revision, origin=origin)
        return Mapping(collection, fields, condition, revision=revision, origin=origin)

    def _revision(self, data: dict[str, Any], key_path: KeyPath) -> int:
        value = data.get("revision", 0)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_EXACT_INTEGER:
            return value
        self.add_issue((*key_path, "revision"), "must be a whole number from 0 to 2^53 - 1")
        return 0

    def _refuse(self, key_path: KeyPath, found: Iterable[tuple[KeyPath, str]]) -> None:
        for inner, reason in found:
            self.add_issue((*key_path, *inner), reason)

    def _object(self, data: dict[str, Any], key: str, key_path: KeyPath) -> dict[str, Any]:
        value = data.get(key)
        if value is None or isinstance(value, dict):
            return value or {}
        self.add_issue((*key_path, key), "must be an object")
        return {}

    def _collection(self, data: dict[str, Any], key_path: KeyPath) -> str:
        given = [key for key in ("collection", "source") if data.get(key) is not None]
        if not given:
            self.add_issue(key_path, "needs a collection")
            return ""
        name = data[given[0]]
        if not isinstance(name, str):
            self.add_issue((*key_path, given[0]), "must be text")
        elif problem := collection_problem(name):
            self.add_issue((*key_path, given[0]), problem)
        elif data[given[-1]] != name:
            self.add_issue((*key_path, "source"), "means the same as collection, and they differ")
        return str(name)

    def _filter(self, data: dict[str, Any], key_path: KeyPath) -> dict[str, Any] | None:
        condition: dict[str, Any] = {}
        for path, value in self._object(data, "filter", key_path).items():
            here = (*key_path, "filter", path)
            if problem := path_problem(_REFERENCE.sub("", path.removeprefix("$"))):
                self.add_issue(here, problem)
            condition[path] = literals(value, self.add_issue, here)
        self._discriminate(data, key_path, condition)
        self._refuse((*key_path, "filter"), restrictions.in_query(condition))
        return condition or None

    def _discriminate(self, data: dict[str, Any], key_path: KeyPath, condition: dict[str, Any]) -> None:
        """Add ``discriminator: {field, value}`` to a filter: equality, or $in where the value is a list."""
        given = self._object(data, "discriminator", key_path)
        here = (*key_path, "discriminator")
        if not given:
            return
        path = given.get("field")
        if given.keys() != {"field", "value"} or not isinstance(path, str):
            self.add_issue(here, "must be an object with field, a path, and value")
        elif (problem := path_problem(path)) or path in condition:
            self.add_issue((*here, "field"), problem or "the filter has a condition of this field, too")
        else:
            value = literals(given["value"], self.add_issue, (*here, "value"))
            condition[path] = {"$in": value} if isinstance(value, list) else value

    def _columns(
        self, data: dict[str, Any], key_path: KeyPath, table: SchemaTable
    ) -> tuple[dict[str, str], dict[str, Any]]:
        """Return the paths and the expressions of the columns that ``fields`` or ``projection`` name."""
        paths: dict[str, str] = {}
        expressions: dict[str, Any] = {}
        for form in ("fields", "projection"):
            for key, written in self._object(data, form, key_path).items():
                here = (*key_path, form, key)
                column = table.column(key)
                value = literals(expanded(written) if form == "projection" else written, self.add_issue, here)
                path = value if form == "fields" else _path(key, value)
                if isinstance(path, str) and any(map(str.isdigit, path.split(".")[1:])):
                    self.warn(here, "a number is a field name here, not an array index: use $arrayElemAt for an index")
                if form == "fields" and not isinstance(path, str):
                    self.add_issue(here, "must be the path of a field")
                elif path is not None and (problem := path_problem(path)):
                    self.add_issue(here, problem)
                elif form == "projection" and _is_exclusion(value):
                    if column and key != "_id":
                        self.add_issue(here, "leaves out a column of the schema")
                elif column is None:
                    near = self._document.suggestion(key, table.columns)
                    self.warn(here, f"the table has no such column{near}")
                elif column in paths or column in expressions:
                    self.add_issue(here, f"column {column} is mapped twice")
                elif path is not None:
                    paths[column] = path
                elif column != key and _includes_parts(value):
                    self.add_issue(here, f"names parts of a field, but the column is {column}: use an expression")
                else:
                    expressions[column] = value
                    self._refuse(here, restrictions.in_expression(value))
        return paths, expressions

    def _pipeline(self, data: dict[str, Any], key_path: KeyPath) -> list[dict[str, Any]] | None:
        key_path = (*key_path, "pipeline")
        stages = literals(expanded(data.get("pipeline")), self.add_issue, key_path)
        if stages is None:
            return None
        if not isinstance(stages, list):
            self.add_issue(key_path, "must be a list of stages")
            return None
        malformed = [index for index, stage in enumerate(stages) if not _is_stage(stage)]
        for index in malformed:
            self.add_issue((*key_path, index), "a stage is an object with one key, such as {$match: …}")
        if not malformed:
            self._refuse(key_path, restrictions.in_pipeline(stages))
        return stages or None
