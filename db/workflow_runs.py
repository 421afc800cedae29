"""Runs of workflows and their steps: making, finding, locking and writing them.

Guarantees: every function is one statement in the caller's transaction and locks runs in the order of their ids; what
is due is found through an index that holds nothing else, so it costs the same however many runs wait. Leaves to others:
the order of locks between tables (profiles, workflows, runs, then deliveries and the heads), items of the runs lane
(`engine.dispatch.ledger`), and committing. Times are business time, but leases are the database's real time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from db.statements import statements
from db.workflow_records import RunRecord, RunStepRecord, WorkflowStanding

if TYPE_CHECKING:
    import asyncpg

MAX_ENDED_LEASES = 10_000
"""Looked at by one sweep, of all projects."""
MAX_READ_STEPS = 1_000
"""Of one run: all that it may have (`engine.workflows.state.MAX_STEPS`)."""
NO_LEASE = timedelta()
"""Where no run is given one."""

_SQL = statements("workflow_runs")


class DueRun(msgspec.Struct, frozen=True):
    """A run that a worker has to look at: whom and what to lock first."""

    run_id: UUID
    workflow_id: UUID
    user_id: str | None


class LockedRun(msgspec.Struct, frozen=True):
    """A run that nobody else changes until the transaction ends. `is_leased`: somebody asks a model for it now.

    A `lease_token` without that is of a worker that never said what the model answered.
    """

    run: RunRecord
    lease_token: UUID | None
    is_leased: bool


class StepDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """How a delivery of a step stands. `number` is the step's in its run, `at` since when."""

    run_id: UUID
    number: int
    delivery_id: UUID
    status: str
    suppressed_reason: str | None
    error_code: str | None
    error_message: str | None
    at: datetime


async def insert_runs(connection: asyncpg.Connection, *, project_id: UUID, runs: Sequence[RunRecord]) -> None:
    """Insert runs. Their items of the runs lane belong into the same transaction."""
    await connection.execute(_SQL["insert_runs"], project_id, msgspec.json.encode(runs).decode())


async def find_due_runs(connection: asyncpg.Connection, *, project_id: UUID, now: datetime, limit: int) -> list[DueRun]:
    """Up to `limit` runs that are due, by `claim_at` and id, and as many whose lease has ended. Without locks."""
    rows = await connection.fetch(_SQL["find_due_runs"], project_id, now, limit)
    return [DueRun(row["run_id"], row["workflow_id"], row["user_id"]) for row in rows]


async def find_projects_with_runs(connection: asyncpg.Connection, *, now: datetime) -> list[UUID]:
    """The projects in which a run is due, a lease has ended, or a workflow's runs are to change, of all projects.

    Costs a look-up per project that has waiting runs.
    """
    return [row["project_id"] for row in await connection.fetch(_SQL["find_projects_with_runs"], now, MAX_ENDED_LEASES)]


async def lock_runs(connection: asyncpg.Connection, *, project_id: UUID, run_ids: Sequence[UUID]) -> list[LockedRun]:
    """Runs by their ids, sorted; waits for whoever holds one. Unknown ones are absent."""
    return _locked(await connection.fetch(_SQL["lock_runs"], project_id, run_ids))


async def try_lock_runs(
    connection: asyncpg.Connection, *, project_id: UUID, run_ids: Sequence[UUID]
) -> list[LockedRun]:
    """The same without waiting: those that somebody holds are absent."""
    return _locked(await connection.fetch(_SQL["try_lock_runs"], project_id, run_ids))


async def lock_held_runs(
    connection: asyncpg.Connection, *, project_id: UUID, workflow_id: UUID, limit: int
) -> list[LockedRun]:
    """The first `limit` runs of a workflow that are held, by id; waits for whoever holds one."""
    return _locked(await connection.fetch(_SQL["lock_held_runs"], project_id, workflow_id, limit))


async def lock_unfinished_runs(
    connection: asyncpg.Connection, *, project_id: UUID, workflow_id: UUID, limit: int
) -> list[LockedRun]:
    """The first `limit` runs of a workflow that are not over, by id; waits for whoever holds one."""
    return _locked(await connection.fetch(_SQL["lock_unfinished_runs"], project_id, workflow_id, limit))


async def save_runs(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    runs: Sequence[RunRecord],
    leases: Mapping[UUID, UUID] | None = None,
    lease: timedelta = NO_LEASE,
) -> None:
    """Write runs that are locked. Whatever lease one had ends, but for those that get one: by run, its token.

    A run's ids, version, person, event, depth and start are never changed.
    """
    given = leases or {}
    rows = [{**msgspec.structs.asdict(each), "lease_token": given.get(each.run_id)} for each in runs]
    await connection.execute(_SQL["save_runs"], project_id, msgspec.json.encode(rows).decode(), lease)


