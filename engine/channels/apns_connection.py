"""One HTTP/2 connection to Apple: aioapns's protocol, made safe for a worker that never restarts.

Guarantees: every request ends, with Apple's answer or with one of `NotSent` (Apple has certainly not processed it:
send it again) and `Lost` (it may have). One request's end, a cancellation included, is never another's. So these are
ours, because aioapns 4.0 does them otherwise: received data is acknowledged (else a connection stalls after 2,340
errors); answers are matched by stream; resets, answers without a body and cancelled callers end a request and nothing
else; GOAWAY is read to its `last_stream_id`; the provider token belongs to the credential; a request waits for the
windows before its headers go out.

Leaves to others: dialling, sending again (`engine.channels.apns_pool`), what an answer means, and time-outs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import cast

import jwt
from aioapns.connection import APNsBaseClientProtocol, APNsTLSClientProtocol
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import NoAvailableStreamIDError, ProtocolError
from hyperframe.frame import Frame, GoAwayFrame

from engine.channels.apns_exchange import (
    MAX_ANSWER_BYTES,
    ApnsAnswer,
    ApnsRequest,
    Exchange,
    Lost,
    NotSent,
    UnusableKey,
    request_headers,
)
from engine.channels.apns_token import ProviderToken

BUSY_REQUESTS = 500
"""From so many requests on, another connection is opened: one core gives some 3,000 sends a second in all."""
IDLE_SECONDS = 60.0
"""Longer silence may have been cut off by a firewall without notice; Apple asks not to reconnect for every message."""

MAX_UNASKED_BYTES = 64 * 1024
"""Received since the last answer to anything: where a customer's own URL leads, somebody may send frames without end,
and each costs a worker's time. What comes with an answer is some hundred bytes."""


class _GracefulH2(H2Connection):
    """h2 takes a connection for closed at GOAWAY and forgets what it has read with it; but the streams up to
    `last_stream_id` are still answered (RFC 9113 section 6.8)."""

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[Event]]:
        event = ConnectionTerminated()
        event.error_code = frame.error_code
        event.last_stream_id = frame.last_stream_id
        event.additional_data = frame.additional_data or None
        return [], [event]


