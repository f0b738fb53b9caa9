"""``zmsd store``: look into the watermark store, move it from sqlite to NATS or back, clear it of what is old."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from zmsd import log as logs
from zmsd import position
from zmsd.commands.unit import load_settings
from zmsd.config.partial import only
from zmsd.config.settings import Config
from zmsd.errors import StoreError
from zmsd.log import write_line
from zmsd.replication.publication import Published
from zmsd.watermarks import open_store
from zmsd.watermarks.base import Contents, WatermarkStore

Kind = Literal["sqlite", "nats-kv"]


def show(path: Path | None, environ: Mapping[str, str]) -> int:
    settings = _settings(path, environ)
    with _opened(settings, settings.watermarks.storage) as store:
        for line in [*render(store.contents(), time.time())] or ["nothing yet"]:
            write_line(line)
    return 0


def copy(path: Path | None, environ: Mapping[str, str], to: Kind) -> int:
    """From the other one. Raises StoreError where the target has clients already."""
    settings = _settings(path, environ)
    with _opened(settings, "sqlite" if to == "nats-kv" else "nats-kv") as source:
        found = source.contents()
    with _opened(settings, to, make=True) as target:
        if target.contents().copies:
            raise StoreError(f"the store {to} knows clients already: nothing was copied")
        fill(target, found)
    write_line(f"{len(found.shards)} clients and {len(found.editions)} editions copied to {to}")
    return 0


def prune(path: Path | None, environ: Mapping[str, str], days: int) -> int:
    settings = _settings(path, environ)
    with _opened(settings, settings.watermarks.storage) as store:
        found = store.contents()
        heard = {shard: _heard(found, shard) for shard in found.shards.keys() | found.copies.keys()}
        old = sorted(shard for shard, mark in heard.items() if _age(mark, time.time()) > days * 86400)
        for app, number in old:
            store.forget(app, number)
            silent = _age(heard[app, number], time.time()) / 86400
            write_line(f"forgotten: {app}_{number}, not heard from for {silent:.0f} days")
        kept = store.contents()
        used = {copy.edition for copies in kept.copies.values() for copy in copies} | {*kept.epochs[-1:]}
        unused = kept.editions.keys() - used
        for fingerprint in unused:
            store.forget_edition(fingerprint)
    write_line(f"{len(old)} clients and {len(unused)} editions forgotten, {len(heard) - len(old)} and {len(used)} kept")
    return 0


def render(found: Contents, now: float) -> Iterator[str]:
    """Lines.

    :param now: seconds since the epoch
    """
    if found.identity is not None:
        set_id, collections, name = found.identity
        yield f"database {name or '-'}: replica set {set_id or '-'}, {len(collections)} collections"
    if found.invalid is not None:
        yield f"void below {_mark(found.invalid[0], now)}: {found.invalid[1]}"
    for number, fingerprint in enumerate(found.epochs, 1):
        state = ", published now" if number == len(found.epochs) else ""
        yield f"epoch {number}: edition {fingerprint[:12]}{state}"
    for fingerprint, document in found.editions.items():
        tables = ", ".join(table.name for table in Published.from_json(document).catalog.tables)
        yield f"edition {fingerprint[:12]}: {tables}"
    for app, number in sorted(found.shards.keys() | found.copies.keys()):
        known = found.shards.get((app, number))
        yield f"client {app}_{number}:"
        if known is not None:
            yield f"  confirmed {_mark(known.acked, now) if known.acked else 'nothing yet'}"
        for copy in found.copies.get((app, number), ()):
            later = "" if copy.stream_from == copy.watermark else f", changes in it up to {copy.stream_from}"
            first = known is not None and copy.watermark == known.replica_version
            yield f"  {'first copy' if first else 'edition'} {_mark(copy.watermark, now)}: {copy.edition[:12]}{later}"
    if found.checkpoints:
        yield f"resume tokens: {len(found.checkpoints)}, {_mark(min(found.checkpoints), now)} and later"


def fill(target: WatermarkStore, found: Contents) -> None:
    """Of the resume tokens only those by which a client's place is checked, and the newest."""
    for fingerprint, document in found.editions.items():
        target.add_edition(fingerprint, document)
    marks = set(sorted(found.checkpoints)[-1:])
    for (app, number), copies in found.copies.items():
        known = found.shards.get((app, number))
        for copy in copies:
            first = known is not None and copy.watermark == known.replica_version
            (target.copied_first if first else target.copied)(app, number, copy)
        if known is not None and known.acked is not None:
            target.acked(app, number, known.acked)
        confirmed = _heard(found, (app, number))
        marks |= {max((mark for mark in found.checkpoints if mark <= confirmed), default=confirmed)}
    for mark in sorted(marks & found.checkpoints.keys()):
        target.checkpoint(mark, found.checkpoints[mark])
    if found.identity is not None:
        target.identify(found.identity)
    if found.invalid is not None:
        target.invalidate(*found.invalid)


def _heard(found: Contents, shard: tuple[str, int]) -> str:
    """The newest watermark that a client is known to have."""
    known = found.shards.get(shard)
    marks = [copy.watermark for copy in found.copies.get(shard, ())]
    if known is not None:
        marks.append(known.acked or known.replica_version)
    return max(marks)


def _age(mark: str, now: float) -> float:
    return now - position.seconds(position.parse(mark)[0])


def _mark(mark: str, now: float) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(now - _age(mark, now)))
    return f"{mark} ({when})"


def _settings(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Return the settings of the stores. A NATS bucket is of one database, which the URI of MongoDB may name."""
    settings = load_settings(path, environ, concerns=only("watermarks", "nats"))
    if settings.nats.servers:
        settings = load_settings(path, environ, concerns=only("watermarks", "nats", "mongodb"))
    return settings


@contextlib.contextmanager
def _opened(settings: Config, storage: Kind, *, make: bool = False) -> Iterator[WatermarkStore]:
    logs.setup("error")
    file = settings.watermarks.path
    if storage == "sqlite" and not make and not file.exists():
        raise StoreError(f"there is no store {file} (watermarks.path)")
    if storage == "nats-kv" and not settings.nats.servers:
        raise StoreError("the settings name no NATS (nats.servers)")
    store = open_store(replace(settings, watermarks=replace(settings.watermarks, storage=storage)))
    try:
        yield store
    finally:
        store.close()
