"""HTTP/2 to Apple: aioapns's pool and protocol, made safe for a worker that never restarts.

Guarantees: every request ends, with Apple's answer or with one of `NotSent` (Apple has certainly not processed it:
send it again), `Lost` (it may have) and aioapns's `ConnectionError` (Apple was not reached). One request's end, a
cancellation included, is never another's. A request is put on the wire at most twice, the second time only after
`NotSent`. So these are ours, because aioapns 4.0 does them otherwise: received data is acknowledged (else a connection
stalls after 2,340 errors); answers are matched by stream; resets, answers without a body and cancelled callers end a
request and nothing else; GOAWAY is read to its `last_stream_id`; ALPN is offered; the provider token belongs to the
credential; a request waits for the windows before its headers go out; nothing is sent again without end.

Leaves to others: what an answer means, time-outs, and retries. Stops with `ApnsPool.aclose`.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias, cast
from urllib.parse import urlsplit

import jwt
import msgspec
from aioapns.common import NotificationRequest, NotificationResult
from aioapns.connection import (
    APNsBaseClientProtocol,
    APNsKeyConnectionPool,
    APNsTLSClientProtocol,
    AuthorizationHeaderProvider,
)
from aioapns.exceptions import ConnectionError as CannotConnect
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

TOKEN_SECONDS = 50 * 60
"""Apple refuses a provider token after an hour, and one that changes within 20 minutes."""
TOKEN_RENEWAL_PAUSE_SECONDS = 20 * 60
"""A refused token is replaced at once, but not again within this time: a key that is wrong stays wrong."""
MAX_CONNECTIONS = 4
"""Per credential and environment. Apple allows 1,000 streams on each."""
BUSY_REQUESTS = 500
"""From so many requests on, another connection is opened: one core gives some 3,000 sends a second in all."""
CONNECT_SECONDS = 5.0
"""For all of: look-up, TCP, TLS, and the server's SETTINGS."""
RECONNECT_PAUSE_SECONDS = 0.5
"""After a failure to connect, whoever comes within this time is told the same: a dead host is not hammered."""
IDLE_SECONDS = 60.0
"""Longer silence may have been cut off by a firewall without notice; Apple asks not to reconnect for every message."""
STALL_SECONDS = 5.0
"""A request that its caller gave up after this time, with nothing heard since, speaks for a dead connection."""
SHUTDOWN_SECONDS = 1.0
"""For the peer to answer the end of TLS."""
MAX_ANSWER_BYTES = 4096
"""Apple's answers have some 50 bytes."""

Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a host that may be dialled, for the port. Raises `OSError` when there are none."""


class NotSent(Exception):
    """Apple has certainly not processed it."""


class Lost(Exception):
    """It was sent, and no answer will come: whether Apple has processed it cannot be known."""


class UnusableKey(Exception):
    """The credential's key signs no token: it is no P-256 private key."""


class ApnsRequest(NotificationRequest):
    """A request with its body encoded. `expiration` is Unix seconds; 0 means: deliver at once or not at all."""

    __slots__ = ("body", "expiration", "headers_sent")

    def __init__(self, *, body: bytes, expiration: int | None, **fields: Any) -> None:
        super().__init__(message={}, **fields)
        self.body = body
        self.expiration = expiration
        self.headers_sent = False
        """Whether Apple may have seen it. Never goes back to false for a request that is not proven unprocessed."""


class ApnsAnswer(NotificationResult):
    """Apple's answer. `authorization` is the header that it was given to."""

    __slots__ = ("authorization", "body", "retry_after")

    def __init__(self, *, body: str, authorization: str, retry_after: str | None, **fields: Any) -> None:
        super().__init__(**fields)
        self.body = body
        self.authorization = authorization
        self.retry_after = retry_after


