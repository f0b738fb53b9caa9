"""A sample: random documents, or the first ones where mongod cannot choose."""

from __future__ import annotations

import pytest
from pymongo.errors import OperationFailure

from zmsd.bson_types import Document
from zmsd.mongodb.sampling import sample


@pytest.mark.parametrize("code", [50, 292, 28799])
def test_sample_that_mongod_cannot_take_has_the_first_documents(code: int) -> None:
    asked: list[Document] = []

    def read(first: Document, options: Document) -> str:
        asked.append(first | options)
        if "$sample" in first:
            raise OperationFailure("no", code)
        return "first"

    assert sample(7, read) == "first"
    assert asked == [{"$sample": {"size": 7}, "maxTimeMS": 5000}, {"$limit": 7}]


def test_sample_that_fails_for_another_reason_raises() -> None:
    def read(first: Document, options: Document) -> str:
        raise OperationFailure("not authorized", 13)

    with pytest.raises(OperationFailure):
        sample(7, read)
