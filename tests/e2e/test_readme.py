"""README.rst, "Connect a zero-cache", followed step by step: a client prints the rows."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

from tests.support.daemon import run_zmsd
from tests.support.mongod import ReplicaSet
from tests.support.node import ROOT, Workspace
from tests.support.types import Db, Serve
from tests.support.wait import wait_until
from tests.support.zero import ZeroCache

README = (ROOT / "README.rst").read_text()
STEPS = README[README.index("Connect a zero-cache\n") : README.index("``http://127.0.0.1:3000/readyz``")]


def block(before: str) -> str:
    """The literal block after the line that ends with a text."""
    found = re.search(re.escape(before) + r"::\n\n((?:     .*\n|\n)+)", STEPS)
    assert found, before
    return dedent(found[1])


class Printed:
    """A script of examples/rows, run as README.rst says, and its output."""

    def __init__(self, workspace: Workspace, output: Path, script: str, **env: str) -> None:
        self._output = output
        with output.open("wb") as file:
            self.process = workspace.popen([f"rows/{script}"], env=env, stdout=file, stderr=subprocess.STDOUT)

    def lines(self) -> list[str]:
        text = self._output.read_text()
        assert self.process.poll() is None, text
        return text.splitlines()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def test_newcomer_sees_rows_in_a_client(
    database: Db,
    replica_set: ReplicaSet,
    serve: Serve,
    workspace: Workspace,
    zero_cache: Callable[..., ZeroCache],
    tmp_path: Path,
    stack: contextlib.ExitStack,
) -> None:
    uri = "mongodb://127.0.0.1:27017/mydb?replicaSet=rs0"
    settings = block("Write the settings, ``zmsd.yaml``")
    assert uri in settings
    (tmp_path / "schema.json").write_text(block("Zero shall see, in ``schema.json``"))
    (tmp_path / "mappings.json").write_text(block("the rows come from, in ``mappings.json``"))
    (tmp_path / "zmsd.yaml").write_text(settings.replace(uri, replica_set.uri(database.name)))
    database.messages.insert_one({"_id": "1", "content": "hello", "timestamp": 1})
    run = [line.split("#")[0].split() for line in block("Check and run").strip().splitlines()]
    assert run == [["zmsd", command, "--config", "zmsd.yaml"] for command in ("check", "run")]
    checked = run_zmsd(*run[0][1:], cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr + checked.stdout

    # The port of zmsd is this machine's, and that of the endpoint.
    files = [json.loads((tmp_path / name).read_text()) for name in ("schema.json", "mappings.json")]
    process = serve(*files)
    commands = block(
        "See the rows in a client. ``examples/rows`` has an endpoint for queries and a client, for the table of step 1"
    )
    assert re.findall(r"node \S+/(\w+\.mjs)", commands) == ["endpoint.mjs", "client.mjs"]
    endpoint = Printed(workspace, tmp_path / "endpoint", "endpoint.mjs", PORT="0")
    stack.callback(endpoint.close)
    wait_until(endpoint.lines, "the endpoint listens", 60)
    cache = zero_cache(process, query_url=endpoint.lines()[0], one_process=False)
    client = Printed(workspace, tmp_path / "client", "client.mjs", ZERO_URL=cache.url)
    stack.callback(client.close)

    def rows() -> Any:
        lines = [line for line in client.lines() if line.startswith("[{")]
        return json.loads(lines[-1]) if lines else None

    first = {"id": "1", "content": "hello", "createdAt": 1}
    wait_until(lambda: rows() == [first], "the client prints the row", 60)
    database.messages.insert_one({"_id": "2", "content": "again", "timestamp": 2})
    second = {"id": "2", "content": "again", "createdAt": 2}
    wait_until(lambda: rows() == [first, second], "the client prints the change", 60)