class ProviderToken(AuthorizationHeaderProvider):
    """The one token of a credential, for all of its connections. Its key may turn out not to be one: what
    PyJWT and cryptography raise then is `jwt.PyJWTError`, `ValueError` or `TypeError`."""

    def __init__(self, *, key: str, key_id: str, team_id: str) -> None:
        self._key = key
        self._key_id = key_id
        self._team_id = team_id
        self._header: str | None = None
        self._issued_at = 0.0
        self._replaced_at = -float(TOKEN_RENEWAL_PAUSE_SECONDS)

    def get_header(self) -> str:
        """The `authorization` header of now."""
        now = time.time()
        if self._header is None or not 0 <= now - self._issued_at < TOKEN_SECONDS:
            self._issued_at = now
            token = jwt.encode(
                {"iss": self._team_id, "iat": int(now)}, self._key, algorithm="ES256", headers={"kid": self._key_id}
            )
            self._header = f"bearer {token}"
        return self._header

    def refuse(self, header: str) -> bool:
        """Apple refused this one. Returns whether there is another one to try."""
        if header == self._header and time.monotonic() - self._replaced_at >= TOKEN_RENEWAL_PAUSE_SECONDS:
            self._replaced_at = time.monotonic()
            self._header = None
        return header != self._header


class _GracefulH2(H2Connection):
    """h2 takes a connection for closed at GOAWAY and forgets what it has read with it; but the streams up to
    `last_stream_id` are still answered (RFC 9113 section 6.8)."""

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[Event]]:
        event = ConnectionTerminated()
        event.error_code = frame.error_code
        event.last_stream_id = frame.last_stream_id
        event.additional_data = frame.additional_data or None
        return [], [event]


class _Exchange:
    """One request and what has come back of it."""

    __slots__ = ("answer", "authorization", "body", "headers", "request", "stream_id")

    def __init__(self, request: ApnsRequest, answer: asyncio.Future[ApnsAnswer]) -> None:
        self.request = request
        self.answer = answer
        self.authorization = ""
        self.stream_id: int | None = None
        self.headers: dict[str, str] = {}
        self.body = bytearray()

    def fail(self, error: Exception) -> None:
        """Nothing more will come. A status that came counts, whatever is missing of its body."""
        if self.answer.done():
            return
        if ":status" in self.headers:
            self.finish()
            return
        if isinstance(error, NotSent):
            self.request.headers_sent = False
        self.answer.set_exception(error)

    def finish(self) -> None:
        """With Apple's answer."""
        if self.answer.done():
            return
        said = _read_body(bytes(self.body))
        self.answer.set_result(
            ApnsAnswer(
                notification_id=self.headers.get("apns-id") or self.request.notification_id,
                status=self.headers[":status"],
                description=said.reason,
                timestamp=said.timestamp,
                body=self.body.decode(errors="replace"),
                authorization=self.authorization,
                retry_after=self.headers.get("retry-after"),
            )
        )


class _Said(msgspec.Struct, frozen=True):
    """The JSON of an answer. `timestamp` is in milliseconds."""

    reason: str | None = None
    timestamp: int | None = None


def _read_body(body: bytes) -> _Said:
    try:
        return msgspec.json.decode(body, type=_Said)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Said()


class ApnsConnection(APNsTLSClientProtocol):
    """One connection. Requests wait here for a stream and for the flow-control windows, in the order they came."""

    def __init__(self, host: str, pool: ApnsPool, token: ProviderToken) -> None:
        super().__init__(apns_topic="", loop=pool.loop, auth_provider=token)
        self._pool = pool
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
        self._waiting: deque[_Exchange] = deque()
        self._open: dict[int, _Exchange] = {}
        self._is_flushing = False
        self._is_draining = False
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
        exchange = _Exchange(request, self.loop.create_future())
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
        self._pool.discard_connection(self)
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

    def _start(self, exchange: _Exchange) -> None:
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
        self.conn.send_headers(stream_id, _headers(request, self._host, exchange.authorization))
        self.conn.send_data(stream_id, request.body, end_stream=True)
        self._last_used = self.loop.time()
        self.flush()

    def _forget(self, exchange: _Exchange) -> None:
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


def _headers(request: ApnsRequest, host: str, authorization: str) -> list[tuple[str, str]]:
    headers = [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", f"/3/device/{request.device_token}"),
        (":authority", host),
        ("authorization", authorization),
        ("apns-id", request.notification_id),
        ("apns-topic", request.apns_topic or ""),
        ("apns-push-type", request.push_type.value if request.push_type else ""),
        ("apns-priority", str(request.priority)),
    ]
    if request.expiration is not None:
        headers.append(("apns-expiration", str(request.expiration)))
    if request.collapse_key is not None:
        headers.append(("apns-collapse-id", request.collapse_key))
    return headers


