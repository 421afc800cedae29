"""uvicorn's WebSocket protocol with a synchronous way out: one item reaches a thousand sockets without a task each.

What it adds: the connection itself under `scope["extensions"]["sendora.connection"]`, an object with `push`, `close`,
`buffered` and `drained`. A push is one RFC 6455 text frame in one `transport.write`, and never follows a close frame.

What it changes: messages over `MAX_MESSAGE_BYTES` are refused (1009) however they are cut into fragments; there is no
permessage-deflate (it costs more CPU than everything else together, and memory for each socket); a peer that does not
finish the closing handshake, or does not read, is dropped after `CLOSE_TIMEOUT`, so that it cannot keep its buffer; a
server that stops says 1001. uvicorn's own WebSocket pings are off: `graphql-transport-ws` has pings of its own, which
browsers can answer too and which carry cursors, and two of them would be one too many.

What it leaves to others: the GraphQL protocol (`endpoint.py`), and how long a handshake may take (the HTTP
protocol class, which sees its first bytes).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State
from websockets.server import ServerProtocol

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent
    from uvicorn.config import Config
    from uvicorn.server import ServerState
    from websockets.frames import Frame

EXTENSION = "sendora.connection"
"""Where the ASGI scope holds the connection."""

MAX_MESSAGE_BYTES = 2 * 1024 * 1024
"""As large as an HTTP body may be. Anything larger is refused with 1009 before it has been read whole."""

HIGH_WATER_BYTES = 256 * 1024
"""Past this many unsent bytes `push` says so: about a second of a busy stream on a phone."""

LOW_WATER_BYTES = 64 * 1024
"""Below this many unsent bytes `drained` returns: enough to keep a slow link busy while the next page is read."""

CLOSE_TIMEOUT = 5.0
"""Seconds that the peer has to answer a close frame and to read what is still in its buffer."""

SHUTDOWN_TIMEOUT = 1.5
"""The same in a server that is stopping: it must be gone within five seconds, this included."""

MAX_REASON_BYTES = 123
"""RFC 6455 §5.5: a control frame carries 125 bytes, two of them the code."""

_TEXT_HEADERS = tuple(bytes((0x81, size)) for size in range(126))

_logger = logging.getLogger("uvicorn.error.websocket")
_logger.setLevel(logging.WARNING)


def text_frame(text: bytes) -> bytes:
    """One unfragmented, unmasked text frame (RFC 6455 §5.2)."""
    size = len(text)
    if size < 126:
        return _TEXT_HEADERS[size] + text
    if size < 65536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + text
    return b"\x81\x7f" + size.to_bytes(8, "big") + text


def cut_reason(reason: str) -> str:
    """As much of a close reason as fits into a close frame, never half a character."""
    return reason.encode("utf-8", "replace")[:MAX_REASON_BYTES].decode("utf-8", "ignore")


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket. Hand the class to uvicorn as `ws`."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.logger = _logger
        self.conn = ServerProtocol(max_size=MAX_MESSAGE_BYTES, logger=_logger)
        self.ping_interval = None
        self.close_timeout = CLOSE_TIMEOUT
        self._open = False
        self._room = True
        self._drains = 0
        self._failed = False
        self._partial = bytearray()

    def push(self, text: bytes) -> bool:
        """Write one text message. False: it was taken, but the buffer is past its bound, so await `drained` first.

        A connection that is closing or gone takes everything and writes nothing.
        """
        if not self._open:
            return True
        self.transport.write(text_frame(text))
        return self._room

    @property
    def buffered(self) -> int:
        """Bytes that have been written and not yet been taken by the operating system."""
        return 0 if self.disconnected else self.transport.get_write_buffer_size()

    @property
    def is_full(self) -> bool:
        """Whether the buffer has passed its bound and not yet fallen to its low-water mark."""
        return not self._room

    @property
    def drains(self) -> int:
        """How often it has fallen there."""
        return self._drains

    async def drained(self) -> None:
        """Returns when fewer than `LOW_WATER_BYTES` wait to be sent once the bound was passed, or the peer has gone."""
        await self.writable.wait()

    def close(self, code: int, reason: str = "", *, timeout: float = CLOSE_TIMEOUT) -> None:
        """Send the close frame and nothing after it. The socket is dropped `timeout` seconds later, answered or not."""
        if not self._open:
            return
        self._open = False
        reason = cut_reason(reason)
        self.conn.send_close(code, reason)
        self._write_pending()
        self._end(code, reason, timeout)

    # What uvicorn and the event loop call

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER_BYTES, low=LOW_WATER_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open = False
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        self._room = False
        super().pause_writing()

    def resume_writing(self) -> None:
        self._room = True
        self._drains += 1
        super().resume_writing()

    def shutdown(self) -> None:
        """The server stops: every stream can be taken up again elsewhere from its last cursor."""
        if self._open:
            self.close(1001, "Going away", timeout=SHUTDOWN_TIMEOUT)
        elif self.close_sent:
            self._drop_after(SHUTDOWN_TIMEOUT)
        else:
            self.send_500_response()
            self.transport.close()
            self._drop_after(SHUTDOWN_TIMEOUT)

    def data_received(self, data: bytes) -> None:
        if self._failed:
            return  # a broken peer may go on sending until it has read the close frame; a reset would destroy that
        super().data_received(data)

    async def run_asgi(self) -> None:
        extensions = cast("dict[str, Any]", self.scope["extensions"])
        extensions[EXTENSION] = self
        await super().run_asgi()

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] == "websocket.accept":
            self._open = self.conn.state is State.OPEN and not self.disconnected
        elif message["type"] == "websocket.close":
            self._open = False

    # What arrives

    def handle_text(self, event: Frame) -> None:
        self._begin_message(event, "text")

    def handle_bytes(self, event: Frame) -> None:
        self._begin_message(event, "bytes")

    def handle_ping(self) -> None:
        """Answers, unless the peer does not read its answers: only its latest ping is owed one (RFC 6455 §5.5.3)."""
        output = b"".join(self.conn.data_to_send())
        if output and self._room and not self._failed and not self.transport.is_closing():
            self.transport.write(output)

    def handle_cont(self, event: Frame) -> None:
        """One growing buffer: a million fragments of a byte must not become a million objects."""
        self._partial += event.data
        if event.fin:
            self.frames = [bytes(self._partial)]
            self._partial = bytearray()
            self.send_receive_event_to_app()

    def handle_close(self, event: Frame) -> None:  # noqa: ARG002, what it says is in `conn.close_rcvd`
        if self.close_sent:
            self.transport.close()  # the handshake is complete; the timer drops a peer that does not read the rest
            return
        self._open = False
        received = self.conn.close_rcvd
        code, reason = (received.code, received.reason) if received is not None else (1005, "")
        self._write_pending()
        self._end(int(code), reason, CLOSE_TIMEOUT)
        self.transport.close()

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                self.frames[0].decode()
            except UnicodeDecodeError:
                self.conn.fail(1007, "Messages must be UTF-8")
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()

    def handle_parser_exception(self) -> None:
        """The peer broke RFC 6455: it is told which rule, and whatever else it sends is thrown away unread."""
        self._open = False
        self._failed = True
        sent = self.conn.close_sent
        self._write_pending()
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()
        self._end(*((int(sent.code), sent.reason) if sent is not None else (1002, "")), CLOSE_TIMEOUT)

    def _begin_message(self, event: Frame, kind: str) -> None:
        self.curr_msg_data_type = kind  # type: ignore[assignment]
        if event.fin:
            self.frames = [bytes(event.data)]
            self.send_receive_event_to_app()
        else:
            self._partial = bytearray(event.data)

    def _write_pending(self) -> None:
        output = b"".join(self.conn.data_to_send())
        if output and not self.transport.is_closing():
            self.transport.write(output)

    def _end(self, code: int, reason: str, timeout: float) -> None:
        self.close_sent = True
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self._drop_after(timeout)

    def _drop_after(self, timeout: float) -> None:
        if self.close_timer is not None:
            self.close_timer.cancel()
        self.close_timer = None if self.disconnected else self.loop.call_later(timeout, self.transport.abort)
