"""Which IP addresses nothing is sent to: a table of our own, for IPv4, IPv6 and every form of the one in the other.

Python's `ipaddress.is_global` is no guard: it changes between patch releases, and takes NAT64, 6to4, site-local,
multicast and Azure's wire server for public. Sources: IANA's special-purpose registries for IPv4 and IPv6, RFC 6890,
and the providers' documents for their metadata services. Pure.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeAlias

IPAddress: TypeAlias = IPv4Address | IPv6Address
IPNetwork: TypeAlias = IPv4Network | IPv6Network

_FORBIDDEN_V4 = tuple(
    (IPv4Network(network), kind)
    for network, kind in (
        ("169.254.169.254/32", "a metadata service"),  # AWS, Azure, Google Cloud, DigitalOcean, Oracle, OpenStack
        ("169.254.170.2/32", "a metadata service"),  # AWS ECS
        ("168.63.129.16/32", "a metadata service"),  # Azure's wire server: a public address that is none
        ("100.100.100.200/32", "a metadata service"),  # Alibaba Cloud
        ("192.0.0.192/32", "a metadata service"),  # Oracle Cloud, older images
        ("0.0.0.0/8", "this host"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared by a carrier (CGN)"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved for protocols"),
        ("192.0.2.0/24", "for documentation"),
        ("192.88.99.0/24", "a 6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "for benchmarking"),
        ("198.51.100.0/24", "for documentation"),
        ("203.0.113.0/24", "for documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    )
)

_FORBIDDEN_V6 = tuple(
    (IPv6Network(network), kind)
    for network, kind in (
        ("fd00:ec2::254/128", "a metadata service"),  # AWS
        ("fd20:ce::254/128", "a metadata service"),  # Google Cloud
        ("fd00:42::42/128", "a metadata service"),  # Scaleway
        ("::/128", "this host"),
        ("::1/128", "loopback"),
        ("::/96", "an IPv4-compatible address"),
        ("::ffff:0:0:0/96", "an IPv4-translated address"),
        ("64:ff9b:1::/48", "local NAT64"),
        ("100::/64", "discarded"),
        ("2001::/32", "a Teredo tunnel"),
        ("2001:2::/48", "for benchmarking"),
        ("2001::/23", "reserved for protocols"),
        ("2001:db8::/32", "for documentation"),
        ("2002::/16", "a 6to4 tunnel"),
        ("3fff::/20", "for documentation"),
        ("5f00::/16", "segment routing (SRv6)"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
    )
)

_GLOBAL_UNICAST = IPv6Network("2000::/3")
"""All that IANA has given out for the internet lies in here: what is outside and not named above is forbidden too."""

_NAT64 = IPv6Network("64:ff9b::/96")
"""How a network without IPv4 reaches IPv4: as good as the address that it ends with (RFC 6052 section 2.1)."""

_ISATAP_MASK, _ISATAP = 0xFDFFFFFF, 0x00005EFE
"""The upper half of the interface identifier of an ISATAP address, whose lower half is an IPv4 address (RFC 5214)."""


def unwrap(address: IPAddress) -> IPAddress:
    """What a socket that is given the address talks to: an IPv4-mapped address is that IPv4 address."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def forbidden_kind(address: IPAddress) -> str | None:
    """What kind of address it is, in words that follow "is", if nothing may be sent there; None for public ones."""
    address = unwrap(address)
    if isinstance(address, IPv4Address):
        return next((kind for network, kind in _FORBIDDEN_V4 if address in network), None)
    if address in _NAT64:
        return forbidden_kind(IPv4Address(int(address) & 0xFFFFFFFF))
    for network, kind in _FORBIDDEN_V6:
        if address in network:
            return kind
    if address not in _GLOBAL_UNICAST:
        return "reserved"
    if (int(address) >> 32) & _ISATAP_MASK == _ISATAP:
        return "an ISATAP tunnel"
    return None
