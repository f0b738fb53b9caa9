"""Connections before they are admitted."""

from __future__ import annotations

from zmsd.gateway.connection import network_of


def test_network_of_an_address_is_its_ipv4_or_ipv6_prefix() -> None:
    assert network_of("127.0.0.1") == "127.0.0.1"
    assert network_of("::ffff:192.0.2.7") == "192.0.2.7"
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1") != network_of("2001:db8:0:1::1")
    assert network_of("fe80::1%eth0") == network_of("fe80::2")
