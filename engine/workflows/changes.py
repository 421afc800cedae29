"""What a change of a workflow means for its runs: those that were held go on, or all of them end.

Guarantees: a change is carried out in batches, each one transaction under the workflow's lock, so that no run is made
or held meanwhile that the change would miss; whatever dies, the next worker goes on, and the change is over with the
batch that finds no more. Queued runs go on in the order in which they were made. Leaves to others: noting the change
(`pending_change`), finding the projects, committing, announcing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.workflow_records import RunRecord
from db.workflow_runs import lock_changing_workflow, lock_held_runs, lock_unfinished_runs, save_runs
from db.workflows import CANCEL, end_pending_change
from engine.announcements import Announcement
from engine.dispatch.ledger import record
from engine.workflows.cancelling import cancel_runs
from engine.workflows.run_ledger import released, run_update_of

if TYPE_CHECKING:
    import asyncpg

BATCH_RUNS = 500
"""Runs of one transaction: some 50 ms, for which nobody starts runs of that workflow."""


class Changed(msgspec.Struct, frozen=True):
    """What one batch did: how many runs, and what to announce after the commit."""

    runs: int
    announcements: tuple[Announcement, ...]


async def carry_out_change(
    connection: asyncpg.Connection, *, project_id: UUID, now: datetime, limit: int = BATCH_RUNS
) -> Changed | None:
    """Do one batch of one workflow; None where no workflow of the project has a change to carry out."""
    workflow = await lock_changing_workflow(connection, project_id=project_id)
    if workflow is None or workflow.pending_change is None:
        return None
    lock = lock_unfinished_runs if workflow.pending_change == CANCEL else lock_held_runs
    locked = await lock(connection, project_id=project_id, workflow_id=workflow.workflow_id, limit=limit)
    if len(locked) < limit:
        await end_pending_change(
            connection,
            project_id=project_id,
            workflow_id=workflow.workflow_id,
            pending_change=workflow.pending_change,
        )
    runs = [each.run for each in locked]
    change = cancel_runs if workflow.pending_change == CANCEL else release_runs
    return Changed(len(runs), await change(connection, project_id=project_id, runs=runs, now=now))


async def release_runs(
    connection: asyncpg.Connection, *, project_id: UUID, runs: Sequence[RunRecord], now: datetime
) -> tuple[Announcement, ...]:
    """Let held runs go on that the caller has locked; returns what to announce."""
    if not runs:
        return ()
    after = [released(run, now) for run in runs]
    await save_runs(connection, project_id=project_id, runs=after)
    started = [run_update_of(run) for run, before in zip(after, runs, strict=True) if run.status != before.status]
    return await record(connection, project_id=project_id, transitions=(), events=(), run_updates=started, now=now)
