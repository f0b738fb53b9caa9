"""Check that a client received everything that writers committed: nothing lost, repeated, torn or out of order."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.support.stub import lexi
from tests.support.writer import Write, row_of
from zmsd.commands.strict_replica import Change, Replica
from zmsd.commands.strict_tables import Key, Row

_RowKey = tuple[str, Key]  # table and key


@dataclass
class Report:
    """The result of a check: counts, and each error with its kind (lost, twice, torn, wrong, order, copy) and text."""

    transactions: int = 0  # received
    changes: int = 0  # received
    writes: int = 0  # committed since the copy
    faults: list[tuple[str, str]] = field(default_factory=list)

    def add(self, kind: str, what: str) -> None:
        self.faults.append((kind, what))

    def __str__(self) -> str:
        counts = Counter(kind for kind, _ in self.faults)
        lines = [f"{kind}: {what}" for kind, what in self.faults[:10]]
        head = f"{self.writes} writes, {self.transactions} transactions, {self.changes} changes, faults: {dict(counts)}"
        return "\n".join([head, *lines])

    def assert_clean(self) -> Report:
        assert not self.faults, str(self)
        return self


def check(log: Iterable[Write], replica: Replica, *, exact: bool = True, copied_to: str = "") -> Report:
    """Compare what ``replica`` received with what a Writer over tables of the same names committed.

    The writers have ended and the replica has caught up. ``exact``: the positions in the log are those of the changes,
    as they are without outages; then each must lie in the transaction that its watermark names. ``copied_to``: the
    watermark up to which the copy has the changes, where that is later than its own.
    """
    assert replica.version is not None
    assert replica.initial is not None
    writes = sorted(log, key=lambda write: write.position)
    end = max(copied_to, replica.version)
    copied = [write for write in writes if lexi(write.position) <= end]
    streamed = writes[len(copied) :]
    tables = {part.collection for write in writes for part in write.parts}
    report = Report(len(replica.transactions), writes=len(streamed))
    _check_copy(copied, replica.initial.changes, tables, report)
    sent_in = _match(streamed, replica, tables, report)
    _check_positions(streamed, sent_in, [end, *(one.watermark for one in replica.transactions)], report, exact)
    return report


def _check_copy(copied: list[Write], changes: Iterable[Change], tables: set[str], report: Report) -> None:
    """Check that the initial sync left the rows as they were at its watermark."""
    expected: dict[_RowKey, Row] = {}
    for write in copied:
        for part in write.parts:
            if part.doc is None:
                expected.pop((part.collection, (part.id,)), None)
            else:
                expected[part.collection, (part.id,)] = row_of(part.doc)
    received: dict[_RowKey, Row] = {}
    for change in changes:
        if change.table not in tables:
            continue
        if change.old_key is not None:
            received.pop((change.table, change.old_key), None)
        if change.row is not None and change.key:
            received[change.table, change.key] = change.row
        elif change.tag == "delete":
            received.pop((change.table, change.key), None)
    for row_key in expected.keys() | received.keys():
        if expected.get(row_key) != _plain(received.get(row_key)):
            report.add("copy", f"{row_key}: {received.get(row_key)} instead of {expected.get(row_key)}")


def _match(streamed: list[Write], replica: Replica, tables: set[str], report: Report) -> dict[int, list[int]]:
    """Check that each document has the committed changes, in order. Return {number: indexes of transactions}."""
    waiting: dict[_RowKey, deque[tuple[int, Row | None]]] = defaultdict(deque)
    for write in streamed:
        for part in write.parts:
            row = None if part.doc is None else row_of(part.doc)
            waiting[part.collection, (part.id,)].append((write.number, row))
    seen: dict[_RowKey, list[Row | None]] = defaultdict(list)
    sent_in: dict[int, list[int]] = defaultdict(list)
    for index, transaction in enumerate(replica.transactions):
        for change in transaction.changes:
            if change.table not in tables:
                continue
            report.changes += 1
            row_key, row = (change.table, change.key), _plain(change.row)
            queue = waiting[row_key]
            skipped = next((skip for skip, (_, wanted) in enumerate(queue) if wanted == row), None)
            if skipped is None:
                kind = "twice" if row in seen[row_key] else "wrong"
                report.add(kind, f"{change.tag} {row_key} {row} at {transaction.watermark}")
                continue
            for _ in range(skipped):
                report.add("lost", f"{row_key} {queue.popleft()}, before {transaction.watermark}")
            sent_in[queue.popleft()[0]].append(index)
            seen[row_key].append(row)
    for row_key, queue in waiting.items():
        for lost in queue:
            report.add("lost", f"{row_key} {lost}, at the end")
    return sent_in


def _check_positions(
    streamed: list[Write], sent_in: dict[int, list[int]], watermarks: list[str], report: Report, exact: bool
) -> None:
    """Check that each write is complete in one transaction, the one that its position belongs to."""
    for write in streamed:
        indexes = sent_in.get(write.number, [])
        if len(set(indexes)) > 1:
            marks = [watermarks[index + 1] for index in indexes]
            report.add("torn", f"{write.number} of {len(write.parts)} documents is in {marks}")
        elif exact and indexes:
            after, upto = watermarks[indexes[0] : indexes[0] + 2]
            if not after < lexi(write.position) <= upto:
                report.add("order", f"{write.number} at {lexi(write.position)} came between {after} and {upto}")


def _plain(row: Row | None) -> Row | None:
    """Return a received row with the columns that it left out as null."""
    return None if row is None else dict.fromkeys(_COLUMNS) | row


_COLUMNS = tuple(row_of({"_id": "", "n": 0}))
