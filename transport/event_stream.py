"""One response of server-sent events: a bounded buffer that anyone may push into, and one task that writes it.

Pushing is synchronous and costs no task; whatever has gathered while a write was under way leaves in one piece. Events
are parted by LF LF, which is what every client splits on (CR LF CR LF breaks urql). A client that does not read keeps
at most `HIGH_WATER_BYTES` here beside the socket's own buffer, and after `STALL_TIMEOUT` without taking a single byte
its response is given up.

What the frames mean is in `transport/sse.py`; how a response is cut into HTTP is the server's part.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

HIGH_WATER_BYTES = 256 * 1024
"""Past this many bytes waiting here `push` says so; as for a WebSocket."""

LOW_WATER_BYTES = 64 * 1024
"""Down to this many, after the bound was passed, before `drained` returns."""

STALL_TIMEOUT = 30.0
"""Seconds for the socket to take what was written. Two keep-alives go by in it."""

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
    """The HTTP connection, as `transport/server_http.py` gives it."""

    def declare_endless(self) -> None:
        """The response in progress has no end of its own: a server that stops is to break it off."""

    def abort(self) -> None:
        """Break the connection off, with whatever has not been sent."""


@dataclass(frozen=True, slots=True)
class Channel:
    """The way to one client: ASGI's, and the connection beneath it where the server shows it."""

    receive: Receive
    send: Send
    connection: StreamConnection | None = None


class EventStream:
    """Frames on their way to one client."""

    def __init__(self) -> None:
        self._frames: list[bytes] = [COMMENT]
        self._size = len(COMMENT)
        self._ending = False
        self._gone = False
        self._wake = asyncio.Event()
        self._wake.set()
        self._room = asyncio.Event()
        self._room.set()

    @property
    def is_open(self) -> bool:
        """Whether a frame that is pushed now would be sent."""
        return not (self._ending or self._gone)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits to be written, so that only a keep-alive can show that the client is there."""
        return not self._frames

    def push(self, frame: bytes) -> bool:
        """Take one frame. False: await `drained` before more. After the end everything is taken and nothing is sent."""
        if not self.is_open:
            return True
        self._frames.append(frame)
        self._size += len(frame)
        self._wake.set()
        if self._size > HIGH_WATER_BYTES:
            self._room.clear()
        return self._room.is_set()

    async def drained(self) -> None:
        """Returns when little enough waits to be written, or the client has gone."""
        await self._room.wait()

    def end(self) -> None:
        """Close the response once everything pushed so far has been written."""
        self._ending = True
        self._wake.set()

    def abandon(self) -> None:
        """Close it with nothing more written: the client has gone, or is not worth waiting for."""
        self._gone = True
        self._frames.clear()
        self._room.set()
        self._wake.set()

    async def respond(self, channel: Channel) -> None:
        """Be the body of one response, until the end or until the client goes, or does not read."""
        if channel.connection is not None:
            channel.connection.declare_endless()
        watching = asyncio.get_running_loop().create_task(self._watch(channel.receive))
        try:
            await channel.send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            await self._write_all(channel.send)
        except TimeoutError:
            if channel.connection is not None:
                channel.connection.abort()
        finally:
            self.abandon()
            watching.cancel()

    async def _write_all(self, send: Send) -> None:
        while not self._gone:
            await self._wake.wait()
            self._wake.clear()
            await self._write(send)
            if self._ending and not self._frames:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return

    async def _write(self, send: Send) -> None:
        if not self._frames:
            return
        body = b"".join(self._frames)
        self._frames.clear()
        async with asyncio.timeout(STALL_TIMEOUT):
            await send({"type": "http.response.body", "body": body, "more_body": True})
        self._size -= len(body)
        if self._size <= LOW_WATER_BYTES:
            self._room.set()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.abandon()
