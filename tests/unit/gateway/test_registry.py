"""The limits within which clients are admitted."""

from __future__ import annotations

import pytest

from tests.unit.fakes import hub
from zmsd.errors import RequestRefused
from zmsd.gateway.http import Limits
from zmsd.gateway.registry import SessionRegistry
from zmsd.gateway.session import Session
from zmsd.gateway.subscription import Subscription

HUB = hub()


def admit(registry: SessionRegistry, address: str = "192.0.2.1", token: str | None = None) -> Session:
    return registry.admit(
        address, token, lambda number: Session(number, address, Subscription("zero", 0, None, None), HUB)
    )


def refusal(registry: SessionRegistry, address: str = "192.0.2.1", token: str | None = None) -> tuple[int, str]:
    with pytest.raises(RequestRefused) as refused:
        admit(registry, address, token)
    return refused.value.status, refused.value.kind


def test_session_is_in_the_registry_until_it_is_removed() -> None:
    registry = SessionRegistry(Limits())
    first, second = admit(registry), admit(registry)
    assert registry.sessions() == [first, second]
    registry.remove(first)
    registry.remove(first)
    assert registry.sessions() == [second]
    assert admit(registry).number == 3, "numbers are not used twice"


def test_session_beyond_a_limit_is_503() -> None:
    registry = SessionRegistry(Limits(max_sessions=3, max_sessions_per_address=2))
    first = admit(registry)
    admit(registry)
    assert refusal(registry) == (503, "max_sessions_per_address")
    admit(registry, "192.0.2.2")
    assert refusal(registry, "192.0.2.3") == (503, "max_sessions")
    registry.remove(first)
    admit(registry, "192.0.2.3")


def test_session_that_cannot_be_made_takes_no_room() -> None:
    registry = SessionRegistry(Limits(max_sessions=1))

    def fail(number: int) -> Session:
        raise MemoryError

    with pytest.raises(MemoryError):
        registry.admit("192.0.2.1", None, fail)
    assert admit(registry).number == 1


def test_token_removed_by_a_reload_ends_its_sessions_and_admits_no_further_one() -> None:
    registry = SessionRegistry(Limits(tokens=("old", "kept")))
    old, kept = admit(registry, token="old"), admit(registry, token="kept")
    assert registry.apply(Limits(tokens=("kept", "new"))) == [old]
    assert registry.limits.tokens == ("kept", "new")
    assert refusal(registry, token="old") == (401, "token refused")
    assert refusal(registry) == (401, "token refused")
    assert registry.apply(Limits()) == [], "without tokens everybody may stay"
    assert registry.sessions() == [old, kept]


def test_closed_registry_admits_no_session() -> None:
    registry = SessionRegistry(Limits())
    registry.close()
    assert refusal(registry) == (503, "stopping")
