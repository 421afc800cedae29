"""What a client changes about deliveries: it cancels them, and has them sent again.

Guarantees: every function is one statement in the caller's transaction. Leaves to others: locking the deliveries
before, their transitions and events (`engine.dispatch.ledger`), committing, and telling anyone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from db.deliveries import delivery_of
from db.delivery_records import DeliveryRecord, NewTransition
from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("delivery_changes")


async def cancel_delivery(
    connection: asyncpg.Connection, *, project_id: UUID, delivery_id: UUID, now: datetime
) -> DeliveryRecord:
    """Make a pending delivery CANCELLED. Lock it first, and look at its status. `now` is business time."""
    return delivery_of(await connection.fetchrow(_SQL["cancel_delivery"], project_id, delivery_id, now))


async def lock_finished(
    connection: asyncpg.Connection, *, project_id: UUID, delivery_ids: Sequence[UUID], batch_id: UUID
) -> list[NewTransition]:
    """Lock finished deliveries until the transaction ends, sorted by id; the transitions that queue them for a batch.

    Give the ids sorted. What deliveries carry may be large and is not read.
    """
    rows = await connection.fetch(_SQL["lock_finished"], project_id, delivery_ids, batch_id)
    return [NewTransition(**dict(row.items())) for row in rows]


async def find_unchanged(
    connection: asyncpg.Connection, *, project_id: UUID, delivery_ids: Sequence[UUID], since: int
) -> set[UUID]:
    """Of some deliveries, those without a transition after the seq `since`. Lock them first: then they stay so."""
    rows = await connection.fetch(_SQL["find_unchanged"], project_id, delivery_ids, since)
    return {row["delivery_id"] for row in rows}


async def requeue_deliveries(
    connection: asyncpg.Connection, *, project_id: UUID, delivery_ids: Sequence[UUID], batch_id: UUID, now: datetime
) -> None:
    """Make deliveries QUEUED again for a batch, due at `now` (business time). Lock them first; give the ids sorted.

    The schedule of retries starts again; attempts, variant and depth stay.
    """
    await connection.execute(_SQL["requeue_deliveries"], project_id, delivery_ids, batch_id, now)
