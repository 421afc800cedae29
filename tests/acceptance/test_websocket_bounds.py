"""What one WebSocket may cost: clients that stall, flood, never read, never answer; and how rights and servers end."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket as sockets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.acceptance.socket_client import (
    INIT,
    close_of,
    complete_of,
    initialised,
    messages,
    next_of,
    open_socket,
    receive,
    send,
    subscribe,
)
from tests.acceptance.streaming import KEY, OTHER_KEY, MemoryApplication, Server, eventually, started
from transport.execution.service import GraphQLService
from transport.websocket.endpoint import WebSocketEndpoint, WebSocketPolicy
from transport.websocket.server import HIGH_WATER_BYTES, MAX_MESSAGE_BYTES

LIVE = "subscription { log { value } }"
QUICK = timedelta(milliseconds=150)


def endpoint(application: MemoryApplication, **policy: Any) -> WebSocketEndpoint:
    return WebSocketEndpoint(GraphQLService(application), application, WebSocketPolicy(**policy))


@pytest.fixture
def application() -> MemoryApplication:
    return MemoryApplication()


@pytest.fixture
async def server(application: MemoryApplication) -> AsyncIterator[Server]:
    async with started(endpoint(application), application) as server:
        yield server


@pytest.fixture
async def pinging(application: MemoryApplication) -> AsyncIterator[Server]:
    """A server that pings every 150 ms."""
    async with started(endpoint(application, ping_interval=QUICK), application) as server:
        yield server


class RawSocket:
    """A TCP connection that has done the handshake by hand, and reads only when it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, server: Server, *, receive_buffer: int | None = None) -> RawSocket:
        sock = sockets.socket()
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, receive_buffer)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", server.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
        key = base64.b64encode(os.urandom(16)).decode()
        writer.write(
            f"GET /graphql HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n".encode()
        )
        await reader.readuntil(b"\r\n\r\n")
        return cls(reader, writer)

    def send(self, message: Any) -> None:
        text = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.frame(0x81, text)

    def frame(self, first: int, payload: bytes) -> None:
        size = len(payload)
        header = bytes((first,))
        if size < 126:
            header += bytes((0x80 | size,))
        elif size < 65536:
            header += bytes((0x80 | 126,)) + size.to_bytes(2, "big")
        else:
            header += bytes((0x80 | 127,)) + size.to_bytes(8, "big")
        self.writer.write(header + bytes(4) + payload)

    async def initialise(self) -> None:
        self.send(INIT)
        await self.reader.readuntil(b'"connection_ack"}')


@asynccontextmanager
async def raw_socket(server: Server, *, receive_buffer: int | None = None) -> AsyncIterator[RawSocket]:
    """One that is gone for good after the block."""
    raw = await RawSocket.open(server, receive_buffer=receive_buffer)
    try:
        yield raw
    finally:
        raw.writer.transport.abort()
        await asyncio.sleep(0)


def connections(server: Server) -> int:
    return len(server.uvicorn.server_state.connections)


# Size and number


async def test_a_message_of_two_mebibytes_is_taken_and_a_larger_one_closes_with_1009(server: Server) -> None:
    query = "query ($n: String) { hello(name: $n) }"
    empty = len(json.dumps(subscribe("1", query, variables={"n": ""})))
    async with open_socket(server) as socket:
        await initialised(socket)
        await send(socket, subscribe("1", query, variables={"n": "x" * (MAX_MESSAGE_BYTES - empty)}))
        assert len((await receive(socket))["payload"]["data"]["hello"]) == MAX_MESSAGE_BYTES - empty + 6
    async with open_socket(server) as socket:
        await initialised(socket)
        await send(socket, subscribe("1", query, variables={"n": "x" * 3 * MAX_MESSAGE_BYTES}))
        assert (await close_of(socket))[0] == 1009


async def test_fragments_do_not_get_around_the_bound(server: Server) -> None:
    async with open_socket(server) as socket:
        await initialised(socket)
        with suppress(ConnectionClosed):  # the client may notice while it is still sending
            await socket.send("x" * 65536 for _ in range(64))
        assert (await close_of(socket))[0] == 1009


