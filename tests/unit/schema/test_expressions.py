"""zmsd's own operator, as an expression that mongod evaluates; an integration test evaluates it."""

from __future__ import annotations

from typing import Any

import pytest

from zmsd.schema.expressions import HEX_TO_BASE64_URL, expanded
from zmsd.schema.restrictions import in_expression


@pytest.mark.parametrize(
    "value",
    [
        {"$concat": ["$a", {"$toLower": "$b"}]},
        [{"$match": {"a": 1}}],
        {"$literal": {HEX_TO_BASE64_URL: "$a"}},
        {HEX_TO_BASE64_URL: "$a", "other": 1},
        "text",
        5,
    ],
)
def test_other_expressions_stay_as_they_are(value: Any) -> None:
    """In ``$literal`` the operator is data, and beside another member it is the name of a field."""
    assert expanded(value) == value


def test_operator_is_replaced_wherever_it_is() -> None:
    found = expanded([{"$set": {"a": {"$concat": [{HEX_TO_BASE64_URL: "$b"}, "x"]}}}])
    assert HEX_TO_BASE64_URL not in str(found)
    assert found[0]["$set"]["a"]["$concat"][0]["$let"]["vars"] == {"operand": "$b"}


def test_operand_may_have_the_operator_itself() -> None:
    assert HEX_TO_BASE64_URL not in str(expanded({HEX_TO_BASE64_URL: {HEX_TO_BASE64_URL: "$b"}}))


def test_replacement_has_only_operators_that_mappings_may_use() -> None:
    assert list(in_expression(expanded({HEX_TO_BASE64_URL: "$a"}))) == []
