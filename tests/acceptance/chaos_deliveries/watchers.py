"""Watchers: each follows a lane with one position for its whole life, through the deaths of its gateways."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from engine.cursors import CursorCodec, CursorKind
from tests.acceptance.chaos.clients import (
    UPDATES,
    Arrival,
    Ended,
    RunUpdate,
    Stream,
    Update,
    open_event_stream,
    open_socket_stream,
)
from tests.acceptance.chaos.deployment import Deployment
from tests.acceptance.chaos.subscribers import HARMLESS
from tests.acceptance.chaos.writers import Ledger

KINDS = frozenset({CursorKind.DELIVERIES, CursorKind.HEAD})
DELIVERIES_LANE = 1
"""Where a position of the whole log holds that of the deliveries lane."""


@dataclass(frozen=True, slots=True)
class Interest:
    """What a watcher wants, for the gateway and for the judge."""

    name: str
    over_socket: bool
    delivery_filter: dict[str, Any] | None = None
    sql: str = "true"


INTERESTS = (
    Interest("everything, by socket", over_socket=True),
    Interest("everything, by events", over_socket=False),
    Interest("pushes", over_socket=True, delivery_filter={"channels": ["PUSH"]}, sql="channel = 'PUSH'"),
    Interest(
        "what is in doubt",
        over_socket=False,
        delivery_filter={"statuses": ["UNCERTAIN", "FAILED"]},
        sql="to_status IN ('UNCERTAIN', 'FAILED')",
    ),
)


class Watcher:
    """A client that watches. Other lanes are watched by subclasses: what they subscribe to, and what arrives then."""

    document = UPDATES
    kinds = KINDS
    lane = DELIVERIES_LANE
    item: type[Update | RunUpdate] = Update

    def __init__(self, deployment: Deployment, ledger: Ledger, interest: Interest, chance: random.Random) -> None:
        self.interest = interest
        self.start: int | None = None
        """The seq that it began after; None until the gateway has said so."""
        self.position = 0
        self.received: list[tuple[int, Any]] = []
        self._cursor: str | None = None
        self._deployment = deployment
        self._ledger = ledger
        self._chance = chance
        self._codec = CursorCodec(deployment.secret_key.encode())
        self._project_id = UUID(deployment.keys.project_id)
        self._stream: Stream | None = None

    @property
    def name(self) -> str:
        return f"watcher of {self.interest.name}"

    async def watch(self, over: asyncio.Event) -> None:
        """Connect again and again until it is over."""
        while not over.is_set():
            await self._session(self._chance.uniform(0.5, 6), over.is_set)
            await asyncio.sleep(self._chance.uniform(0, 0.3))

    async def finish(self, last: int, seconds: float) -> bool:
        """Read on until at least the seq `last` has been reached, and a moment longer: whatever comes now came twice.

        Whether it was reached in time.
        """
        deadline = time.monotonic() + seconds
        while self.position < last and time.monotonic() < deadline:
            await self._session(deadline - time.monotonic(), lambda: self.position >= last)
            await asyncio.sleep(0.1)
        await self._session(0.5, lambda: False)
        return self.position >= last

    def cut(self) -> None:
        """Break the connection off, if there is one."""
        if self._stream is not None:
            self._stream.cut()

    async def _session(self, seconds: float, is_enough: Callable[[], bool]) -> None:
        """One connection, for at most so long."""
        open_stream = open_socket_stream if self.interest.over_socket else open_event_stream
        opened = open_stream(
            self._chance.choice(self._deployment.gateways).port,
            self._deployment.keys.secret_key,
            event_filter=self.interest.delivery_filter,
            after=self._cursor,
            document=self.document,
        )
        try:
            async with asyncio.timeout(seconds), opened as stream:
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

    async def _read(self, stream: Stream, is_enough: Callable[[], bool]) -> None:
        self._stream = stream
        async with aclosing(stream.arrivals()) as arrivals:  # type: ignore[type-var]
            async for arrival in arrivals:
                self._process(arrival)
                if is_enough():
                    return

    def _process(self, arrival: Arrival) -> None:
        key = self._codec.decode(arrival.cursor, project_id=self._project_id, kinds=self.kinds).key
        position = int(key[self.lane if len(key) > 1 else 0])
        if self.start is None:
            self.start = position
            if isinstance(arrival, self.item):
                self._ledger.violations.append(f"{self.name} was not told where it began")
        if position < self.position or (position == self.position and isinstance(arrival, self.item)):
            self._ledger.violations.append(f"{self.name} went from {self.position} to {position}")
        if isinstance(arrival, self.item):
            self.received.append((position, arrival))
        self.position, self._cursor = position, arrival.cursor
