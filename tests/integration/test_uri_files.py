"""Files that the URI names: a configuration error at the start, a retry with a reason in a running daemon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.chat import named, table
from tests.support.certificates import ONE
from tests.support.daemon import ZmsdProcess, run_zmsd
from tests.support.mongod import ReplicaSet
from tests.support.types import Follow
from tests.support.wait import wait_until

SCHEMA = named(a=table(id="string", n="number"))
MAPPINGS = {"a": {"collection": "a", "fields": {"id": "_id"}}}


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[ReplicaSet]:
    (tmp_path / "server.pem").write_text(ONE.cert + ONE.key)
    (tmp_path / "ca.pem").write_text(ONE.cert)
    (tmp_path / "server-ca.pem").write_text(ONE.cert)
    arguments = (
        *("--tlsMode", "preferTLS", "--tlsCertificateKeyFile", str(tmp_path / "server.pem")),
        *("--tlsCAFile", str(tmp_path / "server-ca.pem"), "--tlsAllowConnectionsWithoutCertificates"),
    )
    with ReplicaSet(tmp_path / "mongod", arguments=arguments) as own:
        yield own


@pytest.mark.long
def test_ca_file_that_is_replaced_during_an_outage_is_waited_for(
    secure: ReplicaSet, tmp_path: Path, follow: Follow
) -> None:
    ca = tmp_path / "ca.pem"
    with secure.client() as client:
        client.chat.a.insert_one({"_id": "x", "n": 1})
    uri = f"mongodb://{secure.nodes[0].address}/chat?tls=true&tlsCAFile={ca}"
    with ZmsdProcess(tmp_path / "zmsd", uri, SCHEMA, MAPPINGS) as zmsd:
        zmsd.start()
        peer = follow(zmsd)
        secure.nodes[0].stop()
        ca.unlink()
        wait_until(lambda: f"tlsCAFile: {ca}: No such file or directory" in zmsd.get("/readyz")[1], "the reason", 60)
        ca.write_text("no PEM")
        wait_until(lambda: f"tlsCAFile: {ca} is not a PEM file" in zmsd.get("/readyz")[1], "the other reason", 60)
        assert zmsd.running()
        assert zmsd.log(f"WARNING.*connection renewal failed.*tlsCAFile: {ca}")
        ca.write_text(ONE.cert)
        secure.nodes[0].start()
        wait_until(zmsd.ready, "it goes on by itself", 60)
        with secure.client() as client:
            client.chat.a.update_one({"_id": "x"}, {"$set": {"n": 2}})
        wait_until(lambda: peer.rows("a")[("x",)]["n"] == 2, "the change", 30)
        assert not peer.closings


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("tls=true&tlsCAFile={}/missing.pem", "tlsCAFile: {}/missing.pem: No such file or directory"),
        ("tls=true&tlsCAFile={}/bad.pem", "tlsCAFile: {}/bad.pem is not a PEM file with certificates"),
        ("datetime_conversion=foo", "the value of datetime_conversion is not valid"),
    ],
)
def test_start_with_unusable_uri_file_or_option_is_a_configuration_error(
    options: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "bad.pem").write_text("no PEM")
    uri = f"mongodb://127.0.0.1:1/chat?{options.format(tmp_path)}"
    with ZmsdProcess(tmp_path / "zmsd", uri, SCHEMA, MAPPINGS) as zmsd:
        for command in ("run", "check"):
            done = run_zmsd(command, "--config", str(zmsd.config_file), cwd=tmp_path)
            (line,) = done.stderr.splitlines()
            assert done.returncode == 78
            assert f"mongodb.uri: {reason.format(tmp_path)}" in line
    done = run_zmsd("infer", "--uri", uri, cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert reason.format(tmp_path) in line


def test_password_that_cannot_be_normalised_is_reported(tmp_path: Path) -> None:
    """The driver notices it only when it authenticates."""
    with ReplicaSet(tmp_path / "mongod", auth=True) as own:
        uri = own.uri("chat", ("zmsd", "%07")) + "&authMechanism=SCRAM-SHA-256"
        with ZmsdProcess(tmp_path / "zmsd", uri, SCHEMA, MAPPINGS) as zmsd:
            zmsd.start(ready=False)
            wait_until(lambda: "(mongodb.uri)" in zmsd.get("/readyz")[1], "the reason", 30)
            done = run_zmsd("check", "--config", str(zmsd.config_file), cwd=tmp_path)
            assert "error: mongodb: " in done.stdout
            assert done.stderr == ""
