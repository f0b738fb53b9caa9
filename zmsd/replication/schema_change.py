"""SchemaChange: the copy transaction that takes a replica from an older publication to the active one."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event

from zmsd import position
from zmsd.errors import ResumeLost, SourceUnavailable
from zmsd.mongodb.source import Source
from zmsd.replication.active_publication import ActivePublication
from zmsd.replication.copy_transaction import CopyTransaction
from zmsd.schema.publication import Publication, diff
from zmsd.zero import protocol


class SchemaChange(CopyTransaction):
    """The schema messages, all changes since the replica's watermark, and the rows of new or remapped tables.

    Session's thread only.
    """

    name = "schema change"

    def __init__(
        self,
        source: Source,
        active: ActivePublication,
        app: str,
        shard: int,
        stop: Event,
        watermark: str,
        old: Publication,
        recorded: str = "",
    ) -> None:
        """Raises ResumeLost if Zero's protocol cannot express the difference, SourceUnavailable before ``recorded``.

        :param watermark: watermark up to which the replica has everything
        :param old: the publication that the replica has
        :param recorded: watermark of the newest copy on record of the same replica. The schema change comes after it,
            so that every watermark of the replica has one publication (invariant 7).
        """
        super().__init__(source, active, app, shard, stop)
        self._after = position.parse(watermark)[0]
        self.at = max(self.at, self._after)
        if recorded and position.parse(recorded)[0] > self.at:
            raise SourceUnavailable(f"the database's time is behind the last schema change, {recorded}")
        # Always with a minor: a change that another stream of the replica may have at this position has none.
        minors = [minor for at, minor in map(position.parse, filter(None, (watermark, recorded))) if at == self.at]
        self.watermark = self._stream_from = position.watermark(self.at, max(minors, default=0) + 1)
        self._diff = diff(old, active.publication)
        if self._diff.incompatible:
            reasons = "; ".join(self._diff.incompatible)
            reason = f"the publication has changed in a way that Zero cannot follow: {reasons}"
            raise ResumeLost(reason, "publication-incompatible")

    def frames(self) -> Iterator[bytes]:
        between = self._diff
        messages = [protocol.drop_table(table.name) for table in between.dropped]
        messages += [
            protocol.drop_column(change.new.name, c.name) for change in between.changed for c in change.dropped
        ]
        messages += [protocol.add_column(change.new.spec, c) for change in between.changed for c in change.added]
        messages += [protocol.create_table(table.spec) for table in between.added]
        messages += [protocol.TableMessages(t.name, t.spec.primary_key).truncate() for t in between.refilled]
        for spec, _ in protocol.required_tables(self._app, self._shard):
            if spec.name.rpartition(".")[2] in between.system_tables:
                messages.append(protocol.TableMessages(spec.name, spec.primary_key).truncate())
        if between.permissions:
            messages.append(self._permissions("update"))
        yield protocol.begin(self.watermark) + b"".join(messages)
        filled = {table.name for table in (*between.added, *between.refilled)}
        yield from self._changes(self._after, self.at, dict.fromkeys(filled, self.at))
        yield from self._rows(filled, between.system_tables)
        yield protocol.commit(self.watermark, self._oldest_ms)
