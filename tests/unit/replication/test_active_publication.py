from __future__ import annotations

from threading import Event
from unittest.mock import MagicMock

import pytest

from tests.support.frames import data
from zmsd.errors import SourceUnavailable
from zmsd.replication.active_publication import ActivePublication
from zmsd.rows.computed import TAG
from zmsd.rows.rejects import Rejects
from zmsd.schema.catalog import Catalog, Table
from zmsd.schema.mapping import Mapping
from zmsd.schema.publication import Publication
from zmsd.schema.tables import Column, TableSpec


def test_a_reader_hears_that_mongodb_is_away_and_a_copy_waits() -> None:
    """The reader tries again by itself and tells of it; to wait in silence would look like a hanging one."""
    spec = TableSpec("t", (Column("id", "string"),), ("id",))
    table = Table(spec, Mapping("c", None, pipeline=[{"$set": {"id": "$_id"}}]))
    source = MagicMock()
    active = ActivePublication(Publication(Catalog((table,))), source, Rejects(), Event())
    answers = [SourceUnavailable("away"), [{TAG: 0, "id": "a"}]]
    evaluator = active.watched["c"].evaluator
    assert evaluator is not None
    source.run.side_effect = answers
    with pytest.raises(SourceUnavailable):
        evaluator.evaluate([{"_id": "a"}])
    source.run.side_effect = answers
    encoder = active.encoder()
    documents = [{"_id": "a"}]
    (message,) = encoder.inserts(documents, active.evaluate("c", documents, ["t"]), encoder.tables["c"])
    assert data(message)[0]["new"] == {"id": "a"}
