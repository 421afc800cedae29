"""Ending runs before their time, with what they have not sent yet.

Guarantees: a run that is cancelled does nothing more, and none of its deliveries that could still be stopped is sent;
what a worker has in its hands goes out, and shows in its delivery. One transaction, the caller's. Locks deliveries,
then heads: only COMMIT may follow. Leaves to others: locking the runs before, committing, and announcing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.deliveries import lock_deliveries
from db.delivery_records import NewTransition
from db.records import NewEvent
from db.workflow_records import NewRunUpdate, RunRecord
from db.workflow_runs import cancel_deliveries, lock_pending_deliveries, save_runs, upsert_run_steps
from engine.announcements import Announcement
from engine.dispatch.ledger import record
from engine.dispatch.status import event_of, transition_of
from engine.dispatch.values import DeliveryStatus
from engine.workflows.run_ledger import cancelled, run_update_of, step_record_of

if TYPE_CHECKING:
    import asyncpg


async def cancel_runs(
    connection: asyncpg.Connection, *, project_id: UUID, runs: Sequence[RunRecord], now: datetime
) -> tuple[Announcement, ...]:
    """Cancel unfinished runs that the caller has locked; returns what to announce. `now` is business time."""
    if not runs:
        return ()
    ended = [cancelled(run, now) for run in runs]
    steps = [step_record_of(run, trace) for run, trace in ended if trace is not None]
    await save_runs(connection, project_id=project_id, runs=[run for run, _ in ended])
    if steps:
        await upsert_run_steps(connection, project_id=project_id, steps=steps)
    transitions, events = await _cancel_deliveries(connection, project_id, [run.run_id for run in runs], now)
    updates: list[NewRunUpdate] = [run_update_of(run, trace) for run, trace in ended]
    return await record(
        connection, project_id=project_id, transitions=transitions, events=events, run_updates=updates, now=now
    )


async def _cancel_deliveries(
    connection: asyncpg.Connection, project_id: UUID, run_ids: Sequence[UUID], now: datetime
) -> tuple[list[NewTransition], list[NewEvent]]:
    pending = await lock_pending_deliveries(connection, project_id=project_id, run_ids=run_ids)
    if not pending:
        return [], []
    before = await lock_deliveries(connection, project_id=project_id, delivery_ids=pending)
    await cancel_deliveries(connection, project_id=project_id, delivery_ids=pending, now=now)
    transitions, events = [], []
    for delivery in before:
        after = msgspec.structs.replace(delivery, status=DeliveryStatus.CANCELLED, next_attempt_at=None)
        transition = transition_of(after, before=delivery.status, after=after.status)
        event = event_of(after, transition)
        transitions.append(transition)
        events += [] if event is None else [event]
    return transitions, events
