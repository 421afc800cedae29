"""Which addresses count as one client."""

from __future__ import annotations

import pytest

from transport.clients import network_of


@pytest.mark.parametrize(
    ("client", "network"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::"),
        ("2001:db8:1:3::ffff", "2001:db8:1:3::"),
        ("fe80::1%eth0", "fe80::"),
        ("unknown", "unknown"),
        (None, None),
    ],
)
def test_a_client_is_its_ipv4_address_or_its_ipv6_network(client: str | None, network: str | None) -> None:
    assert network_of(client) == network
