"""What devices report of pushes."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("push_interactions")


async def stamp_interaction(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    delivery_id: UUID,
    is_opened: bool,
    is_clicked: bool,
    is_delivered: bool,
    now: datetime,
) -> None:
    """Stamp a delivery that the caller has locked: the first time stays. `is_delivered` moves it to DELIVERED."""
    await connection.execute(
        _SQL["stamp_interaction"], project_id, delivery_id, now, is_opened, is_clicked, is_delivered
    )
