"""Findings about MongoDB from the answers of a fake source. Integration tests check real deployments."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.main_thread import write_settings
from tests.unit.fakes import FakeSource, table
from zmsd.commands.check_mongodb import Finding, _Preflight, support_findings
from zmsd.config.settings import load
from zmsd.errors import SourceUnavailable
from zmsd.mongodb.deployment import Deployment
from zmsd.mongodb.products import NEWER
from zmsd.schema.catalog import Catalog, Table


class Checked:
    """A check of some tables of one database."""

    def __init__(self, directory: Path, *tables: Table, **sections: Any) -> None:
        self.source = FakeSource()
        settings = load(write_settings(directory, mongodb={"uri": "mongodb://127.0.0.1/chat"}, **sections), {})
        self.checks = _Preflight(self.source, settings, Catalog(tables))

    def privileges(self, *actions: str, resource: dict[str, Any] | None = None, user: bool = True) -> list[Finding]:
        """Return the findings for a user with some privileges."""
        granted = {"resource": resource or {"db": "chat", "collection": ""}, "actions": list(actions)}
        users = [{"user": "zmsd", "db": "admin"}] if user else []
        self.source.answers = [{"authInfo": {"authenticatedUsers": users, "authenticatedUserPrivileges": [granted]}}]
        return list(self.checks._privileges_of_the_user())

    def images(self, *needing: str, **options: Any) -> Finding:
        return self.checks._images("a", options, list(needing))


@pytest.fixture
def checked(tmp_path: Path) -> Checked:
    return Checked(tmp_path, table("user", "users"))


def levels(findings: list[Finding]) -> list[str]:
    return [finding.level for finding in findings]


@pytest.mark.parametrize(
    "resource", [{"db": "chat", "collection": ""}, {"db": "", "collection": ""}, {"anyResource": True}]
)
def test_user_with_the_actions_is_right(checked: Checked, resource: dict[str, Any]) -> None:
    found = checked.privileges("find", "changeStream", "listCollections", resource=resource)
    assert found == [Finding("ok", "privileges: zmsd@admin may find and changeStream on chat")]


@pytest.mark.parametrize("resource", [{"db": "other", "collection": ""}, {"db": "chat", "collection": "users"}])
def test_user_without_the_actions_gets_the_command_to_grant(checked: Checked, resource: dict[str, Any]) -> None:
    (found,) = checked.privileges("find", "changeStream", "listCollections", resource=resource)
    assert found.level == "error"
    assert found.text.startswith("privileges: zmsd@admin lacks find, changeStream, listCollections on chat: ")
    assert 'grantRolesToUser("zmsd", [{role: "read", db: "chat"}])' in found.text
    assert list(checked.checks._collections()) == [], "the collections cannot be read then"


def test_deployment_without_users_is_right(checked: Checked) -> None:
    assert checked.privileges(user=False) == [Finding("ok", "privileges: zmsd connects without a user")]


def test_collection_with_images_is_right(checked: Checked) -> None:
    assert checked.images(changeStreamPreAndPostImages={"enabled": True}).level == "ok"
    assert "will be switched on (collMod)" in checked.images().text


def test_collection_whose_images_cannot_be_switched_on_has_the_command(checked: Checked) -> None:
    checked.privileges("find", "changeStream", "listCollections")
    found = checked.images()
    assert found.level == "warning"
    assert found.text.endswith('run db.runCommand({collMod: "a", changeStreamPreAndPostImages: {enabled: true}})')
    assert checked.images("table user").level == "error"


@pytest.mark.parametrize(("mode", "level"), [("off", "warning"), ("auto", "warning"), ("required", "error")])
def test_server_without_images_is_an_error_where_they_are_required(tmp_path: Path, mode: str, level: str) -> None:
    checked = Checked(tmp_path, feed={"images": mode})
    checked.source.deployment = Deployment(version=(5, 0, 4), set_name="rs0")
    found = checked.images()
    assert found.level == level
    assert ("feed.images is off" if mode == "off" else "MongoDB 5.0.4 stores no") in found.text
    assert checked.images("table user").level == "error"


def test_missing_collection_and_view_are_found(tmp_path: Path) -> None:
    checked = Checked(tmp_path, table("user", "users"), table("room", "rooms"))
    checked.source.existing = {"rooms": {"type": "view", "options": {"viewOn": "spaces"}}}
    rooms, users = checked.checks._collections()
    assert (rooms.level, users.level) == ("error", "warning")
    assert (
        rooms.text == "collection rooms: is a view, which has no change streams: map the collection behind it, spaces"
    )
    assert "does not exist in database chat: check the name" in users.text


@pytest.mark.parametrize(("mode", "key"), [("required", "id"), ("off", "name")])
def test_missing_collection_that_will_have_no_images_is_an_error(tmp_path: Path, mode: str, key: str) -> None:
    """The daemon refuses it, too."""
    checked = Checked(tmp_path, table("user", "users", key), feed={"images": mode})
    checked.source.deployment = Deployment(version=(5, 0, 4), set_name="rs0")
    assert levels(list(checked.checks._collections())) == ["warning", "error"]


@pytest.mark.parametrize(
    ("kinds", "found"),
    [
        ({"string": 3}, ["ok"]),
        ({"int": 1, "long": 2}, ["ok"]),
        ({"objectId": 2}, ["ok"]),
        ({"objectId": 2, "string": 1}, ["warning"]),
        ({"object": 1, "string": 3}, ["warning"]),
        ({"object": 1}, ["error"]),
    ],
)
def test_ids_are_judged_by_their_types(checked: Checked, kinds: dict[str, int], found: list[str]) -> None:
    checked.source.answers = [[{"_id": kind, "count": count} for kind, count in kinds.items()]]
    shown = list(checked.checks._ids("users", (table("user", "users"),)))
    assert levels(shown) == found


def test_oddities_of_a_collection_are_found(tmp_path: Path) -> None:
    checked = Checked(tmp_path)
    filtered = replace(table("user", "users"), mapping=replace(table("user", "users").mapping, filter={"t": "x"}))
    options = {"capped": True, "collation": {"locale": "de", "strength": 2}}
    assert levels(list(checked.checks._oddities("users", options, (filtered,)))) == ["ok", "warning"]
    assert list(checked.checks._oddities("users", {}, (filtered,))) == []


def test_failing_check_does_not_hide_the_others(checked: Checked) -> None:
    checked.source.trouble = SourceUnavailable("away")
    assert list(checked.checks.findings()) == [Finding("error", "mongodb: away")]


def test_untested_version_and_sharding_are_warnings() -> None:
    deployment = Deployment(version=(9, 0, 0), set_name="rs0")
    assert list(support_findings(deployment)) == []
    assert levels(list(support_findings(replace(deployment, sharded=True)))) == ["warning"]
    (found,) = support_findings(replace(deployment, product=NEWER))
    assert "9.0.0" in found.text