async def test_a_message_in_fragments_is_put_together(server: Server) -> None:
    async with raw_socket(server) as raw:
        text = b'{"type":"ping","payload":{"a":"\xc3\xa9"}}'
        raw.frame(0x01, text[:-5])  # in the middle of a character
        for position in range(len(text) - 5, len(text) - 1):
            raw.frame(0x00, text[position : position + 1])
            raw.frame(0x89, b"between")
        raw.frame(0x80, text[-1:])
        received = await asyncio.wait_for(raw.reader.readuntil(b'{"type":"pong","payload":{"a":"\xc3\xa9"}}'), 5)
        assert received.count(b"between") == 4


@pytest.mark.parametrize(
    ("first", "payload", "code"),
    [
        (0x81, b'{"type":"p\xff"}', 1007),
        (0x81, b'\xed\xa0\x80"', 1007),
        (0x83, b"", 1002),  # an opcode that does not exist
        (0xC1, b"{}", 1002),  # a bit that no extension was agreed for
        (0x80, b"", 1002),  # a continuation of nothing
        (0x09, b"", 1002),  # a fragmented ping
        (0x89, b"x" * 126, 1002),  # a long ping
        (0x88, b"\x01", 1002),  # a close frame with half a code
        (0x82, b"{}", 4400),
    ],
)
async def test_broken_framing_closes_with_the_code_of_its_kind(
    server: Server, first: int, payload: bytes, code: int
) -> None:
    async with raw_socket(server) as raw:
        raw.frame(first, payload)
        received = await asyncio.wait_for(raw.reader.read(200), 5)
        assert received[0] == 0x88
        assert int.from_bytes(received[2:4], "big") == code
    await eventually(lambda: connections(server) == 0)


async def test_the_hundred_and_first_operation_is_refused_and_the_others_go_on(server: Server) -> None:
    async with open_socket(server) as socket:
        await initialised(socket)
        await send(socket, *(subscribe(str(number), LIVE) for number in range(101)))
        refusal = await receive(socket)
        assert (refusal["id"], refusal["type"]) == ("100", "error")
        extensions = refusal["payload"][0]["extensions"]
        assert (extensions["code"], extensions["retryAfterMs"]) == ("RATE_LIMITED", 1000)
        await eventually(lambda: len(server.application.log.members) == 100)
        await send(socket, complete_of("0"), subscribe("100", LIVE))
        while '{"100":' not in (await socket.recv()):
            pass  # until the last stream has been told its position
        server.application.log.append("x")
        assert {(await receive(socket))["id"] for _ in range(100)} == {str(number) for number in range(1, 101)}
    assert server.application.log.rendered == 1


async def test_only_so_many_operations_execute_at_once_on_one_socket(application: MemoryApplication) -> None:
    async with started(endpoint(application, max_executing=3), application) as server, open_socket(server) as socket:
        await initialised(socket)
        await send(socket, *(subscribe(str(number), "{ wait(ms: 40) }") for number in range(9)))
        seen = []
        for _ in range(18):
            await receive(socket)
            seen.append(application.running)
        assert max(seen) <= 3
        assert application.running == 0


# Clients that stall


async def test_half_a_frame_costs_nobody_else_anything_and_its_sender_is_closed(pinging: Server) -> None:
    async with AsyncExitStack() as stack:
        raws = [await stack.enter_async_context(raw_socket(pinging)) for _ in range(20)]
        for raw in raws:
            await raw.initialise()
            raw.writer.write(b"\x81\xfe\xff\xff" + bytes(4) + b'{"type":"pi')
        socket = await stack.enter_async_context(open_socket(pinging))
        await initialised(socket)
        for _ in range(20):
            started_at = asyncio.get_running_loop().time()
            await send(socket, {"type": "ping"})
            assert await receive(socket) == {"type": "pong"}
            assert asyncio.get_running_loop().time() - started_at < 0.5
        for raw in raws:
            received = await asyncio.wait_for(raw.reader.read(), 8)
            assert (4499).to_bytes(2, "big") + b"No sign of life since the last ping" in received
    await eventually(lambda: connections(pinging) == 0, within=8)


async def test_a_client_that_never_answers_pings_is_closed_and_one_that_does_is_not(pinging: Server) -> None:
    async with open_socket(pinging) as silent, open_socket(pinging) as lively:
        await initialised(silent)
        await initialised(lively)

        async def answer() -> None:
            async for text in lively:
                assert json.loads(text) == {"type": "ping"}
                await send(lively, {"type": "pong"})

        answering = asyncio.create_task(answer())
        assert await close_of(silent) == (4499, "No sign of life since the last ping")
        await asyncio.sleep(4 * QUICK.total_seconds())
        assert not answering.done()
        answering.cancel()


