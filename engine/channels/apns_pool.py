"""The connections of one credential to Apple: aioapns's pool, made safe for a worker that never restarts.

Guarantees: a request that is not answered ends with one of `NotSent`, `Lost` and aioapns's `ConnectionError` (Apple
was not reached). It is put on the wire at most twice, the second time only after `NotSent`: nothing is sent again
without end, as aioapns 4.0 would. ALPN is offered. Leaves to others: what an answer means, time-outs, and retries.
Stops with `ApnsPool.aclose`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeAlias
from urllib.parse import urlsplit

from aioapns.connection import APNsBaseClientProtocol, APNsKeyConnectionPool
from aioapns.exceptions import ConnectionError as CannotConnect

from engine.channels.apns_connection import ApnsConnection
from engine.channels.apns_exchange import ApnsAnswer, ApnsRequest, NotSent
from engine.channels.apns_token import ProviderToken

MAX_CONNECTIONS = 4
"""Per credential and environment. Apple allows 1,000 streams on each."""
CONNECT_SECONDS = 5.0
"""For all of: look-up, TCP, TLS, and the server's SETTINGS."""
RECONNECT_PAUSE_SECONDS = 0.5
"""After a failure to connect, whoever comes within this time is told the same: a dead host is not hammered."""
STALL_SECONDS = 5.0
"""A request that its caller gave up after this time, with nothing heard since, speaks for a dead connection."""
SHUTDOWN_SECONDS = 1.0
"""For the peer to answer the end of TLS."""

Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a host that may be dialled, for the port. Raises `OSError` when there are none."""


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
            partial(ApnsConnection, self._host, self._token, on_lost=self.discard_connection),
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
