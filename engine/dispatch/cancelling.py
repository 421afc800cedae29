"""Cancelling a delivery that has not been sent.

Guarantees: a delivery that is cancelled is never sent, since dispatch locks its row too and looks at its status; one
that a worker has in its hands, or is done with, stays as it is. Cancelling takes effect at once, in one transaction
with its transition and event, and its entry in the audit log. Leaves to others: who may.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.database import Database
from db.deliveries import lock_deliveries
from db.delivery_changes import cancel_delivery as write_cancelled
from db.delivery_records import DeliveryRecord
from engine.announcements import Announcement
from engine.audit import Audit
from engine.dispatch.ledger import record
from engine.dispatch.status import PENDING, event_of, transition_of
from engine.dispatch.values import DeliveryStatus
from engine.node_ids import NodeKind, write_node_id
from engine.transactions import run_transaction

if TYPE_CHECKING:
    import asyncpg


class Cancelled(msgspec.Struct, frozen=True):
    """It will not be sent."""

    delivery: DeliveryRecord


class NotPending(msgspec.Struct, frozen=True):
    """It is being sent, or there was nothing more to do."""

    status: str


async def cancel_delivery(
    database: Database,
    announce: Callable[[Announcement], None],
    *,
    project_id: UUID,
    delivery_id: UUID,
    audit: Audit,
) -> Cancelled | NotPending | None:
    """Cancel one delivery; None where the project has no such delivery. Waits for a dispatch that has its row locked.

    Raises `Unavailable` when the database does not answer.
    """
    result, announcements = await run_transaction(
        database, lambda connection: _cancel(connection, project_id, delivery_id, audit)
    )
    for announcement in announcements:
        announce(announcement)
    return result


async def _cancel(
    connection: asyncpg.Connection, project_id: UUID, delivery_id: UUID, audit: Audit
) -> tuple[Cancelled | NotPending | None, tuple[Announcement, ...]]:
    now = audit.now
    found = await lock_deliveries(connection, project_id=project_id, delivery_ids=[delivery_id])
    if not found:
        return None, ()
    delivery = found[0]
    if delivery.status not in PENDING:
        return _as_it_is(delivery, now), ()
    cancelled = await write_cancelled(connection, project_id=project_id, delivery_id=delivery_id, now=now)
    transition = transition_of(cancelled, before=delivery.status, after=cancelled.status)
    event = event_of(cancelled, transition)
    await audit.note(
        connection,
        "delivery.cancelled",
        write_node_id(NodeKind.DELIVERY, delivery_id),
        project_id=project_id,
        before={"status": delivery.status},
        after={"status": cancelled.status},
    )
    announcements = await record(
        connection,
        project_id=project_id,
        transitions=[transition],
        events=[] if event is None else [event],
        now=now,
    )
    return Cancelled(cancelled), announcements


def _as_it_is(delivery: DeliveryRecord, now: datetime) -> Cancelled | NotPending:
    """A COMMIT whose answer was lost has cancelled it at this very instant."""
    if delivery.status == DeliveryStatus.CANCELLED and delivery.finished_at == now:
        return Cancelled(delivery)
    return NotPending(delivery.status)
