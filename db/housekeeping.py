"""Deleting what nobody looks at any more."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("housekeeping")


async def delete_job_history(connection: asyncpg.Connection, *, before: datetime) -> None:
    """The job engine's own log and statistics; real time."""
    await connection.execute(_SQL["delete_job_log"], before)
    await connection.execute(_SQL["delete_job_statistics"], before)


async def delete_spent_limits(connection: asyncpg.Connection, *, before: datetime) -> None:
    """Reservations and counters that no cap or limit looks back to; business time."""
    await connection.execute(_SQL["delete_reservations"], before)
    await connection.execute(_SQL["delete_send_counters"], before)
