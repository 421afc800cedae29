"""What the tests of streams share: gateways over a real database and Redis, and subscribers that note what they get."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import msgspec

from db.database import Database
from db.events import append_events, read_events_by_seq
from db.records import EventRecord, Lane, NewEvent
from engine.announcements import Announcement
from engine.cursors import CursorCodec
from engine.lanes import EVENTS, LaneKind
from engine.live.broadcast import Broadcast
from engine.live.cohorts import Member
from engine.live.hub import Hub
from engine.live.items import StreamItem
from engine.live.streams import Streams
from tests.integration.log_support import new_event

CODEC = CursorCodec(b"a secret that all gateways of this test share")


class Gateway:
    """The part of a gateway that streams need."""

    def __init__(self, database: Database, broadcast: Broadcast, *, linger: float = 0.2, **options: Any) -> None:
        self.database = database
        self.broadcast = broadcast
        self.hub = Hub(database, broadcast, linger=linger)
        self.streams = Streams(self.hub, database, CODEC, **options)

    async def append(self, project_id: UUID, *events: NewEvent, announce: bool = True) -> list[EventRecord]:
        """Commit, and announce as the log does. Without: the gateway that died between the two."""
        async with self.database.connection() as connection:
            result = await append_events(
                connection, project_id=project_id, batch_token=secrets.randbits(62), events=events
            )
            records = await read_events_by_seq(connection, project_id=project_id, seqs=result.seqs)
        if announce:
            first, last = records[0].seq, records[-1].seq
            self.broadcast.announce(Announcement(project_id, Lane.EVENTS, result.epoch, first, last, tuple(records)))
        return records

    async def append_many(self, project_id: UUID, count: int, *, announce: bool = True, **fields: Any) -> None:
        """`count` events under fresh keys, in one commit."""
        events = [new_event(secrets.token_hex(8), **fields) for _ in range(count)]
        await self.append(project_id, *events, announce=announce)

    async def subscribe(
        self,
        project_id: UUID,
        sink: RecordingSink,
        *,
        kind: LaneKind[Any, Any] = EVENTS,
        item_filter: Any = None,
        after: str | None = None,
        rendering: Rendering | None = None,
        audience: Hashable = "everybody",
    ) -> Member:
        """Follow a lane: all of it without a filter."""
        source = self.streams.follow(
            kind,
            project_id,
            item_filter=kind.everything if item_filter is None else item_filter,
            audience=audience,
            after=after,
            convert=lambda item: item,
        )
        return await source.join(rendering or Rendering(), sink)


@asynccontextmanager
async def open_gateway(
    database_url: str, redis_url: str, *, database: Database | None = None, **options: Any
) -> AsyncIterator[Gateway]:
    database = database or Database(database_url, max_size=6)
    await database.connect()
    broadcast = Broadcast(redis_url)
    await broadcast.connect()
    gateway = Gateway(database, broadcast, **options)
    await gateway.hub.start()
    try:
        yield gateway
    finally:
        await gateway.streams.stop()
        await gateway.hub.stop()
        await broadcast.disconnect()
        await database.disconnect()


class Rendering:
    """Renders an item as `[seq]`, at once or `delay` seconds later, and counts how often."""

    def __init__(self, key: Hashable = "document", *, delay: float | None = None) -> None:
        self.key = key
        self.calls = 0
        self._delay = delay

    def __call__(self, item: object) -> bytes | Awaitable[bytes]:
        assert isinstance(item, StreamItem)
        self.calls += 1
        payload = msgspec.json.encode([item.record.seq])
        return payload if self._delay is None else self._later(payload, self._delay)

    def is_whole(self, response: bytes) -> bool:
        return response.startswith(b"[")

    async def _later(self, payload: bytes, delay: float) -> bytes:
        await asyncio.sleep(delay)
        return payload


class RecordingSink:
    """Takes everything, `bound` items at a time: then it is full until `drain` is called (by itself after `pause`)."""

    def __init__(self, *, bound: int | None = None, pause: float | None = None) -> None:
        self.seqs: list[int] = []
        self.texts: list[str] = []
        self.cursors: list[str] = []
        self.announced: list[str] = []
        self.error: BaseException | None = None
        self.violations: list[str] = []
        self._bound = bound
        self._pause = pause
        self._buffered = 0
        self._room = asyncio.Event()
        self._room.set()
        self._got = asyncio.Event()

    def deliver(self, payload: bytes, cursor: str) -> bool:
        if self.error is not None:
            self.violations.append("delivered after the end")
        if not self._room.is_set():
            self.violations.append("delivered while full")
        seq, *rest = msgspec.json.decode(payload)
        self.seqs.append(seq)
        self.texts += rest
        self.cursors.append(cursor)
        self._got.set()
        self._buffered += 1
        if self._bound is not None and self._buffered >= self._bound:
            self._room.clear()
            if self._pause is not None:
                asyncio.get_running_loop().call_later(self._pause, self.drain)
        return self._room.is_set()

    async def drained(self) -> None:
        await self._room.wait()

    def drain(self) -> None:
        """Everything buffered has been sent."""
        self._buffered = 0
        self._room.set()

    def announce(self, cursor: str) -> None:
        if self.seqs:
            self.violations.append("announced after delivering")
        self.announced.append(cursor)

    def fail(self, error: BaseException) -> None:
        self.error = error
        self._got.set()

    def complete(self) -> None:
        self.violations.append("completed")

    async def until(self, condition: Callable[[RecordingSink], bool], *, within: float = 10.0) -> None:
        """Wait until something has come that makes the condition true."""
        async with asyncio.timeout(within):
            while not condition(self):
                self._got.clear()
                await self._got.wait()

    async def until_count(self, count: int, *, within: float = 10.0) -> None:
        """Wait for this many items."""
        await self.until(lambda sink: len(sink.seqs) >= count, within=within)


async def until(condition: Callable[[], bool], *, within: float = 10.0) -> None:
    """Poll for something that nobody tells us of."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
