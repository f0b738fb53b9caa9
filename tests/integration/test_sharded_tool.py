"""The checker that ``make sharded`` runs on a cluster of the user's own, tried on a replica set."""

from __future__ import annotations

import pytest

from tests import sharded
from tests.support.checker import Report
from tests.support.mongod import Client, ReplicaSet


def test_sharded_checker_prints_its_verdict(
    replica_set: ReplicaSet, mongo: Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> str:
        assert sharded.main(["--uri", replica_set.uri(), *arguments]) == expected
        return capsys.readouterr().out

    expected = 0
    assert "verdict: exact: 0 lost, 0 twice, 0 torn" in run("--replica-set", "--writes", "200")
    monkeypatch.setattr(sharded, "check", lambda *_, **__: Report(faults=[("lost", "the third write")]))
    expected = 1
    assert "lost: the third write\nverdict: NOT EXACT" in run("--replica-set", "--writes", "9")
    assert not [name for name in mongo.list_database_names() if name.startswith("zmsd_sharded")]


def test_sharded_checker_refuses_a_replica_set(replica_set: ReplicaSet, capsys: pytest.CaptureFixture[str]) -> None:
    assert sharded.main(["--uri", replica_set.uri()]) == 2
    assert capsys.readouterr().err == "error: the URI does not lead to a mongos\n"