async def test_a_client_that_never_reads_keeps_a_bounded_buffer_and_is_dropped(pinging: Server) -> None:
    application = pinging.application
    async with raw_socket(pinging, receive_buffer=4096) as raw:
        await raw.initialise()
        raw.send(subscribe("1", LIVE))
        await eventually(lambda: len(application.log.members) == 1)
        (protocol,) = pinging.uvicorn.server_state.connections
        value = "x" * 10_000
        for _ in range(2000):  # 20 MB
            application.log.append(value)
            await asyncio.sleep(0)
        assert len(application.log.members) == 0, "it has left the live feed"
        assert protocol.buffered < HIGH_WATER_BYTES + 12_000  # type: ignore[union-attr]
        await eventually(lambda: connections(pinging) == 0, within=10)
        assert application.log.catching_up == 0


async def test_a_slow_reader_gets_everything_once_and_in_order_while_others_do_not_wait(server: Server) -> None:
    application = server.application
    async with raw_socket(server, receive_buffer=4096) as raw:
        await raw.initialise()
        raw.send(subscribe("1", "subscription { log { value } }"))
        async with open_socket(server) as quick:
            await initialised(quick)
            await send(quick, subscribe("q", LIVE))
            await eventually(lambda: len(application.log.members) == 2)
            for number in range(400):
                application.log.append(f"{number}:".ljust(20_000, "."))
                assert (await receive(quick))["payload"]["data"]["log"]["value"].startswith(f"{number}:")
            application.log.append("end")
        received = await asyncio.wait_for(_read_until(raw.reader, b'"end"}}}}'), 20)
        numbers = [int(piece.split(b":")[0]) for piece in received.split(b'"value":"')[1:-1]]
        assert numbers == list(range(400))


async def test_a_flood_of_pings_whose_answers_are_not_read_stops_being_read(server: Server) -> None:
    async with raw_socket(server, receive_buffer=4096) as raw:
        ping = b'{"type":"ping","payload":{"a":"%b"}}' % (b"x" * 60_000)
        (protocol,) = server.uvicorn.server_state.connections
        for _ in range(400):  # 24 MB
            raw.send(ping)
        await asyncio.sleep(1)
        assert protocol.buffered < 1024 * 1024 + 100_000  # type: ignore[union-attr]
        async with open_socket(server) as other:
            await initialised(other)
            await send(other, subscribe("1", "{hello}"))
            assert await receive(other) == next_of("1", {"hello": "hello world"})
    await eventually(lambda: connections(server) == 0)


async def test_a_flood_of_websocket_pings_whose_answers_are_not_read_keeps_a_bounded_buffer(server: Server) -> None:
    async with raw_socket(server, receive_buffer=4096) as raw:
        (protocol,) = server.uvicorn.server_state.connections
        frame = b"\x89\xfd" + bytes(4) + b"x" * 125
        for _ in range(200):
            raw.writer.write(frame * 500)  # 12.5 MB
            await asyncio.sleep(0.002)
        assert protocol.buffered <= HIGH_WATER_BYTES + 65536  # type: ignore[union-attr]


async def test_an_ordinary_source_waits_for_a_slow_reader(server: Server) -> None:
    async with raw_socket(server, receive_buffer=4096) as raw:
        await raw.initialise()
        raw.send(subscribe("1", "subscription { count(to: 1000, width: 20000) }"))
        await asyncio.sleep(0.5)
        (protocol,) = server.uvicorn.server_state.connections
        assert protocol.buffered < HIGH_WATER_BYTES + 25_000  # type: ignore[union-attr]
        assert server.application.running == 1, "the source has not run ahead of its reader"
        received = await asyncio.wait_for(_read_until(raw.reader, b'"type":"complete"}'), 20)
        numbers = [int(piece.split(b".")[0]) for piece in received.split(b'"count":"')[1:]]
        assert numbers == list(range(1, 1001))


async def _read_until(reader: asyncio.StreamReader, end: bytes) -> bytes:
    received = bytearray()
    while not received.endswith(end):
        piece = await reader.read(65536)
        assert piece, "the server closed the connection"
        received += piece
    return bytes(received)


# Positions


