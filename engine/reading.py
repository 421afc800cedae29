"""Reads whose cost depends on what is asked: lists, counts and reports.

Guarantees: they have a pool of their own, so that appends, look-ups by key and streams always find a connection; one
project has at most `PROJECT_READS` of them at work, so that another project's come next; more than `PROJECT_WAITING`
are refused at once (`RateLimited`) instead of waiting for longer than anybody would.
Leaves to others: how long a statement may take (the pool), and that one operation reads one list at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from uuid import UUID

from db.database import Database
from engine.errors import RateLimited

if TYPE_CHECKING:
    import asyncpg

POOL_SIZE = 4
"""Connections for such reads in one gateway: as many backends as a small server has cores, or twice that."""
PROJECT_READS = 2
"""Of one project at once: half of the pool, so that two projects never wait for a third."""
PROJECT_WAITING = 100
"""Operations of one project that may wait for their turn."""
RETRY_AFTER_MS = 1_000


class _Turns:
    """One project's places. Kept while anybody holds one or waits."""

    def __init__(self, places: int) -> None:
        self.places = asyncio.Semaphore(places)
        self.readers = 0


class Readers:
    """Connections for lists and counts. Belongs to one event loop.

    `at_once` and `waiting` are of one project; `what` is read, in words for whoever is refused.
    """

    def __init__(
        self,
        database: Database,
        *,
        at_once: int = PROJECT_READS,
        waiting: int = PROJECT_WAITING,
        what: str = "lists",
    ) -> None:
        self._database = database
        self._at_once = at_once
        self._most = at_once + waiting
        self._what = what
        self._turns: dict[UUID, _Turns] = {}

    @asynccontextmanager
    async def connection(self, project_id: UUID) -> AsyncIterator[asyncpg.Connection]:
        """A connection, when it is this project's turn. Raises `RateLimited`, or `TimeoutError` when all are busy."""
        turns = self._turns.setdefault(project_id, _Turns(self._at_once))
        if turns.readers >= self._most:
            raise RateLimited(
                f"At most {self._most - self._at_once} {self._what} of a project may wait for their turn here.",
                retry_after_ms=RETRY_AFTER_MS,
            )
        turns.readers += 1
        try:
            async with turns.places, self._database.connection() as connection:
                yield connection
        finally:
            turns.readers -= 1
            if turns.readers == 0:
                self._turns.pop(project_id, None)
