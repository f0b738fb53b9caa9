"""Rules between settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.config.conftest import Load
from zmsd.config.settings import MongodbConfig
from zmsd.errors import ConfigError


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("mongodb://h", "names no database: end it with /DATABASE, or set mongodb.database"),
        ("mongodb://h/?replicaSet=rs0", "names no database: end it with /DATABASE, or set mongodb.database"),
        ("mongodb://h/admin", "admin is MongoDB's own database, which cannot be published"),
        ("http://h/db", "Invalid URI scheme: URI must begin with 'mongodb://' or 'mongodb+srv://'"),
        ("mongodb://u:SECRET@h/db?tls=maybe", "The value of tls must be 'true' or 'false'"),
        ("mongodb://u:SECRET@h:99999/db", "Port must be an integer between 0 and 65535"),
        ("mongodb://u:SE/CRET@h/db", "the user name and password must be percent-encoded"),
        ("mongodb://u:SE?CRET@h/db", "the user name and password must be percent-encoded"),
        ("mongodb://u:SE@CRET@h/db", "the user name and password must be percent-encoded"),
        ("mongodb://u:SE%CRET@h/db", "the user name and password must be percent-encoded"),
        ("mongodb://u:123/SECRET@h", "the user name and password must be percent-encoded"),
    ],
)
def test_invalid_uri_is_an_error_without_secrets(
    faults_of: Callable[..., list[str]], uri: str, reason: str, tmp_path: Path
) -> None:
    assert faults_of(mongodb={"uri": uri}) == [f"mongodb.uri: {reason}"]
    (tmp_path / "uri").write_text(uri + "\n")
    assert faults_of(mongodb={"uri_file": "uri"}) == [f"mongodb.uri_file: {reason}"]


def test_unknown_uri_option_is_an_error(faults_of: Callable[..., list[str]]) -> None:
    (issue,) = faults_of(mongodb={"uri": "mongodb://h/db?maxPoolSiz=1"})
    assert "Unknown option" in issue


def test_srv_uri_is_read_without_dns(load: Load) -> None:
    uri = "mongodb+srv://u:p@cluster.example.invalid/db?srvServiceName=x&retryWrites=true&srvMaxHosts=2"
    assert load(mongodb={"uri": uri}).mongodb == MongodbConfig(uri, None, "db")


@pytest.mark.parametrize(
    "sections",
    [
        {"mongodb": {"uri": 5, "database": "a b"}},
        {"mongodb": {"uri": "mongodb://h", "database": 5}},
        {"server": {"host": 5}},
        {"server": {"host": "10.0.0.1", "token": 5}},
        {"server": {"host": "10.0.0.1", "token_file": 5}},
        {"server": {"host": "10.0.0.1", "allow_anonymous": "yes"}},
        {"schema": {"file": 5}},
        {"schema": {"file": "s", "refresh": "x"}},
        {"watermarks": {"storage": "nats-kv"}, "nats": {"servers": [5]}},
        {"watermarks": {"storage": "nats-kv"}, "nats": 5},
        {"watermarks": {"storage": 5}},
    ],
)
def test_consequential_errors_are_not_reported(faults_of: Callable[..., list[str]], sections: dict[str, Any]) -> None:
    (issue,) = faults_of(**sections)
    assert ": must be " in issue


@pytest.mark.parametrize("host", ["127.0.0.1:3000", "localhost:3000", "db.example:", "[::1]:3000", "[::1]", ":3000"])
@pytest.mark.parametrize("more", [{}, {"token": "x"}])
def test_host_with_a_port_is_an_error(faults_of: Callable[..., list[str]], host: str, more: dict[str, str]) -> None:
    expected = "server.host: is not an IPv6 address; a port goes into server.port"
    assert faults_of(server={"host": host, **more}) == [expected]


@pytest.mark.parametrize("host", [" 127.0.0.1", "localhost ", "a b", "::1 "])
def test_host_with_blanks_is_an_error(faults_of: Callable[..., list[str]], host: str) -> None:
    assert faults_of(server={"host": host}) == ["server.host: must not contain blanks"]


@pytest.mark.parametrize("host", ["::", "::1", "2001:db8::1", "::ffff:10.0.0.1", "fe80::1%eth0"])
def test_ipv6_host_is_accepted(load: Load, host: str) -> None:
    assert load(server={"host": host, "token": "x"}).server.host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_host_needs_no_token(load: Load, host: str) -> None:
    assert load(server={"host": host}).server.token == ()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "db.example"])
def test_other_host_needs_a_token_or_consent(load: Load, faults_of: Callable[..., list[str]], host: str) -> None:
    (issue,) = faults_of(server={"host": host})
    assert issue.startswith("server.token: is required")
    assert load(server={"host": host, "token": "x"}).server.token == ("x",)
    assert load(server={"host": host, "allow_anonymous": True}).server.allow_anonymous


def test_inline_tables_beside_file_or_with_headers_refused(faults_of: Callable[..., list[str]]) -> None:
    both = {"file": "schema.json", "tables": {}}
    assert faults_of(schema=both) == ["schema: give file, url or tables, not file and tables"]
    assert faults_of(schema={"tables": {}, "refresh": 5}) == ["schema.refresh: goes with url only"]


@pytest.mark.parametrize(
    ("text", "at"),
    [
        (
            "db: {uri: 'mongodb://h/db'}\nzero: {auth: {token: x}, kv: {bucket: b}}\nschema: {source: inline}\n",
            "1:1: db",
        ),
        ("mongodb: {uri: 'mongodb://h/db'}\nzero: {auth: {token: x}}\n", "2:8: zero.auth"),
        ("zero:\n  kv: {bucket: b}\n", "2:3: zero.kv"),
        ("auth: {token: x}\nkv: {provider: zqlite}\n", "2:1: kv"),
    ],
)
def test_settings_of_zero_sources_give_one_error(load: Load, tmp_path: Path, text: str, at: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert str(caught.value).startswith(
        f"{tmp_path}/zmsd.yaml:{at}: is a setting of zero-sources: zmsd import {tmp_path}/zmsd.yaml makes"
    )
    assert len(caught.value.issues) == 1


def test_error_in_a_list_does_not_hide_others(faults_of: Callable[..., list[str]]) -> None:
    sections = {"server": {"token": ["a b", 5]}, "nats": {"servers": ["http://h", 5]}}
    assert sorted(faults_of(**sections)) == [
        "nats.servers: a server is nats://HOST:PORT (or tls://, ws://, wss://)",
        "nats.servers[1]: must be text (in quotes), got a number",
        "server.token: a token is ASCII without blanks",
        "server.token[1]: must be text (in quotes), got a number",
    ]


@pytest.mark.parametrize(
    ("section", "issue"),
    [
        ({"clients_collection": "a", "mutations_collection": "b"}, None),
        (
            {"clients_collection": "a", "mutations_collection": "a"},
            "zero.mutations_collection: must be another collection than zero.clients_collection",
        ),
        ({"clients_collection": "system.x"}, "zero.clients_collection: "),
        ({"mutations_collection": "a$b"}, "zero.mutations_collection: "),
    ],
)
def test_collections_of_mutations_have_two_valid_names(
    load: Load, faults_of: Callable[..., list[str]], section: dict[str, str], issue: str | None
) -> None:
    if issue is None:
        assert load(zero=section).zero.clients_collection == "a"
    else:
        (found,) = faults_of(zero=section)
        assert found.startswith(issue)


@pytest.mark.parametrize(
    "server", ["nats.example:4222", "nats://u:p@h:4222", "tls://h/", "ws://h", "wss://h:443", "127.0.0.1"]
)
def test_servers_of_nats_are_addresses_or_urls(load: Load, server: str) -> None:
    found = load(nats={"servers": server}, watermarks={"storage": "nats-kv"})
    assert found.nats.servers == (server,)


@pytest.mark.parametrize("server", ["http://h:4222", "h h", "nats://h/path", "nats://"])
def test_servers_of_nats_that_are_not_addresses_are_errors(faults_of: Callable[..., list[str]], server: str) -> None:
    (issue,) = faults_of(nats={"servers": server})
    assert issue.startswith("nats.servers: a server is nats://HOST:PORT")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://h/s.json", None),
        ("http://[::1]:80/", None),
        ("ftp://h/s", "must be an http or https URL, percent-encoded"),
        ("http:///s", "must be an http or https URL, percent-encoded"),
        ("http://h:0/s", "must be an http or https URL, percent-encoded"),
        ("http://h:x/s", "must be an http or https URL, percent-encoded"),
        ("http://h/a b", "must be an http or https URL, percent-encoded"),
        ("http://h/\u00e9", "must be an http or https URL, percent-encoded"),
        ("http://u:p@h/s", "must not hold a user or password; send headers: {Authorization: …}"),
    ],
)
def test_url_of_a_document_is_http_without_credentials(
    load: Load, faults_of: Callable[..., list[str]], url: str, reason: str | None
) -> None:
    if reason is None:
        assert load(schema={"url": url}).schema.url == url
    else:
        assert faults_of(schema={"url": url}) == [f"schema.url: {reason}"]
