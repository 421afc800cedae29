"""The guard: addresses in every form, names, URLs that parsers disagree about, DNS answers, and what must stay open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import Any

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from engine.egress import MAX_ADDRESSES, PORTS, Blocked, Egress, NameServers
from engine.egress_hosts import Malformed, read_target
from engine.egress_networks import forbidden_kind

GUARD = Egress()

FORBIDDEN_HOSTS = [
    # this host
    "0.0.0.0",
    "0.1.2.3",
    "0.255.255.255",
    # private, with their edges
    "10.0.0.0",
    "10.255.255.255",
    "172.16.0.0",
    "172.31.255.255",
    "192.168.0.0",
    "192.168.255.255",
    # carrier-grade NAT
    "100.64.0.0",
    "100.127.255.255",
    # loopback
    "127.0.0.0",
    "127.0.0.1",
    "127.255.255.255",
    # link-local and metadata
    "169.254.0.0",
    "169.254.169.254",
    "169.254.170.2",
    "169.254.255.255",
    # Azure's wire server, Oracle's, Alibaba's
    "168.63.129.16",
    "192.0.0.192",
    "100.100.100.200",
    # protocol assignments, documentation, 6to4 relay, benchmarking
    "192.0.0.0",
    "192.0.0.255",
    "192.0.2.1",
    "198.51.100.7",
    "203.0.113.200",
    "192.88.99.1",
    "198.18.0.0",
    "198.19.255.255",
    # multicast, reserved, broadcast
    "224.0.0.0",
    "239.255.255.255",
    "240.0.0.0",
    "255.255.255.255",
    # IPv4 as resolvers read it: one number, hexadecimal, octal, short, mixed, with a dot at the end
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0X7F.0x0.0x0.0x1",
    "017700000001",
    "0177.1",
    "0177.0.0.01",
    "127.1",
    "127.0.1",
    "127.0x0.1",
    "0",
    "0x",
    "127.0.0.1.",
    "2852039166",
    "0xA9FEA9FE",
    "0251.0376.0251.0376",
    # unicode digits, dots and letters that fold to ASCII, soft hyphens that vanish
    "①②⑦.⓪.⓪.①",
    "127。0。0。1",
    "127．0．0．1",
    "127｡0｡0｡1",
    "𝟏𝟐𝟕.𝟎.𝟎.𝟏",
    "127.0\u00ad.0.1",
    "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ",
    "ｌｏｃａｌｈｏｓｔ",
    # what ends in a number and is no address is nothing
    "256.256.256.256",
    "1.2.3.4.5",
    "127.0.0.08",
    "99999999999",
    "example.0x1",
    # IPv6: unspecified, loopback, unique local, link-local, site-local, multicast
    "[::]",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[fc00::]",
    "[fdff:ffff::1]",
    "[fe80::1]",
    "[febf::1]",
    "[fec0::1]",
    "[feff::1]",
    "[ff02::1]",
    # metadata
    "[fd00:ec2::254]",
    "[fd20:ce::254]",
    # every form of IPv4 in IPv6: mapped, compatible, translated, 6to4, Teredo, NAT64, ISATAP
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:169.254.169.254]",
    "[::ffff:10.0.0.1]",
    "[::127.0.0.1]",
    "[::8.8.8.8]",
    "[::ffff:0:127.0.0.1]",
    "[::ffff:0:8.8.8.8]",
    "[2002:7f00:1::]",
    "[2002:808:808::]",
    "[2001:0:4136:e378:8000:63bf:80ff:fffe]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::169.254.169.254]",
    "[64:ff9b:1::808:808]",
    "[2001:4860::5efe:10.0.0.1]",
    "[2001:4860::200:5efe:10.0.0.1]",
    # documentation, benchmarking, discard, protocols, SRv6, what nobody has been given
    "[2001:db8::1]",
    "[3fff:fff::1]",
    "[2001:2::1]",
    "[2001:10::1]",
    "[2001:20::1]",
    "[100::1]",
    "[5f00::1]",
    "[4000::1]",
    "[1::1]",
    # zones, and brackets around anything else
    "[fe80::1%25eth0]",
    "[fe80::1%eth0]",
    "[127.0.0.1]",
    "[v1.x]",
    # names that mean something inside only, in any case, with dots
    "localhost",
    "LOCALHOST",
    "localhost.",
    "localhost..",
    "a.localhost",
    "printer.local",
    "metadata.google.internal",
    "metadata.google.internal.",
    "Metadata.Google.Internal",
    "host.docker.internal",
    "kubernetes.default.svc.cluster.local",
    "router.home.arpa",
    "1.0.0.127.in-addr.arpa",
    "redis",
    "metadata",
    "db.corp",
    "nas.lan",
    "localhost.localdomain",
    # no host names
    "-example.com",
    "example-.com",
    "exa mple.com",
    "exam$ple.com",
    "example..com",
    ".example.com",
    "a" * 64 + ".example.com",
    ".".join(["abcdefgh"] * 40) + ".com",
    "%31%32%37.0.0.1",
    "example.com%00.127.0.0.1",
]

OPEN_HOSTS = [
    "example.com",
    "EXAMPLE.com",
    "example.com.",
    "hooks.example.co.uk",
    "a_b.example.com",
    "xn--bcher-kva.example",
    "bücher.example",
    "faß.de",
    "例え.jp",
    "1.example.com",
    "127.0.0.1.nip.io",
    "localhost.example.com",
    "local.example.com",
    "internal.io",
    "metadata.google.com",
    "0x7f.example.com",
    # just beside what is forbidden
    "1.0.0.0",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "168.63.129.15",
    "168.63.129.17",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "191.255.255.255",
    "192.0.1.0",
    "192.0.3.0",
    "192.88.98.255",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "8.8.8.8",
    # IPv6 that is public, also where it begins as something else does
    "[2606:4700:4700::1111]",
    "[2a00:1450:4001::200e]",
    "[2001:200::1]",
    "[2001:4860:4860::8888]",
    "[2001:db7::1]",
    "[2003::1]",
    "[3ffe::1]",
    # public IPv4 as a network with NAT64, or a socket, writes it
    "[::ffff:8.8.8.8]",
    "[64:ff9b::808:808]",
]

MALFORMED_URLS = [
    "",
    "example.com",
    "//example.com",
    "https:",
    "https://",
    "https:///path",
    "https://?x",
    "https:example.com",
    "https:/example.com",
    # schemes
    "http://example.com",
    "ftp://example.com",
    "file:///etc/passwd",
    "gopher://example.com",
    "javascript:alert(1)",
    "data:text/plain,x",
    "unix:///var/run/docker.sock",
    "ws://example.com",
    # user names, and what looks like one
    "https://user@example.com",
    "https://user:password@example.com",
    "https://example.com@127.0.0.1",
    "https://127.0.0.1@example.com",
    "https://@example.com",
    # what parsers read differently
    "https://example.com\\@127.0.0.1/",
    "https:\\\\127.0.0.1",
    "https://127.0.0.1\\.example.com",
    "https://exa\tmple.com",
    "https://example.com\r\nHost: 127.0.0.1",
    "https://example.com/\npath",
    "\x00https://example.com",
    " https://example.com",
    "https://example.com ",
    "https://example.com/a b",
    "https://example.com\u2028",
    "https://[::1",
    "https://::1",
    "https://2001:db8::1",
    "https://[::1]x",
    "https://[::1].example.com",
    # ports
    "https://example.com:0",
    "https://example.com:65536",
    "https://example.com:99999",
    "https://example.com:443x",
    "https://example.com:-1",
    "https://example.com:+443",
    "https://example.com:４４３x",
    "https://example.com:22",
    "https://example.com:25",
    "https://example.com:5432",
    "https://example.com:6379",
    "https://example.com:80:443",
    "https://example.com/" + "x" * 2048,
]

OPEN_URLS = [
    "https://example.com",
    "HTTPS://example.com/",
    "https://example.com:443/path?a=b&c=%20d#fragment",
    "https://example.com:",
    "https://example.com:8443/x",
    "https://example.com:8080",
    "https://example.com/@127.0.0.1",
    "https://example.com?url=http://127.0.0.1",
    "https://example.com#@127.0.0.1",
    "https://example.com/ünï",
    "https://example.com/" + "x" * 2000,
]


@pytest.mark.parametrize("host", FORBIDDEN_HOSTS)
def test_a_host_that_may_not_be_called(host: str) -> None:
    for url in (f"https://{host}", f"https://{host}:443/path?x#y"):
        assert GUARD.refusal(url) is not None, url
    assert GUARD.refusal(f"http://{host}/", plain_http=True) is not None


@pytest.mark.parametrize("host", OPEN_HOSTS)
def test_a_host_that_may_be_called(host: str) -> None:
    assert GUARD.refusal(f"https://{host}/path") is None
    assert GUARD.refusal(f"http://{host}:8080/", plain_http=True) is None


@pytest.mark.parametrize("url", MALFORMED_URLS)
def test_a_url_that_may_not_be_called(url: str) -> None:
    assert GUARD.refusal(url) is not None


@pytest.mark.parametrize("url", OPEN_URLS)
def test_a_url_that_may_be_called(url: str) -> None:
    assert GUARD.refusal(url) is None


def test_refusals_are_sentences_and_name_no_secret() -> None:
    refusals = [GUARD.refusal(url) or "" for url in MALFORMED_URLS]
    assert all(text.endswith(".") and text[0].isupper() for text in refusals)
    assert not any("password" in text and "user:password" in text for text in refusals)
    assert GUARD.refusal("https://10.0.0.1") == "This address may not be called: it is private."
    assert GUARD.refusal("https://127.1") == (
        "The URL's host is the address 127.0.0.1 in an unusual spelling: write 127.0.0.1."
    )


def test_plain_http_is_for_those_who_asked_for_it() -> None:
    assert GUARD.refusal("http://example.com") == "Only https URLs may be called."
    assert GUARD.refusal("http://example.com", plain_http=True) is None
    assert {80, 443} <= PORTS


@pytest.mark.parametrize("url", [*OPEN_URLS, *(f"https://{host}/x" for host in OPEN_HOSTS)])
def test_the_client_dials_the_host_that_was_checked(url: str) -> None:
    """aiohttp dials what yarl reads: both must mean the same host and port."""
    target, dialled = read_target(url), URL(url)
    assert dialled.port == target.port
    assert (dialled.raw_host or "").rstrip(".") == target.host.name


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.sampled_from("0123456789abfxX.:@/\\#?[]%-①。\u00adé "), max_size=30))
def test_the_client_never_dials_another_host_than_was_checked(text: str) -> None:
    url = f"https://{text}"
    try:
        target = read_target(url)
    except Malformed:
        return
    try:
        dialled = URL(url)
    except ValueError:
        return
    assert (dialled.raw_host or "").rstrip(".") == target.host.name
    assert dialled.port == target.port


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_every_form_of_a_forbidden_address_is_forbidden(number: int) -> None:
    address = IPv4Address(number)
    mapped = IPv6Address(f"::ffff:{address}")
    nat64 = IPv6Address(int(IPv6Address("64:ff9b::")) + number)
    assert forbidden_kind(mapped) == forbidden_kind(nat64) == forbidden_kind(address)
    for tunnel in (f"::{address}", f"::ffff:0:{address}", f"2001:4860::5efe:{address}"):
        assert forbidden_kind(IPv6Address(tunnel)) is not None
    six_to_four = IPv6Address((0x2002 << 112) + (number << 80))
    assert forbidden_kind(six_to_four) is not None
    in_one_number = Egress().refusal(f"https://{number}/")
    assert in_one_number is not None


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_nothing_that_python_takes_for_private_is_let_through(number: int) -> None:
    """The other way round it is no guard, see the module."""
    address = IPv4Address(number)
    if address.is_private or address.is_multicast or address.is_reserved or address.is_loopback:
        assert forbidden_kind(address) is not None


class TestAllowing:
    def test_a_network_is_allowed_on_any_port_and_over_plain_http(self) -> None:
        guard = Egress(allowed="127.0.0.0/8, fd00::/8,10.1.2.3")
        for url in (
            "http://127.0.0.1:9000/hook",
            "https://127.9.9.9",
            "http://[fd12::1]:3000",
            "http://10.1.2.3:5432",
            "http://[::ffff:127.0.0.1]:9000",
            # The name of loopback, and of nothing else.
            "http://localhost:9000",
            "http://LOCALHOST.:9000",
        ):
            assert guard.refusal(url) is None, url

    def test_and_nothing_beside_it(self) -> None:
        guard = Egress(allowed="127.0.0.0/8,10.1.2.3")
        for url in (
            "http://10.1.2.4",
            "https://10.1.2.4",
            "https://169.254.169.254",
            "http://example.com",
            "https://example.com:9000",
            "https://[::1]",
            "https://[64:ff9b::7f00:1]",
            "https://a.localhost",
            "https://127.1",
            "https://user@127.0.0.1",
            "gopher://127.0.0.1",
        ):
            assert guard.refusal(url) is not None, url

    def test_a_host_and_port_is_allowed_on_that_port(self) -> None:
        guard = Egress(allowed="receiver:9000,10.0.0.5:81,[::1]:82, hooks.internal:443")
        for url in (
            "http://receiver:9000",
            "https://RECEIVER.:9000/x",
            "http://10.0.0.5:81",
            "http://[::1]:82",
            "https://hooks.internal",
        ):
            assert guard.refusal(url) is None, url
        for url in (
            "http://receiver:9001",
            "http://receiver",
            "http://10.0.0.5:82",
            "https://10.0.0.5",
            "http://[::1]:83",
            "http://hooks.internal",
            "http://localhost:83",
        ):
            assert guard.refusal(url) is not None, url

    def test_off_lets_everything_pass_that_is_a_url(self) -> None:
        off = Egress(guarded=False)
        assert off.refusal("http://169.254.169.254:1234") is None
        assert off.refusal("https://localhost") is None
        assert off.refusal("gopher://localhost") is not None
        assert off.address_refusal("127.0.0.1", 1) is None

    @pytest.mark.parametrize(
        "value",
        [
            "10.0.0.1/8",
            "10.0.0.0/33",
            "receiver",
            "receiver:",
            "receiver:0",
            "receiver:65536",
            "receiver:x",
            "10.0.0.0/8:80",
            "127.1:80",
            "*",
            "http://receiver:9000",
            "10.0.0.0/8,receiver",
        ],
    )
    def test_a_malformed_value_is_refused_with_a_sentence_that_shows_how(self, value: str) -> None:
        with pytest.raises(ValueError, match=r"10\.|receiver:9000|write"):
            Egress(allowed=value)

    def test_nothing_is_allowed_by_nothing(self) -> None:
        for value in ("", " ", ",", " , "):
            assert Egress(allowed=value).refusal("http://127.0.0.1") is not None


class TestResolving:
    @staticmethod
    def guard(*answers: list[str], allowed: str = "") -> Egress:
        left = list(answers)

        async def resolver(name: str) -> list[str]:
            return left.pop(0) if len(left) > 1 else left[0]

        return Egress(allowed=allowed, resolver=resolver)

    async def test_public_addresses_are_given(self) -> None:
        guard = self.guard(["93.184.216.34", "2606:2800:220:1::1"])
        assert await guard.resolve("example.com", 443) == ("2606:2800:220:1::1", "93.184.216.34")

    async def test_a_name_with_many_addresses_has_few_of_them_dialled_and_all_of_them_checked(self) -> None:
        sixes = [f"2606:2800:220:1::{each}" for each in range(1, 100)]
        fours = [f"93.184.216.{each}" for each in range(200)]
        found = await self.guard([*fours, *sixes]).resolve("example.com", 443)
        assert found == (*sixes[:MAX_ADDRESSES], *fours[:MAX_ADDRESSES])
        with pytest.raises(Blocked):
            await self.guard([*fours, *sixes, "10.0.0.1"]).resolve("example.com", 443)

    @pytest.mark.parametrize(
        "answers",
        [
            ["127.0.0.1"],
            ["93.184.216.34", "10.0.0.1"],
            ["10.0.0.1", "93.184.216.34"],
            ["::ffff:169.254.169.254"],
            ["93.184.216.34", "fd00:ec2::254"],
            ["64:ff9b::7f00:1"],
            ["168.63.129.16"],
            ["fe80::1"],
            ["not an address"],
        ],
    )
    async def test_one_forbidden_answer_blocks_the_name(self, answers: list[str]) -> None:
        with pytest.raises(Blocked) as blocked:
            await self.guard(answers).resolve("example.com", 443)
        # Whoever owns the name must not learn what the network's own resolver says.
        assert not any(answer in str(blocked.value) for answer in answers)

    async def test_no_answer_is_no_address(self) -> None:
        with pytest.raises(OSError, match="no address") as error:
            await self.guard([]).resolve("example.com", 443)
        assert not isinstance(error.value, Blocked)

    @pytest.mark.parametrize("name", ["localhost", "metadata.google.internal", "redis", "127.1", "2130706433", "a b"])
    async def test_a_forbidden_name_is_not_even_asked_for(self, name: str) -> None:
        asked: list[str] = []

        async def resolver(name: str) -> list[str]:
            asked.append(name)
            return ["93.184.216.34"]

        with pytest.raises(Blocked):
            await Egress(resolver=resolver).resolve(name, 443)
        assert asked == []

    async def test_an_address_is_its_own_answer(self) -> None:
        guard = self.guard(["10.0.0.1"])
        assert await guard.resolve("93.184.216.34", 443) == ("93.184.216.34",)
        assert await guard.resolve("2606:2800:220:1::1", 443) == ("2606:2800:220:1::1",)
        with pytest.raises(Blocked):
            await guard.resolve("::1", 443)

    async def test_localhost_is_what_is_allowed_of_loopback(self) -> None:
        assert await Egress(allowed="127.0.0.0/8").resolve("localhost", 80) == ("127.0.0.1",)
        assert await Egress(allowed="127.0.0.0/8,::1").resolve("localhost", 80) == ("127.0.0.1", "::1")

    async def test_the_addresses_of_an_allowed_name_may_be_dialled_on_its_port_only(self) -> None:
        guard = self.guard(["172.18.0.5"], allowed="receiver:9000")
        assert guard.address_refusal("172.18.0.5", 9000) is not None
        assert await guard.resolve("receiver", 9000) == ("172.18.0.5",)
        assert guard.address_refusal("172.18.0.5", 9000) is None
        assert guard.address_refusal("172.18.0.5", 9001) is not None
        # Somebody else's name for the same address gains nothing by it.
        with pytest.raises(Blocked):
            await guard.resolve("evil.example.com", 9000)
        assert guard.refusal("https://172.18.0.5:9000") is not None

    async def test_an_allowed_network_is_reached_by_name_too(self) -> None:
        guard = self.guard(["10.1.0.7"], allowed="10.1.0.0/16")
        assert await guard.resolve("hooks.example.com", 443) == ("10.1.0.7",)
        assert guard.address_refusal("10.2.0.7", 443) is not None


class TestNameServers:
    async def test_both_families_are_asked_for_and_every_answer_counts(self) -> None:
        async with name_server({"a.example.": ["93.184.216.34"], "b.example.": ["93.184.216.34", "::1"]}) as servers:
            guard = Egress(resolver=servers)
            assert await guard.resolve("a.example", 443) == ("93.184.216.34",)
            with pytest.raises(Blocked):
                await guard.resolve("b.example", 443)

    async def test_a_name_without_addresses_and_one_that_is_unknown_are_os_errors(self) -> None:
        async with name_server({"empty.example.": []}) as servers:
            for name in ("empty.example", "unknown.example"):
                with pytest.raises(OSError, match=r"no address|NXDOMAIN") as error:
                    await Egress(resolver=servers).resolve(name, 443)
                assert not isinstance(error.value, Blocked)

    async def test_a_name_server_that_is_silent_is_not_waited_for_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("engine.egress.RESOLVE_SECONDS", 0.05)
        async with name_server(None) as servers:
            with pytest.raises(TimeoutError):
                await Egress(resolver=servers).resolve("a.example", 443)


class _NameServer(asyncio.DatagramProtocol):
    def __init__(self, zone: dict[str, list[str]] | None) -> None:
        self._zone = zone

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if self._zone is None:
            return
        query = dns.message.from_wire(data)
        response = dns.message.make_response(query)
        question = query.question[0]
        addresses = self._zone.get(question.name.to_text())
        if addresses is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
        kind = dns.rdatatype.to_text(question.rdtype)
        for address in addresses or []:
            if (kind == "AAAA") == (":" in address):
                response.answer.append(dns.rrset.from_text(question.name, 60, "IN", kind, address))
        self._transport.sendto(response.to_wire(), addr)


@asynccontextmanager
async def name_server(zone: dict[str, list[str]] | None) -> AsyncIterator[NameServers]:
    """One that knows a zone, or with None says nothing at all."""
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _NameServer(zone), local_addr=("127.0.0.1", 0)
    )
    try:
        yield NameServers(["127.0.0.1"], port=transport.get_extra_info("sockname")[1])
    finally:
        transport.close()


def test_the_table_holds_whole_networks() -> None:
    for text in ("10.0.0.0/8", "100.64.0.0/10", "198.18.0.0/15", "240.0.0.0/4"):
        network = IPv4Network(text)
        assert forbidden_kind(network[0]) == forbidden_kind(network[-1]) is not None
