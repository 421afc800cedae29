"""One exchange over a connection of aiohttp's pool: a request's bytes go out, an answer's head comes in.

aiohttp's session makes a request object, a writer, a response object and several timers for each request: together as
much work as everything else that a webhook takes of a worker, its rows included. Its connector and its parser are what
is needed. Guarantees: what is sent is what was given, and no header can begin another line; answers of 1xx are passed
over; a connection goes back to the pool once its whole answer is there, and is closed in every other case, when the
caller is cancelled too. Leaves to others: whether a URL may be called, how long all of it may take, what failures mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import aiohttp
from aiohttp.http import HttpProcessingError
from aiohttp.streams import StreamReader
from yarl import URL

READ_BUFFER_BYTES = 64 * 1024
"""Of an answer, before its connection is told to wait."""
_BODILESS_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Without a body they do not say that they have none."""
_SWITCHING = 101


class Destination:
    """Where requests to one URL go, and what each of them says of it."""

    def __init__(self, url: str) -> None:
        """Raises `aiohttp.InvalidURL`. To be made where an event loop runs."""
        try:
            parsed = URL(url)
        except ValueError as error:
            raise aiohttp.InvalidURL(url) from error
        # Never sent: what a connector knows a connection by.
        self.request = aiohttp.ClientRequest("GET", parsed, loop=asyncio.get_running_loop())
        self.path = parsed.raw_path_qs
        self.host = self.request.headers["Host"]


class Exchange:
    """What came back: a status, headers, and a body that may still be coming. To be closed."""

    def __init__(
        self, connection: aiohttp.connector.Connection, head: aiohttp.http.RawResponseMessage, body: StreamReader
    ):
        self._connection = connection
        self.status = head.code
        self.headers: Mapping[str, str] = head.headers
        self.body = body
        # At once, when all of it is there.
        body.on_eof(connection.release)

    def close(self) -> None:
        """Close the connection, unless the answer has ended and it has gone back."""
        self._connection.close()


async def exchange(
    connector: aiohttp.BaseConnector, to: Destination, request: bytes, within: aiohttp.ClientTimeout
) -> Exchange:
    """Send a request and wait for its answer's head. Raises `aiohttp.ClientError` or `OSError`.

    Of `within` only what is about connecting is kept.
    """
    try:
        connection = await connector.connect(to.request, traces=[], timeout=within)
    except TimeoutError as error:
        raise aiohttp.ConnectionTimeoutError from error
    try:
        protocol = connection.protocol
        if protocol is None or protocol.transport is None:
            raise aiohttp.ServerDisconnectedError
        protocol.set_response_params(read_until_eof=True, auto_decompress=False, read_bufsize=READ_BUFFER_BYTES)
        protocol.transport.write(request)
        head, body = await protocol.read()
        while head.code < 200 and head.code != _SWITCHING:
            head, body = await protocol.read()
        return Exchange(connection, head, body)
    except HttpProcessingError as error:
        connection.close()
        raise aiohttp.ClientError from error
    except BaseException:
        connection.close()
        raise


def request_bytes(method: str, to: Destination, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """A request as it travels. What is in `headers`, their names in any case, comes before what is said by default.

    Raises `ValueError` when something in it would begin another line.
    """
    lines = [f"{method} {to.path} HTTP/1.1", f"Host: {to.host}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    elif method not in _BODILESS_METHODS:
        lines.append("Content-Length: 0")
    head = "\r\n".join(lines)
    breaks = len(lines) - 1
    if head.count("\n") != breaks or head.count("\r") != breaks or "\0" in head:
        raise ValueError("a request's line holds a line break or NUL")
    return b"%b\r\n\r\n%b" % (head.encode(), body or b"")
