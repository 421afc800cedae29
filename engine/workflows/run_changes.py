"""Pausing, resuming and cancelling one run.

Guarantees: each takes effect at once and whole, in one transaction with its item of the runs lane, whatever a worker is
about to do with the run: both lock its row, and a model that is being asked loses its lease, so that its answer changes
nothing. The audit log tells of it. A COMMIT whose answer was lost is not done twice. Leaves to others: who may, waking
a worker for what is due, and whole workflows (`engine.workflows.standing`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

import msgspec

from db.database import Database
from db.workflow_records import RunRecord
from db.workflow_runs import lock_runs, save_runs
from engine.announcements import Announcement
from engine.audit import Audit
from engine.dispatch.ledger import record
from engine.node_ids import NodeKind, write_node_id
from engine.transactions import run_transaction
from engine.workflows.cancelling import cancel_runs
from engine.workflows.definition import RunStatus
from engine.workflows.run_ledger import UNFINISHED, cancelled, paused, resumed, run_update_of

if TYPE_CHECKING:
    import asyncpg


class ChangedRun(msgspec.Struct, frozen=True):
    """The run as it is now."""

    run: RunRecord


class WrongState(msgspec.Struct, frozen=True):
    """It stands where this cannot be done."""

    status: str


Outcome: TypeAlias = ChangedRun | WrongState | None
"""None: the project has no such run."""

_Made: TypeAlias = tuple[RunRecord, tuple[Announcement, ...]]


class _Change(msgspec.Struct, frozen=True):
    """From which statuses, to which, what the audit log calls it, and what writes it: that gives the run as it is then,
    and what to announce."""

    before: frozenset[RunStatus]
    after: RunStatus
    action: str
    make: Callable[[asyncpg.Connection, RunRecord, datetime], Awaitable[_Made]]


async def pause_run(
    database: Database, announce: Callable[[Announcement], None], *, project_id: UUID, run_id: UUID, audit: Audit
) -> Outcome:
    """Hold a RUNNING run where it is. What its open step has made goes out."""
    return await _change(database, announce, _PAUSE, project_id=project_id, run_id=run_id, audit=audit)


async def resume_run(
    database: Database, announce: Callable[[Announcement], None], *, project_id: UUID, run_id: UUID, audit: Audit
) -> Outcome:
    """Let a PAUSED run go on: with the step in progress at once, with the next when it is due, if that is still ahead.

    Wake a worker after it.
    """
    return await _change(database, announce, _RESUME, project_id=project_id, run_id=run_id, audit=audit)


async def cancel_run(
    database: Database, announce: Callable[[Announcement], None], *, project_id: UUID, run_id: UUID, audit: Audit
) -> Outcome:
    """End a run that is not over, and its deliveries that were not sent."""
    return await _change(database, announce, _CANCEL, project_id=project_id, run_id=run_id, audit=audit)


async def _change(
    database: Database,
    announce: Callable[[Announcement], None],
    change: _Change,
    *,
    project_id: UUID,
    run_id: UUID,
    audit: Audit,
) -> Outcome:
    """Raises `Unavailable` when the database does not answer."""
    has_tried = False

    async def action(connection: asyncpg.Connection) -> tuple[Outcome, tuple[Announcement, ...]]:
        nonlocal has_tried
        found = await lock_runs(connection, project_id=project_id, run_ids=[run_id])
        if not found:
            return None, ()
        run = found[0].run
        if run.status not in change.before:
            # After a COMMIT whose answer was lost it stands there because of this very call.
            is_done = has_tried and run.status == change.after
            return (ChangedRun(run) if is_done else WrongState(run.status)), ()
        has_tried = True
        await audit.note(
            connection,
            change.action,
            write_node_id(NodeKind.WORKFLOW_RUN, run_id),
            project_id=project_id,
            before={"status": run.status},
            after={"status": change.after},
        )
        changed, announcements = await change.make(connection, run, audit.now)
        return ChangedRun(changed), announcements

    outcome, announcements = await run_transaction(database, action)
    for announcement in announcements:
        announce(announcement)
    return outcome


async def _pause(connection: asyncpg.Connection, run: RunRecord, now: datetime) -> _Made:
    return await _save(connection, paused(run, now), now)


async def _resume(connection: asyncpg.Connection, run: RunRecord, now: datetime) -> _Made:
    return await _save(connection, resumed(run, now), now)


async def _cancel(connection: asyncpg.Connection, run: RunRecord, now: datetime) -> _Made:
    over, _ = cancelled(run, now)
    return over, await cancel_runs(connection, project_id=run.project_id, runs=[run], now=now)


async def _save(connection: asyncpg.Connection, run: RunRecord, now: datetime) -> _Made:
    await save_runs(connection, project_id=run.project_id, runs=[run])
    announcements = await record(
        connection, project_id=run.project_id, transitions=(), events=(), run_updates=[run_update_of(run)], now=now
    )
    return run, announcements


_PAUSE = _Change(frozenset({RunStatus.RUNNING}), RunStatus.PAUSED, "workflow_run.paused", _pause)
_RESUME = _Change(frozenset({RunStatus.PAUSED}), RunStatus.RUNNING, "workflow_run.resumed", _resume)
_CANCEL = _Change(UNFINISHED, RunStatus.CANCELLED, "workflow_run.cancelled", _cancel)