async def upsert_run_steps(connection: asyncpg.Connection, *, project_id: UUID, steps: Sequence[RunStepRecord]) -> None:
    """Write steps as they stand now, each (run, number) once."""
    await connection.execute(_SQL["upsert_run_steps"], project_id, msgspec.json.encode(steps).decode())


async def read_runs(connection: asyncpg.Connection, *, project_id: UUID, run_ids: Sequence[UUID]) -> list[RunRecord]:
    """Runs by their ids, in no order; unknown ones are absent."""
    return [run_of(row) for row in await connection.fetch(_SQL["read_runs"], project_id, run_ids)]


async def read_run_steps(
    connection: asyncpg.Connection, *, project_id: UUID, run_ids: Sequence[UUID]
) -> list[RunStepRecord]:
    """The first `MAX_READ_STEPS` steps of some runs, by run and number. Name each run once."""
    rows = await connection.fetch(_SQL["read_run_steps"], project_id, run_ids, MAX_READ_STEPS)
    return [_step(row) for row in rows]


async def read_step_deliveries(
    connection: asyncpg.Connection, *, project_id: UUID, steps: Sequence[tuple[UUID, int]]
) -> list[StepDelivery]:
    """How the deliveries of some steps stand, each step given by its run and number; by run and delivery."""
    rows = await connection.fetch(
        _SQL["read_step_deliveries"], project_id, [run_id for run_id, _ in steps], [number for _, number in steps]
    )
    return [StepDelivery(**dict(row.items())) for row in rows]


async def set_claims(
    connection: asyncpg.Connection, *, project_id: UUID, run_ids: Sequence[UUID], now: datetime
) -> list[UUID]:
    """Have a worker look at those of some runs whose open step waits for deliveries; gives them.

    Waits for whoever holds one, and then looks again.
    """
    return [row["run_id"] for row in await connection.fetch(_SQL["set_claims"], project_id, run_ids, now)]


async def return_leases(
    connection: asyncpg.Connection, *, project_id: UUID, leases: Mapping[UUID, UUID], now: datetime
) -> None:
    """Give back runs that a model was being asked for, each with its lease: whoever comes next asks again at once."""
    await connection.execute(_SQL["return_leases"], project_id, list(leases), list(leases.values()), now)


async def lock_changing_workflow(connection: asyncpg.Connection, *, project_id: UUID) -> WorkflowStanding | None:
    """A workflow whose runs are to change (`pending_change`), locked; waits for whoever reads it. None: look again."""
    row = await connection.fetchrow(_SQL["lock_changing_workflow"], project_id)
    return None if row is None else WorkflowStanding(**dict(row.items()))


async def lock_pending_deliveries(
    connection: asyncpg.Connection, *, project_id: UUID, run_ids: Sequence[UUID]
) -> list[UUID]:
    """The deliveries of some runs that can still be cancelled, sorted. Waits for a dispatch that is under way."""
    rows = await connection.fetch(_SQL["lock_pending_deliveries"], project_id, run_ids)
    return [row["delivery_id"] for row in rows]


async def cancel_deliveries(
    connection: asyncpg.Connection, *, project_id: UUID, delivery_ids: Sequence[UUID], now: datetime
) -> None:
    """Make deliveries CANCELLED that are locked and can be."""
    await connection.execute(_SQL["cancel_deliveries"], project_id, delivery_ids, now)


def _locked(rows: Iterable[Mapping[str, Any]]) -> list[LockedRun]:
    locked = []
    for row in rows:
        values = dict(row.items())
        lease_token, is_leased = values.pop("lease_token"), values.pop("is_leased")
        locked.append(LockedRun(run_of(values), lease_token, is_leased))
    return locked


def run_of(row: Mapping[str, Any]) -> RunRecord:
    """A row with the columns of `RunRecord`."""
    values = dict(row.items())
    values["vars"] = msgspec.Raw(values["vars"].encode())
    if values["open_trace"] is not None:
        values["open_trace"] = msgspec.Raw(values["open_trace"].encode())
    return RunRecord(**values)


def _step(row: Mapping[str, Any]) -> RunStepRecord:
    values = dict(row.items())
    values["input"] = msgspec.Raw(values["input"].encode())
    if values["output"] is not None:
        values["output"] = msgspec.Raw(values["output"].encode())
    return RunStepRecord(**values)
