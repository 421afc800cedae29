"""Where the gateway and its workers may connect to: the SSRF guard.

Guarantees: what `refusal` lets pass is https (or http where that is allowed) to a port of the list and to a host that
is no forbidden name or address in any spelling; `resolve` gives addresses of which every one was checked, and those are
what is dialled (engine/channels/http.py), so a name that answers differently the second time gains nothing. Leaves to
others: following no redirect and taking no proxy from the environment. Holds nothing to stop.

The operator opens more with `SENDORA_EGRESS_ALLOW`: networks (`10.1.0.0/16`), addresses, `address:port`, `name:port`.
What it names may be reached on any port of a network, or on the port given, over plain http too.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import msgspec

from engine.egress_hosts import Host, Malformed, Target, read_host, read_target
from engine.egress_networks import IPAddress, IPNetwork, forbidden_kind, unwrap

MAIL_PORTS = frozenset({25, 465, 587, 2465, 2525, 2587})
"""Where mail servers on the internet listen."""
PORTS = frozenset({80, 443, 8080, 8443})
"""Where web servers listen. Anything else behind a public address is more likely somebody's database."""

FORBIDDEN_NAMES = frozenset(
    {"localhost", "localdomain", "local", "internal", "intranet", "lan", "home", "corp", "private"}
)
"""Top-level names that mean something inside a network only (RFC 6761, 6762; ICANN's name collisions)."""
_FORBIDDEN_SUFFIXES = (".home.arpa", ".in-addr.arpa", ".ip6.arpa")

RESOLVE_SECONDS = 5.0
"""For all questions to all name servers about one host."""

MAX_ADDRESSES = 8
"""Of a name and a version of IP: they are dialled in turn, and whoever owns a name can give it thousands, of other
people's."""

LOOPBACK = (IPv4Address("127.0.0.1"), IPv6Address("::1"))

Resolver = Callable[[str], Awaitable[Sequence[str]]]
"""Gives all addresses of a name, IPv4 and IPv6, as text; none when it has none. Raises `OSError` or `TimeoutError`."""


class Blocked(OSError):
    """A sentence that says why this may not be connected to. An `OSError`, as other failures to connect are."""


class _Allowed(msgspec.Struct, frozen=True):
    """What the operator allows besides."""

    networks: tuple[IPNetwork, ...] = ()
    addresses: frozenset[tuple[IPAddress, int]] = frozenset()
    names: frozenset[tuple[str, int]] = frozenset()

    def holds(self, address: IPAddress, port: int) -> bool:
        return (address, port) in self.addresses or any(address in network for network in self.networks)


class Egress:
    """The policy of this deployment. `allowed` names what may be reached although it is private, over http too; with
    `guarded` false everything may be. Raises `ValueError` with a sentence when `allowed` is malformed.
    """

    def __init__(self, *, allowed: str = "", guarded: bool = True, resolver: Resolver | None = None) -> None:
        self.allowed = allowed
        self.guarded = guarded
        self._allowed = _read_allowed(allowed)
        self._resolver = resolver
        # What the names that the operator allows resolved to last: their addresses may be dialled, whatever they are.
        self._named: dict[tuple[str, int], frozenset[IPAddress]] = {}

    def refusal(self, url: str, *, plain_http: bool = False) -> str | None:
        """Why this URL may not be called, in a sentence for whoever gave it; None when it may as far as text tells.

        Names are not resolved here: the address is checked when it is dialled.
        """
        try:
            target = read_target(url)
        except Malformed as error:
            return str(error)
        return self._target_refusal(target, plain_http) if self.guarded else None

    def address_refusal(self, address: str, port: int) -> str | None:
        """Why a socket may not be connected to this address; None when it may."""
        if not self.guarded:
            return None
        try:
            found = unwrap(ip_address(address))
        except ValueError:
            return "This is not an IP address."
        if any(found in addresses and port == of_name for (_, of_name), addresses in self._named.items()):
            return None
        return self._answer_refusal(found, port)

    async def resolve(self, host: str, port: int) -> tuple[str, ...]:
        """Some addresses of a host, when all were checked: if one may not be called, none may.

        Raises `Blocked`; `OSError` when the name has no address or no name server answers; `TimeoutError`.
        """
        try:
            read = read_host(f"[{host}]" if ":" in host else host)
        except Malformed as error:
            raise Blocked(str(error)) from None
        if not self.guarded:
            return tuple(await (self._resolver or _ask_system)(read.name))
        if read.address is not None:
            return self._checked([str(read.address)], port)
        if (read.name, port) in self._allowed.names:
            return await self._resolve_allowed(read.name, port)
        if read.name == "localhost" and (local := self._local(port)):
            return tuple(map(str, local))
        if _is_forbidden_name(read.name):
            raise Blocked(_NAME_REFUSAL)
        return self._checked(await (self._resolver or NameServers())(read.name), port)

    async def _resolve_allowed(self, name: str, port: int) -> tuple[str, ...]:
        """Through the system, which knows the names of the operator's own network, unless a resolver was handed in."""
        addresses = tuple(await (self._resolver or _ask_system)(name))
        self._named[name, port] = frozenset(unwrap(ip_address(address)) for address in addresses)
        return addresses

    def _checked(self, addresses: Sequence[str], port: int) -> tuple[str, ...]:
        if not addresses:
            raise OSError("The host has no address.")
        for address in addresses:
            try:
                refusal = self._answer_refusal(unwrap(ip_address(address)), port)
            except ValueError:
                raise Blocked("The host's name stands for something that is not an IP address.") from None
            if refusal is not None:
                raise Blocked(refusal)
        sixes = [address for address in addresses if ":" in address]
        fours = [address for address in addresses if ":" not in address]
        return (*sixes[:MAX_ADDRESSES], *fours[:MAX_ADDRESSES])

    def _answer_refusal(self, address: IPAddress, port: int) -> str | None:
        """Why no name may stand for this address. Does not say which: its owner may not know that."""
        if self._allowed.holds(address, port):
            return None
        kind = forbidden_kind(address)
        return None if kind is None else f"The host's address may not be called: it is {kind}."

    def _target_refusal(self, target: Target, plain_http: bool) -> str | None:
        host, port = target.host, target.port
        if self._is_named_by_operator(host, port):
            return None
        if host.address is not None:
            kind = forbidden_kind(host.address)
            if kind is not None:
                return f"This address may not be called: it is {kind}."
        elif _is_forbidden_name(host.name):
            return _NAME_REFUSAL
        if port not in PORTS:
            return f"Port {port} may not be called: use one of {', '.join(map(str, sorted(PORTS)))}."
        if target.scheme == "http" and not plain_http:
            return "Only https URLs may be called."
        return None

    def _is_named_by_operator(self, host: Host, port: int) -> bool:
        if host.address is not None:
            return self._allowed.holds(unwrap(host.address), port)
        return (host.name, port) in self._allowed.names or (host.name == "localhost" and bool(self._local(port)))

    def _local(self, port: int) -> tuple[IPAddress, ...]:
        """The addresses of this host that are allowed: `localhost` means nothing else (RFC 6761 section 6.3)."""
        return tuple(address for address in LOOPBACK if self._allowed.holds(address, port))


