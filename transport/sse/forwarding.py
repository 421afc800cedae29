"""Several processes on one port: a request about a reservation reaches the process that holds it.

Processes that accept from one socket cannot choose their clients, so the requests of one reservation
(`reservations.py`) arrive anywhere. Its token names the private address of the process that made it, under a
signature that all of them share: nobody else can make a process connect anywhere. A process that gets another's token
passes the request on to that address and the response back, unchanged. The private address is a second listening socket
of the same application on the loopback, so a request that is passed on is trusted no more than one that came directly.

A process that has died cannot be reached: its reservations died with it, and the client is told so. Across machines it
is the proxy that has to choose (by the client's address, or by the token).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, MutableMapping
from typing import Any

import httptools

from transport.sse.event_stream import Channel

TOKEN_BYTES = 32

CONNECT_TIMEOUT = 2.0
"""Seconds, over the loopback."""

PIECE_BYTES = 65536

_OF_ONE_HOP = frozenset(
    {b"connection", b"content-length", b"expect", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
)

Headers = Iterable[tuple[bytes, bytes]]


class Unreachable(Exception):
    """The process that holds the reservation is not there any more."""


class Homes:
    """Tokens that say which process issued them. `own` is this one's private address, `host:port`."""

    def __init__(self, own: str, secret: bytes) -> None:
        self._own = own
        self._key = hashlib.blake2b(secret, digest_size=32, person=b"sendora-homes").digest()

    def issue(self) -> str:
        """A new token of this process: 256 random bits among others."""
        body = f"{_text(self._own.encode())}.{secrets.token_urlsafe(TOKEN_BYTES)}"
        return f"{body}.{self._tag(body)}"

    def elsewhere(self, token: str) -> str | None:
        """The private address of the other process that issued this token; None if it is ours or nobody's."""
        body, _, tag = token.rpartition(".")
        if not body or not hmac.compare_digest(self._tag(body).encode(), tag.encode("utf-8", "replace")):
            return None
        home = urlsafe_b64decode(body.partition(".")[0] + "==").decode()
        return None if home == self._own else home

    def _tag(self, body: str) -> str:
        return _text(hashlib.blake2b(body.encode("utf-8", "replace"), digest_size=16, key=self._key).digest())


async def forward(scope: MutableMapping[str, Any], body: bytes, channel: Channel, address: str) -> None:
    """Pass a request on, and its response back until either side ends it. Raises `Unreachable`."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            reader, writer = await asyncio.open_connection(host, int(port))
    except (OSError, TimeoutError):
        raise Unreachable from None
    watching = asyncio.get_running_loop().create_task(_watch(channel, writer))
    try:
        writer.write(_request(scope, body))
        await _Response(channel).relay(reader)
    finally:
        watching.cancel()
        writer.transport.abort()


def _request(scope: MutableMapping[str, Any], body: bytes) -> bytes:
    target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    lines = [scope["method"].encode() + b" " + target + b" HTTP/1.1"]
    lines += [name + b": " + value for name, value in scope["headers"] if name not in _OF_ONE_HOP]
    lines += [b"connection: close", b"content-length: %d" % len(body), b"", body]
    return b"\r\n".join(lines)


async def _watch(channel: Channel, writer: asyncio.StreamWriter) -> None:
    """A client that leaves is known to the other process by its connection."""
    while (await channel.receive())["type"] != "http.disconnect":
        pass
    writer.transport.abort()


class _Response:
    """Reads one response and sends it on. The methods beginning with `on_` are httptools'."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        self._is_started = False
        self._has_head = False
        self._is_complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() not in _OF_ONE_HOP:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._has_head = True

    def on_body(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        self._is_complete = True

    async def relay(self, reader: asyncio.StreamReader) -> None:
        """Until the response is complete. One that breaks off breaks the client's off too."""
        self._channel.connection.declare_endless()
        while not self._is_complete:
            data = await _read(reader)
            if not data:
                self._channel.connection.abort()
                return
            self._parser.feed_data(data)
            await self._send()

    async def _send(self) -> None:
        if self._has_head and not self._is_started:
            self._is_started = True
            status = self._parser.get_status_code()
            await self._channel.send({"type": "http.response.start", "status": status, "headers": self._headers})
        if self._is_started:
            body = b"".join(self._pieces)
            self._pieces.clear()
            message = {"type": "http.response.body", "body": body, "more_body": not self._is_complete}
            await self._channel.send(message)


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(PIECE_BYTES)
    except OSError:
        return b""


def _text(value: bytes) -> str:
    return urlsafe_b64encode(value).rstrip(b"=").decode()
