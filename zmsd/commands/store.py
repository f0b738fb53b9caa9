"""``zmsd store``: show the watermark store, copy it from sqlite to NATS or back, remove old replicas from it."""

from __future__ import annotations

import contextlib
import os
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
from zmsd.schema.publication import Publication
from zmsd.watermarks import open_store
from zmsd.watermarks.base import Contents, Replica, WatermarkStore

Kind = Literal["sqlite", "nats-kv"]


def show(path: Path | None, environ: Mapping[str, str]) -> int:
    """Print the contents of the store, and return the exit code. Raises StoreError."""
    settings = _settings(path, environ)
    with _opened(settings, settings.watermarks.storage) as store:
        for line in [*render(store.contents(), time.time())] or ["the store is empty"]:
            write_line(line)
    return 0


def copy(path: Path | None, environ: Mapping[str, str], to: Kind) -> int:
    """Copy the other kind of store to ``to``, and return the exit code.

    :raises StoreError: a store cannot be used, or the target has replicas already
    """
    settings = _settings(path, environ)
    with _opened(settings, "sqlite" if to == "nats-kv" else "nats-kv") as other:
        found = other.contents()
    with _opened(settings, to, make=True) as target:
        if target.contents().replicas:
            raise StoreError(f"the store {to} has replicas already: nothing was copied")
        fill(target, found)
    write_line(f"{len(found.replicas)} replicas and {len(found.publications)} publications copied to {to}")
    return 0


def prune(path: Path | None, environ: Mapping[str, str], days: int) -> int:
    """Remove replicas without an ack for ``days`` days, then unused publications; return the exit code."""
    settings = _settings(path, environ)
    with _opened(settings, settings.watermarks.storage) as store:
        found = store.contents()
        ages = {replica: _age(record.newest, time.time()) for replica, record in found.replicas.items()}
        old = sorted(replica for replica, age in ages.items() if age > days * 86400)
        for replica in old:
            store.forget_replica(replica)
            write_line(f"removed: {_name(replica)}, no ack for {ages[replica] / 86400:.0f} days")
        kept = store.contents()
        used = {copy.publication for record in kept.replicas.values() for copy in record.copies} | {*kept.epochs[-1:]}
        unused = kept.publications.keys() - used
        for fingerprint in unused:
            store.forget_publication(fingerprint)
    write_line(
        f"{len(old)} replicas and {len(unused)} publications removed, {len(ages) - len(old)} and {len(used)} kept"
    )
    return 0


def render(found: Contents, now: float) -> Iterator[str]:
    """Yield the lines that show the contents of a store.

    :param now: seconds since the epoch
    """
    if found.identity is not None:
        set_id, collections, name = found.identity
        yield f"database {name or '-'}: replica set {set_id or '-'}, {len(collections)} collections"
    if found.invalid is not None:
        yield f"invalid below {_mark(found.invalid[0], now)}: {found.invalid[1]}"
    for number, fingerprint in enumerate(found.epochs, 1):
        state = ", published now" if number == len(found.epochs) else ""
        yield f"epoch {number}: publication {fingerprint[:12]}{state}"
    for fingerprint, document in found.publications.items():
        tables = ", ".join(table.name for table in Publication.from_json(document).catalog.tables)
        yield f"publication {fingerprint[:12]}: {tables}"
    for replica, record in sorted(found.replicas.items()):
        yield f"replica {_name(replica)}:"
        yield (
            f"  acknowledged {_mark(record.acked, now)}" if record.acked else "  nothing acknowledged in its stream yet"
        )
        for number, copy in enumerate(record.copies):
            later = "" if copy.stream_from == copy.watermark else f", includes changes up to {copy.stream_from}"
            what = "schema change" if number else "initial sync"
            yield f"  {what} {_mark(copy.watermark, now)}: {copy.publication[:12]}{later}"
    if found.checkpoints:
        yield f"resume tokens: {len(found.checkpoints)}, {_mark(min(found.checkpoints), now)} and later"


def fill(target: WatermarkStore, found: Contents) -> None:
    """Copy the contents of a store, of the resume tokens only the newest and those that check a client's position."""
    for fingerprint, document in found.publications.items():
        target.save_publication(fingerprint, document)
    marks = set(sorted(found.checkpoints)[-1:])
    for replica, record in found.replicas.items():
        for copy in record.copies:
            target.record_copy(replica, copy)
        if record.acked is not None:
            target.record_ack(replica, record.acked)
        known = record.newest
        marks |= {max((mark for mark in found.checkpoints if mark <= known), default=known)}
    for mark in sorted(marks & found.checkpoints.keys()):
        target.record_checkpoint(mark, found.checkpoints[mark])
    if found.identity is not None:
        target.save_identity(found.identity)
    if found.invalid is not None:
        target.invalidate(*found.invalid)


def _name(replica: Replica) -> str:
    return f"{replica.shard_name} {replica.version or '(of an older zmsd)'}"


def _age(mark: str, now: float) -> float:
    return now - position.seconds(position.parse(mark)[0])


def _mark(mark: str, now: float) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(now - _age(mark, now)))
    return f"{mark} ({when})"


def _settings(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Return the settings of the stores. A NATS bucket belongs to one database, which the URI of MongoDB may name."""
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
    if storage == "sqlite" and make:
        _create_for_the_daemon(file)
    store = open_store(replace(settings, watermarks=replace(settings.watermarks, storage=storage)))
    try:
        yield store
    finally:
        store.close()


def _create_for_the_daemon(file: Path) -> None:
    """As root, create the file of the store for the owner of its directory: the daemon could not open root's file.

    sqlite gives the owner of the database to the other files that it makes beside it.
    """
    if os.geteuid() != 0 or not file.parent.is_dir():
        return
    owner = file.parent.stat()
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
        os.close(descriptor)
