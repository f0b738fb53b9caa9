"""``zmsd verify``: is a replica equal to MongoDB? Read both at the replica's own position, and compare every row."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from types import FrameType

from zmsd import log as logs
from zmsd import position
from zmsd.assembly import publication_of
from zmsd.commands.change_source_client import SourceClient
from zmsd.commands.daemon_client import Target, of_config, target
from zmsd.commands.unit import load_settings
from zmsd.config.settings import Config
from zmsd.errors import ConfigError, PeerError, ZmsdError
from zmsd.log import write_json, write_line
from zmsd.mongodb.source import Source
from zmsd.replication.active_publication import ActivePublication
from zmsd.replication.replicas import Base, ReplicaBook
from zmsd.rows.rejects import Rejects
from zmsd.schema.loading import load_documents
from zmsd.schema.publication import Publication
from zmsd.verify.comparison import Comparison, TableResult
from zmsd.verify.replica_file import ReplicaFile, ReplicaState, find_shell
from zmsd.verify.report import Summary, as_json, lines_of, write_metrics
from zmsd.verify.row_file import RowFile
from zmsd.verify.stream import Applier, Follower, Reached, Serving
from zmsd.watermarks import open_store
from zmsd.watermarks.base import Replica

_RELOAD_SECONDS = 10.0
"""Time for the daemon to serve what the files describe."""
_POLL_SECONDS = 0.2
EXIT_EQUAL, EXIT_DIFFERENT, EXIT_FAILED = 0, 1, 2
_DEFAULT_DIRECTORY = "/var/tmp"
"""Where the rows are kept while they are compared, without TMPDIR: /tmp is memory on many machines."""


@dataclass(frozen=True)
class Options:
    """The command line."""

    config: Path | None
    url: str | None = None
    token: str | None = None
    replica: Path | None = None
    """The replica's file; None: compare what the daemon sends."""
    sqlite3: Path | None = None
    metrics: Path | None = None
    show_values: bool = False
    json: bool = False
    limit: int = 10
    """Differences to show of each kind and table."""


def verify(options: Options, environ: Mapping[str, str]) -> int:
    """Compare, print the report, and return the exit code: 0 equal, 1 different, 2 not compared.

    :raises ConfigError: the settings or documents are wrong
    """
    logs.setup("warning")
    logging.getLogger("zmsd.rows.rejects").setLevel(logging.ERROR)  # the daemon logs them
    settings = load_settings(options.config, environ, running=True)
    begun = time.monotonic()
    results: list[TableResult] = []
    try:
        with _terminated_by_exception(), _Progress() as progress:
            for result in _Run(options, settings, environ, progress).results():
                results.append(result)
                if not options.json:
                    progress.clear()
                    for line in lines_of(result, show_values=options.show_values):
                        write_line(line)
        code = EXIT_EQUAL if all(result.is_equal for result in results) else EXIT_DIFFERENT
    except ConfigError:
        raise
    except ZmsdError as error:
        write_line(f"error: {error}", sys.stderr, begin=logs.priority_prefix(logging.ERROR, sys.stderr))
        code = EXIT_FAILED
    if options.json and code != EXIT_FAILED:
        write_json(as_json(code, results, show_values=options.show_values))
    if options.metrics is not None:
        seconds = time.monotonic() - begun
        write_metrics(options.metrics, Summary(settings.mongodb.database, code, time.time(), seconds, results))
    return code


