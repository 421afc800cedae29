"""One supervised Redis pub/sub connection, parsed by hiredis: SUBSCRIBE, UNSUBSCRIBE and PING over one socket.

Guarantees: whatever happens to Redis (restart, pause, cut, garbage on the wire) the connection is made again, all
wanted channels are subscribed to again, and only then `on_gap` says that messages may have been lost. A Redis that has
stopped answering is noticed within `PING_INTERVAL` × 2 + `PING_GRACE`. Leaves to others: queues, and what a gap means.
Stops when `stop` is awaited. Nothing here raises because Redis is away.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis
import msgspec

from engine.backoff import Backoff
from engine.tasks import end_tasks

PING_INTERVAL = 0.5
"""Seconds between pings: with the grace below, a paused Redis is noticed in 1.3 s, and polling then takes over."""
PING_GRACE = 0.3
"""Seconds more for an answer, because under uvloop a late timer runs before the socket is read."""
CONNECT_TIMEOUT = 2.0
"""Seconds for connecting and subscribing to everything again."""
FIRST_RETRY = 0.02
LAST_RETRY = 0.5
"""Seconds between attempts: many gateways must not hammer a Redis that is starting, streams must not wait for it."""
HEARTBEAT_CHANNEL = "sendora:heartbeat"
"""Always subscribed to, so that the connection is in subscribed mode from its first moment to its last."""

_logger = logging.getLogger(__name__)


class RedisAddress(msgspec.Struct, frozen=True):
    """Where a Redis is, as its URL says. `path` is set for a unix socket, else `host` and `port`."""

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    username: str | None = None
    password: str | None = None
    database: int = 0
    tls: bool = False


def parse_redis_url(url: str) -> RedisAddress:
    """Reads `redis://`, `rediss://` and `unix://` as redis-py does. Raises `ValueError`, without the URL in it."""
    parts = urlsplit(url)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    username = unquote(parts.username) if parts.username else query.get("username")
    password = unquote(parts.password) if parts.password else query.get("password")
    if parts.scheme == "unix":
        database = int(query.get("db", 0))
        return RedisAddress(path=unquote(parts.path), username=username, password=password, database=database)
    if parts.scheme not in ("redis", "rediss"):
        raise ValueError("a Redis URL must start with redis://, rediss:// or unix://")
    database = int(query.get("db") or parts.path.strip("/") or 0)
    host, port = unquote(parts.hostname or "localhost"), parts.port or 6379
    return RedisAddress(host, port, None, username, password, database, tls=parts.scheme == "rediss")


class PubSubConnection:
    """Channels in, messages out. All methods belong to one event loop.

    `on_message(channel, payload)`, `on_gap()` and `on_health(connected)` are called synchronously and must not raise.
    """

    def __init__(
        self,
        address: RedisAddress,
        *,
        on_message: Callable[[str, bytes], None],
        on_gap: Callable[[], None],
        on_health: Callable[[bool], None],
    ) -> None:
        self._address = address
        self._on_message = on_message
        self._on_gap = on_gap
        self._on_health = on_health
        self._wanted: dict[str, None] = {}
        self._acknowledgements: defaultdict[str, deque[asyncio.Future[None]]] = defaultdict(deque)
        self._link: _Link | None = None
        self._connected = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether every wanted channel is subscribed to and Redis answered its last ping."""
        return self._connected.is_set()

    async def start(self, *, wait: float) -> None:
        """Begin connecting, and wait up to `wait` seconds for the first success."""
        self._supervisor = asyncio.create_task(self._supervise(), name="redis-pubsub")
        try:
            async with asyncio.timeout(wait):
                await self._connected.wait()
        except TimeoutError:
            _logger.warning("redis.unreachable_at_start")

    async def stop(self) -> None:
        """Close the connection and forget all channels."""
        await end_tasks([self._supervisor])
        self._supervisor = None
        self._wanted.clear()

    def subscribe(self, channel: str) -> asyncio.Future[None]:
        """Want a channel. The future is done when Redis has acknowledged.

        While Redis is away it is done at once: `on_gap` follows when the channel is really subscribed to.
        """
        self._wanted[channel] = None
        if self._link is None:
            done = asyncio.get_running_loop().create_future()
            done.set_result(None)
            return done
        return self._send_subscribe(self._link, [channel])

    def unsubscribe(self, channel: str) -> None:
        """Want a channel no more."""
        self._wanted.pop(channel, None)
        if self._link is not None:
            self._link.send(b"UNSUBSCRIBE", channel.encode())

    async def _supervise(self) -> None:
        backoff = Backoff(first=FIRST_RETRY, cap=LAST_RETRY)
        while True:
            try:
                await self._live(backoff)
            except (OSError, TimeoutError, EOFError, hiredis.HiredisError) as error:
                _logger.info("redis.connection_lost", extra={"reason": type(error).__name__})
            finally:
                self._drop()
            await backoff.wait()

    async def _live(self, backoff: Backoff) -> None:
        """One connection from its first byte until it is lost, which always raises."""
        async with asyncio.timeout(CONNECT_TIMEOUT):
            link = await self._open()
            self._link = link
            waiting = list(self._wanted)
            await link.unless_lost(self._send_subscribe(link, [*waiting, HEARTBEAT_CHANNEL]))
        backoff.reset()
        self._connected.set()
        if waiting:
            self._on_gap()
        self._on_health(True)
        await self._keep_alive(link)

    async def _open(self) -> _Link:
        loop = asyncio.get_running_loop()
        address = self._address

        def make() -> _Link:
            return _Link(self._dispatch)

        if address.path is not None:
            _, link = await loop.create_unix_connection(make, address.path)
        else:
            tls = ssl.create_default_context() if address.tls else None
            _, link = await loop.create_connection(make, address.host, address.port, ssl=tls)
        try:
            await self._greet(link)
        except BaseException:
            link.close()
            raise
        return link

    async def _greet(self, link: _Link) -> None:
        address = self._address
        if address.password is not None:
            user = [] if address.username is None else [address.username.encode()]
            await link.ask(b"AUTH", *user, address.password.encode())
        if address.database:
            await link.ask(b"SELECT", str(address.database).encode())

    async def _keep_alive(self, link: _Link) -> None:
        while True:
            link.answered = False
            link.send(b"PING")
            await link.lost_within(PING_INTERVAL)
            if not link.answered:
                await link.lost_within(PING_GRACE)
                if not link.answered:
                    raise TimeoutError

    def _send_subscribe(self, link: _Link, channels: list[str]) -> asyncio.Future[None]:
        """Acknowledgements come in the order of the requests, so the last channel's stands for all."""
        acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for channel in channels[:-1]:
            self._acknowledgements[channel].append(asyncio.get_running_loop().create_future())
        self._acknowledgements[channels[-1]].append(acknowledged)
        link.send(b"SUBSCRIBE", *(channel.encode() for channel in channels))
        return acknowledged

    def _dispatch(self, reply: Any) -> None:
        kind = reply[0]
        if kind == b"message":
            self._on_message(reply[1].decode(errors="replace"), reply[2])
        elif kind == b"subscribe":
            channel = reply[1].decode(errors="replace")
            waiting = self._acknowledgements.get(channel)
            if waiting:
                _resolve(waiting.popleft())
                if not waiting:
                    del self._acknowledgements[channel]

    def _drop(self) -> None:
        """Forget the connection. Whoever waits for an acknowledgement goes on: the gap that follows covers it."""
        if self._link is not None:
            self._link.close()
            self._link = None
        for waiting in self._acknowledgements.values():
            for future in waiting:
                _resolve(future)
        self._acknowledgements.clear()
        if self._connected.is_set():
            self._connected.clear()
            self._on_health(False)


