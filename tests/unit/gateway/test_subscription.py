"""The query with which zero-cache asks for a stream."""

from __future__ import annotations

import pytest

from zmsd.gateway.subscription import Subscription, parse_subscription
from zmsd.position import watermark

QUERY = "appID=zero&shardNum=0"


def parsed(query: str) -> Subscription:
    return parse_subscription({key: [value] for key, _, value in (part.partition("=") for part in query.split("&"))})


def test_subscription_is_parsed_from_the_query() -> None:
    assert parsed(QUERY) == Subscription("zero", 0, None, None)
    mark, version = watermark(99), watermark(5, 1)
    streaming = parsed(f"appID=my_app1&shardNum=12&lastWatermark={mark}&replicaVersion={version}&publications=x&k=y")
    assert streaming == Subscription("my_app1", 12, mark, version)
    assert streaming.shard_name == "my_app1_12"
    assert parsed(f"{QUERY}&lastWatermark=&replicaVersion=") == Subscription("zero", 0, None, None)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("shardNum=0", "appID"),
        ("appID=&shardNum=0", "appID"),
        ("appID=a.b&shardNum=0", "appID"),
        ("appID=a'b&shardNum=0", "appID"),
        ("appID=é&shardNum=0", "appID"),
        ("appID=zero", "shardNum"),
        ("appID=zero&shardNum=-1", "shardNum"),
        ("appID=zero&shardNum=²", "shardNum"),
        ("appID=zero&shardNum=1e3", "shardNum"),
        ("appID=zero&shardNum=9999999999", "shardNum"),
        (f"appID={'a' * 65}&shardNum=0", "appID.*64 characters"),
    ],
)
def test_invalid_subscription_is_an_error(query: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parsed(query)


@pytest.mark.parametrize(
    "marks",
    ["lastWatermark=nonsense", "lastWatermark=00&replicaVersion=0A", "lastWatermark=00.", "lastWatermark=" + "0" * 999],
)
def test_foreign_watermark_is_not_a_bad_request(marks: str) -> None:
    """zero-cache would repeat the request after HTTP 400 for ever; reset-required repairs the replica."""
    subscription = parsed(f"{QUERY}&{marks}")
    assert (subscription.last_watermark, subscription.replica_version) == (None, None)
    assert subscription.foreign is not None
    assert "is not a watermark of zmsd" in subscription.foreign
    assert len(subscription.foreign) < 250
