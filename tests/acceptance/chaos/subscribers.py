"""Subscribers: each one client for its whole life, with many connections and one position.

It keeps the cursor of the last item it has processed, or a later one that came without an item, and comes back with it
on another gateway whenever its connection ends. What it received is judged at the end, against the table.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from dataclasses import dataclass, field
from uuid import UUID

from engine.cursors import CursorCodec, CursorKind
from tests.acceptance.chaos.clients import (
    STREAM,
    Arrival,
    Ended,
    Item,
    Stream,
    open_event_source,
    open_event_stream,
    open_socket_stream,
)
from tests.acceptance.chaos.deployment import Gateway
from tests.acceptance.chaos.events import Taste
from tests.acceptance.chaos.writers import Ledger

HARMLESS = frozenset(
    {
        # The connection broke, was cut by us, or was refused while its gateway was away
        "1006",
        "1001",
        "1012",
        "end of response",
        "ConnectionResetError",
        "ConnectionRefusedError",
        "ClientConnectorError",
        "ClientOSError",
        "ClientPayloadError",
        "ClientConnectionError",
        "ClientConnectionResetError",
        "ServerDisconnectedError",
        "ServerTimeoutError",
        "ConnectionTimeoutError",
        "TimeoutError",
        "EOFError",
        "InvalidMessage",
        # The gateway says that the database is away
        "1013",
        "UNAVAILABLE",
        "TIMEOUT",
    }
)
"""How a connection may end. Everything else is a broken promise."""

PAUSES_PER_ITEM = 0.004
STREAM_KINDS = frozenset({CursorKind.EVENTS, CursorKind.HEAD})


@dataclass(frozen=True, slots=True)
class Manner:
    """How a client behaves."""

    over_socket: bool
    by_last_event_id: bool = False
    """Over server-sent events: whether it resumes as EventSource does, asking the same again."""
    document: str = STREAM
    stays: tuple[float, float] = (0.5, 6.0)
    """Least and most seconds before it breaks its connection off."""
    item_seconds: float = 0.0
    """How long it takes for an item; for one that is not zero its kernel buffers little."""
    pauses: tuple[float, float] | None = None
    """Least and most seconds for which it now and then reads nothing."""

    @property
    def is_prompt(self) -> bool:
        return self.item_seconds == 0 and self.pauses is None


@dataclass(slots=True)
class Sighting:
    """One event as it reached somebody who was there and reading: when, from which gateway, connected since when."""

    key: str
    at: float
    gateway: int
    since: float


@dataclass(slots=True)
class Trace:
    """What one subscriber saw of the world."""

    received: list[int] = field(default_factory=list)
    claims: list[tuple[int, int]] = field(default_factory=list)
    """Positions that came without an item, each with how many items had come: all that there are up to it."""
    sightings: list[Sighting] = field(default_factory=list)
    last_at: float = 0.0
    longest_silence: float = 0.0


class Subscriber:
    """A client that watches."""

    def __init__(
        self,
        ledger: Ledger,
        gateways: list[Gateway],
        codec: CursorCodec,
        project_id: UUID,
        key: str,
        *,
        number: int,
        chance: random.Random,
        taste: Taste,
        manner: Manner,
    ) -> None:
        self.taste = taste
        self.manner = manner
        self.name = f"subscriber {number} ({taste.name})"
        self.trace = Trace()
        self.start: int | None = None
        """The seq that it began after; None until the gateway has said so."""
        self.position = 0
        self.cursor: str | None = None
        self._first_cursor: str | None = None
        self._ledger = ledger
        self._gateways = gateways
        self._codec = codec
        self._project_id = project_id
        self._key = key
        self._chance = chance
        self._gateway = chance.choice(gateways)
        self._stream: Stream | None = None
        self._in_haste = False

    async def watch(self, over: asyncio.Event) -> None:
        """Connect again and again until it is over."""
        while not over.is_set():
            await self._session(self._chance.uniform(*self.manner.stays), over.is_set)
            await asyncio.sleep(self._chance.uniform(0, 0.3))

    async def finish(self, last: int, seconds: float) -> bool:
        """Come back and read on until at least the seq `last` has been reached; whether that was so in time."""
        deadline = time.monotonic() + seconds
        self._in_haste = True
        while self.position < last and time.monotonic() < deadline:
            await self._session(deadline - time.monotonic(), lambda: self.position >= last)
            await asyncio.sleep(0.1)
        return self.position >= last

    async def stay(self, seconds: float) -> None:
        """Be connected for a while longer: whatever comes now came twice."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._session(seconds, lambda: False)

    def cut(self) -> None:
        """Break the connection off, if there is one."""
        if self._stream is not None:
            self._stream.cut()

    async def _session(self, seconds: float, is_enough: Callable[[], bool]) -> None:
        """One connection, for at most so long."""
        others = [gateway for gateway in self._gateways if gateway is not self._gateway]
        self._gateway = self._chance.choice(others or self._gateways)
        try:
            async with asyncio.timeout(seconds), self._open() as stream:
                self._ledger.counts["connections"] += 1
                await self._read(stream, is_enough)
        except TimeoutError:
            self._ledger.counts["left"] += 1
        except Ended as end:
            self._ledger.counts[f"ended: {end.code}"] += 1
            if end.code not in HARMLESS:
                self._ledger.violations.append(f"{self.name} was ended by {end}")
        finally:
            self._stream = None

    def _open(self) -> AbstractAsyncContextManager[Stream]:
        port, wanted = self._gateway.port, self.taste.event_filter
        slow, document = not self.manner.is_prompt, self.manner.document
        if self.manner.over_socket:
            return open_socket_stream(
                port, self._key, event_filter=wanted, after=self.cursor, document=document, slow=slow
            )
        if self.manner.by_last_event_id:
            return open_event_source(
                port,
                self._key,
                event_filter=wanted,
                after=self._first_cursor,
                last_event_id=self.cursor,
                document=document,
                slow=slow,
            )
        return open_event_stream(port, self._key, event_filter=wanted, after=self.cursor, document=document, slow=slow)

    async def _read(self, stream: Stream, is_enough: Callable[[], bool]) -> None:
        self._stream = stream
        since = time.monotonic()
        async with aclosing(stream.arrivals()) as arrivals:  # type: ignore[type-var]
            async for arrival in arrivals:
                self._process(arrival, since)
                if is_enough():
                    return
                await self._take_time()

    async def _take_time(self) -> None:
        if self._in_haste:
            return
        if self.manner.item_seconds:
            await asyncio.sleep(self.manner.item_seconds)
        if self.manner.pauses is not None and self._chance.random() < PAUSES_PER_ITEM:
            self._ledger.counts["pauses"] += 1
            await asyncio.sleep(self._chance.uniform(*self.manner.pauses))

    def _process(self, arrival: Arrival, since: float) -> None:
        position = position_of(self._codec, arrival.cursor, self._project_id)
        if self.start is None:
            if isinstance(arrival, Item):
                self._ledger.violations.append(f"{self.name} was not told where it began")
            self.start = position
            self._first_cursor = arrival.cursor
        if isinstance(arrival, Item):
            self._note(arrival, position, since)
        else:
            self._ledger.counts["positions"] += 1
            self.trace.claims.append((position, len(self.trace.received)))
            if position < self.position:
                self._ledger.violations.append(f"{self.name} was put back from {self.position} to {position}")
        self.position = position
        self.cursor = arrival.cursor

    def _note(self, item: Item, position: int, since: float) -> None:
        now = time.monotonic()
        if self.trace.last_at:
            self.trace.longest_silence = max(self.trace.longest_silence, now - self.trace.last_at)
        self.trace.last_at = now
        if item.seq != position or item.seq <= self.position:
            self._ledger.violations.append(f"{self.name} at {self.position} got {item.seq} with cursor {position}")
        if item.error is not None:
            self._ledger.counts[f"item: {item.error}"] += 1
            if item.error not in HARMLESS:
                self._ledger.violations.append(f"{self.name} got an item with {item.error}")
        sent = self._ledger.sent.get(item.key)
        if sent is None or (sent["eventType"], sent.get("userId")) != (item.event_type, item.user_id):
            self._ledger.violations.append(f"{self.name} got {item}, and {sent} was sent")
        self.trace.received.append(item.seq)
        if self.manner.is_prompt and self.taste.event_filter is None:
            self.trace.sightings.append(Sighting(item.key, now, self._gateway.number, since))


def position_of(codec: CursorCodec, cursor: str, project_id: UUID) -> int:
    """The seq that a cursor stands at."""
    return int(codec.decode(cursor, project_id=project_id, kinds=STREAM_KINDS).key[0])