async def test_a_live_stream_is_told_its_starting_position_at_once_and_again_with_every_ping(pinging: Server) -> None:
    application = pinging.application
    for value in "abc":
        application.log.append(value)
    async with open_socket(pinging) as socket:
        await initialised(socket)
        await send(socket, subscribe("1", 'subscription { log(prefix: "none") { value } }'), subscribe("2", LIVE))
        first = [json.loads(await socket.recv()), json.loads(await socket.recv())]
        assert first == [{"type": "ping", "payload": {"1": "c3"}}, {"type": "ping", "payload": {"2": "c3"}}]
        application.log.append("d")
        assert await receive(socket) == next_of("2", {"log": {"value": "d"}})
        assert json.loads(await socket.recv()) == {"type": "ping", "payload": {"1": "c4", "2": "c4"}}
        await send(socket, {"type": "pong"}, complete_of("1"), complete_of("2"))
        assert json.loads(await socket.recv()) == {"type": "ping"}


async def test_a_stream_resumes_from_the_position_that_it_was_told(server: Server) -> None:
    application = server.application
    async with open_socket(server) as socket:
        await initialised(socket)
        await send(socket, subscribe("1", LIVE))
        position = json.loads(await socket.recv())["payload"]["1"]
    for value in "abc":
        application.log.append(value)
    async with open_socket(server) as socket:
        await initialised(socket)
        await send(
            socket, subscribe("1", "subscription ($a: String) { log(after: $a) { value } }", variables={"a": position})
        )
        assert [(await receive(socket))["payload"]["data"]["log"]["value"] for _ in "abc"] == ["a", "b", "c"]


async def test_sockets_without_credentials_are_bounded_for_each_address(application: MemoryApplication) -> None:
    anonymous = {"type": "connection_init"}
    async with (
        started(endpoint(application, max_anonymous_per_client=2), application) as server,
        open_socket(server) as first,
        open_socket(server) as second,
        open_socket(server) as third,
    ):
        for socket in (first, second):
            await initialised(socket, anonymous)
        await send(third, anonymous)
        reason = "Too many connections without credentials from this address: at most 2"
        assert await close_of(third) == (1013, reason)
        async with open_socket(server) as with_key, open_socket(server, local_addr=("127.0.0.2", 0)) as elsewhere:
            await initialised(with_key)
            await initialised(elsewhere, anonymous)
        await first.close()
        async with open_socket(server) as fourth:
            await initialised(fourth, anonymous)
            await send(fourth, subscribe("1", "{hello}"))
            assert await receive(fourth) == next_of("1", {"hello": "hello world"})


# The end of rights, and of the server


async def test_a_revoked_key_ends_its_sockets_within_a_loop_turn_and_no_others(server: Server) -> None:
    application = server.application
    async with open_socket(server) as mine, open_socket(server) as other:
        await initialised(mine)
        await initialised(other, {"type": "connection_init", "payload": {"x-api-key": OTHER_KEY}})
        await send(mine, subscribe("1", LIVE), subscribe("2", "subscription { never }"))
        await send(other, subscribe("1", LIVE))
        await eventually(lambda: len(application.log.members) == 2 and application.running == 1)
        application.revoke(KEY)
        application.log.append("after the revocation")
        assert len(application.log.members) == 1
        received = [json.loads(text) async for text in messages(mine)]
        assert received == [{"type": "ping", "payload": {"1": "c0"}}], "nothing after the position"
        assert (mine.close_code, mine.close_reason) == (4403, "This API key has been revoked.")
        assert await receive(other) == next_of("1", {"log": {"value": "after the revocation"}})
    await eventually(lambda: application.running == 0)


async def test_a_server_that_stops_says_1001_and_waits_for_nobody(application: MemoryApplication) -> None:
    async with (
        started(endpoint(application), application) as server,
        raw_socket(server, receive_buffer=4096) as raw,
    ):
        await raw.initialise()
        raw.send(subscribe("1", LIVE))
        async with open_socket(server) as socket:
            await initialised(socket)
            await send(socket, subscribe("1", LIVE))
            await eventually(lambda: len(application.log.members) == 2)
            for _ in range(300):
                application.log.append("x" * 20_000)
            began = asyncio.get_running_loop().time()
            server.stop()
            assert await close_of(socket) == (1001, "Going away")
        await eventually(lambda: connections(server) == 0)
        assert asyncio.get_running_loop().time() - began < 4
        assert not application.log.members
