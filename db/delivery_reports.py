"""What providers report about deliveries after they took them.

Guarantees: every function is one statement in the caller's transaction. Leaves to others: locking the delivery before,
whether it may go there, its transition and event (`engine.dispatch.reports`), and committing.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from db.deliveries import delivery_of
from db.delivery_records import DeliveryRecord
from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("delivery_reports")


async def report_status(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    delivery_id: UUID,
    status: str,
    now: datetime,
    provider_message_id: str | None = None,
    error_code: str | None = None,
    error_message: str | None = None,
    error_permanent: bool | None = None,
    error_hint: str | None = None,
) -> DeliveryRecord:
    """Move a delivery that its provider has. Lock it first, and look at its status. `now` is business time."""
    row = await connection.fetchrow(
        _SQL["report_status"],
        project_id,
        delivery_id,
        status,
        provider_message_id,
        error_code,
        error_message,
        error_permanent,
        error_hint,
        now,
    )
    return delivery_of(row)


async def find_by_provider_message(
    connection: asyncpg.Connection, *, project_id: UUID, provider_message_id: str, channel: str
) -> UUID | None:
    """The delivery that a provider knows under this id."""
    found: UUID | None = await connection.fetchval(
        _SQL["find_by_provider_message"], project_id, provider_message_id, channel
    )
    return found


async def stamp_reading(
    connection: asyncpg.Connection, *, project_id: UUID, delivery_id: UUID, is_click: bool, now: datetime
) -> None:
    """Note when a mail was first opened, or a link in it first followed. Lock it first. `now` is business time."""
    await connection.execute(_SQL["stamp_reading"], project_id, delivery_id, is_click, now)
