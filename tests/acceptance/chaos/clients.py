"""One connection of one subscriber, over either protocol: what arrives, as items and positions, and how it ended.

Real clients' libraries (`websockets`, aiohttp), no code of the gateway. Reading is what makes the bytes flow: whoever
does not take the next arrival lets the gateway's buffers fill.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage
from websockets.typing import Subprotocol

STREAM = """subscription Watch($filter: EventFilter, $after: Cursor) {
  eventStream(filter: $filter, after: $after) { cursor node { seq key eventType userId } }
}"""
WHOLE_STREAM = STREAM.replace("userId", "userId properties context")
"""Large enough to be felt where somebody reads slowly."""
UPDATES = """subscription Watch($filter: DeliveryFilter, $after: Cursor) {
  deliveryUpdates(filter: $filter, after: $after) { cursor node { from to delivery { id } attempt { number } } }
}"""
RUN_UPDATES = """subscription Watch($filter: WorkflowRunFilter, $after: Cursor) {
  workflowRunUpdates(filter: $filter, after: $after) { cursor node { status run { id } step { label outcome } } }
}"""
PEOPLE_STREAM = STREAM.replace("userId", "userId profile { userId }")
"""What cannot be answered from the event alone: each item is waited for."""
OPERATION = "s"
OPEN_SECONDS = 8.0
SMALL_BUFFER_BYTES = 8 * 1024
"""What the kernel keeps for a client that is to be felt when it reads slowly."""
QUEUED_MESSAGES = 4


@dataclass(frozen=True, slots=True)
class Item:
    """An event, and the position after it."""

    seq: int
    key: str
    event_type: str
    user_id: str | None
    cursor: str
    error: str | None = None
    """The code of an error about a part of it."""


@dataclass(frozen=True, slots=True)
class Position:
    """A position without an event."""

    cursor: str


@dataclass(frozen=True, slots=True)
class Update:
    """A step of a delivery, and the position after it."""

    delivery_id: str
    before: str | None
    after: str
    attempt: int | None
    cursor: str


@dataclass(frozen=True, slots=True)
class RunUpdate:
    """A change of a run, with the step that began or ended, and the position after it."""

    run_id: str
    status: str
    label: str | None
    outcome: str | None
    cursor: str


Arrival = Item | Update | RunUpdate | Position


class Ended(Exception):
    """The connection is over, or was refused. `code` is a close code, an error's code, a status or an exception."""

    def __init__(self, code: str, reason: str = "") -> None:
        super().__init__(f"{code} {reason}".strip())
        self.code = code


class Stream(Protocol):
    """An open stream."""

    def arrivals(self) -> AsyncIterator[Arrival]:
        """For ever; `Ended` says why there are no more."""

    def cut(self) -> None:
        """Break the connection off, without a word."""


class SocketStream:
    """Over `graphql-transport-ws`."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def arrivals(self) -> AsyncIterator[Arrival]:
        try:
            async for text in self._socket:
                arrival = await self._read(json.loads(text))
                if arrival is not None:
                    yield arrival
        except ConnectionClosed:
            pass
        raise Ended(str(self._socket.close_code), str(self._socket.close_reason))

    async def _read(self, message: dict[str, Any]) -> Arrival | None:
        match message["type"]:
            case "next":
                return item_of(message["payload"])
            case "ping":
                await self._socket.send('{"type":"pong"}')
                cursor = (message.get("payload") or {}).get(OPERATION)
                return None if cursor is None else Position(cursor)
            case "error":
                raise ended_by(message["payload"])
            case "complete":
                raise Ended("complete")
        raise Ended("unknown message", str(message))

    def cut(self) -> None:
        self._socket.transport.abort()


@asynccontextmanager
async def open_socket_stream(
    port: int,
    key: str,
    *,
    event_filter: dict[str, Any] | None,
    after: str | None,
    document: str = STREAM,
    slow: bool = False,
) -> AsyncIterator[SocketStream]:
    """Connect, say who asks, subscribe. Raises `Ended` where that fails."""
    own = await _connected_socket(port, small=slow)
    try:
        async with asyncio.timeout(OPEN_SECONDS):
            client = await connect(
                f"ws://127.0.0.1:{port}/graphql",
                sock=own,
                subprotocols=[Subprotocol("graphql-transport-ws")],
                compression=None,
                ping_interval=None,
                close_timeout=1,
                max_queue=QUEUED_MESSAGES,
                max_size=None,
                proxy=None,
            )
    except (OSError, TimeoutError, InvalidHandshake, InvalidMessage, ConnectionClosed, EOFError) as error:
        own.close()
        raise Ended(type(error).__name__) from None
    try:
        await _introduce(client, key, _operation(document, event_filter, after))
        yield SocketStream(client)
    finally:
        with suppress(Exception):
            client.transport.abort()
        with suppress(ConnectionClosed, TimeoutError):
            await client.wait_closed()


async def _introduce(client: ClientConnection, key: str, operation: dict[str, Any]) -> None:
    try:
        async with asyncio.timeout(OPEN_SECONDS):
            await client.send(json.dumps({"type": "connection_init", "payload": {"x-api-key": key}}))
            answer = json.loads(await client.recv())
            if answer["type"] != "connection_ack":
                raise Ended("no connection_ack", str(answer))
            await client.send(json.dumps({"type": "subscribe", "id": OPERATION, "payload": operation}))
    except ConnectionClosed:
        raise Ended(str(client.close_code), str(client.close_reason)) from None
    except TimeoutError:
        raise Ended("TimeoutError") from None


class EventStream:
    """Over server-sent events, as EventSource reads them."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._data: list[bytes] = []
        self._event = b""
        self._id: str | None = None

    async def arrivals(self) -> AsyncIterator[Arrival]:
        try:
            while line := await self._response.content.readline():
                arrival = self._take(line.rstrip(b"\n"))
                if arrival is not None:
                    yield arrival
        except (aiohttp.ClientError, OSError) as error:
            raise Ended(type(error).__name__) from None
        raise Ended("end of response")

    def _take(self, line: bytes) -> Arrival | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b": ")
        match field:
            case b"id":
                self._id = value.decode()
            case b"event":
                self._event = value
            case b"data":
                self._data.append(value)
        return None

    def _dispatch(self) -> Arrival | None:
        event, data, cursor = self._event, b"\n".join(self._data), self._id
        self._event, self._data, self._id = b"", [], None
        if event == b"complete":
            raise Ended("complete")
        if event == b"next":
            item = item_of(json.loads(data))
            if item.cursor != cursor:
                raise Ended("id is not the cursor", f"{cursor} {item}")
            return item
        return None if cursor is None else Position(cursor)

    def cut(self) -> None:
        if self._response.connection is not None and self._response.connection.transport is not None:
            self._response.connection.transport.abort()


