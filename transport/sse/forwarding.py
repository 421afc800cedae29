"""Several processes on one port: a request about a reservation reaches the process that holds it.

Processes that accept from one socket cannot choose their clients, so the requests of one reservation
(`reservations.py`) arrive anywhere. Its token names the private socket of the process that made it, under a signature
that all of them share: nobody else can make a process connect anywhere. A process that gets another's token passes the
request on to that socket and the response back, unchanged. The private socket is a second listening socket of the same
application, so a request that is passed on is trusted no more than one that came directly.

What is passed on carries its client's credentials, so it must not reach anybody else. A port would not do: when its
process has died, any program may be given it. A private socket is a file in a folder with a new name, which its user
alone may enter, and nothing is sent before that has been found to be so still: somebody else may have made a folder of
that name since. A process that has died has no reservations any more, and the client is told so.

Across machines, and between containers, it is the proxy that has to choose (by the client's address, or by the token).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import secrets
import socket
import stat
import tempfile
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httptools

from transport.sse.event_stream import Channel

TOKEN_BYTES = 32

CONNECT_TIMEOUT = 2.0
"""Seconds, to a process of this machine."""

SOCKET_NAME = "gateway.sock"

MAX_FOLDER_LENGTH = 70
"""Bytes. The path of a Unix socket ends at 104 to 108, and our own part of it takes 30 of them."""

SHORT_FOLDER = "/tmp"  # noqa: S108, what is made in it has a name nobody can foresee, and is closed to others

PIECE_BYTES = 65536

_OF_ONE_HOP = frozenset(
    {b"connection", b"content-length", b"expect", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
)

Headers = Iterable[tuple[bytes, bytes]]


class Unreachable(Exception):
    """The process that holds the reservation is not there any more."""


@contextmanager
def private_socket() -> Iterator[socket.socket]:
    """A bound Unix socket, not listening yet, that only this user's processes can reach. Gone after the block.

    A process that is killed leaves the file behind; connections to it are refused.
    """
    usual = tempfile.gettempdir()
    folder = usual if len(usual.encode()) <= MAX_FOLDER_LENGTH else SHORT_FOLDER
    with (
        tempfile.TemporaryDirectory(prefix="sendora-", dir=folder) as private,  # made with mode 0700
        socket.socket(socket.AF_UNIX) as bound,
    ):
        bound.bind(str(Path(private) / SOCKET_NAME))
        yield bound


class Homes:
    """Tokens that say which process issued them. `own` is the path of this one's private socket.

    A token holds the name of the socket's folder only: what surrounds it is the same for all processes of a machine,
    and none of the client's business.
    """

    def __init__(self, own: Path, secret: bytes) -> None:
        self._own = own
        self._key = hashlib.blake2b(secret, digest_size=32, person=b"sendora-homes").digest()

    def issue(self) -> str:
        """A new token of this process: 256 random bits among others."""
        body = f"{_text(self._own.parent.name.encode())}.{secrets.token_urlsafe(TOKEN_BYTES)}"
        return f"{body}.{self._tag(body)}"

    def elsewhere(self, token: str) -> Path | None:
        """The private socket of the other process that issued this token; None if it is ours or nobody's."""
        body, _, tag = token.rpartition(".")
        if not body or not hmac.compare_digest(self._tag(body).encode(), tag.encode("utf-8", "replace")):
            return None
        home = urlsafe_b64decode(body.partition(".")[0] + "==").decode()
        return None if home == self._own.parent.name else self._own.parent.parent / home / self._own.name

    def _tag(self, body: str) -> str:
        return _text(hashlib.blake2b(body.encode("utf-8", "replace"), digest_size=16, key=self._key).digest())


async def forward(scope: MutableMapping[str, Any], body: bytes, channel: Channel, home: Path) -> None:
    """Pass a request on, and its response back until either side ends it. Raises `Unreachable`."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            reader, writer = await asyncio.open_unix_connection(home)
    except (OSError, TimeoutError):
        raise Unreachable from None
    if not _is_private(home.parent):  # looked at once connected: a folder of ours never takes a stranger's place
        writer.transport.abort()
        raise Unreachable
    watching = asyncio.get_running_loop().create_task(_watch(channel, writer))
    try:
        writer.write(_request(scope, body))
        await _Response(channel).relay(reader)
    finally:
        watching.cancel()
        writer.transport.abort()


def _is_private(folder: Path) -> bool:
    """Whether it is a folder of this user's, which no other may enter."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


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
