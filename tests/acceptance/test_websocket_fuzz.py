"""Whatever is sent over a WebSocket, it ends with a documented code or goes on, and everybody else is served."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from tests.acceptance.socket_client import INIT, initialised, next_of, open_socket, receive, send, subscribe
from tests.acceptance.streaming import MemoryApplication, Server, graphql_endpoint, started

DOCUMENTED = frozenset({1007, 1009, 4400, 4401, 4403, 4409, 4429})
PATIENCE = 5.0
"""Seconds for a socket to answer a ping or to have closed. It takes a millisecond."""

QUERIES = st.sampled_from(
    ["{hello}", "subscription {never}", "subscription {log {value}}", "subscription {count(to: 3)}", "{", "", "{nope}"]
)
MEMBERS = ("type", "id", "payload", "query", "variables", "operationName", "extensions")
TYPES = ("ping", "pong", "subscribe", "complete", "connection_init", "connection_ack", "next", "error")
WORDS = st.sampled_from([*MEMBERS, *TYPES, "1", "2", "", "\0", "\ud800", "😀" * 50])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | WORDS | QUERIES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=5), inner, max_size=5),
    max_leaves=12,
)
PLAUSIBLE = st.fixed_dictionaries(
    {"type": st.sampled_from(["ping", "pong", "subscribe", "complete", "connection_init"]) | VALUES},
    optional={
        "id": st.sampled_from(["1", "2", "é"]) | VALUES,
        "payload": st.fixed_dictionaries(
            {}, optional={"query": QUERIES | VALUES, "variables": VALUES, "operationName": VALUES, "extensions": VALUES}
        )
        | VALUES,
    },
)
WELL_FORMED = st.sampled_from(
    [
        INIT,
        {"type": "ping"},
        {"type": "complete", "id": "1"},
        *(subscribe(identifier, "subscription { log { value } }") for identifier in "123"),
        subscribe("4", "{ wait(ms: 5) }"),
    ]
)
MESSAGES = st.lists(
    st.one_of(
        WELL_FORMED,
        PLAUSIBLE.map(json.dumps),
        VALUES.map(json.dumps),
        st.text(max_size=60),
        st.binary(max_size=60),
        PLAUSIBLE.map(json.dumps).flatmap(lambda text: st.integers(0, len(text)).map(lambda end: text[:end])),
    ),
    max_size=8,
)


async def outcome(socket: ClientConnection) -> int | None:
    """The close code, or None if a ping that is sent now is answered."""
    probe = {"probe": 1}
    try:
        await send(socket, {"type": "ping", "payload": probe})
        async with asyncio.timeout(PATIENCE):
            while json.loads(await socket.recv()) != {"type": "pong", "payload": probe}:
                pass
    except ConnectionClosed:
        return socket.close_code
    return None


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[asyncio.Runner, Server]]:
    """One server for all examples, and the loop that it runs on."""
    application = MemoryApplication()
    serving = started(graphql_endpoint(application), application)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner, runner.run(serving.__aenter__())
        runner.run(serving.__aexit__(None, None, None))


async def play(server: Server, messages: list[Any], *, init_first: bool) -> None:
    async with open_socket(server) as bystander:
        await initialised(bystander)
        async with open_socket(server) as socket:
            try:
                await send(socket, *([INIT] if init_first else []), *(_sendable(message) for message in messages))
            except ConnectionClosed:
                code = socket.close_code
            else:
                code = await outcome(socket)
            event(f"ended with {code}")
            assert code in DOCUMENTED | {None}
        await send(bystander, subscribe("b", "{hello}"))
        assert await receive(bystander) == next_of("b", {"hello": "hello world"})


def _sendable(message: Any) -> Any:
    """A text with a lone surrogate is no text that a frame can carry: send its bytes instead."""
    if isinstance(message, str):
        return message.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return message


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(messages=MESSAGES, init_first=st.booleans())
def test_any_messages_end_with_a_documented_code_or_not_at_all(
    running: tuple[asyncio.Runner, Server], messages: list[Any], init_first: bool
) -> None:
    runner, server = running
    runner.run(play(server, messages, init_first=init_first))