@asynccontextmanager
async def open_event_stream(
    port: int,
    key: str,
    *,
    event_filter: dict[str, Any] | None,
    after: str | None,
    document: str = STREAM,
    slow: bool = False,
) -> AsyncIterator[EventStream]:
    """POST for a response of its own. Raises `Ended` where that fails."""
    request = {"method": "POST", "json": _operation(document, event_filter, after)}
    async with _requested(port, {"x-api-key": key}, request, slow=slow) as response:
        yield EventStream(response)


@asynccontextmanager
async def open_event_source(
    port: int,
    key: str,
    *,
    event_filter: dict[str, Any] | None,
    after: str | None,
    last_event_id: str | None,
    document: str = STREAM,
    slow: bool = False,
) -> AsyncIterator[EventStream]:
    """GET, as EventSource does: always of the same URL, with the last `id:` in a header. Raises `Ended`."""
    operation = _operation(document, event_filter, after)
    parameters = {"query": operation["query"], "variables": json.dumps(operation["variables"])}
    headers = {"x-api-key": key} if last_event_id is None else {"x-api-key": key, "last-event-id": last_event_id}
    async with _requested(port, headers, {"method": "GET", "params": parameters}, slow=slow) as response:
        yield EventStream(response)


@asynccontextmanager
async def _requested(
    port: int, headers: dict[str, str], request: dict[str, Any], *, slow: bool
) -> AsyncIterator[aiohttp.ClientResponse]:
    headers["accept"] = "text/event-stream"
    connector = aiohttp.TCPConnector(socket_factory=_small_socket if slow else _plain_socket, force_close=True)
    timeout = aiohttp.ClientTimeout(total=None, connect=OPEN_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=2**16) as session:
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                response = await session.request(url=f"http://127.0.0.1:{port}/graphql", headers=headers, **request)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Ended(type(error).__name__) from None
        try:
            if response.status != 200:
                raise await _refused(response)
            yield response
        finally:
            response.close()


async def _refused(response: aiohttp.ClientResponse) -> Ended:
    try:
        return ended_by(json.loads(await response.read())["errors"])
    except (ValueError, KeyError, aiohttp.ClientError):
        return Ended(f"{response.status} without a code")


def _operation(document: str, event_filter: dict[str, Any] | None, after: str | None) -> dict[str, Any]:
    return {"query": document, "variables": {"filter": event_filter, "after": after}}


def item_of(payload: dict[str, Any]) -> Item | Update | RunUpdate:
    """The item of a response. Raises `Ended` where there is none."""
    errors, data = payload.get("errors", []), payload.get("data") or {}
    if errors and not any(data.values()):
        raise ended_by(errors)
    if "deliveryUpdates" in data:
        return _update_of(data["deliveryUpdates"])
    if "workflowRunUpdates" in data:
        return _run_update_of(data["workflowRunUpdates"])
    edge = payload["data"]["eventStream"]
    node = edge["node"]
    error = ended_by(errors).code if errors else None
    if not errors and "profile" in node and (node["profile"] or {}).get("userId") != node["userId"]:
        raise Ended("somebody else's profile", str(node))
    return Item(node["seq"], node["key"], node["eventType"], node["userId"], edge["cursor"], error)


def _update_of(edge: dict[str, Any]) -> Update:
    node = edge["node"]
    number = node["attempt"] and node["attempt"]["number"]
    return Update(node["delivery"]["id"], node["from"], node["to"], number, edge["cursor"])


def _run_update_of(edge: dict[str, Any]) -> RunUpdate:
    node, step = edge["node"], edge["node"]["step"] or {}
    return RunUpdate(node["run"]["id"], node["status"], step.get("label"), step.get("outcome"), edge["cursor"])


def ended_by(errors: list[dict[str, Any]]) -> Ended:
    """The first error's code."""
    first = errors[0]
    return Ended(str(first.get("extensions", {}).get("code", "error without a code")), first["message"])


async def _connected_socket(port: int, *, small: bool) -> socket.socket:
    own = (_small_socket if small else _plain_socket)(None)
    try:
        async with asyncio.timeout(OPEN_SECONDS):
            await asyncio.get_running_loop().sock_connect(own, ("127.0.0.1", port))
    except (OSError, TimeoutError) as error:
        own.close()
        raise Ended(type(error).__name__) from None
    return own


def _plain_socket(_address: object) -> socket.socket:
    own = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    own.setblocking(False)
    return own


def _small_socket(address: object) -> socket.socket:
    own = _plain_socket(address)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
    return own