_NAME_REFUSAL = "This host name means something inside a network only: use a public one."


def _is_forbidden_name(name: str) -> bool:
    """Names without a dot too: what they mean depends on whom one asks."""
    return "." not in name or name.rpartition(".")[2] in FORBIDDEN_NAMES or name.endswith(_FORBIDDEN_SUFFIXES)


def _read_allowed(text: str) -> _Allowed:
    networks: list[IPNetwork] = []
    addresses: set[tuple[IPAddress, int]] = set()
    names: set[tuple[str, int]] = set()
    for entry in filter(None, map(str.strip, text.split(","))):
        network = _read_network(entry)
        if network is not None:
            networks.append(network)
            continue
        host, port = _read_host_and_port(entry)
        if host.address is not None:
            addresses.add((unwrap(host.address), port))
        else:
            names.add((host.name, port))
    return _Allowed(tuple(networks), frozenset(addresses), frozenset(names))


def _read_network(entry: str) -> IPv4Network | IPv6Network | None:
    """A network, or one address as a network; None for something else."""
    try:
        return ip_network(entry)
    except ValueError:
        if "/" not in entry:
            return None
    try:
        meant = ip_network(entry, strict=False)
    except ValueError:
        raise ValueError(f"{entry!r} is not a network: write it like 10.1.0.0/16 or fd00::/8") from None
    raise ValueError(f"{entry!r} names a host inside a network: write {meant} for the whole network")


def _read_host_and_port(entry: str) -> tuple[Host, int]:
    host, colon, port = entry.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ValueError(f"{entry!r} is neither a network (10.1.0.0/16) nor host:port (receiver:9000)")
    try:
        return read_host(host), int(port)
    except Malformed as error:
        raise ValueError(f"{entry!r} is not host:port (receiver:9000): {error}") from None


async def _ask_system(name: str) -> tuple[str, ...]:
    """As the machine resolves names, in a thread: only for what the operator named."""
    found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(each[4][0]) for each in found))


class NameServers:
    """A `Resolver` that asks name servers itself, by default the machine's: without threads, which names whose servers
    hang would use up, and without search domains, which would make another name of it.
    """

    def __init__(self, servers: Sequence[str] | None = None, *, port: int = 53) -> None:
        self._servers = servers
        self._port = port

    async def __call__(self, name: str) -> tuple[str, ...]:
        # Imported when first needed: the gateway resolves nothing.
        from dns.asyncresolver import Resolver as DnsResolver
        from dns.exception import DNSException, Timeout
        from dns.name import from_text
        from dns.resolver import NoAnswer

        try:
            resolver = DnsResolver(configure=self._servers is None)
            if self._servers is not None:
                resolver.nameservers, resolver.port = list(self._servers), self._port
            answers = await resolver.resolve_name(from_text(name), lifetime=RESOLVE_SECONDS)
        except NoAnswer:
            return ()
        except Timeout:
            raise TimeoutError("No name server answered in time.") from None
        except DNSException as error:
            raise OSError(f"The name could not be resolved: {type(error).__name__}.") from None
        return tuple(answers.addresses())
