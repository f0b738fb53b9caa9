from __future__ import annotations

from threading import Event

import pytest

from tests.support.frames import data
from tests.unit.fakes import FakeSource
from zmsd.errors import SourceUnavailable
from zmsd.replication.active_publication import ActivePublication
from zmsd.rows.computed import TAG
from zmsd.rows.rejects import Rejects
from zmsd.schema.catalog import Catalog, Table
from zmsd.schema.mapping import Mapping
from zmsd.schema.publication import Publication
from zmsd.schema.tables import Column, TableSpec


def test_evaluation_raises_for_a_reader_and_waits_in_a_scan() -> None:
    """The reader retries and reports it; waiting silently would look like a reader that hangs."""
    spec = TableSpec("t", (Column("id", "string"),), ("id",))
    table = Table(spec, Mapping("c", None, pipeline=[{"$set": {"id": "$_id"}}]))
    source = FakeSource()
    active = ActivePublication(Publication(Catalog((table,))), source, Rejects(), Event())
    answers = [SourceUnavailable("away"), [{TAG: 0, "id": "a"}]]
    evaluator = active.watched["c"].evaluator
    assert evaluator is not None
    source.answers = list(answers)
    with pytest.raises(SourceUnavailable):
        evaluator.evaluate([{"_id": "a"}])
    source.answers = list(answers)
    encoder = active.encoder()
    documents = [{"_id": "a"}]
    (message,) = encoder.inserts(documents, active.evaluate("c", documents, ["t"]), encoder.tables["c"])
    assert data(message)[0]["new"] == {"id": "a"}
