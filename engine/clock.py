"""Business time: when things are due, waits, quiet hours, caps, windows. Leases and time-outs use real time instead.

It is the database's time, so that all processes agree, plus an offset that tests move. SQL takes it as a parameter,
never `now()`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Protocol

from db.database import Database
from db.heads import read_clock
from engine.tasks import end_tasks

RESYNC_SECONDS = 30.0
"""Two machines' clocks drift by some milliseconds in this time."""

_logger = logging.getLogger(__name__)


class Clock(Protocol):
    """Gives business time."""

    def now(self) -> datetime:
        """In UTC."""


class DatabaseClock:
    """The database's clock, carried on by this process's monotonic one between readings.

    Use it inside `running`, which reads the database's clock at once and then every `RESYNC_SECONDS`. `now` never runs
    backwards.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._offset = timedelta()
        self._base = datetime.now(UTC)
        self._read_at = time.monotonic()
        self._last = self._base

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep it right for as long as the block lasts. Raises what the database raises when it begins."""
        await self._sync()
        keeping = asyncio.create_task(self._keep_right(), name="clock")
        try:
            yield
        finally:
            await end_tasks([keeping])

    async def _keep_right(self) -> None:
        while True:
            await asyncio.sleep(RESYNC_SECONDS)
            try:
                await self._sync()
            except Exception as error:
                _logger.warning("clock.unreadable", extra={"reason": type(error).__name__})

    async def _sync(self) -> None:
        before = time.monotonic()
        async with self._database.connection() as connection:
            now = await read_clock(connection)
        after = time.monotonic()
        self._base, self._read_at = now, (before + after) / 2

    def now(self) -> datetime:
        """See `Clock`."""
        elapsed = timedelta(seconds=time.monotonic() - self._read_at)
        self._last = max(self._last, self._base + elapsed + self._offset)
        return self._last

    def advance(self, duration: timedelta) -> None:
        """For tests: from now on it is this much later."""
        self._offset += duration
