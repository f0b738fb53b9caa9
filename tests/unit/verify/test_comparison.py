from __future__ import annotations

import pytest

from zmsd.errors import ZmsdError
from zmsd.schema.catalog import Table
from zmsd.schema.mapping import Mapping
from zmsd.schema.tables import Column, TableSpec
from zmsd.verify.comparison import TableResult, check_shapes
from zmsd.verify.row_file import Shape

SPEC = TableSpec("user", (Column("id", "string"), Column("n", "number")), ("id",))
TABLE = Table(SPEC, Mapping("users", (("id", "_id"), ("n", "n"))))
TYPES = {"id": "text", "n": "double precision"}


def test_same_shape_passes() -> None:
    check_shapes([TABLE], {"user": Shape(TYPES, ("id",)), "other": Shape({}, ())})


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        ({}, "no table user"),
        ({"user": Shape({"id": "text"}, ("id",))}, "other columns.*n double precision, the replica id text$"),
        ({"user": Shape(TYPES | {"n": "json"}, ("id",))}, "n json"),
        ({"user": Shape(TYPES, ("n",))}, "other columns"),
    ],
)
def test_other_shape_is_an_error(shapes: dict[str, Shape], reason: str) -> None:
    with pytest.raises(ZmsdError, match=reason):
        check_shapes([TABLE], shapes)


def test_result_is_equal_without_differences() -> None:
    assert TableResult("t", "c", rows=5, equal=5, late=1).is_equal
    assert not TableResult("t", "c", extra=1).is_equal
    assert not TableResult("t", "c", missing=1).is_equal
    assert not TableResult("t", "c", different=1).is_equal
