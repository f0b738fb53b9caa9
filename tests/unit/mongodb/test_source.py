"""How a source reads, from the options of its client. Integration tests ask a real deployment."""

from __future__ import annotations

from contextlib import closing

from pymongo import ReadPreference
from pymongo.read_concern import ReadConcern

from zmsd.mongodb.source import Source


def test_options_of_the_uri_do_not_apply_to_oplog_and_identity() -> None:
    """A read at level majority would not see the newest entries of the oplog."""
    uri = "mongodb://127.0.0.1:1/chat?readPreference=secondary&readConcernLevel=majority"
    with closing(Source(uri, "chat")) as source:
        for database in (source.db, source.local):
            assert database.read_preference == ReadPreference.PRIMARY
            assert database.read_concern == ReadConcern()
        assert source.pin().preference == ReadPreference.SECONDARY
        assert source.preferences == (ReadPreference.SECONDARY, ReadPreference.PRIMARY)
