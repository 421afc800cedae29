"""A key that is revoked: its streams end within a second on every gateway, its requests are refused, others go on."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest

from launch.ports import free_port
from tests.acceptance.gateway_client import (
    FOLLOW,
    EventSource,
    Gateway,
    Socket,
    code_of,
    open_event_source,
    open_socket,
)
from tests.acceptance.running import Running

SECONDS = 1.0
"""From the answer of `revokeApiKey` to the end of the last stream."""
SECONDS_WITHOUT_REDIS = 2.0
STREAMS = 4
"""Of each kind: enough to be on both of two gateways, which share a port."""

REVOKE = "mutation ($id: ID!) { revokeApiKey(id: $id) { apiKey { revokedAt } userErrors { code } } }"


@pytest.fixture(scope="module")
def two_gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Two processes behind one port, and a Valkey that may be stopped."""
    running = Running(tmp_path_factory.mktemp("two") / "data", free_port(), SENDORA_GATEWAYS="2")
    running.until_welcomed(60)
    yield Gateway.of(running)
    running.process.terminate()
    assert running.process.wait(20) == 0


Streams = tuple[list[Socket], list[EventSource]]


@asynccontextmanager
async def open_streams(gateway: Gateway, key: str) -> AsyncIterator[Streams]:
    """Sockets and event streams that are live: each has said where it is."""
    async with AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(open_socket(gateway, key)) for _ in range(STREAMS)]
        sources = [await stack.enter_async_context(open_event_source(gateway, FOLLOW, key=key)) for _ in range(STREAMS)]
        for socket in sockets:
            await socket.subscribe("1", FOLLOW)
            await socket.position("1")
        for source in sources:
            assert "id" in (await source.frame() or {})
        yield sockets, sources


async def revoke(gateway: Gateway, identifier: str, key: str = "") -> float:
    """When it was answered."""
    answer = (await gateway.data(REVOKE, key=key, id=identifier))["revokeApiKey"]
    assert answer["userErrors"] == []
    assert answer["apiKey"]["revokedAt"].endswith("Z")
    return time.monotonic()


async def all_end(streams: Streams) -> list[tuple[int | None, str | None]]:
    """Close code and reason of the sockets. Event streams must end as a response does, and say why."""

    async def last_error(source: EventSource) -> Any:
        payload = await source.item()
        await source.ended()
        return payload["errors"][0]["extensions"]["code"]

    sockets, sources = streams
    codes = await asyncio.gather(*map(last_error, sources))
    assert codes == ["UNAUTHENTICATED"] * STREAMS
    return await asyncio.gather(*(socket.closed() for socket in sockets))


async def go_on(gateway: Gateway, streams: Streams) -> None:
    """Every stream is still live: it gets an event that is stored now."""
    seq = (await gateway.track(eventType="others.unharmed"))["event"]["seq"]
    sockets, sources = streams
    for socket in sockets:
        assert (await socket.receive())["payload"]["data"]["eventStream"]["node"]["seq"] == seq
    for source in sources:
        assert (await source.item())["data"]["eventStream"]["node"]["seq"] == seq


async def until_refused(gateway: Gateway, key: str) -> None:
    """Also the gateway that revoked a key learns of it from the log: some milliseconds after the answer."""
    deadline = time.monotonic() + SECONDS
    while "errors" not in (await gateway.ask("{ viewer { role } }", key=key)).json:
        assert time.monotonic() < deadline


@pytest.mark.parametrize("which", ["gateway", "two_gateways"])
async def test_the_streams_of_a_revoked_key_end_within_a_second_and_no_others(
    which: str, request: pytest.FixtureRequest
) -> None:
    gateway: Gateway = request.getfixturevalue(which)
    identifier, doomed = await gateway.make_key()
    _, spared = await gateway.make_key()

    async with open_streams(gateway, doomed) as ending, open_streams(gateway, spared) as others:
        revoked_at = await revoke(gateway, identifier)
        closes = await all_end(ending)
        took = time.monotonic() - revoked_at
        refused = [code_of(await gateway.ask("{ viewer { role } }", key=doomed)) for _ in range(8)]
        await go_on(gateway, others)

    assert took < SECONDS
    assert closes == [(4403, "This API key has been revoked.")] * STREAMS
    assert refused == ["UNAUTHENTICATED"] * 8


async def test_a_revoked_key_opens_nothing_more(gateway: Gateway) -> None:
    identifier, key = await gateway.make_key(role="ADMIN")
    await gateway.data("{ viewer { role } }", key=key)
    await revoke(gateway, identifier)
    await until_refused(gateway, key)

    with pytest.raises(Exception, match="4403"):
        async with open_socket(gateway, key):
            pass
    async with open_event_source(gateway, FOLLOW, key=key) as source:
        assert source.response.status in (200, 401)
        assert "UNAUTHENTICATED" in (await source.response.text())
    assert code_of(await gateway.ask('mutation { createProject(name: "x") { token } }', key=key)) == "UNAUTHENTICATED"


async def test_a_key_may_revoke_itself_and_revoking_again_changes_nothing(gateway: Gateway) -> None:
    identifier, key = await gateway.make_key(role="ADMIN")

    await revoke(gateway, identifier, key=key)
    await until_refused(gateway, key)
    first = await gateway.data(REVOKE, id=identifier)
    second = await gateway.data(REVOKE, id=identifier)

    assert first == second
    assert code_of(await gateway.ask("{ viewer { role } }", key=key)) == "UNAUTHENTICATED"


async def test_a_key_of_another_project_is_not_revoked(gateway: Gateway) -> None:
    stranger = await gateway.make_project()
    identifier, key = await gateway.make_key()

    answer = (await gateway.data(REVOKE, key=stranger, id=identifier))["revokeApiKey"]

    assert answer == {"apiKey": None, "userErrors": [{"code": "NOT_FOUND"}]}
    assert await gateway.data("{ viewer { role } }", key=key) == {"viewer": {"role": "VIEWER"}}


async def test_without_redis_a_revocation_takes_two_seconds_at_most(two_gateways: Gateway) -> None:
    gateway = two_gateways
    identifier, doomed = await gateway.make_key()
    [valkey] = gateway.running.children()["redis"]

    async with open_streams(gateway, doomed) as ending, open_streams(gateway, gateway.secret_key) as others:
        os.kill(valkey, signal.SIGSTOP)
        try:
            await asyncio.sleep(1.5)
            revoked_at = await revoke(gateway, identifier)
            closes = await all_end(ending)
            took = time.monotonic() - revoked_at
            await go_on(gateway, others)
        finally:
            os.kill(valkey, signal.SIGCONT)

    assert took < SECONDS_WITHOUT_REDIS
    assert closes == [(4403, "This API key has been revoked.")] * STREAMS


async def test_an_event_stream_that_is_ended_is_ended_whole(gateway: Gateway) -> None:
    """Not cut off in a chunk: a client must be able to tell this end from a broken connection."""
    identifier, key = await gateway.make_key()

    async with open_event_source(gateway, FOLLOW, key=key) as source:
        assert "id" in (await source.frame() or {})
        await revoke(gateway, identifier)
        try:
            text = await asyncio.wait_for(source.response.content.read(), 5)
        except aiohttp.ClientPayloadError as error:
            raise AssertionError("the response was cut off") from error

    assert text.endswith(b"event: complete\ndata: \n\n")
