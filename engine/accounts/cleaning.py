"""Deleting what signing in leaves behind: sessions that are over, refresh tokens long used, failures long ago.

Guarantees: in statements of `STEP_ROWS` each, so that nobody waits for one; what a reused refresh token has to be
recognised by stays for as long as its session may last. Leaves to others: when (`engine.workers.sweeper`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from db.sessions import delete_old_sessions, delete_spent_tokens
from db.sign_in_failures import delete_old_failures
from engine.accounts.sessions import SESSION_LIFETIME
from engine.accounts.storms import WINDOW

if TYPE_CHECKING:
    import asyncpg

STEP_ROWS = 1_000
"""Some milliseconds each."""
MAX_STEPS = 100
"""The rest is done next time."""
EXPIRED_FOR = timedelta(days=1)
"""Whoever comes a little late is told that the session is over, not that it is unknown."""


async def clean_accounts(connection: asyncpg.Connection, *, now: datetime) -> None:
    """Of all projects. `now` is business time."""
    await _in_steps(lambda: delete_old_sessions(connection, before=now - EXPIRED_FOR, limit=STEP_ROWS))
    await _in_steps(lambda: delete_spent_tokens(connection, before=now - SESSION_LIFETIME, limit=STEP_ROWS))
    await _in_steps(lambda: delete_old_failures(connection, before=now - WINDOW, limit=STEP_ROWS))


async def _in_steps(delete: Callable[[], Awaitable[int]]) -> None:
    for _ in range(MAX_STEPS):
        if await delete() < STEP_ROWS:
            return
