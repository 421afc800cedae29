"""What a round has made of its runs, written in bulk: runs, traces, counts, deliveries, then events and lanes.

Guarantees: the heads are locked last, so only COMMIT may follow. After `MAX_CONSECUTIVE_FAILURES` failed runs of a
workflow in a row it says so once, and anew when a run has been completed since; runs that end in one round end at the
same moment, and one of them that was completed is enough to begin counting anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from db.records import NewEvent
from db.workflow_failures import count_failures, forget_failures
from db.workflow_runs import save_runs, upsert_run_steps
from engine.announcements import Announcement
from engine.dispatch.ledger import create_deliveries
from engine.push.desk import PushDesk
from engine.workflows.advancing import RunInHand
from engine.workflows.definition import RunStatus
from engine.workflows.run_events import MAX_CONSECUTIVE_FAILURES, promote_failed_event

if TYPE_CHECKING:
    import asyncpg


async def write_round(
    connection: asyncpg.Connection,
    hands: Sequence[RunInHand],
    desk: PushDesk,
    *,
    project_id: UUID,
    leases: Mapping[UUID, UUID],
    lease: timedelta,
    now: datetime,
) -> tuple[Announcement, ...]:
    """Write what the runs came to; returns what to announce. `leases` are of those that a model is asked for."""
    await save_runs(connection, project_id=project_id, runs=[hand.run for hand in hands], leases=leases, lease=lease)
    steps = [step for hand in hands for step in hand.steps.values()]
    if steps:
        await upsert_run_steps(connection, project_id=project_id, steps=steps)
    await desk.reserve(connection)
    promoted = await _count_failures(connection, project_id, hands)
    return await create_deliveries(
        connection,
        project_id=project_id,
        deliveries=[delivery for hand in hands for delivery in hand.deliveries],
        now=now,
        events=[*(event for hand in hands for event in hand.events), *promoted],
        run_updates=[update for hand in hands for update in hand.updates],
    )


async def _count_failures(
    connection: asyncpg.Connection, project_id: UUID, hands: Sequence[RunInHand]
) -> list[NewEvent]:
    completed = {hand.run.workflow_id for hand in hands if hand.run.status == RunStatus.COMPLETED}
    failed = [hand for hand in hands if hand.run.status == RunStatus.FAILED]
    counted = Counter(hand.run.workflow_id for hand in failed if hand.run.workflow_id not in completed)
    if completed:
        await forget_failures(connection, project_id=project_id, workflow_ids=sorted(completed))
    if not counted:
        return []
    after = await count_failures(connection, project_id=project_id, failed=counted)
    last = {hand.run.workflow_id: hand for hand in failed}
    return [
        promote_failed_event(last[workflow_id].run, workflow_name=last[workflow_id].workflow.name, failures=failures)
        for workflow_id, failures in sorted(after.items())
        if failures - counted[workflow_id] < MAX_CONSECUTIVE_FAILURES <= failures
    ]
