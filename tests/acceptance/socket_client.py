"""A raw client of `graphql-transport-ws`: sends what it is told, well-formed or not, and shows what comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.acceptance.streaming import KEY, Server

SUBPROTOCOLS: Any = ["graphql-transport-ws"]
INIT = {"type": "connection_init", "payload": {"x-api-key": KEY}}


def open_socket(server: Server, **options: Any) -> connect:
    return connect(
        server.websocket_url, **{"subprotocols": SUBPROTOCOLS, "ping_interval": None, "max_size": None, **options}
    )


async def send(socket: ClientConnection, *messages: Any) -> None:
    for message in messages:
        await socket.send(message if isinstance(message, str | bytes) else json.dumps(message))


async def receive(socket: ClientConnection) -> dict[str, Any]:
    """The next message that is not a position."""
    while True:
        message: dict[str, Any] = json.loads(await asyncio.wait_for(socket.recv(), 5))
        if message["type"] != "ping":
            return message


async def close_of(socket: ClientConnection) -> tuple[int, str]:
    """Everything up to the close frame is read; its code and reason."""
    async with asyncio.timeout(8):
        async for _ in messages(socket):
            pass
    assert socket.close_code is not None
    return socket.close_code, socket.close_reason or ""


async def messages(socket: ClientConnection) -> AsyncIterator[str | bytes]:
    """Everything until the socket has closed, whatever the code."""
    with suppress(ConnectionClosed):
        while True:
            yield await socket.recv()


async def initialised(socket: ClientConnection, init: Any = INIT) -> ClientConnection:
    await send(socket, init)
    assert await receive(socket) == {"type": "connection_ack"}
    return socket


def subscribe(identifier: str, query: str, **payload: Any) -> dict[str, Any]:
    return {"id": identifier, "type": "subscribe", "payload": {"query": query, **payload}}


def next_of(identifier: str, data: Any) -> dict[str, Any]:
    return {"id": identifier, "type": "next", "payload": {"data": data}}


def complete_of(identifier: str) -> dict[str, Any]:
    return {"id": identifier, "type": "complete"}
