"""The store in NATS beyond the contract: connecting, outages, agreement."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import nkeys
import pytest

from tests.support.certificates import ONE, TWO
from tests.support.nats import NatsServer
from tests.support.proxy import Proxy
from tests.support.wait import FACTOR, wait_until
from zmsd.config.settings import NatsConfig, NatsTlsConfig
from zmsd.errors import StoreError
from zmsd.position import watermark as mark
from zmsd.watermarks import nats, nats_buckets, nats_mirror
from zmsd.watermarks.base import CopyRecord, Replica, ReplicaRecord
from zmsd.watermarks.nats import SharedStore

ZERO = Replica("zero", 0, mark(5))
NEW = ZERO._replace(version=mark(8))
TOKEN = "82" * 10

Start = Callable[..., NatsServer]
Open = Callable[..., SharedStore]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[NatsServer] = []

    def start(**options: Any) -> NatsServer:
        started.append(NatsServer(tmp_path / f"nats{len(started)}", options=options))
        return started[-1].start()

    yield start
    for server in started:
        server.kill()


@pytest.fixture
def open_store() -> Iterator[Open]:
    opened: list[SharedStore] = []

    def open_store(*servers: str, database: str = "db", **settings: Any) -> SharedStore:
        opened.append(SharedStore(NatsConfig(servers, **settings), database))
        return opened[-1]

    yield open_store
    for store in opened:
        store.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_buckets, "START_SECONDS", 3.0)
    monkeypatch.setattr(nats_buckets, "PROBE_SECONDS", 0.2)
    monkeypatch.setattr(nats_buckets, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(nats, "WRITE_SECONDS", 1.0)


def copy(at: int) -> CopyRecord:
    return CopyRecord(mark(at), mark(at), "e")


# WAYS IN


def test_user_and_password_are_used(start: Start, open_store: Open) -> None:
    server = start(authorization={"user": "zmsd", "password": "right"})
    open_store(server.url, user="zmsd", password="right").record_copy(ZERO, copy(5))
    in_url = server.url.replace("//", "//zmsd:right@")
    assert open_store(in_url).replica(ZERO) == ReplicaRecord(None, (copy(5),))
    with pytest.raises(StoreError, match=r"NATS at 127.0.0.1:\d+ cannot be used: .*[Aa]uthorization") as caught:
        open_store(server.url.replace("//", "//zmsd:SECRET@"))
    assert "SECRET" not in str(caught.value)


def test_documented_permissions_suffice(start: Start, open_store: Open) -> None:
    """The rights that docs/operations.rst lists suffice."""
    rights = {
        "publish": ["$JS.API.>", "$JS.FC.>", "$KV.b.>", "$KV.b-checkpoints.>"],
        "subscribe": ["_INBOX.>"],
    }
    server = start(authorization={"users": [{"user": "zmsd", "password": "p", "permissions": rights}]})
    stores = [open_store(server.url, bucket="b", user="zmsd", password="p") for _ in range(2)]
    stores[0].record_copy(ZERO, copy(5))
    stores[0].record_checkpoint(mark(5), TOKEN)
    wait_until(lambda: stores[1].latest_checkpoint(mark(5)), "the other one sees it")
    assert stores[1].replica(ZERO) == ReplicaRecord(None, (copy(5),))
    assert stores[0].append_epoch("f", "[]", ())


def test_token_is_used(start: Start, open_store: Open) -> None:
    server = start(authorization={"token": "right"})
    assert open_store(server.url, token="right").trouble is None
    with pytest.raises(StoreError, match="[Aa]uthorization"):
        open_store(server.url, token="wrong")


def test_tls_with_client_certificate_is_used(start: Start, open_store: Open, tmp_path: Path) -> None:
    for name, certificate in (("server", ONE), ("client", TWO)):
        (tmp_path / f"{name}.crt").write_text(certificate.cert)
        (tmp_path / f"{name}.key").write_text(certificate.key)
    server = start(
        tls={
            "cert_file": str(tmp_path / "server.crt"),
            "key_file": str(tmp_path / "server.key"),
            "ca_file": str(tmp_path / "client.crt"),
            "verify": True,
        }
    )
    url = server.url.replace("nats://", "tls://")
    known = NatsTlsConfig(tmp_path / "server.crt", tmp_path / "client.crt", tmp_path / "client.key")
    assert open_store(url, tls=known).trouble is None
    with pytest.raises(StoreError, match="CERTIFICATE_VERIFY_FAILED"):
        open_store(url)
    (tmp_path / "server.crt").write_text("")
    with pytest.raises(StoreError, match=r"nats.tls: .*server.crt"):
        open_store(url, tls=known)


def test_credentials_file_is_used(start: Start, open_store: Open, tmp_path: Path) -> None:
    operator, system, account, user = map(_key, ("OPERATOR", "ACCOUNT", "ACCOUNT", "USER"))
    store = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
    limits = {"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "conn": -1, "leaf": -1, **store}
    own = _jwt(operator, operator, {"type": "operator", "version": 2})
    accounts = {
        "system": (system, {"limits": {**limits, "mem_storage": 0, "disk_storage": 0}}),
        "account": (account, {"limits": limits}),
    }
    preload = {
        key.public_key.decode(): _jwt(operator, key, {**claims, "type": "account", "version": 2})
        for key, claims in accounts.values()
    }
    users = _jwt(account, user, {"subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2})
    system_account = system.public_key.decode()
    server = start(operator=own, system_account=system_account, resolver="MEMORY", resolver_preload=preload)
    creds = tmp_path / "zmsd.creds"
    creds.write_text(
        f"-----BEGIN NATS USER JWT-----\n{users}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
    )
    assert open_store(server.url, creds=creds).trouble is None
    with pytest.raises(StoreError, match="cannot be used"):
        open_store(server.url)


def _key(kind: str) -> Any:
    return nkeys.from_seed(bytearray(nkeys.encode_seed(os.urandom(32), getattr(nkeys, f"PREFIX_BYTE_{kind}"))))


def _jwt(issuer: Any, subject: Any, claims: dict[str, Any]) -> str:
    payload = {
        "jti": "test",
        "iat": int(time.time()),
        "iss": issuer.public_key.decode(),
        "name": "test",
        "sub": subject.public_key.decode(),
        "nats": claims,
    }
    text = ".".join(_base64(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, payload))
    return f"{text}.{_base64(issuer.sign(text.encode()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def test_unreachable_servers_are_an_error_of_one_line(open_store: Open) -> None:
    with pytest.raises(StoreError, match="NATS at 127.0.0.1:1, 127.0.0.1:2 cannot be used: .*Connect") as caught:
        open_store("nats://127.0.0.1:1", "nats://127.0.0.1:2")
    assert "\n" not in str(caught.value)


def test_server_without_jetstream_is_an_error(start: Start, open_store: Open) -> None:
    server = start()
    server.kill()
    server.configure({"host": "127.0.0.1", "port": server.port})
    server.start()
    with pytest.raises(StoreError, match="cannot be used: .*with JetStream"):
        open_store(server.url)


def test_one_reachable_server_suffices(start: Start, open_store: Open) -> None:
    assert open_store("nats://127.0.0.1:1", start().url).trouble is None


def test_bucket_of_another_database_is_refused(start: Start, open_store: Open) -> None:
    server = start()
    open_store(server.url)
    with pytest.raises(StoreError, match="belongs to zmsd for database db, not other"):
        open_store(server.url, database="other")
    assert open_store(server.url, database="other", bucket="other").trouble is None


# OUTAGES


def test_store_reads_and_queues_writes_during_an_outage(start: Start, open_store: Open) -> None:
    server = start()
    store, other = open_store(server.url), open_store(server.url)
    store.record_copy(ZERO, copy(5))
    wait_until(lambda: other.replica(ZERO), "the other store knows the copy")
    server.kill()
    wait_until(lambda: store.trouble, "it is noticed")
    assert "NATS: " in str(store.trouble)
    began = time.monotonic()
    for number in range(1000):
        store.record_ack(ZERO, mark(6 + number))
        store.record_checkpoint(mark(6 + number), TOKEN)
    assert store.replica(ZERO) == ReplicaRecord(mark(1005), (copy(5),))
    assert store.latest_checkpoint(mark(9999)) == (mark(1005), TOKEN)
    assert time.monotonic() - began < 2 * FACTOR
    store.record_copy(ZERO, copy(2000))  # tried for a second
    both = ReplicaRecord(mark(1005), (copy(5), copy(2000)))
    assert store.replica(ZERO) == both
    assert other.replica(ZERO) == ReplicaRecord(None, (copy(5),)), "the other store cannot know it"
    server.start()
    wait_until(lambda: store.trouble is None and other.trouble is None, "both are back")
    wait_until(lambda: other.replica(ZERO) == both, "the copy and the newest ack were written then")
    tokens = other.contents().checkpoints
    assert len(tokens) == nats_mirror.QUEUED_PASSING, "the newest ones, for that is enough"
    assert mark(1005) in tokens


def test_late_write_keeps_records_of_another_daemon(start: Start, open_store: Open) -> None:
    """A schema change that could not be written, while another daemon has written a different one and a new replica."""
    server = start()
    with Proxy(server.port) as proxy:
        cut_off, other = open_store(f"nats://127.0.0.1:{proxy.port}"), open_store(server.url)
        proxy.silent = True
        cut_off.record_copy(ZERO, copy(5))
        cut_off.record_copy(ZERO, copy(6))
        cut_off.record_ack(ZERO, mark(7))
        other.record_copy(ZERO, copy(10))
        other.record_ack(ZERO, mark(11))
        other.record_copy(NEW, copy(8))
        proxy.silent = False
        wait_until(lambda: cut_off.trouble is None and not cut_off._mirror.next(), "all is written", 20)
    assert other.replica(ZERO) == ReplicaRecord(mark(11), (copy(5), copy(6), copy(10)))
    assert other.replica(NEW) == ReplicaRecord(None, (copy(8),))


def test_silent_network_is_noticed(start: Start, open_store: Open) -> None:
    with Proxy(start().port) as proxy:
        store = open_store(f"nats://127.0.0.1:{proxy.port}")
        proxy.silent = True
        began = time.monotonic()
        store.replica(ZERO)
        assert time.monotonic() - began < 2 * FACTOR, "a client's coming waits a second at most"
        wait_until(lambda: store.trouble, "it is noticed")
        proxy.silent = False
        wait_until(lambda: store.trouble is None, "it is back", 20)


def test_connection_is_replaced_when_reply_stalls(start: Start, open_store: Open) -> None:
    """A part of one answer arrives, and nothing more on that connection; others work."""
    server = start()
    with Proxy(server.port) as proxy:
        store = open_store(f"nats://127.0.0.1:{proxy.port}")
        proxy.stall_reply_to(lambda request: b"PUB $KV." in request)
        store.record_copy(ZERO, copy(5))
        store.record_ack(ZERO, mark(9))
        assert proxy.stalled == 1
        wait_until(lambda: proxy.connections > 1 and store.trouble is None, "another connection is used", 20)
        wait_until(lambda: not store._mirror.next(), "all is written", 20)
    assert open_store(server.url).replica(ZERO) == ReplicaRecord(mark(9), (copy(5),))


def test_close_writes_the_queue(start: Start, open_store: Open) -> None:
    server = start()
    store = open_store(server.url)
    store.record_copy(ZERO, copy(5))
    store.record_ack(ZERO, mark(9))
    store.close()
    store.close()
    assert open_store(server.url).replica(ZERO) == ReplicaRecord(mark(9), (copy(5),))


def test_deleted_bucket_is_created_again(start: Start, open_store: Open, tmp_path: Path) -> None:
    server = start()
    store = open_store(server.url)
    store.record_copy(ZERO, copy(5))
    server.kill()
    wait_until(lambda: store.trouble, "it is noticed")
    (tmp_path / "nats0" / "data").rename(tmp_path / "lost")
    server.start()
    wait_until(lambda: store.trouble is None, "it is back", 20)
    assert store.replicas() == {}, "and knows what the server knows"
    store.record_copy(ZERO, copy(7))
    assert open_store(server.url).replica(ZERO) == ReplicaRecord(None, (copy(7),))


# AGREEMENT


def test_first_publisher_of_an_epoch_wins(start: Start, open_store: Open) -> None:
    server = start()
    stores = [open_store(server.url) for _ in range(3)]
    told = [0]

    def count() -> None:
        told[0] += 1

    stores[0].on_epoch_change(count)
    for epoch in range(10):
        before = stores[0].epochs()
        won: list[int] = []
        barrier = Barrier(3)

        def publish(
            number: int, before: Any = before, won: Any = won, barrier: Any = barrier, epoch: int = epoch
        ) -> None:
            barrier.wait()
            if stores[number].append_epoch(f"{epoch}-{number}", "[]", before):
                won.append(number)

        threads = [Thread(target=publish, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        expected = (*before, f"{epoch}-{won[0]}")
        wait_until(lambda expected=expected: all(one.epochs() == expected for one in stores), "all know it")
        assert all(one.load_publication(expected[-1]) == "[]" for one in stores)
    assert told[0] == 10


def test_publish_during_an_outage_fails_and_is_not_repeated(start: Start, open_store: Open) -> None:
    server = start()
    store = open_store(server.url)
    assert store.append_epoch("one", "[]", ())
    server.kill()
    with pytest.raises(StoreError, match="cannot be agreed on"):
        store.append_epoch("two", "[]", ("one",))
    server.start()
    wait_until(lambda: store.trouble is None, "it is back", 20)
    store.record_copy(ZERO, copy(5))
    assert store.epochs() == ("one",)
    assert open_store(server.url).epochs() == ("one",)


def test_names_that_cannot_be_keys_are_encoded(start: Start, open_store: Open) -> None:
    server = start()
    store = open_store(server.url)
    strange = Replica("a b.*>ü", 0, mark(5, 1))
    store.record_copy(strange, copy(5))
    store.save_publication("f ..", "[]")
    again = open_store(server.url)
    assert again.replicas() == {strange: ReplicaRecord(None, (copy(5),))}
    assert again.contents().publications == {"f ..": "[]"}


def test_large_edition_is_stored(start: Start, open_store: Open) -> None:
    server = start()
    document = json.dumps([f"table{number}" + "text" * 100 for number in range(10_000)])
    assert len(document) > 2 << 20
    open_store(server.url).save_publication("f", document)
    assert open_store(server.url).load_publication("f") == document


def test_records_of_an_older_zmsd_are_migrated(start: Start, open_store: Open) -> None:
    """An older zmsd kept one document per shard, which this test writes in that form."""
    server = start()
    old = open_store(server.url)
    copies = [[mark(5), mark(6), "e"], [mark(9), mark(9), "f"]]
    document = {"app": "my.app", "number": 3, "replicaVersion": mark(5), "acked": mark(10), "copies": copies}
    key = "shard.my=2e=app.3"
    change = old._mirror.change(key, old._bucket, key, lambda _: json.dumps(document).encode())
    assert old._mirror.wait(change, 5)
    old.close()
    record = ReplicaRecord(mark(10), (CopyRecord(mark(5), mark(6), "e"), CopyRecord(mark(9), mark(9), "f")))
    for _ in range(2):
        store = open_store(server.url)
        assert store.replicas() == {Replica("my.app", 3, ""): record}
        wait_until(lambda store=store: not store._mirror.next(), "the old document is deleted")
        assert key not in store._mirror.values(store._bucket)
        store.close()


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\x00", b"null", b"[]", b'{"app": 1}', b"[" * 100_000])
def test_damaged_records_count_as_unknown(
    damage: bytes, start: Start, open_store: Open, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(start().url)
    store.record_copy(ZERO, copy(5))
    store.record_copy(NEW, copy(8))
    store.record_checkpoint(mark(5), "82" * 10)
    store.record_checkpoint(mark(6), "83" * 10)
    store.save_publication("e", "[]")
    changes = [
        store._mirror.change(f"damage {key}", bucket, key, lambda _: damage)
        for bucket, key in (
            *((store._bucket, key) for key in (nats._replica_key(ZERO), "edition.e", "epochs", "identity", "invalid")),
            (store._checkpoints, mark(6)),
        )
    ]
    for change in changes:
        assert store._mirror.wait(change, 5)
    assert store.replicas() == {NEW: ReplicaRecord(None, (copy(8),))}
    assert store.replica(ZERO) is None
    assert store.latest_checkpoint(mark(7)) == (mark(5), "82" * 10)
    assert store.load_publication("e") is None
    assert store.epochs() == ()
    assert store.load_identity() is None
    assert store.invalidated_below() is None
    assert list(store.contents().checkpoints) == [mark(5)]
    assert any("unreadable record ignored" in str(record.msg) for record in caplog.records) or damage == b"[]"
    store.record_copy(ZERO, copy(9))
    store.save_publication("e", "[]")
    assert store.append_epoch("e", "[]", ())
    assert store.replica(ZERO) == ReplicaRecord(None, (copy(9),))
    assert (store.epochs(), store.load_publication("e")) == (("e",), "[]")


def test_bucket_of_another_program_is_refused_and_left_as_it_is(start: Start, open_store: Open) -> None:
    server = start()
    other = open_store(server.url)
    other._mirror.change("x", other._bucket, "database", lambda _: None)
    change = other._mirror.change("y", other._bucket, "streamer_shards.0", lambda _: b"{}")
    assert other._mirror.wait(change, 5)
    other.close()
    with pytest.raises(StoreError, match=r"another program .*streamer_shards\.0.*nats\.bucket"):
        open_store(server.url, database="db2")
