from __future__ import annotations

from zmsd.mongodb.events import ChangeEvent
from zmsd.mongodb.sequencer import TransactionPart
from zmsd.prometheus import Registry
from zmsd.replication.counters import Counters


def test_repeatedly_replaced_collection_is_one_name() -> None:
    """$out renames a collection with a name of its own onto the old one."""
    counters = Counters(Registry())
    for number in range(3):
        event = ChangeEvent({}, "rename", f"tmp.agg_out.{number}", target="a")
        counters.read([TransactionPart(number << 32, [event], True, True)])
    assert counters.events == {"a": 3}
    assert list(counters.lags) == ["a"]
