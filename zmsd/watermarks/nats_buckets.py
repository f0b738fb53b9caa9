"""The connection to NATS KV: an event loop in its own thread keeps the buckets' mirror up to date.

The loop writes what the mirror has queued, one write at a time, by compare-and-set. If the connection or the server
fails, connection, buckets and mirror are built again; the queue is kept.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from threading import Thread
from typing import Any

from nats.aio.client import Client
from nats.errors import MaxPayloadError, NoServersError
from nats.js import JetStreamContext
from nats.js.api import StorageType
from nats.js.errors import APIError, BucketNotFoundError, InvalidKeyError, KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue

from zmsd.config.settings import NatsConfig
from zmsd.errors import StoreError
from zmsd.log import kv
from zmsd.retry import RetryLog
from zmsd.watermarks.nats_mirror import Change, Mirror, Stored

log = logging.getLogger(__name__)

START_SECONDS = 20.0
"""Seconds for which a start waits for NATS: clients can only be served with what the store knows."""
CONNECT_SECONDS = 5.0
"""Seconds for one attempt to connect, over all servers."""
ANSWER_SECONDS = 2.0
"""Deadline of a request, in seconds."""
PROBE_SECONDS = 2.0
"""Seconds between checks that the server answers, and that the mirror has all that the server has."""
REFRESH_SECONDS = 1.0
"""Deadline of a read of what another daemon has just written, in seconds."""
CLOSE_SECONDS = 2.0
"""Seconds for writing the queue when the store is closed."""
_RETRY_SECONDS = (0.2, 5.0)
"""Seconds before the first retry to connect, and the maximum before a later one."""
_CHANGED_MEANWHILE = frozenset((10071, 10164))
_TOO_LARGE = 10054
"""Error codes of JetStream (server/errors.json of nats-io/nats-server)."""


class Buckets:
    """The buckets of a store. Thread-safe but for the methods of the loop's thread; ``mirror`` is thread-safe."""

    def __init__(
        self, settings: NatsConfig, ages: Mapping[str, float | None], changed: Callable[[str, str], None]
    ) -> None:
        """Connect and load all buckets. Raises StoreError if NATS cannot be used.

        :param ages: bucket -> seconds after which NATS drops its values; None: never
        :param changed: called in the loop's thread with each (bucket, key) that has changed on the server, and with an
            empty key when a bucket has been loaded
        """
        self._settings = settings
        self._changed = changed
        self._tls = _tls(settings)
        self._repeated = RetryLog(log, "NATS")
        self._loop = asyncio.new_event_loop()
        self._wake = asyncio.Event()
        self._end = asyncio.Event()
        self._kv: dict[str, KeyValue] = {}
        self._watched: dict[str, int] = {}  # bucket -> the newest revision that the watch has delivered
        self._last_error: Exception | None = None
        self.mirror = Mirror(ages)
        self.mirror.wake = self._wake_up
        self._thread = Thread(target=self._run, name="nats", daemon=True)
        self._thread.start()
        if not self.mirror.wait_loaded(START_SECONDS):
            reason = self.mirror.trouble
            self.close()
            raise StoreError(
                f"NATS at {_addresses(settings)} cannot be used: {reason}: check that it runs with JetStream, and "
                "nats.user, password, token, creds and tls"
            )

    def refresh(self, bucket: str, *keys: str) -> None:
        """Read what other daemons have written under some keys. Without an answer in time the mirror stays as it is."""
        if self.mirror.trouble is not None or self.mirror.closed:
            return
        future = asyncio.run_coroutine_threadsafe(self._fetch_all(bucket, keys), self._loop)
        try:
            future.result(REFRESH_SECONDS)
        except Exception as error:  # the probe reports the cause
            future.cancel()
            log.warning(kv("NATS not read, using known values", error=_text(error)))

    def close(self) -> None:
        """Write what is queued within ``CLOSE_SECONDS``, and disconnect. A second call does nothing."""
        if not self._thread.is_alive():
            return
        if left := self.mirror.close(CLOSE_SECONDS):
            log.warning(kv("closed with unwritten records", writes=left))
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(CLOSE_SECONDS)

    def _wake_up(self) -> None:
        self._loop.call_soon_threadsafe(self._wake.set)

    # Methods of the loop's thread

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._keep())

    async def _keep(self) -> None:
        end = asyncio.create_task(self._end.wait())
        wait, most = _RETRY_SECONDS
        while True:
            serve = asyncio.create_task(self._serve())
            await asyncio.wait([serve, end], return_when=asyncio.FIRST_COMPLETED)
            if end.done():
                serve.cancel()
                await asyncio.gather(serve, return_exceptions=True)
                return
            error = serve.exception()
            if self.mirror.trouble is None:
                wait = _RETRY_SECONDS[0]
            text = _text(self._last_error if isinstance(error, NoServersError) else error)
            self.mirror.failed(text)
            self._repeated.failed(text, servers=_addresses(self._settings))
            await asyncio.wait([end], timeout=wait)
            wait = min(wait * 2, most)

    async def _serve(self) -> None:
        """Connect, and serve until the first exception. nats-py raises its own, asyncio's and unexpected ones."""
        client, gone = Client(), asyncio.Event()
        tasks: list[asyncio.Task[None]] = []
        try:
            await asyncio.wait_for(client.connect(**self._options(gone)), CONNECT_SECONDS)
            js = client.jetstream(timeout=ANSWER_SECONDS)
            watchers = {bucket: await self._load(js, bucket) for bucket in self.mirror.ages}
            self.mirror.works()
            for bucket in watchers:
                self._changed(bucket, "")
            self._repeated.recovered()
            work = [self._work(js), self._probe(js), self._lost(gone)]
            work += [self._follow(bucket, watcher) for bucket, watcher in watchers.items()]
            tasks = [asyncio.create_task(one) for one in work]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with suppress(Exception):
                await asyncio.wait_for(client.close(), 1.0)

    async def _lost(self, gone: asyncio.Event) -> None:
        await gone.wait()
        raise self._last_error or ConnectionError("the connection was lost")

    def _options(self, gone: asyncio.Event) -> dict[str, Any]:
        settings = self._settings

        self._last_error = None

        async def failed(error: Exception) -> None:
            self._last_error = error

        async def lost() -> None:
            gone.set()

        given = {
            "user": settings.user,
            "password": settings.password,
            "token": settings.token,
            "user_credentials": settings.creds and str(settings.creds),
            "tls": self._tls,
        }
        return {
            "servers": list(settings.servers),
            "name": "zmsd",
            # A lost connection is replaced by a new one: reconnecting would be a second way with states in between.
            "allow_reconnect": False,
            "max_reconnect_attempts": 1,
            "reconnect_time_wait": 0.1,
            "connect_timeout": ANSWER_SECONDS,
            "error_cb": failed,
            "disconnected_cb": lost,
            "closed_cb": lost,
            **{name: value for name, value in given.items() if value is not None},
        }

    async def _load(self, js: JetStreamContext, bucket: str) -> KeyValue.KeyWatcher:
        """Open or create a bucket and load it into the mirror. Return what watches it from there on."""
        stream, age = f"KV_{bucket}", self.mirror.ages[bucket]
        try:
            await js.key_value(bucket)
        except BucketNotFoundError:
            await js.create_key_value(
                bucket=bucket,
                description="zmsd: what it knows of its clients" if age is None else "zmsd: resume tokens",
                history=5 if age is None else 1,
                ttl=age,
                replicas=self._settings.replicas,
                storage=StorageType.FILE,
            )
            log.info(kv("NATS bucket created", bucket=bucket, replicas=self._settings.replicas))
        info = await js.stream_info(stream)
        if (info.config.num_replicas or 1) < self._settings.replicas:
            log.warning(
                kv("bucket has fewer replicas than nats.replicas", bucket=bucket, replicas=info.config.num_replicas)
            )
        # Not direct: a direct get may read a follower, which may lack the newest write (NATS ADR-31).
        self._kv[bucket] = KeyValue(name=bucket, stream=stream, pre=f"$KV.{bucket}.", js=js, direct=False)
        watcher = await self._kv[bucket].watchall()
        loaded: dict[str, Stored] = {}
        while (entry := await watcher.updates(ANSWER_SECONDS)) is not None:  # type: ignore[no-untyped-call]
            loaded[entry.key] = _of(entry)
        self._watched[bucket] = max([info.state.last_seq, *(entry.revision for entry in loaded.values())])
        self.mirror.load(bucket, loaded)
        return watcher

    async def _follow(self, bucket: str, watcher: KeyValue.KeyWatcher) -> None:
        async for entry in watcher:
            if entry is not None:
                self._watched[bucket] = max(self._watched[bucket], entry.revision)
                self._saw(bucket, entry.key, _of(entry))
        raise ConnectionError("the watch has ended")

    async def _probe(self, js: JetStreamContext) -> None:
        while True:
            missing = False
            for bucket in self.mirror.ages:
                newest = (await js.stream_info(f"KV_{bucket}")).state.last_seq
                await asyncio.sleep(PROBE_SECONDS)
                missing = missing or self._watched[bucket] < newest
            if missing:
                raise ConnectionError("the watch has stopped delivering changes")

    async def _work(self, js: JetStreamContext) -> None:
        """Write what is queued, until the task is cancelled."""
        while True:
            self._wake.clear()
            while queued := self.mirror.next():
                name, change = queued
                try:
                    await self._make(js, change)
                except (InvalidKeyError, MaxPayloadError, APIError) as error:
                    if isinstance(error, APIError) and error.err_code != _TOO_LARGE:
                        raise
                    log.error(kv("NATS refuses a record, dropped", key=change.key, error=_text(error)))
                self.mirror.done(name, change)
            await self._wake.wait()

    async def _make(self, js: JetStreamContext, change: Change) -> None:
        bucket, key = change.bucket, change.key
        if not key:
            if (oldest := self.mirror.oldest(bucket)) > 1:
                await js.purge_stream(f"KV_{bucket}", seq=oldest)
            return
        stored = self.mirror.stored(bucket, key)
        while True:
            old = None if stored is None else stored.value
            value = change.update(old)
            if value == old:
                return
            revision = 0 if stored is None else stored.revision
            try:
                if value is not None:
                    self._saw(bucket, key, Stored(await self._kv[bucket].update(key, value, last=revision), value))
                    return
                await self._kv[bucket].delete(key, last=revision)
            except APIError as error:
                if not isinstance(error, KeyWrongLastSequenceError) and error.err_code not in _CHANGED_MEANWHILE:
                    raise
            stored = await self._fetch(bucket, key)

    async def _fetch_all(self, bucket: str, keys: Collection[str]) -> None:
        for key in keys:
            await self._fetch(bucket, key)

    async def _fetch(self, bucket: str, key: str) -> Stored | None:
        """Read a key from the leader. Return None for a key that never existed."""
        try:
            found = await self._kv[bucket].get(key)
        except KeyNotFoundError as error:
            if error.entry is None:
                return None
            stored = Stored(error.entry.revision, None)
        else:
            assert found.revision is not None
            stored = Stored(found.revision, found.value)
        self._saw(bucket, key, stored)
        return stored

    def _saw(self, bucket: str, key: str, stored: Stored) -> None:
        if self.mirror.saw(bucket, key, stored):
            self._changed(bucket, key)


def _of(entry: KeyValue.Entry) -> Stored:
    assert entry.revision is not None
    return Stored(entry.revision, entry.value if entry.operation is None else None)


def _tls(settings: NatsConfig) -> ssl.SSLContext | None:
    if settings.tls is None:
        return None
    files = settings.tls
    try:
        context = ssl.create_default_context(cafile=files.ca)
        if files.cert is not None:
            context.load_cert_chain(files.cert, files.key)
    except (ssl.SSLError, OSError) as error:
        raise StoreError(f"nats.tls: {files.ca or ''} {files.cert or ''} {files.key or ''}: {error}") from error
    return context


def _addresses(settings: NatsConfig) -> str:
    """Return the servers' addresses without credentials."""
    return ", ".join(server.rpartition("://")[2].rpartition("@")[2] for server in settings.servers)


def _text(error: BaseException | None) -> str:
    text = str(error) or type(error).__name__
    return text.removeprefix("nats: ")
