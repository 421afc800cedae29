"""The relay: rings the doorbell again for what was committed but perhaps never announced.

Guarantees: a second after a commit at the latest (plus the time of one statement), Redis has been told the head of its
lane, even if the gateway died between COMMIT and announcement. Any number of relays may run: what was heard already is
dropped by the hubs. Leaves to others: reading what the head tells of. Holds no position: a relay that starts looks back
`START_LOOK_BACK` and says some of it again. Stops when its `run` is cancelled or `stop` is set.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from datetime import datetime, timedelta
from uuid import UUID

from db.database import Database
from db.heads import read_changed_heads, read_clock
from db.records import HeadRecord, Lane
from engine.announcements import Announcement
from engine.backoff import Backoff
from engine.live.broadcast import Broadcast

INTERVAL = 1.0
"""Seconds between readings: one statement over an index, whatever the number of projects."""
LOOK_BACK = timedelta(seconds=30)
"""How far before the last reading heads are read again: `changed_at` is written before its transaction commits, and a
statement may run for 15 seconds."""
START_LOOK_BACK = timedelta(days=1)
"""The same for the first reading: for as long as no relay may have run at all."""

_logger = logging.getLogger(__name__)


class Relay:
    """Reads changed heads and announces them."""

    def __init__(self, database: Database, broadcast: Broadcast, *, interval: float = INTERVAL) -> None:
        self._database = database
        self._broadcast = broadcast
        self._interval = interval
        self._read_at: datetime | None = None
        self._told: dict[tuple[UUID, Lane], tuple[int, int]] = {}

    async def step(self) -> int:
        """Announce every head that moved and was not announced by this relay yet. Returns how many.

        Raises what the database and Redis raise; nothing is taken for announced then.
        """
        async with self._database.connection() as connection:
            now = await read_clock(connection)
            since = now - START_LOOK_BACK if self._read_at is None else self._read_at - LOOK_BACK
            heads = await read_changed_heads(connection, changed_after=since)
        moved = [head for head in heads if self._told.get((head.project_id, head.lane)) != (head.epoch, head.head)]
        if moved:
            await self._broadcast.publish_announcements([_announcement(head) for head in moved])
        # Only what may be read again has to be remembered.
        self._told = {(head.project_id, head.lane): (head.epoch, head.head) for head in heads}
        self._read_at = now
        return len(moved)

    async def run(self, stop: asyncio.Event) -> None:
        """Step once per interval until `stop` is set; with backoff while the database or Redis is away."""
        backoff = Backoff(first=self._interval, cap=5 * self._interval)
        while not stop.is_set():
            delay = self._interval
            try:
                await self.step()
                backoff.reset()
            except Exception as error:
                _logger.warning("relay.step_failed", extra={"reason": type(error).__name__})
                delay = backoff.delay()
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await stop.wait()


def _announcement(head: HeadRecord) -> Announcement:
    return Announcement(head.project_id, head.lane, head.epoch, head.head + 1, head.head)
