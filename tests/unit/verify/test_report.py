from __future__ import annotations

import json
from pathlib import Path

import pytest

from zmsd.errors import ZmsdError
from zmsd.verify.comparison import Difference, TableResult
from zmsd.verify.report import Summary, as_json, lines_of, write_metrics

RESULT = TableResult("user", "users", "c1ml", rows=1200, equal=1197, missing=1, extra=2, different=1, seconds=1.26)
RESULT.differences = [
    Difference("different", '{"id":"a"}', ("name",), '{"id":"a","name":"Ann"}', '{"id":"a","name":"x"}'),
    Difference("missing", '{"id":"b"}', expected='{"id":"b","name":null}'),
    Difference("extra", '{"id":"c"}', actual='{"id":"c","name":"y"}'),
]


def test_lines_name_keys_and_columns_without_values() -> None:
    assert list(lines_of(RESULT, show_values=False)) == [
        "user: 1,200 rows, 1,197 equal, 1 missing, 2 extra, 1 different at c1ml in 1.3 s",
        '  different {"id":"a"}: name',
        '  missing {"id":"b"}',
        '  extra {"id":"c"}',
        "  and 1 more extra",
    ]


def test_lines_show_values_on_demand() -> None:
    assert '    name: "x" in the replica, "Ann" in MongoDB' in list(lines_of(RESULT, show_values=True))


def test_line_of_equal_rows_has_no_difference() -> None:
    (line,) = lines_of(TableResult("t", "c", "w", rows=2, equal=2, late=3), show_values=True)
    assert line == "t: 2 rows, 2 equal, no difference, 3 newer than the comparison at w in 0.0 s"


def test_json_has_values_on_demand_only() -> None:
    without = as_json(1, [RESULT], show_values=False)
    assert "Ann" not in json.dumps(without)
    (table,) = without["tables"]
    assert table["differences"][0] == {"kind": "different", "key": {"id": "a"}, "columns": ["name"]}
    (table,) = as_json(1, [RESULT], show_values=True)["tables"]
    assert table["differences"][0]["values"] == {"name": {"replica": "x", "mongodb": "Ann"}}


def test_metrics_are_written(tmp_path: Path) -> None:
    file = tmp_path / "zmsd.prom"
    write_metrics(file, Summary("chat", 1, 1000.5, 2.5, [RESULT]))
    text = file.read_text()
    assert 'zmsd_verify_differences{database="chat",table="user",kind="extra"} 2\n' in text
    assert 'zmsd_verify_result{database="chat"} 1\n' in text
    assert 'zmsd_verify_timestamp_seconds{database="chat"} 1000.5\n' in text
    assert list(tmp_path.iterdir()) == [file]
    assert file.stat().st_mode & 0o777 == 0o644


def test_metrics_into_a_missing_directory_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZmsdError, match="No such file.*--metrics"):
        write_metrics(tmp_path / "missing" / "zmsd.prom", Summary("chat", 0, 1.0, 1.0))
