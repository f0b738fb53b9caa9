"""``zmsd reload`` checks the files, sends SIGHUP, and reports the daemon's result."""

from __future__ import annotations

import subprocess

from tests.integration.chat import MAPPINGS, SCHEMA, named, table
from tests.support.daemon import ZmsdProcess, run_zmsd
from tests.support.types import Db, Serve


def reload(zmsd: ZmsdProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    arguments = arguments or ("--pid", str(zmsd.pid))
    return run_zmsd("reload", "--config", str(zmsd.config_file), *arguments, cwd=zmsd.directory, timeout=90)


def test_reload_reports_the_result_of_the_daemon(database: Db, serve: Serve) -> None:
    zmsd = serve(SCHEMA, MAPPINGS)
    done = reload(zmsd)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        f"reloaded tables={len(SCHEMA)} unchanged={len(SCHEMA)}\n",
        "",
    )
    zmsd.write(
        {**SCHEMA, **named(note=table(id="string"))},
        {**MAPPINGS, "note": {"collection": "notes", "fields": {"id": "_id"}}},
    )
    done = reload(zmsd)
    assert done.stdout == f"reloaded tables={len(SCHEMA) + 1} added=note unchanged={len(SCHEMA)}\n"
    zmsd.write(settings={"feed": {"heartbeat": 7}})
    done = reload(zmsd)
    assert (done.returncode, done.stdout.splitlines()[1:]) == (0, ["changed settings need a restart: feed.heartbeat"])
    assert len(zmsd.log("reloaded")) == 3


def test_reload_of_bad_files_sends_no_signal(database: Db, serve: Serve) -> None:
    zmsd = serve(SCHEMA, MAPPINGS)
    zmsd.write(mappings={"nothing": {"collection": "x"}})
    done = reload(zmsd)
    assert done.returncode == 78
    assert "mappings.json:" in done.stderr
    zmsd.write(mappings=MAPPINGS, settings={"feed": {"heartbeat": -1}})
    done = reload(zmsd)
    assert done.returncode == 78
    assert "feed.heartbeat: must be" in done.stderr
    assert not zmsd.log("reloaded|refused")


def test_reload_refused_by_the_daemon_fails_with_the_reason(database: Db, serve: Serve) -> None:
    """Only the daemon reads the certificate, which may be a credential."""
    zmsd = serve(SCHEMA, MAPPINGS)
    (zmsd.directory / "empty").touch()
    zmsd.write(settings={"server": {"tls": {"cert": "empty", "key": "empty"}}})
    done = reload(zmsd)
    assert done.returncode == 1
    assert done.stderr.startswith("reload refused: ")
    assert "server.tls" in done.stderr


def test_reload_without_a_daemon_fails_with_advice(database: Db, serve: Serve) -> None:
    zmsd = serve(SCHEMA, MAPPINGS)
    done = reload(zmsd, "--config", str(zmsd.config_file))
    assert done.returncode == 1
    assert "--pid" in done.stderr
    pid = zmsd.pid
    zmsd.stop()
    done = reload(zmsd, "--pid", str(pid))
    assert done.returncode == 1
    assert f"no process {pid}" in done.stderr


def test_reload_ignores_an_earlier_result(database: Db, serve: Serve) -> None:
    zmsd = serve(SCHEMA, MAPPINGS)
    assert reload(zmsd).returncode == 0
    result = zmsd.directory / "last-reload.json"
    before = result.stat().st_mtime_ns
    assert reload(zmsd).returncode == 0
    assert result.stat().st_mtime_ns > before
    zmsd.stop()
    zmsd.start()
    assert not result.exists(), "another process may get the same number"
