"""The systemd units, checked by systemd-analyze where it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.forks import OF_UNIT
from tests.support.zero import environment_file
from zmsd.pace import FIRST_SECONDS
from zmsd.replication.dispatcher import STALLED_SECONDS

FOLDER = Path(__file__).parents[3] / "systemd"
UNITS = ["zmsd.service", "zmsd@.service"]
VERIFY = ["zmsd-verify.service", "zmsd-verify.timer"]
# what a system unit requires without naming it
TARGETS = ["timers.target"]
TARGETS += ["sysinit.target", "basic.target", "shutdown.target", "network-online.target", "multi-user.target"]


def settings(unit: str) -> list[str]:
    return [line for line in (FOLDER / unit).read_text().splitlines() if line and not line.startswith("#")]


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed: the units were NOT checked with it")
    return subprocess.run(
        [path, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False
    )


def root_with(folder: Path, executables: Sequence[str] = ("/opt/zmsd/bin/zmsd", "/usr/bin/install")) -> Path:
    """Return a system with the units and the programs that they start, and nothing else."""
    units = folder / "etc/systemd/system"
    units.mkdir(parents=True)
    for unit in UNITS + VERIFY:
        shutil.copy(FOLDER / unit, units)
    for target in TARGETS:
        (units / target).write_text(f"[Unit]\nDescription={target}\n")
    for executable in executables:
        stub = folder / executable.lstrip("/")
        stub.parent.mkdir(parents=True)
        stub.write_text("#!/bin/sh\n")
        stub.chmod(0o755)
    return folder


@pytest.mark.parametrize("unit", ["zmsd.service", "zmsd@orders.service", *VERIFY])
def test_verify_of_the_unit_is_clean(unit: str, tmp_path: Path) -> None:
    verify = run("systemd-analyze", "verify", "--man=no", f"--root={root_with(tmp_path)}", unit)
    assert (verify.returncode, verify.stdout) == (0, "")


def test_verify_reports_a_wrong_executable(tmp_path: Path) -> None:
    """Otherwise the test above would prove nothing."""
    verify = run(
        "systemd-analyze", "verify", "--man=no", f"--root={root_with(tmp_path, ['/bin/other'])}", "zmsd.service"
    )
    assert "/opt/zmsd/bin/zmsd" in verify.stdout


@pytest.mark.parametrize(
    "unit", ["zero-cache.service", "zero-replication-manager.service", "zero-view-syncer@4848.service"]
)
def test_verify_of_the_zero_cache_units_is_clean(unit: str, tmp_path: Path) -> None:
    root = root_with(tmp_path, ["/opt/zero-cache/node_modules/.bin/zero-cache"])
    for file in FOLDER.glob("zero-*.service"):
        shutil.copy(file, root / "etc/systemd/system")
    verify = run("systemd-analyze", "verify", "--man=no", f"--root={root}", "--man=no", unit)
    assert (verify.returncode, verify.stdout) == (0, "")


@pytest.mark.parametrize("name", ["zero-cache", "zero-replication-manager", "zero-view-syncer"])
def test_zero_cache_env_is_read_alike_by_systemd_and_shell(name: str) -> None:
    """The values have no quotes, spaces or expansions, so that shell and systemd agree. The unit reads the file."""
    path = FOLDER.parent / f"etc/{name}.env"
    variables = environment_file(path)
    for variable, value in variables.items():
        assert re.fullmatch(r"ZERO_[A-Z_]+", variable)
        assert re.fullmatch(r"[\w:/.@+-]+", value), variable
    shell = ["/bin/sh", "-c", 'set -a; . "$1"; env', "sh", str(path)]
    read = subprocess.run(shell, capture_output=True, text=True, check=True, env={}).stdout
    assert variables.items() <= dict(line.split("=", 1) for line in read.splitlines()).items()
    unit = next(FOLDER.glob(f"{name}*.service")).read_text()
    assert f"EnvironmentFile=/etc/{name}.env" in unit
    directory = re.findall("^StateDirectory=(.+)$", unit, re.MULTILINE)
    replica = variables.get("ZERO_REPLICA_FILE") or re.findall(r"ZERO_REPLICA_FILE=(\S+)", unit)[0]
    assert replica == f"/var/lib/{directory[0]}/replica.db"


@pytest.mark.parametrize("unit", [*UNITS, "zmsd-verify.service"])
def test_exposure_of_the_unit_is_low(unit: str) -> None:
    security = run("systemd-analyze", "security", "--offline=true", "--threshold=12", "--no-pager", str(FOLDER / unit))
    assert security.returncode == 0, security.stdout
    found = re.search(r"Overall exposure level for \S+ (\d+\.\d)", security.stdout)
    assert found, security.stdout
    assert float(found[1]) <= 1.2


def test_sysusers_creates_the_user(tmp_path: Path) -> None:
    sysusers = run("systemd-sysusers", "--dry-run", f"--root={tmp_path}", str(FOLDER / "zmsd.sysusers"))
    assert sysusers.returncode == 0, sysusers.stdout
    assert "Would create user 'zmsd'" in sysusers.stdout or "Creating user 'zmsd'" in sysusers.stdout


NAMES = {
    "# zmsd: change source for Zero on MongoDB. Change settings with `systemctl edit zmsd`, not here.\n": (
        "# One zmsd of several: zmsd@NAME.service has its settings in /etc/zmsd/NAME.yaml and its state in"
        " /var/lib/zmsd-NAME.\n"
        "# All instances run as the user zmsd. Change settings with `systemctl edit zmsd@` or `zmsd@NAME`, not here.\n"
    ),
    "change source for Zero on MongoDB\nDocumentation": "change source for Zero on MongoDB (%i)\nDocumentation",
    "/etc/zmsd/zmsd.yaml": "/etc/zmsd/%i.yaml",
    "StateDirectory=zmsd\n": "StateDirectory=zmsd-%i\n",
    "# /var/lib/zmsd, the": "# /var/lib/zmsd-NAME, the",
    ":zmsd.mongodb_uri": ":zmsd-%i.mongodb_uri",
    ":zmsd.token": ":zmsd-%i.token",
    ": zmsd.mongodb_uri and zmsd.token in": ": zmsd-NAME.mongodb_uri and zmsd-NAME.token in",
    "`systemctl edit zmsd`, LoadCredential=mongodb_uri:/etc/zmsd/": (
        "`systemctl edit zmsd@NAME`, LoadCredential=mongodb_uri:/etc/zmsd/NAME."
    ),
}
"""Text of zmsd.service -> text of zmsd@.service."""


def test_template_differs_from_the_unit_only_in_its_names() -> None:
    text = (FOLDER / "zmsd.service").read_text()
    for name, instance in NAMES.items():
        assert name in text
        text = text.replace(name, instance)
    assert text == (FOLDER / "zmsd@.service").read_text()


@pytest.mark.parametrize("unit", UNITS)
def test_unit_has_the_settings_that_the_daemon_relies_on(unit: str) -> None:
    assert {
        "Type=notify",
        "Restart=on-failure",
        "RestartSec=100ms",
        "StartLimitIntervalSec=0",
        "RestartPreventExitStatus=78",
        "WatchdogSec=60",
        "ConfigurationDirectory=zmsd",
        "DynamicUser=yes",
        *(f"Environment={name}={value}" for name, value in OF_UNIT.items()),
    } <= set(settings(unit))


@pytest.mark.parametrize("unit", UNITS)
def test_stall_is_reported_before_the_watchdog_acts(unit: str) -> None:
    (watchdog,) = (int(line.partition("=")[2]) for line in settings(unit) if line.startswith("WatchdogSec="))
    assert FIRST_SECONDS < STALLED_SECONDS <= 15 < watchdog


@pytest.mark.parametrize("unit", UNITS)
def test_missing_credential_does_not_stop_the_service(unit: str) -> None:
    """systemd ignores a missing credential only when it is given without a path (systemd.exec(5))."""
    credentials = [line for line in settings(unit) if line.startswith("LoadCredential=")]
    assert len(credentials) == 2
    assert not [line for line in credentials if "/" in line]
