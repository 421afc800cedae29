"""Recording what happens to deliveries: rows, events and the deliveries lane, in one transaction and in lock order.

Guarantees: a transition is in the lane exactly when its delivery's row says so, and its canonical event is in the log;
each function takes the heads last (events, then deliveries), so only COMMIT may follow. Leaves to others: locking the
deliveries before, committing, trying again after a deadlock or a lost answer, and announcing what is returned, after
the commit.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from db.deliveries import append_transitions, insert_deliveries
from db.delivery_records import NewDelivery, NewTransition
from db.events import append_events
from db.records import Lane, NewEvent
from engine.announcements import Announcement
from engine.dispatch.status import event_of, requested_event_of, step_properties, transition_of
from engine.log import fresh_records

if TYPE_CHECKING:
    import asyncpg

MAX_DEPTH = 8
"""Events further than this from what a client sent start nothing more: what the server makes of its own ends here."""


async def create_deliveries(
    connection: asyncpg.Connection, *, project_id: UUID, deliveries: Sequence[NewDelivery], now: datetime
) -> tuple[Announcement, ...]:
    """Insert deliveries with their first transitions and events. `now` is business time."""
    if not deliveries:
        return ()
    await insert_deliveries(connection, project_id=project_id, deliveries=deliveries)
    transitions, events = [], []
    for delivery in deliveries:
        transition = transition_of(delivery, before=None, after=delivery.status, error_code=delivery.error_code)
        transitions.append(transition)
        said = step_properties(
            reason=delivery.suppressed_reason,
            scheduled_for=delivery.scheduled_for,
            error_code=delivery.error_code,
            error_message=delivery.error_message,
        )
        events += [requested_event_of(delivery), event_of(delivery, transition, said)]
    return await record(
        connection,
        project_id=project_id,
        transitions=transitions,
        events=[event for event in events if event is not None],
        now=now,
    )


async def record(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    transitions: Sequence[NewTransition],
    events: Sequence[NewEvent],
    now: datetime,
) -> tuple[Announcement, ...]:
    """Append events and transitions. Returns what to announce once the transaction has committed."""
    announcements = []
    if events:
        result = await append_events(connection, project_id=project_id, batch_token=secrets.randbits(63), events=events)
        fresh = fresh_records(project_id, events, result)
        if fresh:
            announcements.append(
                Announcement(project_id, Lane.EVENTS, result.epoch, fresh[0].seq, fresh[-1].seq, fresh)
            )
    if transitions:
        epoch, records = await append_transitions(connection, project_id=project_id, transitions=transitions, at=now)
        announcements.append(Announcement(project_id, Lane.DELIVERIES, epoch, records[0].seq, records[-1].seq, records))
    return tuple(announcements)
