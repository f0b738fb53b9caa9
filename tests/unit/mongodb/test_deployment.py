"""What a deployment can do, from its answers."""

from __future__ import annotations

from typing import Any

import pytest
from pymongo.errors import OperationFailure

from zmsd.mongodb.deployment import Deployment, ask
from zmsd.mongodb.errors import LOST, REOPEN_BY_TIME


def primary(command: dict[str, Any]) -> dict[str, Any]:
    return {"setName": "rs0", "isWritablePrimary": True, "versionArray": [6, 0, 5, 0]}


def failing(code: int) -> Any:
    def read(command: dict[str, Any]) -> dict[str, Any]:
        raise OperationFailure("refused", code)

    return read


@pytest.mark.parametrize("code", [13, *sorted(LOST | REOPEN_BY_TIME)])
def test_error_that_is_unrelated_to_images_does_not_end_the_look(code: int) -> None:
    """A lost position must be met by a stream in use: only that resets the clients."""
    assert ask(primary, failing(code)).stores_images


def test_refused_option_means_that_images_are_not_stored() -> None:
    assert not ask(primary, failing(2)).stores_images


def test_other_errors_end_the_look() -> None:
    with pytest.raises(OperationFailure):
        ask(primary, failing(10107))


@pytest.mark.parametrize(
    ("version", "newest_wire_version", "with_image", "without_image"),
    [
        ((5, 0, 4), 13, False, False),
        ((6, 0, 27), 17, False, False),
        ((6, 0, 27), 21, False, True),  # another member has been upgraded to 7.0
        ((6, 1, 0), 0, False, True),
        ((7, 0, 28), 21, False, True),
        ((7, 0, 28), 25, True, True),  # another member has been upgraded to 8.0
        ((7, 1, 0), 0, True, True),
        ((8, 0, 0), 25, True, True),
    ],
)
def test_writes_may_be_grouped_as_the_newest_member_does(
    version: tuple[int, ...], newest_wire_version: int, with_image: bool, without_image: bool
) -> None:
    found = Deployment(version)
    assert found.may_group(newest_wire_version, imaged=True) == with_image
    assert found.may_group(newest_wire_version, imaged=False) == without_image
