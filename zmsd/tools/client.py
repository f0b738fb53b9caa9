"""A small client of a change source: its messages as they come, each transaction confirmed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from functools import partial
from threading import Thread
from typing import Any
from urllib.parse import urlencode, urlsplit

from simple_websocket import Client, ConnectionClosed
from simple_websocket import ConnectionError as HandshakeError
from wsproto.utilities import ProtocolError

from zmsd.errors import PeerError, PeerGone
from zmsd.stream.protocol import PATH

Message = list[Any]


class SourceClient:
    """A connection to a change source. For one thread, but ``close`` may be called from another."""

    def __init__(self, url: str, app: str = "zero", shard: int = 0, **query: str) -> None:
        """:param url: ``ws://HOST:PORT``, with or without the path. Raises PeerError when it does not answer."""
        parts = urlsplit(url)
        wanted = urlencode({"appID": app, "shardNum": shard, **query})
        path = parts.path if parts.path.strip("/") else PATH
        address = f"{parts.scheme}://{parts.netloc}{path}?{wanted}" + (f"&{parts.query}" if parts.query else "")
        try:
            self._socket = Client(address, receive_bytes=1 << 16, thread_class=partial(Thread, daemon=True))
        except (HandshakeError, ProtocolError, OSError, ValueError) as error:
            raise PeerError(
                f"{parts.scheme}://{parts.netloc}{path} does not answer as a change source: {error}"
            ) from error

    def messages(self, timeout: float) -> Iterator[Message | None]:
        """One after the other; None when ``timeout`` seconds brought nothing. Raises PeerGone at the end."""
        while True:
            try:
                text = self._socket.receive(timeout)
                message = None if text is None else json.loads(text)
                if message and message[0] == "commit":
                    self._socket.send(json.dumps(["status", message[1], message[2]]))
            except (ConnectionClosed, OSError) as error:
                raise PeerGone(str(error)) from error
            yield message

    def close(self) -> None:
        with contextlib.suppress(ConnectionClosed, OSError):
            self._socket.close()