class ApnsConnection(APNsTLSClientProtocol):
    """Requests wait here for a stream and for the flow-control windows, in the order they came. Make it in the loop."""

    def __init__(self, host: str, token: ProviderToken, *, on_lost: Callable[[APNsBaseClientProtocol], None]) -> None:
        super().__init__(apns_topic="", loop=asyncio.get_running_loop(), auth_provider=token)
        self._on_lost = on_lost
        self.conn = _GracefulH2(
            H2Configuration(
                client_side=True,
                header_encoding="utf-8",
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self._host = host
        self._token = token
        self._waiting: deque[Exchange] = deque()
        self._open: dict[int, Exchange] = {}
        self._is_flushing = False
        self._is_draining = False
        self._unasked_bytes = 0
        self._last_used = self.loop.time()
        self.last_heard = self._last_used
        self.ready: asyncio.Future[bool] = self.loop.create_future()
        self.lost: asyncio.Future[None] = self.loop.create_future()

    @property
    def load(self) -> int:
        """Requests that wait or are open."""
        return len(self._open) + len(self._waiting)

    @property
    def is_busy(self) -> bool:
        """See `BUSY_REQUESTS`."""
        return self._is_draining or self.load >= BUSY_REQUESTS

    @property
    def is_draining(self) -> bool:
        """Takes no new requests."""
        return self._is_draining

    async def send_notification(self, request: ApnsRequest) -> ApnsAnswer:  # type: ignore[override]
        """Raises `NotSent`, `UnusableKey` or `Lost`. When cancelled, its stream is reset and nobody else notices."""
        if self._is_draining:
            raise NotSent("the connection is closing")
        exchange = Exchange(request, self.loop.create_future())
        self._waiting.append(exchange)
        self._start_waiting()
        try:
            return await exchange.answer
        finally:
            self._forget(exchange)

    def retire(self) -> None:
        """Take no new requests, end those that wait, and close when the open ones have ended."""
        self._is_draining = True
        while self._waiting:
            self._waiting.popleft().fail(NotSent("the connection is closing"))
        if not self._open:
            self.close()

    def close(self) -> None:
        """Close now. What is open is `Lost`."""
        self._is_draining = True
        if self.transport is not None and not self.transport.is_closing():
            self._flush_now()
            self.transport.close()

    def _abort(self) -> None:
        """Close without a word: nobody may be reading."""
        self._is_draining = True
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self.transport = cast(asyncio.Transport, transport)
        self.conn.initiate_connection()
        self._flush_now()
        self.refresh_inactivity_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`. Why makes no difference."""
        del exc
        self._is_draining = True
        if self.inactivity_timer is not None:
            self.inactivity_timer.cancel()
        self._on_lost(self)
        while self._waiting:
            self._waiting.popleft().fail(NotSent("the connection was lost"))
        for exchange in self._open.values():
            exchange.fail(Lost("the connection was lost"))
        if not self.ready.done():
            self.ready.set_result(False)
        if not self.lost.done():
            self.lost.set_result(None)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._unasked_bytes > MAX_UNASKED_BYTES:
            self._abort()
            return
        self._unasked_bytes += len(data)
        self._last_used = self.last_heard = self.loop.time()
        try:
            events = self.conn.receive_data(data)
        except ProtocolError:
            self.close()
            return
        for event in events:
            self._handle(event)
        self._start_waiting()
        self.flush()

    def _handle(self, event: Event) -> None:
        if isinstance(event, ResponseReceived):
            if exchange := self._open.get(event.stream_id):
                self._unasked_bytes = 0
                exchange.headers = dict(cast(list[tuple[str, str]], event.headers))
        elif isinstance(event, DataReceived):
            self._on_data(event)
        elif isinstance(event, StreamEnded):
            if exchange := self._open.get(event.stream_id):
                exchange.finish()
        elif isinstance(event, StreamReset):
            self._on_reset(event)
        elif isinstance(event, ConnectionTerminated):
            self._on_goaway(event.last_stream_id or 0)
        elif isinstance(event, RemoteSettingsChanged) and not self.ready.done():
            self.ready.set_result(True)

    def _on_data(self, event: DataReceived) -> None:
        """Give the window back, always: an unread error is no reason to stall everybody."""
        if event.flow_controlled_length:
            self.conn.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        exchange = self._open.get(event.stream_id)
        if exchange is not None and len(exchange.body) + len(event.data) <= MAX_ANSWER_BYTES:
            exchange.body += event.data

    def _on_reset(self, event: StreamReset) -> None:
        exchange = self._open.get(event.stream_id)
        if exchange is None:
            return
        if event.error_code == ErrorCodes.REFUSED_STREAM:
            exchange.fail(NotSent("the stream was refused"))
        else:
            exchange.fail(Lost("the stream was reset"))

    def _on_goaway(self, last_stream_id: int) -> None:
        """Streams above `last_stream_id` were not processed and never will be; the others are still answered."""
        for stream_id, exchange in self._open.items():
            if stream_id > last_stream_id:
                exchange.fail(NotSent("the server is going away"))
        self.retire()

    def _start_waiting(self) -> None:
        while self._waiting and self._has_room(len(self._waiting[0].request.body)):
            exchange = self._waiting.popleft()
            if not exchange.answer.done():
                self._start(exchange)

    def _has_room(self, size: int) -> bool:
        return (
            not self._is_draining
            and len(self._open) < self.conn.remote_settings.max_concurrent_streams
            and size <= min(self.conn.outbound_flow_control_window, self.conn.remote_settings.initial_window_size)
        )

    def _start(self, exchange: Exchange) -> None:
        """Headers and body at once: both windows have room for it."""
        request = exchange.request
        try:
            exchange.authorization = self._token.get_header()
            stream_id = self.conn.get_next_available_stream_id()
        except NoAvailableStreamIDError:
            exchange.fail(NotSent("the connection has no streams left"))
            self.retire()
            return
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            exchange.fail(UnusableKey(type(error).__name__))
            return
        exchange.stream_id = stream_id
        request.headers_sent = True
        self._open[stream_id] = exchange
        self.conn.send_headers(stream_id, request_headers(request, self._host, exchange.authorization))
        self.conn.send_data(stream_id, request.body, end_stream=True)
        self._last_used = self.loop.time()
        self.flush()

    def _forget(self, exchange: Exchange) -> None:
        """It has ended, or its caller has gone: then the server is told."""
        if exchange.stream_id is None:
            return
        self._open.pop(exchange.stream_id, None)
        if exchange.answer.cancelled() and not self.lost.done():
            with suppress(ProtocolError):  # when it has just ended
                self.conn.reset_stream(exchange.stream_id, ErrorCodes.CANCEL)
        self._start_waiting()
        self.flush()
        if self._is_draining and not self._open:
            self.close()

    def flush(self) -> None:
        """Write what has gathered, once in this turn of the loop: many requests go into one TLS record."""
        if not self._is_flushing:
            self._is_flushing = True
            self.loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._is_flushing = False
        if self.transport is not None and not self.transport.is_closing():
            data = self.conn.data_to_send()
            if data:
                self.transport.write(data)

    def refresh_inactivity_timer(self) -> None:
        """Close after `IDLE_SECONDS` without requests; one timer, however many requests there are."""
        idle = self.loop.time() - self._last_used
        if idle >= IDLE_SECONDS and not self.load:
            self.retire()
            return
        self.inactivity_timer = self.loop.call_later(max(IDLE_SECONDS - idle, 1.0), self.refresh_inactivity_timer)
