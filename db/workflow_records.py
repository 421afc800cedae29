"""Frozen rows of workflows, their versions, runs and steps, and of the runs lane of the log.

JSON columns are the JSON text itself.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from db.records import HeadRecord


class WorkflowRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow with its newest version. `definition` is what `engine.workflows.stored` reads.

    `pending_change` is RELEASE or CANCEL while a worker still has to do that to its runs.
    """

    project_id: UUID
    workflow_id: UUID
    name: str
    is_active: bool
    is_paused: bool
    version: int
    definition: msgspec.Raw
    after_seq: int
    pending_change: str | None
    next_due_at: datetime | None
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None


class WorkflowStanding(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow without what it does: what decides about its runs, as of the lock under which it was read.

    `enrolling_due_at` and `enrolled_up_to` are of a schedule that is being carried out: when it was due, and the last
    member for whom it was.
    """

    project_id: UUID
    workflow_id: UUID
    name: str
    is_active: bool
    is_paused: bool
    version: int
    after_seq: int
    pending_change: str | None
    next_due_at: datetime | None
    enrolling_due_at: datetime | None
    enrolled_up_to: str | None
    deleted_at: datetime | None


class WorkflowVersionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a workflow was when it was saved. `definition` is what `engine.workflows.stored` reads."""

    project_id: UUID
    workflow_id: UUID
    version: int
    definition: msgspec.Raw
    created_at: datetime


class ActiveTrigger(msgspec.Struct, frozen=True, kw_only=True):
    """What starts a workflow that is on, by events past `after_seq`. `trigger` is for `stored.decode_trigger`; None
    where the reader knows it.
    """

    workflow_id: UUID
    version: int
    after_seq: int
    trigger: msgspec.Raw | None


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A run as it is now: the columns of `workflow_runs`, without the lease."""

    project_id: UUID
    run_id: UUID
    workflow_id: UUID
    version: int
    status: str
    user_id: str | None
    event_seq: int | None
    depth: int
    step: int
    next_step_at: datetime | None
    claim_at: datetime | None
    is_held: bool
    vars: msgspec.Raw
    steps_made: int
    open_trace: msgspec.Raw | None
    asked: int
    error: str | None
    started_at: datetime
    finished_at: datetime | None


class RunStepRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A step of a run, as it stands now. `outcome` and `finished_at` are None while it is in progress."""

    project_id: UUID
    run_id: UUID
    number: int
    workflow_id: UUID
    step: int
    label: str
    type: str
    outcome: str | None
    detail: str | None
    input: msgspec.Raw
    output: msgspec.Raw | None
    started_at: datetime
    finished_at: datetime | None


class NewRunUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """An item for the runs lane. `step` is the JSON of `engine.workflows.state.StepTrace`, as the step was then."""

    run_id: UUID
    workflow_id: UUID
    user_id: str | None
    status: str
    started_at: datetime
    step: str | None = None


class RunUpdateRecord(msgspec.Struct, frozen=True, array_like=True):
    """An item of the runs lane; travels in announcements. `started_at` is when the run was started.

    `step` is JSON: the step that began or ended, as it was then, or `null` where only the status changed.
    """

    project_id: UUID
    seq: int
    run_id: UUID
    workflow_id: UUID
    user_id: str | None
    status: str
    step: msgspec.Raw
    at: datetime
    started_at: datetime


class RunUpdatePage(msgspec.Struct, frozen=True):
    """Matching updates past a position, oldest first, read in one snapshot together with the head row.

    Every matching update up to and including `reached` is in `updates` or was in an earlier page.
    """

    updates: tuple[RunUpdateRecord, ...]
    reached: int
    head: HeadRecord