class ApnsPool(APNsKeyConnectionPool):
    """The connections of one credential in one environment. Make it inside the running loop."""

    connections: list[ApnsConnection]  # type: ignore[assignment]

    def __init__(self, *, url: str, topic: str, token: ProviderToken, resolve: Resolve, tls: ssl.SSLContext) -> None:
        super().__init__(key="", key_id="", team_id="", topic=topic, max_connections=MAX_CONNECTIONS, ssl_context=tls)
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or 443
        self._token = token
        self._resolve = resolve
        self._failed_at = -RECONNECT_PAUSE_SECONDS
        self.in_flight = 0

    async def send_notification(self, request: ApnsRequest) -> ApnsAnswer:  # type: ignore[override]
        """Raises `NotSent`, `Lost`, `UnusableKey` or aioapns's `ConnectionError`."""
        self.in_flight += 1
        try:
            return await self._send(request)
        except NotSent:
            return await self._send(request)
        finally:
            self.in_flight -= 1

    async def _send(self, request: ApnsRequest) -> ApnsAnswer:
        connection = await self.acquire()
        sent_at = self.loop.time()
        try:
            return await connection.send_notification(request)
        except asyncio.CancelledError:
            if connection.last_heard < sent_at <= self.loop.time() - STALL_SECONDS:
                connection.retire()  # it may be dead without notice: nobody else shall wait for it
            raise

    async def acquire(self) -> ApnsConnection:
        """A connection with room, a new one, or the least loaded. Raises aioapns's `ConnectionError`."""
        if connection := self._with_room():
            return connection
        async with self._lock:
            if connection := self._with_room():
                return connection
            live = self._live()
            if len(live) >= self.max_connections:
                return min(live, key=lambda connection: connection.load)
            return await self._connect()

    def _live(self) -> list[ApnsConnection]:
        return [connection for connection in self.connections if not connection.is_draining]

    def _with_room(self) -> ApnsConnection | None:
        return next((connection for connection in self.connections if not connection.is_busy), None)

    async def _connect(self) -> ApnsConnection:
        if self.loop.time() - self._failed_at < RECONNECT_PAUSE_SECONDS:
            raise CannotConnect("Apple was not reached a moment ago")
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                connection = await self.create_connection()
        except (OSError, TimeoutError) as error:
            self._failed_at = self.loop.time()
            raise CannotConnect(_reason_of(error)) from error
        if connection.lost.done():
            raise CannotConnect("it closed the connection")
        self.connections.append(connection)
        return connection

    async def create_connection(self) -> ApnsConnection:
        """Dial the addresses in turn. Raises `OSError`."""
        failure: OSError = OSError("the name has no address")
        for address in await self._resolve(self._host, self._port):
            try:
                return await self._dial(address)
            except OSError as error:
                failure = error
        raise failure

    async def _dial(self, address: str) -> ApnsConnection:
        """Ready for requests: Apple has said how many streams it takes."""
        transport, connection = await self.loop.create_connection(
            partial(ApnsConnection, self._host, self, self._token),
            host=address,
            port=self._port,
            ssl=self.ssl_context,
            server_hostname=self._host,
            ssl_shutdown_timeout=SHUTDOWN_SECONDS,
        )
        try:
            if transport.get_extra_info("ssl_object").selected_alpn_protocol() != "h2":
                raise OSError("the server does not speak HTTP/2")
            if not await connection.ready:
                raise ConnectionResetError("closed before its SETTINGS")
        except BaseException:
            transport.abort()
            raise
        return connection

    def discard_connection(self, connection: APNsBaseClientProtocol) -> None:
        """A connection was lost, perhaps before it was added."""
        self.connections = [kept for kept in self.connections if kept is not connection]

    async def aclose(self) -> None:
        """Close all connections and wait until they are."""
        connections = list(self.connections)
        self.close()
        for connection in connections:
            await connection.lost


def _reason_of(error: Exception) -> str:
    """In words that hold no address."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return "its certificate is not trusted"
    if isinstance(error, ssl.SSLError):
        return "the TLS handshake failed"
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "it refused the connection"
    return "the connection failed"
