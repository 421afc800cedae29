"""Who counts as one client where there are no credentials: an address, as far as its owner cannot choose it."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address

NETWORK_BITS = 64
"""Of an IPv6 address, those that a provider gives. The rest each device picks anew as often as it likes (RFC 8981)."""

REMEMBERED = 4_096
"""Addresses, about 200 bytes each: taking one apart costs more than most of what is done for a request."""


@lru_cache(REMEMBERED)
def network_of(client: str | None) -> str | None:
    """An IPv4 address itself, the network of an IPv6 address. None for a client without one, such as a Unix socket.

    Behind a proxy that is not trusted to name its clients (`FORWARDED_ALLOW_IPS`), everybody has the proxy's.
    """
    if client is None:
        return None
    try:
        address = ip_address(client)
    except ValueError:
        return client
    if not isinstance(address, IPv6Address):
        return client
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Address(int(address) >> NETWORK_BITS << NETWORK_BITS))
