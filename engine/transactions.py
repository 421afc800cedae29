"""Transactions that are tried again after whatever passes by itself: deadlocks, conflicts, a lost or restarting server.

Guarantees: `action` runs in a transaction of its own at each try, and what it returns is what was committed. A COMMIT
whose answer was lost is tried again too: `action` must find what it made the first time, by an id that stays the same.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from db.database import Database
from db.failures import is_passing
from engine.errors import Unavailable

if TYPE_CHECKING:
    import asyncpg

RETRY_FOR = timedelta(seconds=10)
"""How long before the caller is told to come back. Outlives the restart of a PostgreSQL."""
RETRY_AFTER_MS = 1_000
FIRST_PAUSE_SECONDS = 0.01
LONGEST_PAUSE_SECONDS = 0.5

R = TypeVar("R")


async def run_transaction(
    database: Database, action: Callable[[asyncpg.Connection], Awaitable[R]], *, retry_for: timedelta = RETRY_FOR
) -> R:
    """Run `action` in a READ COMMITTED transaction until it commits. Raises `Unavailable` after `retry_for`."""
    deadline = time.monotonic() + retry_for.total_seconds()
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            async with database.transaction() as connection:
                return await action(connection)
        except Exception as error:
            if not is_passing(error):
                raise
            if time.monotonic() + pause > deadline:
                raise Unavailable("The database does not answer: try again.", retry_after_ms=RETRY_AFTER_MS) from error
        await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 (jitter)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
