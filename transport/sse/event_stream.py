"""One response of server-sent events: frames that anyone may push, in order, within a bound.

Pushing is synchronous and costs no task. Frames that are pushed before the response is opened wait here; afterwards
each goes straight to the connection. Events are parted by LF LF, which is what every client splits on (CR LF CR LF
breaks urql). A client that does not read keeps about `HIGH_WATER_BYTES` of the connection's buffer, and one that has
read nothing of what waits for it between two keep-alives is dropped, also while the last of a response is on its way.

What the frames mean is in `transport/sse/operation.py`, and how a response is cut into HTTP in
`transport/sse/server.py`, which must serve the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

from transport.request_ids import current
from transport.websocket.server import HIGH_WATER_BYTES

COMMENT = b":\n\n"
"""An empty comment: keeps proxies from closing the response, and makes browsers show its head at once."""

HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)
"""No cache and no proxy may hold events back to compress or to gather them (nginx buffers unless it is told)."""

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class StreamConnection(Protocol):
    """The HTTP connection, as `transport/sse/server.py` gives it."""

    def declare_endless(self) -> None:
        """The response in progress has no end of its own."""

    def push_chunk(self, data: bytes) -> bool:
        """Write a piece of the body; False when the buffer is past its bound."""

    @property
    def buffered(self) -> int:
        """Bytes written and not yet sent."""

    @property
    def drains(self) -> int:
        """How often the buffer has fallen from its bound to its low-water mark."""

    async def drained(self) -> None:
        """Returns once there is room again."""

    def abort(self) -> None:
        """Break the connection off."""


@dataclass(frozen=True, slots=True)
class Channel:
    """The way to one client: ASGI's for the head and the end of a response, and the connection for what is between."""

    receive: Receive
    send: Send
    connection: StreamConnection


class EventStream:
    """Frames on their way to one client."""

    def __init__(self) -> None:
        self._waiting: list[bytes] = [COMMENT]
        self._size = len(COMMENT)
        self._connection: StreamConnection | None = None
        self._progress = (0, 0)
        self._opened = asyncio.Event()
        self._done = asyncio.Event()

    def push(self, frame: bytes) -> bool:
        """Take one frame. False: await `drained` before more. After the end everything is taken and nothing is sent."""
        if self._connection is not None:
            return self._done.is_set() or self._connection.push_chunk(frame)
        if self._done.is_set():
            return True
        self._waiting.append(frame)
        self._size += len(frame)
        return self._size <= HIGH_WATER_BYTES

    async def drained(self) -> None:
        """Returns when little enough waits to be sent, or when there is nobody left to send it to."""
        if self._connection is None and self._size > HIGH_WATER_BYTES:
            await self._opened.wait()
        if self._connection is not None:
            await self._connection.drained()

    def keep_alive(self, frame: bytes) -> None:
        """Show that the response lives, where nothing else is on its way; drop a client that takes nothing of it."""
        if self._connection is None:
            return
        buffered = self._connection.buffered
        if not buffered and not self._done.is_set():
            self._connection.push_chunk(frame)
        progress = (self._connection.drains, -buffered)
        if buffered and progress <= self._progress:
            self._connection.abort()
        self._progress = progress

    def end(self) -> None:
        """Close the response once everything pushed so far has been written. What is pushed from now on is not sent."""
        self._done.set()
        self._opened.set()

    async def respond(self, channel: Channel) -> None:
        """Be the body of one response, until the end or until the client goes."""
        watching = asyncio.get_running_loop().create_task(self._watch(channel.receive))
        try:
            channel.connection.declare_endless()
            trace = current()
            headers = HEADERS if trace is None else (*HEADERS, trace.header)
            await channel.send({"type": "http.response.start", "status": 200, "headers": headers})
            self._open(channel.connection)
            await self._done.wait()
            await channel.send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self.end()
            watching.cancel()

    def _open(self, connection: StreamConnection) -> None:
        connection.push_chunk(b"".join(self._waiting))
        self._waiting.clear()
        self._connection = connection
        self._opened.set()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.end()
