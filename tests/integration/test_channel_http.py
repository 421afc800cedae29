"""The guarded session against real sockets: what may not be called is not connected to, whoever says so and when."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest

import engine.channels.http as http
from engine.channels.http import HttpAnswer, HttpClient, HttpFailure, failure_of, guarded_session, retry_after_of
from engine.egress import Egress
from tests.peers.authority import Authority
from tests.peers.receiver import HangUp, NotHttp, Received, Reply, Stall, StreamForever, WebhookReceiver

PUBLIC = "93.184.216.34"


@pytest.fixture
async def receiver() -> AsyncIterator[WebhookReceiver]:
    async with WebhookReceiver.running() as running:
        yield running


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    """One that may reach loopback."""
    opened = HttpClient(Egress(allowed="127.0.0.0/8"))
    yield opened
    await opened.close()


async def post(client: HttpClient, url: str, **options: object) -> HttpAnswer | HttpFailure:
    return await client.request("POST", url, headers={"x-one": "1"}, body=b"{}", **options)  # type: ignore[arg-type]


def code(result: HttpAnswer | HttpFailure) -> tuple[str, bool]:
    assert isinstance(result, HttpFailure), result
    return result.code, result.was_sent


class TestWhatIsNotConnectedTo:
    """Counted at the listener: no connection is made, not even one without a request."""

    async def test_a_literal_address(self, receiver: WebhookReceiver) -> None:
        guarded = HttpClient(Egress())
        for host in ("127.0.0.1", "[::ffff:127.0.0.1]", "127.1", "2130706433", "①②⑦.0.0.1", "localhost"):
            result = await post(guarded, f"http://{host}:{receiver.port}/", plain_http=True)
            assert code(result) == ("BLOCKED_URL", False), host
        await guarded.close()
        assert receiver.connections == 0

    async def test_a_name_that_stands_for_a_forbidden_address(self, receiver: WebhookReceiver) -> None:
        async def resolver(name: str) -> list[str]:
            return ["127.0.0.1"]

        async with guarded_session(Egress(resolver=resolver)) as session:
            with pytest.raises(aiohttp.ClientConnectorError) as error:
                # Without the session's look at the URL, which would stop at the port already.
                await session.get(f"http://rebound.example.com:{receiver.port}/", middlewares=())
        assert failure_of(error.value).code == "BLOCKED_URL"
        assert receiver.connections == 0

    async def test_a_name_that_stands_for_another_address_the_second_time(self, receiver: WebhookReceiver) -> None:
        """The first answer is good, the second is not: what is dialled is what was checked, each time."""
        answers = ["127.0.0.9", "127.0.0.1"]

        async def resolver(name: str) -> list[str]:
            return [answers.pop(0)]

        url = f"http://rebound.example.com:{receiver.port}/"
        async with guarded_session(Egress(allowed="127.0.0.9", resolver=resolver)) as session:
            with pytest.raises(aiohttp.ClientConnectorError) as first:
                await session.get(url, middlewares=())
            # The answer is kept for a moment, and is the one that was checked.
            with pytest.raises(aiohttp.ClientConnectorError) as again:
                await session.get(url, middlewares=())
            assert answers == ["127.0.0.1"]
            connector = session.connector
            assert isinstance(connector, aiohttp.TCPConnector)
            connector.clear_dns_cache()
            with pytest.raises(aiohttp.ClientConnectorError) as second:
                await session.get(url, middlewares=())
        codes = [failure_of(error.value).code for error in (first, again, second)]
        assert codes == ["CONNECTION_REFUSED", "CONNECTION_REFUSED", "BLOCKED_URL"]
        assert (answers, receiver.connections) == ([], 0)

    async def test_an_address_that_slipped_through_all_else_is_stopped_at_the_socket(
        self, receiver: WebhookReceiver
    ) -> None:
        async with guarded_session(Egress()) as session:
            # Without the session's look at the URL. An address asks no resolver either.
            with pytest.raises(aiohttp.ClientConnectorError) as error:
                await session.get(f"http://127.0.0.1:{receiver.port}/", middlewares=())
        assert failure_of(error.value).code == "BLOCKED_URL"
        assert receiver.connections == 0

    async def test_a_redirect_is_not_followed(self, receiver: WebhookReceiver, client: HttpClient) -> None:
        async with WebhookReceiver.running() as inner:
            receiver.scripts["/"] = [Reply(307, headers=(("location", f"{inner.url}/secret"),))]
            result = await post(client, f"{receiver.url}/")
            assert isinstance(result, HttpAnswer)
            assert (result.status, inner.connections) == (307, 0)

    async def test_a_library_that_follows_redirects_is_stopped_at_the_next_one(self, receiver: WebhookReceiver) -> None:
        async with WebhookReceiver.running() as inner:
            receiver.scripts["/"] = [Reply(302, headers=(("location", f"{inner.url}/secret"),))]
            async with guarded_session(Egress(allowed=f"127.0.0.1:{receiver.port}")) as session:
                with pytest.raises(aiohttp.ClientError) as error:
                    await session.get(f"{receiver.url}/")
            assert failure_of(error.value).code == "BLOCKED_URL"
            assert (len(receiver.requests), inner.connections) == (1, 0)

    async def test_no_proxy_is_taken_from_the_environment(
        self, receiver: WebhookReceiver, client: HttpClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with WebhookReceiver.running() as proxy:
            for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
                monkeypatch.setenv(name, proxy.url)
            assert isinstance(await post(client, f"{receiver.url}/"), HttpAnswer)
            assert (len(receiver.requests), proxy.connections) == (1, 0)

    async def test_plain_http_for_one_is_not_plain_http_for_all(self, receiver: WebhookReceiver) -> None:
        async def resolver(name: str) -> list[str]:
            return [PUBLIC]

        guarded = HttpClient(Egress(resolver=resolver))
        assert code(await post(guarded, "http://hooks.example.com/")) == ("BLOCKED_URL", False)
        with pytest.raises(aiohttp.ClientError):
            await guarded.session.get("http://hooks.example.com/")
        await guarded.close()


class TestWhatComesBack:
    async def test_an_answer(self, receiver: WebhookReceiver, client: HttpClient) -> None:
        receiver.scripts["/a"] = [Reply(418, b"short", (("Retry-After", "7"), ("Set-Cookie", "a=b")))]
        result = await post(client, f"{receiver.url}/a")
        assert isinstance(result, HttpAnswer)
        assert (result.status, result.body, result.headers["retry-after"]) == (418, "short", "7")
        (request,) = receiver.requests
        assert (request.method, request.body, request.headers["x-one"]) == ("POST", b"{}", "1")
        assert request.headers["accept-encoding"] == "identity"
        await post(client, f"{receiver.url}/a")
        assert "cookie" not in receiver.requests[1].headers
        assert receiver.connections == 1

    async def test_what_would_begin_another_line_is_not_sent(
        self, receiver: WebhookReceiver, client: HttpClient
    ) -> None:
        for value in ("a\r\nx-forged: 1", "a\nx-forged: 1", "a\rb", "a\0b"):
            with pytest.raises(ValueError, match="line break"):
                await client.request("POST", f"{receiver.url}/", headers={"x-one": value}, body=b"{}")
        assert receiver.connections == 0

    async def test_what_a_caller_says_replaces_what_is_said_by_default(
        self, receiver: WebhookReceiver, client: HttpClient
    ) -> None:
        await client.request("POST", f"{receiver.url}/", headers={"USER-AGENT": "Own/1", "accept": "text/plain"})
        (request,) = receiver.requests
        assert (request.headers["user-agent"], request.headers["accept"]) == ("Own/1", "text/plain")
        assert (request.body, request.headers["content-length"]) == (b"", "0")

    async def test_a_caller_that_is_cancelled_leaves_no_connection_behind(
        self, receiver: WebhookReceiver, client: HttpClient
    ) -> None:
        arrived: asyncio.Queue[Received] = asyncio.Queue()
        receiver.on_request = arrived.put_nowait
        receiver.scripts["/"] = [Stall()]
        sending = asyncio.create_task(post(client, f"{receiver.url}/"))
        await asyncio.wait_for(arrived.get(), 5)
        sending.cancel()
        await asyncio.wait([sending])
        assert isinstance(await post(client, f"{receiver.url}/"), HttpAnswer)
        assert receiver.connections == 2

    async def test_no_more_than_4_kib_of_a_body(self, receiver: WebhookReceiver, client: HttpClient) -> None:
        bodies = [b"x" * 4096, b"x" * 4097, b"\xff\0" * 4096, "ü".encode() * 4096, gzip.compress(b"0" * 10_000_000)]
        receiver.scripts["/"] = [Reply(200, body, (("content-encoding", "identity"),)) for body in bodies]
        for _ in bodies:
            result = await post(client, f"{receiver.url}/")
            assert isinstance(result, HttpAnswer)
            assert len(result.body.encode()) <= 4096
            assert "\0" not in result.body

    async def test_a_bomb_is_not_unpacked(self, receiver: WebhookReceiver, client: HttpClient) -> None:
        packed = gzip.compress(b"0" * 1_000_000)
        receiver.scripts["/"] = [Reply(200, packed, (("content-encoding", "gzip"),))]
        result = await post(client, f"{receiver.url}/")
        assert isinstance(result, HttpAnswer)
        assert "0000" not in result.body

    async def test_a_body_without_end_is_read_to_the_limit_and_its_connection_closed(
        self, receiver: WebhookReceiver, client: HttpClient
    ) -> None:
        receiver.scripts["/"] = [StreamForever()]
        result = await post(client, f"{receiver.url}/")
        assert isinstance(result, HttpAnswer)
        assert (result.status, len(result.body)) == (200, 4096)
        await post(client, f"{receiver.url}/")
        assert receiver.connections == 2

    async def test_a_body_that_stops_or_stalls_takes_nothing_from_the_status(
        self, receiver: WebhookReceiver, client: HttpClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http, "BODY_SECONDS", 0.05)
        receiver.scripts["/"] = [HangUp("body"), Stall("body")]
        bodies = []
        for _ in range(2):
            result = await post(client, f"{receiver.url}/")
            assert isinstance(result, HttpAnswer)
            assert result.status == 200
            bodies.append(result.body)
        assert bodies == ["half a bo", "the beginn"]

    @pytest.mark.parametrize("action", [HangUp("read"), HangUp("reading"), HangUp("head")])
    async def test_a_connection_that_ends_may_have_carried_the_request(
        self, receiver: WebhookReceiver, client: HttpClient, action: HangUp
    ) -> None:
        receiver.scripts["/"] = [action]
        assert code(await post(client, f"{receiver.url}/")) == ("DISCONNECTED", True)

    async def test_what_is_no_http(self, receiver: WebhookReceiver, client: HttpClient) -> None:
        receiver.scripts["/"] = [NotHttp()]
        assert code(await post(client, f"{receiver.url}/")) == ("INVALID_RESPONSE", True)

    @pytest.mark.parametrize("action", [Stall("answer"), Stall("head")])
    async def test_the_whole_exchange_has_an_end(
        self, receiver: WebhookReceiver, action: Stall, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http, "SEND_TIMEOUT", timedelta(seconds=0.1))
        client = HttpClient(Egress(allowed="127.0.0.0/8"))
        receiver.scripts["/"] = [action]
        assert code(await post(client, f"{receiver.url}/")) == ("TIMEOUT", True)
        await client.close()

    async def test_hosts_that_hang_take_no_place_from_others(
        self, receiver: WebhookReceiver, client: HttpClient
    ) -> None:
        async with WebhookReceiver.running() as hanging:
            arrived: asyncio.Queue[Received] = asyncio.Queue()
            hanging.on_request = arrived.put_nowait
            hanging.scripts["/"] = [Stall()] * 64
            waiting = [asyncio.create_task(post(client, f"{hanging.url}/")) for _ in range(64)]
            await asyncio.wait_for(asyncio.gather(*(arrived.get() for _ in waiting)), 5)
            async with asyncio.timeout(1):
                assert isinstance(await post(client, f"{receiver.url}/"), HttpAnswer)
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)


class TestBeforeAnythingWasSent:
    async def test_nobody_listens(self, client: HttpClient) -> None:
        async with WebhookReceiver.running() as gone:
            url = gone.url
        assert code(await post(client, f"{url}/")) == ("CONNECTION_REFUSED", False)

    async def test_a_name_that_is_unknown(self) -> None:
        async def resolver(name: str) -> list[str]:
            raise OSError("NXDOMAIN")

        client = HttpClient(Egress(resolver=resolver))
        assert code(await post(client, "https://unknown.example.com/")) == ("DNS", False)
        await client.close()

    async def test_name_servers_that_are_silent(self) -> None:
        async def resolver(name: str) -> list[str]:
            raise TimeoutError

        client = HttpClient(Egress(resolver=resolver))
        assert code(await post(client, "https://silent.example.com/")) == ("CONNECT_TIMEOUT", False)
        await client.close()

    async def test_a_host_that_takes_connections_and_says_nothing_of_tls(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(http, "CONNECT_SECONDS", 0.1)
        client = HttpClient(Egress(allowed="127.0.0.0/8"))
        async with listening(lambda writer: None) as port:
            assert code(await post(client, f"https://127.0.0.1:{port}/")) == ("CONNECT_TIMEOUT", False)
        await client.close()

    async def test_a_host_without_tls(self, client: HttpClient) -> None:
        async with listening(lambda writer: writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
            assert code(await post(client, f"https://127.0.0.1:{port}/")) == ("TLS", False)

    async def test_a_certificate_of_nobodys(self, client: HttpClient) -> None:
        async with WebhookReceiver.running(tls=Authority().server_context()) as receiver:
            assert code(await post(client, f"{receiver.url}/")) == ("TLS", False)
            assert receiver.requests == []

    async def test_a_certificate_of_another_host(self) -> None:
        authority = Authority()
        trusting = ssl.create_default_context(cadata=authority.ca_pem)

        async def resolver(name: str) -> list[str]:
            return ["127.0.0.1"]

        async with WebhookReceiver.running(tls=authority.server_context()) as receiver:
            guard = Egress(allowed=f"127.0.0.1,hooks.example.com:{receiver.port}", resolver=resolver)
            client = HttpClient(guard, ssl_context=trusting)
            other = f"https://hooks.example.com:{receiver.port}/"
            assert code(await post(client, other)) == ("TLS", False)
            assert isinstance(await post(client, f"{receiver.url}/"), HttpAnswer)
            await client.close()


@asynccontextmanager
async def listening(greet: Callable[[asyncio.StreamWriter], None]) -> AsyncIterator[int]:
    """A port where every connection is greeted and then kept."""
    kept: list[asyncio.StreamWriter] = []

    def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kept.append(writer)
        greet(writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in kept:
            writer.transport.abort()


NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("7", 7),
        (" 120 ", 120),
        # capped at a day
        ("86401", 86400),
        ("999999999", 86400),
        ("Sat, 21 Nov 2026 12:00:30 GMT", 30),
        ("Sat, 21 Nov 2026 12:01:00 -0000", 60),
        # in the past
        ("Sat, 21 Nov 2026 11:00:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86400),
        # says nothing that is known
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("²", None),
        ("9999999999", None),
        ("Sat, 99 Nov 2026 12:00:30 GMT", None),
        ("Sat, 21 Nov 2026 12:00:30 +99999999999999999999", None),
    ],
)
def test_retry_after(text: str, seconds: float | None) -> None:
    found = retry_after_of({"Retry-After": text}, NOW)
    assert (None if found is None else found.total_seconds()) == seconds


def test_no_retry_after() -> None:
    assert retry_after_of({}, NOW) is None
