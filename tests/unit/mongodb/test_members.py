"""The member that serves the commands of a cursor."""

from __future__ import annotations

from threading import Thread

import pytest
from pymongo import ReadPreference
from pymongo.errors import AutoReconnect
from pymongo.hello import Hello
from pymongo.server_description import ServerDescription

from zmsd.mongodb.members import MemberSelector, Pin


def member(name: str, milliseconds: float) -> ServerDescription:
    return ServerDescription((name, 27017), Hello({"ok": 1}), milliseconds / 1000)


NEAR, NEXT, FAR = member("near", 1), member("next", 10), member("far", 60)


def test_command_without_a_pin_may_go_to_every_member() -> None:
    assert MemberSelector()([NEAR, FAR]) == [NEAR, FAR]


def test_first_command_with_a_pin_chooses_one_of_the_nearest() -> None:
    chosen = set()
    for _ in range(100):
        pin, selector = Pin(ReadPreference.NEAREST), MemberSelector()
        with selector.pinned(pin):
            (found,) = selector([FAR, NEAR, NEXT])
        assert pin.address == found.address
        chosen.add(found.address[0])
    assert chosen == {"near", "next"}, "the driver's local threshold is 15 ms"


def test_later_commands_with_a_pin_go_to_the_same_member() -> None:
    pin, selector = Pin(ReadPreference.NEAREST), MemberSelector()
    for allowed in ([FAR], [NEAR, NEXT, FAR]):
        with selector.pinned(pin):
            assert selector(allowed) == [FAR]
    assert selector([NEAR, FAR]) == [NEAR, FAR], "the pin ends with its block"


def test_pinned_member_that_is_not_allowed_any_more_is_a_lost_connection() -> None:
    """The cursor exists on that member only, so the caller opens another one."""
    pin, selector = Pin(ReadPreference.SECONDARY), MemberSelector()
    with selector.pinned(pin):
        selector([FAR])
        with pytest.raises(AutoReconnect, match="far:27017 has the cursor"):
            selector([NEAR])


def test_pin_is_of_one_thread() -> None:
    selector = MemberSelector()
    found: list[list[ServerDescription]] = []
    with selector.pinned(Pin(ReadPreference.NEAREST)):
        thread = Thread(target=lambda: found.append(selector([NEAR, FAR])))
        thread.start()
        thread.join(10)
    assert found == [[NEAR, FAR]]


def test_pin_is_primary_by_its_preference() -> None:
    assert Pin().is_primary
    assert not Pin(ReadPreference.PRIMARY_PREFERRED).is_primary
