"""InitialSync: the first copy transaction of a replica, with all published tables."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from threading import Event

from zmsd import position
from zmsd.log import kv
from zmsd.mongodb.source import Source
from zmsd.replication.active_publication import ActivePublication
from zmsd.replication.copy_transaction import CopyTransaction
from zmsd.zero import protocol

log = logging.getLogger(__name__)


class InitialSync(CopyTransaction):
    """All tables of a publication at one position. Session's thread only."""

    name = "initial sync"

    def __init__(
        self,
        source: Source,
        active: ActivePublication,
        app: str,
        shard: int,
        stop: Event,
        newest: str,
        rows_per_second: int = 0,
    ) -> None:
        """:param newest: watermark of the newest initial sync on record for the shard; empty for none
        :param rows_per_second: the highest speed; 0 for no limit
        """
        super().__init__(source, active, app, shard, stop)
        self._rows_per_second = rows_per_second
        if newest >= self.watermark:
            self.watermark = self._stream_from = self._above(newest)

    def frames(self) -> Iterator[bytes]:
        required = protocol.required_tables(self._app, self._shard)
        created = [protocol.create_table(spec, types) for spec, types in required]
        created += [protocol.create_table(table.spec) for table in self.active.catalog.tables]
        rows = self._permissions("insert") + protocol.schema_versions_row(self._app)
        yield protocol.begin(self.watermark) + b"".join(created) + rows
        tables = {table.name for table in self.active.catalog.tables}
        yield from self._rows(tables, {table.kind for table in self.active.shard_tables})
        # The commit time is that of the position: the newest change in the rows is as old.
        yield protocol.commit(self.watermark, position.seconds(self.at) * 1000)

    def _above(self, newest: str) -> str:
        """Return a watermark above that of an earlier initial sync: it becomes the replicaVersion, and zero-cache
        takes two replicas with the same one for the same replica."""
        at, minor = position.parse(newest)
        if at > self.at:
            log.warning(kv("database time is behind an earlier initial sync", earlier=newest, now=self.watermark))
            return self.watermark
        return position.watermark(self.at, minor + 1)
