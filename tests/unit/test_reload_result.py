"""The result of a reload, from the daemon to ``zmsd reload``."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.unit.fakes import lines
from zmsd.reload_result import ReloadRecorder, ReloadResult, read_result


def test_recorded_result_is_read_again(tmp_path: Path) -> None:
    recorder = ReloadRecorder(tmp_path / "state")
    before = time.monotonic()
    recorder.begin()
    recorder.end(restart=("mongodb",), credentials=("token",), summary="1 table added")
    found = read_result(tmp_path / "state")
    assert found is not None
    assert before <= found.began <= time.monotonic()
    assert found == ReloadResult(os.getpid(), found.began, (), ("mongodb",), ("token",), "1 table added")
    recorder.end(faults=("zmsd.yaml:1:1: wrong",))
    assert read_result(tmp_path / "state") == ReloadResult(os.getpid(), found.began, ("zmsd.yaml:1:1: wrong",))


def test_result_of_an_earlier_process_is_removed(tmp_path: Path) -> None:
    """The process id may be the same."""
    recorder = ReloadRecorder(tmp_path)
    recorder.clear()
    recorder.end()
    recorder.clear()
    assert read_result(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"pid": "x"}', json.dumps({"pid": 1, "began": 1.0})])
def test_result_that_is_not_one_counts_as_absent(tmp_path: Path, text: str) -> None:
    (tmp_path / "last-reload.json").write_text(text)
    assert read_result(tmp_path) is None


def test_result_that_cannot_be_written_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "file"
    file.write_text("")
    ReloadRecorder(file).end()
    assert lines(caplog) == ['result of the reload not written error="File exists"']


def test_result_is_never_read_in_part(tmp_path: Path) -> None:
    recorder = ReloadRecorder(tmp_path)
    recorder.end(summary="first")
    with (tmp_path / "last-reload.json").open() as reader:
        recorder.end(summary="second")
        assert json.loads(reader.read())["summary"] == "first", "a new file has replaced the one that is being read"
    assert [file.name for file in tmp_path.iterdir()] == ["last-reload.json"]
