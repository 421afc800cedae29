"""Recording what happens to deliveries and runs: rows, events and their lanes, in one transaction and in lock order.

Guarantees: a transition is in the lane exactly when its delivery's row says so, and its canonical event is in the log;
each function takes the heads last (events, then deliveries, runs, audiences), so only COMMIT may follow. Leaves to
others: locking runs and deliveries before, writing runs, committing, trying again after a deadlock or a lost answer,
and announcing what is returned, after the commit.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from db.audience_log import append_audience_changes
from db.audience_records import NewAudienceChange
from db.deliveries import append_transitions, insert_deliveries
from db.delivery_records import NewDelivery, NewTransition
from db.events import append_events
from db.records import Lane, NewEvent
from db.workflow_records import NewRunUpdate
from db.workflow_run_log import append_run_updates
from engine.announcements import Announcement
from engine.dispatch.status import event_of, requested_event_of, step_properties, transition_of
from engine.log import fresh_records

if TYPE_CHECKING:
    import asyncpg

MAX_DEPTH = 8
"""Events further than this from what a client sent start nothing more: what the server makes of its own ends here."""


async def create_deliveries(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    deliveries: Sequence[NewDelivery],
    now: datetime,
    events: Sequence[NewEvent] = (),
    run_updates: Sequence[NewRunUpdate] = (),
) -> tuple[Announcement, ...]:
    """Insert deliveries with their first transitions and events. `now` is business time.

    `events` and `run_updates` are what else the transaction has to say; the events come before those of deliveries.
    """
    if deliveries:
        await insert_deliveries(connection, project_id=project_id, deliveries=deliveries)
    transitions, made = [], list[NewEvent | None](events)
    for delivery in deliveries:
        transition = transition_of(delivery, before=None, after=delivery.status, error_code=delivery.error_code)
        transitions.append(transition)
        said = step_properties(
            reason=delivery.suppressed_reason,
            scheduled_for=delivery.scheduled_for,
            error_code=delivery.error_code,
            error_message=delivery.error_message,
        )
        made += [requested_event_of(delivery), event_of(delivery, transition, said)]
    return await record(
        connection,
        project_id=project_id,
        transitions=transitions,
        events=[event for event in made if event is not None],
        run_updates=run_updates,
        now=now,
    )


async def record(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    transitions: Sequence[NewTransition],
    events: Sequence[NewEvent],
    now: datetime,
    run_updates: Sequence[NewRunUpdate] = (),
    audience_changes: Sequence[NewAudienceChange] = (),
) -> tuple[Announcement, ...]:
    """Append events, transitions, changes of runs and of audiences. Returns what to announce after the commit."""
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
    if run_updates:
        epoch, changes = await append_run_updates(connection, project_id=project_id, updates=run_updates, at=now)
        announcements.append(Announcement(project_id, Lane.RUNS, epoch, changes[0].seq, changes[-1].seq, changes))
    if audience_changes:
        epoch, moves = await append_audience_changes(
            connection, project_id=project_id, changes=audience_changes, at=now
        )
        announcements.append(Announcement(project_id, Lane.AUDIENCES, epoch, moves[0].seq, moves[-1].seq, moves))
    return tuple(announcements)
