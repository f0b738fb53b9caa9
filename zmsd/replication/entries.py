"""EntryBuilder: transactions of MongoDB in, entries of the change log out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from zmsd import position
from zmsd.mongodb.sequencer import TransactionPart
from zmsd.replication.change_log import Entry
from zmsd.replication.encoder import Encoder
from zmsd.replication.resync import Resync
from zmsd.rows.bson_json import milliseconds

_milliseconds = lru_cache(maxsize=16)(milliseconds)  # many transactions of a backlog have the same commit time

_MAX_ENTRY_MESSAGES = 2000
"""Messages after which a transaction goes on in another entry."""


class EntryBuilder:
    """Keeps the state inside a transaction that comes in parts. Owned by one thread."""

    def __init__(self, encoder: Encoder, resync: Resync) -> None:
        self.encoder = encoder
        self._resync = resync
        self._begun = False  # the open transaction has an entry
        self._commit_ms = 0  # of the open transaction: its last part may come without an event

    def entries(self, parts: Sequence[TransactionPart]) -> Iterator[list[Entry]]:
        """Yield the entries of a batch of transaction parts: all at once, except those of an event that makes many
        rows."""
        made: list[Entry] = []
        trimmed = False
        for part in parts:
            if part.first and not trimmed:  # not inside a transaction, whose own keys must stay known
                trimmed = True
                self.encoder.trim()
            for entry in self._entries(part):
                made.append(entry)
                if entry.rows >= _MAX_ENTRY_MESSAGES:
                    yield made
                    made = []
        if made:
            yield made

    def _entries(self, part: TransactionPart) -> Iterable[Entry]:
        """The usual transaction, one event, is encoded without generators, which take a tenth of the time."""
        if part.first and part.last and len(part.events) == 1:
            frames = self.encoder.change(part.events[0], part.position)
            if frames is not None:
                return (self._entry(part, frames, {}, ends=True),) if frames else ()
        return self._split(part)

    def _split(self, part: TransactionPart) -> Iterator[Entry]:
        if part.first:
            self._begun = False
        at = part.position
        frames: list[bytes] = []
        by_shard: dict[str, list[bytes]] = {}
        for event in part.events:
            usual = self.encoder.change(event, at)
            for some in self._resync.frames(event, at) if usual is None else (usual,):
                frames += some
                if len(frames) >= _MAX_ENTRY_MESSAGES:
                    yield self._entry(part, frames, by_shard, ends=False)
                    frames, by_shard = [], {}
            for shard, data in self._resync.system_frames(event, at) if usual is None else ():
                by_shard.setdefault(shard, []).append(data)
        if frames or by_shard or (part.last and self._begun):
            yield self._entry(part, frames, by_shard, ends=part.last)

    def _entry(
        self, part: TransactionPart, frames: list[bytes], by_shard: Mapping[str, list[bytes]], *, ends: bool
    ) -> Entry:
        self._begun = True
        if part.events:
            self._commit_ms = commit_ms(part)
        resynced_to = self._resync.take_position()
        return Entry(
            position.watermark(part.position),
            self._commit_ms,
            len(frames),
            b"".join(frames),
            ends,
            {shard: b"".join(data) for shard, data in by_shard.items()} if by_shard else None,
            None if resynced_to is None else position.watermark(resynced_to),
        )


def commit_ms(part: TransactionPart) -> int:
    """Return when MongoDB committed, in ms since the epoch: the wall time of the last event, or the cluster time (whole
    seconds) where an old server sends none."""
    wall = part.events[-1].wall_time if part.events else None
    return _milliseconds(wall) if wall is not None else position.seconds(part.position) * 1000
