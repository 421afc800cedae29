"""Waiting for pushes that are on their way to a device while it becomes somebody else's.

Guarantees: whoever gives a device away under the lock of its token, and finds something being sent to it for its owner
until then, begins anew until that has ended, `PATIENCE` long: then it came before. A push service that hangs for longer
holds nobody up. Nothing new begins meanwhile for the former owner: it is claimed under the same lock.
Leaves to others: what is claimed and waits for its turn (`engine.dispatch.dispatcher` looks again).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from db.database import Database
from engine.transactions import run_transaction

if TYPE_CHECKING:
    import asyncpg

PATIENCE = timedelta(seconds=1)
"""For pushes that are being sent to the device. A push service answers in a tenth of that; longer, it hangs."""
PAUSE_SECONDS = 0.05
"""Between looks at whether a push to the device has ended."""

R = TypeVar("R")


class PushInFlight(Exception):
    """A worker is sending to the device: try again in a moment."""


async def until_pushes_end(
    database: Database, attempt: Callable[[bool], Callable[[asyncpg.Connection], Awaitable[R]]]
) -> R:
    """Run transactions until one does not raise `PushInFlight`. What is given to `attempt` says whether it is the last,
    which must not. It is waited outside of them: what is waited for needs locks that they hold."""
    deadline = time.monotonic() + PATIENCE.total_seconds()
    while True:
        try:
            return await run_transaction(database, attempt(time.monotonic() >= deadline))
        except PushInFlight:
            await asyncio.sleep(PAUSE_SECONDS)
