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


async def lock_delivery_ids(connection: asyncpg.Connection, *, project_id: UUID, delivery_ids: Sequence[UUID]) -> None:
    """Lock deliveries until the transaction ends, sorted by id. What they carry may be large and is not read."""
    await connection.execute(_SQL["lock_delivery_ids"], project_id, delivery_ids)


async def requeue_deliveries(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    delivery_ids: Sequence[UUID],
    batch_id: UUID,
    now: datetime,
    unchanged_since: int | None = None,
) -> list[NewTransition]:
    """Make finished deliveries QUEUED again, due now; returns their transitions by id. Lock them first.

    The schedule of retries starts again; attempts, variant and depth stay. `unchanged_since` leaves out those that
    have a transition after this seq of the deliveries lane. `now` is business time.
    """
    rows = await connection.fetch(_SQL["requeue_deliveries"], project_id, delivery_ids, batch_id, now, unchanged_since)
    transitions = [NewTransition(**dict(row.items())) for row in rows]
    return sorted(transitions, key=lambda transition: transition.delivery_id)
