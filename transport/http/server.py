"""uvicorn's HTTP protocol with patience that ends: what a slow or oversized client may take is bounded.

A connection has a deadline while it owes us something: the head of a request within `HEAD_TIMEOUT` of its first byte
(or of the connection), each piece of a body within `STALL_TIMEOUT`, all of it within `BODY_TIMEOUT`. Who misses one is
told 408 and closed. A head beyond `MAX_HEAD_BYTES` is told 431. A body that was refused is read on and thrown away, so
that the client sees the refusal, but no more than `MAX_DISCARDED_BYTES` of it. Connections at rest are uvicorn's
business and end after `KEEP_ALIVE_TIMEOUT`.

One timer per connection, set only while a request is incomplete and never moved: when it rings too early it is set
again for the rest. A request that arrives in one piece costs no timer at all.

Left to others: how large a body may be (`transport/http/front.py`), and everything after the upgrade to a WebSocket.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar

from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from transport.sse.server import StreamingProtocol
from transport.websocket.server import MAX_MESSAGE_BYTES, WebSocketProtocol

if TYPE_CHECKING:
    from uvicorn.server import ServerState

HEAD_TIMEOUT = 10.0
"""Seconds for the request line and all headers. Honest clients send them at once."""

STALL_TIMEOUT = 10.0
"""Seconds between two pieces of a body while we are ready to read it."""

BODY_TIMEOUT = 60.0
"""Seconds for a whole body: 2 MiB at 280 kbit/s."""

MAX_HEAD_BYTES = 64 * 1024
"""Of the request line and headers together: as nginx and Node allow with room to spare, for queries in a URL."""

TOO_LARGE = f"The request line and headers may be at most {MAX_HEAD_BYTES} bytes long."

MAX_DISCARDED_BYTES = 64 * 1024 * 1024
"""Of a body after it was answered. Closing at once would reset the connection, and the answer with it."""

KEEP_ALIVE_TIMEOUT = 75
"""Seconds. Longer than the 60 of common proxies, which must be the ones to close."""

NEVER = float("inf")


class HTTPProtocol(StreamingProtocol):
    """One HTTP connection. Hand the class to uvicorn as `http`."""

    head_timeout: ClassVar[float] = HEAD_TIMEOUT
    stall_timeout: ClassVar[float] = STALL_TIMEOUT
    body_timeout: ClassVar[float] = BODY_TIMEOUT

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._deadline = NEVER
        self._body_deadline = NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._in_head = False
        self._in_body = False
        self._discarded = 0
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline = self.loop.time() + self.head_timeout
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._in_body:
            self._take_body(data)
        head_before = self._head_bytes if self._in_head else 0
        super().data_received(data)
        if self._in_head and not self._refused:
            self._head_bytes = max(self._head_bytes, head_before + len(data))
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431, TOO_LARGE)
        if self._in_head or self._in_body:
            self._watch()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0
        self._deadline = self.loop.time() + self.head_timeout

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count_head(len(name) + len(value) + len(b": \r\n"))

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._refused:
            return
        self._in_body = True
        self._discarded = 0
        now = self.loop.time()
        self._body_deadline = now + self.body_timeout
        self._deadline = now + self.stall_timeout
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        self._deadline = NEVER
        if not self._refused:
            super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        self._rest()
        if not self._refused:
            super().handle_websocket_upgrade()

    def _take_body(self, data: bytes) -> None:
        self._deadline = min(self.loop.time() + self.stall_timeout, self._body_deadline)
        if self.cycle is not None and self.cycle.response_complete:
            self._discarded += len(data)
            if self._discarded > MAX_DISCARDED_BYTES:
                self._refused = True
                self.transport.close()

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES and not self._refused:
            self._refuse(431, TOO_LARGE)

    def _watch(self) -> None:
        if self._timer is None and self._deadline != NEVER:
            self._timer = self.loop.call_at(self._deadline, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._deadline == NEVER or self.transport.is_closing():
            return
        if self._in_body and self.flow.read_paused:
            self._deadline = self.loop.time() + self.stall_timeout  # it is we who do not read
        if self.loop.time() < self._deadline:
            self._watch()
        else:
            self._refuse(408, self._too_slow())

    def _too_slow(self) -> str:
        if self._in_body:
            return (
                f"A body must arrive within {self.body_timeout:g} seconds, "
                f"and pause for no more than {self.stall_timeout:g}."
            )
        return f"The headers must arrive within {self.head_timeout:g} seconds."

    def _rest(self) -> None:
        self._deadline = NEVER
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: int, message: str) -> None:
        """Answer, unless an answer has begun, and close."""
        self._refused = True
        self._rest()
        if not self._is_answering():
            body = message.encode()
            self.transport.write(
                STATUS_LINE[status]
                + b"content-type: text/plain; charset=utf-8\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
                % (len(body), body)
            )
        self.transport.close()

    def _is_answering(self) -> bool:
        """Whether the response to this request, or to one before it on the same connection, has begun and not ended."""
        if self.cycle is None:
            return False
        if self._in_body:
            return self.cycle.response_started
        return not self.cycle.response_complete


def serve_config(app: ASGIApp, **options: Any) -> Config:
    """The configuration of a server with these protocols; `options` are those of `uvicorn.Config`.

    httptools and no other parser, WebSockets without deflate and of at most `MAX_MESSAGE_BYTES` a message, no access
    log (metrics count requests), no header that names the server.
    """
    defaults: dict[str, Any] = {
        "http": HTTPProtocol,
        "ws": WebSocketProtocol,
        "ws_max_size": MAX_MESSAGE_BYTES,
        "ws_per_message_deflate": False,
        "ws_ping_interval": None,
        "loop": "uvloop",
        "lifespan": "on",
        "access_log": False,
        "server_header": False,
        "log_config": None,
        "timeout_keep_alive": KEEP_ALIVE_TIMEOUT,
    }
    return Config(app, **(defaults | options))
