"""Reloads of a daemon whose MongoDB cannot be reached."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.main_thread import running_daemon, write_settings
from tests.support.wait import wait_until
from zmsd.config import partial
from zmsd.reload_result import ReloadResult, read_result


def result(directory: Path) -> ReloadResult:
    wait_until(lambda: read_result(directory) is not None, "the reload has ended")
    found = read_result(directory)
    assert found is not None
    return found


def test_reload_with_an_error_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    with running_daemon(write_settings(tmp_path)) as started:
        write_settings(tmp_path, server={"port": "x"})
        started.daemon.call_soon(started.daemon.reload)
        (fault,) = result(tmp_path).faults
        assert "server.port" in fault


def test_reload_of_settings_that_need_a_restart_names_them(tmp_path: Path) -> None:
    with running_daemon(write_settings(tmp_path)) as started:
        write_settings(tmp_path, server={"port": 1234}, feed={"heartbeat": 5})
        started.daemon.call_soon(started.daemon.reload)
        found = result(tmp_path)
        assert (found.faults, found.summary) == ((), "reloaded tables=1 unchanged=1")
        assert sorted(found.restart) == ["feed.heartbeat", "server.port"]


def test_reload_of_settings_that_apply_needs_no_restart(tmp_path: Path) -> None:
    with running_daemon(write_settings(tmp_path)) as started:
        write_settings(tmp_path, server={"port": 0, "max_sessions": 3})
        started.daemon.call_soon(started.daemon.reload)
        assert result(tmp_path).restart == ()
        assert started.daemon._services.sessions.limits.max_sessions == 3


def test_reload_reports_the_credentials_that_stay_until_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """systemd reads a credential when it starts the unit: one that has been replaced since has no effect."""
    caplog.set_level("INFO")
    monkeypatch.setattr(partial, "_SYSTEMD_CREDENTIALS", str(tmp_path))
    (tmp_path / "token").write_text("secret")
    with running_daemon(write_settings(tmp_path, server={"port": 0, "token_file": str(tmp_path / "token")})) as started:
        started.daemon.call_soon(started.daemon.reload)
        assert result(tmp_path).credentials == ("token",)
    assert "credentials stay until a restart names=token" in caplog.text
