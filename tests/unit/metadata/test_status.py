"""``/status.json``: why a collection has no pre- and post-images."""

from __future__ import annotations

from typing import Any, cast

import pytest

from zmsd.errors import SourceRefused
from zmsd.metadata.status import _images_note
from zmsd.mongodb.deployment import Deployment
from zmsd.mongodb.source import Source
from zmsd.replication.problems import Kind, Problem


class Database:
    """What ``_images_note`` asks of a source."""

    def __init__(self, deployment: Deployment, *, wants_images: bool = True) -> None:
        self.deployment = deployment
        self.wants_images = wants_images and deployment.stores_images
        self.images = frozenset({"imaged"})
        self.missing_images = {"refused": SourceRefused("not authorized")}

    def note(self, name: str, kind: Kind | None = None) -> str | None:
        problem = None if kind is None else Problem(kind, name, "")
        return _images_note(cast(Source, cast(Any, self)), name, problem)


NEW = Deployment((7, 0, 28), stores_images=True)


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("imaged", None, None),
        ("missing", "collection", "the collection does not exist"),
        ("view", "type", "only collections have them"),
        ("refused", "images", "not authorized"),
        ("new", None, "they are switched on at the next check"),
    ],
)
def test_images_note_says_why_they_are_off(name: str, kind: Kind | None, expected: str | None) -> None:
    assert Database(NEW).note(name, kind) == expected


def test_images_note_names_the_setting() -> None:
    assert Database(NEW, wants_images=False).note("users") == "feed.images is off"


def test_images_note_names_an_old_mongodb() -> None:
    assert "upgrade to 6.0" in str(Database(Deployment((5, 0, 4))).note("users"))
    assert "featureCompatibilityVersion" in str(Database(Deployment((6, 0, 5))).note("users"))


def test_images_note_before_mongodb_answers_says_so() -> None:
    assert Database(Deployment()).note("users") == "MongoDB has not been asked yet"