class _Run:
    """One comparison. Main thread only."""

    def __init__(self, options: Options, settings: Config, environ: Mapping[str, str], progress: _Progress) -> None:
        self._options = options
        self._settings = settings
        self._progress = progress
        found = target(options.url, options.config, options.token, environ) if options.url else of_config(settings)
        self._daemon = found
        self._stop = Event()

    def results(self) -> Iterator[TableResult]:
        """Yield the result of each table. Raises ZmsdError."""
        mongodb = self._settings.mongodb
        directory = os.environ.get("TMPDIR") or _DEFAULT_DIRECTORY
        with ExitStack() as stack:
            try:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zmsd-verify-", dir=directory)))
            except OSError as error:
                raise ZmsdError(f"cannot write to {directory}: {error.strerror} (set TMPDIR)") from error
            source = Source(mongodb.uri, mongodb.database)
            stack.callback(source.close)
            source.look().check()
            rows = stack.enter_context(closing(RowFile(folder)))
            own = publication_of(self._settings, load_documents(self._settings, keep=False))
            if self._options.replica is None:
                state, publication, reached = None, own, None
            else:
                state, publication, reached = self._load(self._options.replica, folder, own, rows)
            follower = self._follower(source, rows, state, "" if state is None else publication.fingerprint)
            stack.callback(follower.close)
            if reached is None:
                reached = self._advance_to(own.fingerprint, follower)
            active = ActivePublication(publication, source, Rejects(), self._stop)
            show = self._progress.show
            yield from Comparison(active, rows, reached, follower.advance, self._options.limit, show).run()

    def _load(
        self, file: Path, folder: Path, own: Publication, rows: RowFile
    ) -> tuple[ReplicaState, Publication, Reached]:
        """Put a replica's rows into the file, and return the replica, its publication and the moment of its rows."""
        if not file.is_file():
            raise ZmsdError(f"no replica {file}: give --replica the value of ZERO_REPLICA_FILE")
        with ReplicaFile(file, find_shell(self._options.sqlite3, file, folder)) as replica:
            state = replica.state()
            try:
                position.parse(state.watermark)
            except ValueError as error:
                raise ZmsdError(f"{file} is the replica of another change source: {error}") from error
            base = self._base(state, own)
            publication = base.publication or own
            for table, count in replica.load(publication.catalog.tables, rows):
                self._progress.show(f"reading the replica: {count:,} rows of {table}")
        reached = Reached(position.parse(base.watermark)[0], publication.fingerprint)
        return state._replace(watermark=base.watermark), publication, reached

    def _base(self, state: ReplicaState, own: Publication) -> Base:
        """Return the publication that the replica has, and from where it continues, as the store has recorded."""
        watermarks = self._settings.watermarks
        if watermarks.storage == "sqlite" and not watermarks.path.exists():
            return Base(state.watermark, None, None)
        with closing(open_store(self._settings)) as store:
            book = ReplicaBook(store, state.app, state.shard, None, writes=False)
            book.replica = Replica(state.app, state.shard, state.version)
            return book.find(state.watermark, own)

    def _follower(self, source: Source, rows: RowFile, state: ReplicaState | None, publication: str) -> Follower:
        def connect(watermark: str) -> SourceClient:
            if state is None:
                return self._daemon.follow("zmsd_verify", 0, None)
            return self._daemon.follow(state.app, state.shard, watermark, state.version)

        applier = Applier(rows, "" if state is None else state.watermark)
        show = self._progress.show
        return Follower(applier, connect, self._serving, source.operation_time, show, publication)

    def _serving(self) -> Serving:
        return serving(self._daemon)

    def _advance_to(self, own: str, follower: Follower) -> Reached:
        """Follow to a moment at which the rows have the publication of the files. A reload may just take place."""
        deadline = time.monotonic() + _RELOAD_SECONDS
        while True:
            reached = follower.advance()
            if reached.publication == own:
                return reached
            if time.monotonic() > deadline:
                text = "serves another publication than the files describe: zmsd reload, then verify again"
                raise ZmsdError(f"the daemon at {self._daemon} {text}")
            time.sleep(_POLL_SECONDS)


def serving(daemon: Target) -> Serving:
    """Return what a daemon serves. Raises PeerError if it does not answer."""
    answer = daemon.get("/status.json")
    if answer.status != 200:
        raise PeerError(f"{daemon} answers HTTP {answer.status} to /status.json (--token)")
    try:
        data = json.loads(answer.body)
        return Serving(data["publication"], data["watermark"], data["position"])
    except (ValueError, KeyError, TypeError) as error:
        raise PeerError(f"{daemon} is not a zmsd of this version: {error!r}") from error


class _Progress:
    """A line on a terminal that is written again and again; nothing elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._shown = 0.0

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def show(self, text: str) -> None:
        """Write the line again, at most ten times a second."""
        if self._live and time.monotonic() - self._shown > 0.1:
            self._shown = time.monotonic()
            write_line(text, sys.stderr, begin="\r\x1b[K", end="")

    def clear(self) -> None:
        """Remove the line."""
        if self._live and self._shown:
            write_line("", sys.stderr, begin="\r\x1b[K", end="")


@contextmanager
def _terminated_by_exception() -> Iterator[None]:
    """End on SIGTERM as on Ctrl-C, so that the temporary files are removed."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
