"""The sweeper: finds what is due although nobody was told, once a second. It is what proves that work goes on.

Guarantees: whatever is due, was left behind by a dead worker or is behind in the log gets a job within about a second,
in a few statements over indexes whatever the number of projects. Any number of sweepers may run. Leaves to others:
doing it. Stops when its `run` is cancelled or `stop` is set.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from db.database import Database
from db.heads import read_clock
from db.housekeeping import delete_job_history, delete_spent_limits
from engine.accounts.cleaning import clean_accounts
from engine.backoff import Backoff
from engine.clock import Clock
from engine.work import Work, WorkKind

if TYPE_CHECKING:
    import asyncpg

INTERVAL = 1.0
"""Seconds between sweeps."""
HOUSEKEEPING_INTERVAL = 600.0
"""Seconds between deletions of what is no longer looked at."""
JOB_HISTORY = timedelta(hours=1)
"""How long the job engine's own log is kept: three rows a job, of use only while looking for a fault."""
SPENT_LIMITS = timedelta(days=2)
"""Frequency caps and limits look back a day at most."""

_logger = logging.getLogger(__name__)

Finder = Callable[["asyncpg.Connection"], Awaitable[Iterable[UUID]]]
"""The projects that have some kind of work now."""


class Sweeper:
    """Asks `finders` for projects and hands them to `enqueue`."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        finders: Sequence[tuple[WorkKind, Finder]],
        enqueue: Callable[[Sequence[Work]], Awaitable[None]],
        *,
        interval: float = INTERVAL,
    ) -> None:
        self._database = database
        self._clock = clock
        self._finders = tuple(finders)
        self._enqueue = enqueue
        self._interval = interval
        self._kept_house_at = -HOUSEKEEPING_INTERVAL

    async def step(self) -> None:
        """One sweep. Raises what the database raises."""
        works: dict[Work, None] = {}
        async with self._database.connection() as connection:
            for kind, find in self._finders:
                works.update(dict.fromkeys(Work(kind, project_id) for project_id in await find(connection)))
        await self._enqueue(list(works))

    async def keep_house(self) -> None:
        """Delete what nobody looks at any more. Raises what the database raises."""
        async with self._database.connection() as connection:
            await delete_job_history(connection, before=await read_clock(connection) - JOB_HISTORY)
            await delete_spent_limits(connection, before=self._clock.now() - SPENT_LIMITS)
            await clean_accounts(connection, now=self._clock.now())

    async def run(self, stop: asyncio.Event) -> None:
        """Step once per interval until `stop` is set; with backoff while the database is away."""
        backoff = Backoff(first=self._interval, cap=5 * self._interval)
        while not stop.is_set():
            delay = self._interval
            try:
                await self.step()
                await self._keep_house_if_due()
                backoff.reset()
            except Exception as error:
                _logger.warning("sweeper.step_failed", extra={"reason": type(error).__name__})
                delay = backoff.delay()
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await stop.wait()

    async def _keep_house_if_due(self) -> None:
        if time.monotonic() - self._kept_house_at > HOUSEKEEPING_INTERVAL:
            self._kept_house_at = time.monotonic()
            await self.keep_house()
