"""The single connection mode where the requests of one client reach different processes of one machine."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest

from tests.acceptance.streaming import KEY, OTHER_KEY, MemoryApplication, Server, eventually, graphql_endpoint, started
from transport.sse.forwarding import Homes

SECRET = b"0123456789abcdef0123456789abcdef"
TOKEN = "x-graphql-event-stream-token"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
async def two() -> AsyncIterator[tuple[Server, Server]]:
    """Two servers on one log, which know each other by their tokens only."""
    async with AsyncExitStack() as stack:
        application = MemoryApplication()
        servers = []
        for port in (free_port(), free_port()):
            app = graphql_endpoint(application, homes=Homes(f"127.0.0.1:{port}", SECRET))
            servers.append(await stack.enter_async_context(started(app, application, port=port)))
        yield servers[0], servers[1]


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(
        headers={"x-api-key": KEY}, timeout=aiohttp.ClientTimeout(10), connector=aiohttp.TCPConnector(force_close=True)
    ) as client:
        yield client


async def reserve(client: aiohttp.ClientSession, server: Server) -> str:
    async with client.put(server.url) as response:
        assert response.status == 201
        return await response.text()


async def submit(client: aiohttp.ClientSession, server: Server, token: str, query: str, **headers: str) -> int:
    body = {"query": query, "extensions": {"operationId": "1"}}
    async with client.post(server.url, json=body, headers={TOKEN: token, **headers}) as response:
        return response.status


async def next_event(response: aiohttp.ClientResponse) -> str:
    while (event := await response.content.readuntil(b"\n\n")) == b":\n\n":
        pass
    return event.decode()


async def test_every_request_of_a_reservation_may_reach_another_process(
    two: tuple[Server, Server], client: aiohttp.ClientSession
) -> None:
    holder, other = two
    token = await reserve(client, holder)
    async with client.get(other.url, headers={TOKEN: token, "accept": "text/event-stream"}) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        assert await submit(client, other, token, "subscription { log { value } }") == 202
        assert await next_event(response) == ': {"1":"c0"}\n\n'
        for number in range(1, 4):
            other.application.log.append("x" * 200_000)
            kind, event, data = (await next_event(response)).split("\n")[:3]
            assert (kind, event) == (f"id: c{number}", "event: next")
            assert len(json.loads(data[6:])["payload"]["data"]["log"]["value"]) == 200_000
        async with client.get(other.url, params={"token": token}, headers={"accept": "text/event-stream"}) as second:
            assert second.status == 409
        async with client.delete(other.url, params={"operationId": "1"}, headers={TOKEN: token}) as deleted:
            assert deleted.status == 200
        assert not holder.application.log.members
        assert await submit(client, other, token, "subscription { never }") == 202
        await eventually(lambda: holder.application.running == 1)
    await eventually(lambda: holder.application.running == 0)
    assert await submit(client, other, token, "{hello}") == 404


async def test_what_is_refused_there_is_refused_here(two: tuple[Server, Server], client: aiohttp.ClientSession) -> None:
    holder, other = two
    token = await reserve(client, holder)
    assert await submit(client, other, token, "{nothing}") == 400
    assert await submit(client, other, token, "{hello}", **{"x-api-key": OTHER_KEY}) == 404
    assert await submit(client, other, token, "#" * 1000, **{"content-type": "text/plain"}) == 415


async def test_a_process_that_is_gone_has_no_reservations(
    two: tuple[Server, Server], client: aiohttp.ClientSession
) -> None:
    holder, other = two
    token = await reserve(client, holder)
    async with client.get(other.url, headers={TOKEN: token, "accept": "text/event-stream"}) as response:
        await response.content.readuntil(b"\n\n")
        holder.stop()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.read()
    await eventually(lambda: not holder.uvicorn.servers[0].is_serving())
    assert await submit(client, other, token, "{hello}") == 404


@pytest.mark.parametrize(
    "forge",
    [
        lambda token: token[:-1] + ("A" if token[-1] != "A" else "B"),
        lambda token: "MTI3LjAuMC4xOjIy" + token[token.index(".") :],  # 127.0.0.1:22
        lambda token: token + "x",
        lambda token: token.rpartition(".")[0],
        lambda token: ".." + token,
        lambda token: "é",
    ],
)
async def test_a_forged_token_makes_nobody_connect_anywhere(
    two: tuple[Server, Server], client: aiohttp.ClientSession, forge: Any
) -> None:
    holder, other = two
    token = await reserve(client, holder)
    forged = forge(token)
    assert Homes("127.0.0.1:1", SECRET).elsewhere(forged) is None
    async with client.get(other.url, params={"token": forged}, headers={"accept": "text/event-stream"}) as response:
        assert response.status == 404
