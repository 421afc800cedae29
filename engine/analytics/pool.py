"""Connections for questions whose statements may run for seconds: a pool of their own, and turns within a project.

Guarantees: lists, look-ups and appends never wait for a question; one project has at most `PROJECT_QUESTIONS` at work
and `PROJECT_WAITING` waiting, more are refused (`RateLimited`); a statement ends after the pool's time-out, which is
told as `TimedOut` with what to ask for instead; nothing that is read can be written.
Leaves to others: opening and closing the pool.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from db.database import Database
from db.failures import is_statement_timeout
from engine.errors import TimedOut
from engine.reading import Readers

if TYPE_CHECKING:
    import asyncpg

STATEMENT_TIMEOUT = timedelta(seconds=15)
"""A snapshot that stays open for longer makes every update of a head dearer."""
ACQUIRE_TIMEOUT = STATEMENT_TIMEOUT + timedelta(seconds=5)
"""Whoever waits behind other projects' longest statements still gets a connection."""
PROJECT_QUESTIONS = 2
PROJECT_WAITING = 20
"""A board of some insights, asked at once by a few people."""
WORK_MEMORY = "64MB"
"""Of one sort: a million events of one period sort in memory rather than in files."""
HINT = "This question takes too long to answer: ask for a shorter period, fewer steps, or no breakdown."


class AnalyticsPool:
    """Belongs to one event loop. `database` is a pool with `STATEMENT_TIMEOUT` and `ACQUIRE_TIMEOUT`."""

    def __init__(self, database: Database) -> None:
        self._readers = Readers(database, at_once=PROJECT_QUESTIONS, waiting=PROJECT_WAITING, what="questions")

    @asynccontextmanager
    async def connection(self, project_id: UUID) -> AsyncIterator[asyncpg.Connection]:
        """A connection in a transaction that only reads, when it is this project's turn.

        Raises `RateLimited`, `TimedOut`, and `TimeoutError` when other projects' questions keep all connections busy.
        """
        try:
            async with self._readers.connection(project_id) as connection, connection.transaction(readonly=True):
                await connection.execute(f"SET LOCAL work_mem = '{WORK_MEMORY}'")
                yield connection
        except Exception as error:
            if is_statement_timeout(error):
                raise TimedOut(HINT) from error
            raise