class _Link(asyncio.Protocol):
    """One socket's life: bytes to replies, and the moment it is lost."""

    def __init__(self, dispatch: Callable[[Any], None]) -> None:
        self._dispatch = dispatch
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._answers: deque[asyncio.Future[None]] = deque()
        self.answered = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.answered = True
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                self._receive(reply)
        except hiredis.ProtocolError:
            self.close()

    def connection_lost(self, _error: Exception | None) -> None:
        _resolve(self._lost)

    def send(self, *words: bytes) -> None:
        """Write one command. Its answer, if it has one, comes as a push."""
        if self._transport is not None:
            self._transport.write(hiredis.pack_command(words))  # type: ignore[arg-type]

    async def ask(self, *words: bytes) -> None:
        """One command before the first SUBSCRIBE. Raises `hiredis.ReplyError` (refused) or `EOFError` (gone)."""
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._answers.append(answer)
        self.send(*words)
        await self.unless_lost(answer)

    async def lost_within(self, seconds: float) -> None:
        """Wait; raises `EOFError` as soon as the connection is lost."""
        await asyncio.wait({self._lost}, timeout=seconds)
        self.check()

    async def unless_lost(self, answer: asyncio.Future[None]) -> None:
        """Wait for an answer; raises what it raises, or `EOFError` as soon as the connection is lost."""
        await asyncio.wait({self._lost, answer}, return_when=asyncio.FIRST_COMPLETED)
        self.check()
        answer.result()

    def check(self) -> None:
        """Raises `EOFError` if the connection has been lost."""
        if self._lost.done():
            raise EOFError

    def close(self) -> None:
        """Now: nothing that is still to be written matters."""
        if self._transport is not None:
            self._transport.abort()

    def _receive(self, reply: Any) -> None:
        if isinstance(reply, list):
            self._dispatch(reply)
        elif self._answers:
            answer = self._answers.popleft()
            if isinstance(reply, Exception) and not answer.done():
                answer.set_exception(reply)
            _resolve(answer)
        elif isinstance(reply, Exception):
            self.close()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
