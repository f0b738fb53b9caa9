"""``zmsd plan`` with a store and no MongoDB: the lines, the JSON and the exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.main_thread import write_settings
from tests.unit.fakes import START
from zmsd.assembly import publication_of
from zmsd.commands.plan import EXIT_RESET, plan
from zmsd.config.restart import write_started_with
from zmsd.config.settings import load
from zmsd.errors import ConfigError, StoreError
from zmsd.position import watermark as mark
from zmsd.schema.loading import load_documents
from zmsd.schema.publication import Publication
from zmsd.watermarks.base import CopyRecord, Replica
from zmsd.watermarks.sqlite import SqliteStore


class Plan:
    """Settings without a running daemon, and a store with replicas."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self.file = write_settings(directory)
        self._capsys = capsys

    def published(self) -> Publication:
        """Return the publication of the files as they are now."""
        settings = load(self.file, {})
        return publication_of(settings, load_documents(settings))

    def record(self, shard: int, one: Publication, *, saved: bool = True) -> None:
        """Record a replica that has a publication."""
        store = SqliteStore(self.directory / "watermarks.db")
        if saved:
            store.save_publication(one.fingerprint, one.to_json())
        store.record_copy(Replica("zero", shard, mark(START)), CopyRecord(mark(START), mark(START), one.fingerprint))
        store.close()

    def change(self, **columns: Any) -> None:
        """Give the table other columns."""
        table = {"columns": {"id": {"type": "string"}, **columns}, "primaryKey": ["id"]}
        (self.directory / "schema.json").write_text(json.dumps({"tables": {"notes": table}}))

    def run(self) -> tuple[int, list[str]]:
        code = plan(self.file, {}, False)
        return code, self._capsys.readouterr().out.splitlines()

    def json(self) -> Any:
        plan(self.file, {}, True)
        return json.loads(self._capsys.readouterr().out)


@pytest.fixture
def planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Plan:
    return Plan(tmp_path, capsys)


def test_plan_without_replicas_is_an_initial_sync(planned: Plan) -> None:
    assert planned.run() == (
        0,
        [
            "no replica is on record: the first initial sync sends 1 table",
            "no daemon runs with this state directory: a start applies all settings",
        ],
    )
    assert planned.json() == {"replicas": [], "restart": None}


def test_plan_of_an_unchanged_publication_changes_nothing(planned: Plan) -> None:
    planned.record(0, planned.published())
    code, lines = planned.run()
    assert code == 0
    assert lines[0] == "replicas of zero_0:"
    (replica,) = planned.json()["replicas"]
    assert replica["shards"] == ["zero_0"]
    assert replica["changed"] == replica["added"] == replica["dropped"] == replica["reset_required"] == []


def test_plan_of_a_new_column_reads_the_table_again(planned: Plan) -> None:
    planned.record(0, planned.published())
    planned.record(1, planned.published())
    planned.change(text={"type": "string"}, more={"type": "number", "optional": True})
    code, lines = planned.run()
    assert code == 0
    assert lines[0] == "replicas of zero_0, zero_1:"
    assert any("MongoDB does not say how many documents" in line for line in lines)
    (replica,) = planned.json()["replicas"]
    (changed,) = replica["changed"]
    assert changed == {"table": "notes", "added": ["more"], "dropped": [], "read_again": True, "documents": None}


def test_plan_of_another_column_type_is_a_reset(planned: Plan) -> None:
    planned.record(0, planned.published())
    planned.change(text={"type": "number"})
    code, lines = planned.run()
    assert code == EXIT_RESET
    assert any("the type of column text was string, is number" in line for line in lines)


def test_plan_for_an_unknown_publication_is_a_reset(planned: Plan) -> None:
    planned.record(0, planned.published(), saved=False)
    code, lines = planned.run()
    assert code == EXIT_RESET
    assert "reset-required: their publication is not in the store" in lines[1]
    assert planned.json()["replicas"][0]["reset_required"] == ["their publication is not in the store"]


def test_plan_names_the_settings_that_need_a_restart(planned: Plan) -> None:
    write_started_with(planned.directory, load(planned.file, {}))
    assert planned.json()["restart"] == []
    write_settings(planned.directory, server={"port": 4000})
    assert planned.run()[1][-1] == "a restart is needed for: server.port"


def test_plan_with_wrong_files_or_a_damaged_store_is_an_error(planned: Plan) -> None:
    (planned.directory / "watermarks.db").write_bytes(b"no database" * 100)
    with pytest.raises(StoreError):
        planned.run()
    (planned.directory / "schema.json").write_text("{}")
    with pytest.raises(ConfigError):
        planned.run()
