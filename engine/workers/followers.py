"""Followers of the log: what follows from each event is written once, whatever crashes.

Guarantees: an item takes effect exactly once in PostgreSQL, in the log's order: what a follower makes of a page and its
new position are one transaction, fenced by the lease and by the old position (a lease alone fails when a process is
stopped and goes on later). Leaves to others: what follows from an event (`Reaction`), waking who acts on it.
Stops between pages.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol
from uuid import UUID, uuid4

from db.database import Database
from db.delivery_records import NewDelivery
from db.events import read_event_page
from db.failures import is_passing
from db.followers import advance_follower, lease_follower, release_follower
from db.records import EventPage, EventRecord, Lane
from engine.announcements import Announcement
from engine.clock import Clock
from engine.dispatch.ledger import create_deliveries
from engine.work import Work, WorkKind

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg

PAGE_EVENTS = 200
"""Events that take effect together: bounds the transaction, and what a crash does over."""
LEASE = timedelta(seconds=6)
"""Longer than a page takes; renewed before each. Real time. No longer than a job of a dead worker waits anyway."""
RETRY_SECONDS = 0.05
"""After a deadlock or a lost connection."""

_logger = logging.getLogger(__name__)


class Reaction(Protocol):
    """What follows from events. Called inside the transaction that moves the position; locks no heads."""

    async def __call__(
        self, connection: asyncpg.Connection, *, project_id: UUID, events: Sequence[EventRecord], now: datetime
    ) -> Sequence[NewDelivery]: ...


class Follower:
    """One reader of the events lane of every project, in one worker. `name` is what its positions are stored under."""

    def __init__(
        self,
        name: str,
        react: Reaction,
        *,
        database: Database,
        clock: Clock,
        announce: Callable[[Announcement], None],
        wake: Callable[[Work], None],
    ) -> None:
        self.name = name
        self._react = react
        self._database = database
        self._clock = clock
        self._announce = announce
        self._wake = wake
        self._token = uuid4()

    async def follow(self, project_id: UUID) -> None:
        """Read on to the head. Returns early where another worker holds the lease."""
        while (position := await self._lease(project_id)) is not None:
            page = await self._read_page(project_id, position)
            if page.reached <= position:
                break
            if not await self._take_effect(project_id, position, page):
                return
        await self._release(project_id)

    async def _lease(self, project_id: UUID) -> int | None:
        async with self._database.connection() as connection:
            return await lease_follower(
                connection,
                project_id=project_id,
                follower=self.name,
                lane=Lane.EVENTS,
                token=self._token,
                lease=LEASE,
            )

    async def _read_page(self, project_id: UUID, position: int) -> EventPage:
        async with self._database.connection() as connection:
            return await read_event_page(connection, project_id=project_id, after=position, limit=PAGE_EVENTS)

    async def _take_effect(self, project_id: UUID, position: int, page: EventPage) -> bool:
        """One page, in one transaction. False when the lease was lost: another worker goes on from there."""
        while True:
            try:
                return await self._try(project_id, position, page)
            except Exception as error:
                if not is_passing(error):
                    raise
                _logger.info("follower.tried_again", extra={"follower": self.name, "reason": type(error).__name__})
            await asyncio.sleep(RETRY_SECONDS)

    async def _try(self, project_id: UUID, position: int, page: EventPage) -> bool:
        now = self._clock.now()
        async with self._database.transaction() as connection:
            moved = await advance_follower(
                connection,
                project_id=project_id,
                follower=self.name,
                lane=Lane.EVENTS,
                token=self._token,
                position=position,
                reached=page.reached,
            )
            if not moved:
                return False
            deliveries = await self._react(connection, project_id=project_id, events=page.events, now=now)
            announcements = await create_deliveries(connection, project_id=project_id, deliveries=deliveries, now=now)
        for announcement in announcements:
            self._announce(announcement)
        if deliveries:
            self._wake(Work(WorkKind.DELIVERIES, project_id))
        return True

    async def _release(self, project_id: UUID) -> None:
        async with self._database.connection() as connection:
            await release_follower(
                connection, project_id=project_id, follower=self.name, lane=Lane.EVENTS, token=self._token
            )
