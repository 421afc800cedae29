"""Counting sends in windows of time, for limits that are kept by counting.

Leaves to others: which window a moment is in, and removing windows that have passed (`db.housekeeping`).
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("send_counters")


async def reserve_sends(
    connection: asyncpg.Connection, *, project_id: UUID, scope: str, window_start: datetime, wanted: int, limit: int
) -> int:
    """Count up to `wanted` sends in a window that holds at most `limit`; returns how many were counted.

    Holds the counter until the transaction ends, so that two workers cannot overshoot.
    """
    await connection.execute(_SQL["insert_send_counter"], project_id, scope, window_start)
    granted: int = await connection.fetchval(_SQL["reserve_sends"], project_id, scope, window_start, wanted, limit)
    return granted


async def find_last_window(connection: asyncpg.Connection, *, project_id: UUID, scope: str) -> datetime | None:
    """The last window that anything is counted in."""
    found: datetime | None = await connection.fetchval(_SQL["find_last_window"], project_id, scope)
    return found
