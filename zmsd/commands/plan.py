"""``zmsd plan``: what a start or a reload with the files as they are now would do, without doing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from zmsd import log as logs
from zmsd.assembly import publication_of
from zmsd.commands.unit import load_settings
from zmsd.config.restart import changed_since_start
from zmsd.config.settings import Config
from zmsd.errors import SourceError, StoreError
from zmsd.log import write_json, write_line
from zmsd.mongodb.source import Source
from zmsd.schema import plan as plans
from zmsd.schema.loading import load_documents
from zmsd.schema.publication import Publication, PublicationDiff, diff
from zmsd.watermarks import open_store
from zmsd.watermarks.base import Contents

EXIT_RESET = 2


@dataclass(frozen=True)
class Step:
    """What happens to the replicas that have one publication."""

    replicas: tuple[str, ...]
    """Their shards, ``APP_SHARD``."""
    between: PublicationDiff | None
    """None: their publication cannot be read, and they have to reset."""


def plan(path: Path | None, environ: Mapping[str, str], as_json: bool) -> int:
    """Print the plan, and return the exit code: 0, or 2 if clients would have to reset.

    :raises ConfigError: the settings or documents are wrong
    :raises StoreError: the store cannot be read
    """
    logs.setup("error")
    settings = load_settings(path, environ)
    new = publication_of(settings, load_documents(settings, keep=False))
    steps = list(_steps(_contents(settings), new))
    restart = changed_since_start(settings.watermarks.path.parent, settings)
    counted = cache(_Counts(settings))
    if as_json:
        write_json(_as_json(steps, new, restart, counted))
    else:
        for line in _lines(steps, new, restart, counted):
            write_line(line)
    return EXIT_RESET if any(step.between is None or step.between.incompatible for step in steps) else 0


class _Counts:
    """Asks MongoDB how many documents a collection has."""

    def __init__(self, settings: Config) -> None:
        self._settings = settings.mongodb
        self._reachable = True

    def __call__(self, collection: str) -> int | None:
        """Return the number in the collection's metadata; None if MongoDB does not answer."""
        if not self._reachable:
            return None
        try:
            with closing(Source(self._settings.uri, self._settings.database)) as source:
                return int(source.command({"count": collection})["n"])
        except SourceError:
            self._reachable = False
            return None


def _contents(settings: Config) -> Contents | None:
    """Return what the store keeps; None if there is no store yet."""
    watermarks = settings.watermarks
    if watermarks.storage == "sqlite" and not watermarks.path.exists():
        return None
    with closing(open_store(settings)) as store:
        return store.contents()


def _steps(found: Contents | None, new: Publication) -> Iterator[Step]:
    """Yield a step for each publication that replicas have."""
    by_publication: dict[str, list[str]] = {}
    for replica, record in sorted(found.replicas.items()) if found is not None else ():
        by_publication.setdefault(record.copies[-1].publication, []).append(replica.shard_name)
    for fingerprint, names in by_publication.items():
        assert found is not None
        yield Step(tuple(dict.fromkeys(names)), _difference(found.publications.get(fingerprint), new))


def _difference(document: str | None, new: Publication) -> PublicationDiff | None:
    try:
        return None if document is None else diff(Publication.from_json(document), new)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise StoreError(f"a publication in the watermark store cannot be read: {error!r}") from error


def _lines(steps: list[Step], new: Publication, restart: list[str] | None, count: Any) -> Iterator[str]:
    def estimate(collection: str) -> str:
        documents = count(collection)
        return "MongoDB does not say how many documents" if documents is None else f"about {documents:,} documents"

    if not steps:
        tables = len(new.catalog.tables)
        yield f"no replica is on record: the first initial sync sends {tables} table{'' if tables == 1 else 's'}"
    for step in steps:
        yield f"replicas of {', '.join(step.replicas)}:"
        if step.between is None:
            yield "  reset-required: their publication is not in the store: clients make a new initial sync"
        else:
            yield from (f"  {line}" for line in plans.lines(step.between, new, estimate))
    if restart:
        yield f"a restart is needed for: {', '.join(restart)}"
    elif restart is None:
        yield "no daemon runs with this state directory: a start applies all settings"


def _as_json(steps: list[Step], new: Publication, restart: list[str] | None, count: Any) -> dict[str, Any]:
    return {
        "replicas": [
            {
                "shards": list(step.replicas),
                **_step_as_json(step.between, new, count),
            }
            for step in steps
        ],
        "restart": restart,
    }


def _step_as_json(between: PublicationDiff | None, new: Publication, count: Any) -> dict[str, Any]:
    if between is None:
        return {"reset_required": ["their publication is not in the store"]}
    read_again = {table.name for table in between.refilled}
    return {
        "reset_required": list(between.incompatible),
        "added": [{"table": t.name, "documents": count(t.mapping.collection)} for t in between.added],
        "dropped": [table.name for table in between.dropped],
        "changed": [
            {
                "table": change.new.name,
                "added": [column.name for column in change.added],
                "dropped": [column.name for column in change.dropped],
                "read_again": change.new.name in read_again,
                "documents": count(change.new.mapping.collection) if change.new.name in read_again else 0,
            }
            for change in between.changed
        ],
        "system_tables": list(between.system_tables),
        "permissions": between.permissions,
        "unchanged": plans.unchanged(between, new),
    }
