"""URLs and hosts as whoever dials them will understand them: one spelling for each, and nothing that two parsers read
differently.

A host that any resolver takes for an address is treated as that address: 2130706433, 0x7f.1, 0177.1, 127.1, ①②⑦.0.0.1.
Pure.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address

import idna
import msgspec

from engine.egress_networks import IPAddress

MAX_URL_CHARACTERS = 2048
"""What browsers and proxies take for certain."""
MAX_NAME_CHARACTERS = 253
"""RFC 1035 section 2.3.4, without the dot at the end."""

DEFAULT_PORTS = {"http": 80, "https": 443}

# Whoever reads `\`, `@`, `%` or a blank in the authority reads it in a way of their own.
_URL = re.compile(r"(https?)://([^/?#]*)(?:[/?#].*)?", re.IGNORECASE | re.DOTALL)
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@%\\]+)(?::([0-9]{0,5}))?")
_UNSAFE = re.compile(r"[\x00-\x20\x7f-\xa0\\\u1680\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff]")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]{1,64}|0x[0-9a-f]{0,64}")


class Malformed(Exception):
    """A sentence that says what is wrong with a URL or a host."""


class Host(msgspec.Struct, frozen=True):
    """A host: a name in ASCII and lower case without a dot at its end, or an address."""

    name: str
    address: IPAddress | None = None


class Target(msgspec.Struct, frozen=True):
    """What a URL dials."""

    scheme: str
    host: Host
    port: int


@lru_cache(maxsize=4096)
def read_target(url: str) -> Target:
    """Raises `Malformed`. Remembered: the same few URLs are called over and over."""
    if len(url) > MAX_URL_CHARACTERS:
        raise Malformed(f"A URL has at most {MAX_URL_CHARACTERS} characters.")
    if _UNSAFE.search(url):
        raise Malformed("A URL holds no blanks, control characters or backslashes: encode them with %.")
    parts = _URL.fullmatch(url)
    if parts is None:
        raise Malformed("A URL starts with https:// and names a host.")
    if "@" in parts[2]:
        raise Malformed("A URL holds no user name or password: they would be logged. Remove what stands before the @.")
    authority = _AUTHORITY.fullmatch(parts[2])
    if authority is None:
        raise Malformed("The URL's host is malformed: write host or host:port, and IPv6 addresses in brackets.")
    scheme = parts[1].lower()
    return Target(scheme, read_host(authority[1]), _read_port(authority[2], scheme))


def read_host(text: str) -> Host:
    """A host as it stands in a URL. Raises `Malformed`, also for addresses that are not written in the usual way."""
    if text.startswith("["):
        return _read_ipv6(text[1:-1])
    name = _to_ascii(text).removesuffix(".")
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return _read_ipv4(name, labels)
    if len(name) > MAX_NAME_CHARACTERS or not all(_LABEL.fullmatch(label) for label in labels):
        raise Malformed("The URL's host is not a host name.")
    return Host(name)


def _to_ascii(text: str) -> str:
    if text.isascii():
        return text.lower()
    try:
        return idna.encode(text, uts46=True).decode("ascii").lower()
    except (idna.IDNAError, UnicodeError):
        raise Malformed("The URL's host is not a host name.") from None


def _read_port(text: str | None, scheme: str) -> int:
    port = int(text) if text else DEFAULT_PORTS[scheme]
    if not 1 <= port <= 65535:
        raise Malformed("A port is a number from 1 to 65535.")
    return port


def _read_ipv6(text: str) -> Host:
    try:
        address = IPv6Address(text)
    except AddressValueError:
        raise Malformed("The URL's host is not an IPv6 address.") from None
    return Host(str(address), address)


def _read_ipv4(name: str, labels: list[str]) -> Host:
    """What ends in a number is an address or nothing (WHATWG URL, "ends in a number")."""
    address = _read_numbers(labels)
    if address is None:
        raise Malformed("The URL's host ends like an IPv4 address and is none.")
    if str(address) != name:
        raise Malformed(f"The URL's host is the address {address} in an unusual spelling: write {address}.")
    return Host(name, address)


def _read_numbers(labels: list[str]) -> IPv4Address | None:
    """As inet_aton(3) reads it: one to four numbers, decimal, octal (0…) or hexadecimal (0x…), the last one filling
    what is left."""
    if len(labels) > 4 or not all(_NUMBER.fullmatch(label) for label in labels):
        return None
    try:
        *upper, last = [_read_number(label) for label in labels]
    except ValueError:
        return None
    if any(number > 255 for number in upper) or last >= 256 ** (4 - len(upper)):
        return None
    return IPv4Address(sum(number << 8 * (3 - place) for place, number in enumerate(upper)) + last)


def _read_number(label: str) -> int:
    if label.startswith("0x"):
        return int(label[2:] or "0", 16)
    return int(label, 8 if label.startswith("0") and len(label) > 1 else 10)
