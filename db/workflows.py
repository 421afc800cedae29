"""Workflows, their versions, and what starts their runs.

Guarantees: every function is one statement in the caller's transaction, and locks workflows in the order of their ids.
Leaves to others: what a workflow may be and encoding it (`engine.workflows`), raising the generation with whatever
changes what starts runs, and committing. Times are business time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from db.statements import statements
from db.workflow_records import ActiveTrigger, WorkflowRecord, WorkflowStanding, WorkflowVersionRecord

if TYPE_CHECKING:
    import asyncpg

RELEASE = "RELEASE"
"""A pending change: runs that were held while the workflow was paused go on."""
CANCEL = "CANCEL"
"""A pending change: all runs end."""

_SQL = statements("workflows")


async def hold_workflows(connection: asyncpg.Connection, *, project_id: UUID) -> None:
    """Let nobody else make, change or delete a workflow until the transaction ends. Before any other lock."""
    await connection.execute(_SQL["hold_workflows"], project_id)


async def count_workflows(connection: asyncpg.Connection, *, project_id: UUID) -> int:
    """How many a project has."""
    return int(await connection.fetchval(_SQL["count_workflows"], project_id))


async def insert_workflow(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    workflow_id: UUID,
    name: str,
    definition: str,
    is_active: bool,
    next_due_at: datetime | None,
    now: datetime,
) -> None:
    """Make a workflow with version 1. What the log holds already starts nothing."""
    await connection.execute(
        _SQL["insert_workflow"], project_id, workflow_id, name, is_active, definition, next_due_at, now
    )


async def insert_workflow_version(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    workflow_id: UUID,
    version: int,
    name: str,
    definition: str,
    now: datetime,
) -> None:
    """Add the version that follows the newest one; new runs take it."""
    await connection.execute(_SQL["insert_workflow_version"], project_id, workflow_id, version, name, definition, now)


async def set_workflow_standing(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    workflow_id: UUID,
    is_active: bool,
    next_due_at: datetime | None,
    now: datetime,
) -> None:
    """Switch a workflow on or off, and say when it is due. Switched on, it begins with what comes from now on."""
    await connection.execute(_SQL["set_workflow_standing"], project_id, workflow_id, is_active, next_due_at, now)


async def set_workflow_paused(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    workflow_id: UUID,
    is_paused: bool,
    pending_change: str | None,
    now: datetime,
) -> None:
    """Pause or resume a workflow; `pending_change` is what a worker then has to do to its runs."""
    await connection.execute(_SQL["set_workflow_paused"], project_id, workflow_id, is_paused, pending_change, now)


async def delete_workflow(
    connection: asyncpg.Connection, *, project_id: UUID, workflow_id: UUID, now: datetime
) -> None:
    """Take a workflow out of all lists; a worker cancels its runs."""
    await connection.execute(_SQL["delete_workflow"], project_id, workflow_id, now)


async def end_pending_change(
    connection: asyncpg.Connection, *, project_id: UUID, workflow_id: UUID, pending_change: str
) -> bool:
    """Note that this change was made; False when another one is to be made by now, or none."""
    ended = await connection.fetchval(_SQL["end_pending_change"], project_id, workflow_id, pending_change)
    return ended is not None


async def lock_workflow(
    connection: asyncpg.Connection, *, project_id: UUID, workflow_id: UUID
) -> WorkflowStanding | None:
    """A workflow that was not deleted, locked until the transaction ends (FOR NO KEY UPDATE)."""
    row = await connection.fetchrow(_SQL["lock_workflow"], project_id, workflow_id)
    return None if row is None else WorkflowStanding(**dict(row.items()))


async def share_workflows(
    connection: asyncpg.Connection, *, project_id: UUID, workflow_ids: Sequence[UUID]
) -> dict[UUID, WorkflowStanding]:
    """Workflows as they stand, deleted ones too, by their ids; none changes until the transaction ends (FOR SHARE)."""
    rows = await connection.fetch(_SQL["share_workflows"], project_id, workflow_ids)
    return {row["workflow_id"]: WorkflowStanding(**dict(row.items())) for row in rows}


async def read_workflows(
    connection: asyncpg.Connection, *, project_id: UUID, workflow_ids: Sequence[UUID]
) -> list[WorkflowRecord]:
    """Workflows by their ids, in no order, deleted ones too; unknown ones are absent."""
    rows = await connection.fetch(_SQL["read_workflows"], project_id, workflow_ids)
    return [_workflow(row) for row in rows]


async def find_workflow_names(
    connection: asyncpg.Connection, *, project_id: UUID, names: Sequence[str]
) -> dict[str, UUID]:
    """Those of some names that are taken, each with its workflow."""
    rows = await connection.fetch(_SQL["find_workflow_names"], project_id, names)
    return {row["name"]: row["workflow_id"] for row in rows}


async def list_workflows(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    after: UUID | None = None,
    before: UUID | None = None,
    from_end: bool = False,
    search: str | None = None,
    is_active: bool | None = None,
    limit: int,
) -> list[WorkflowRecord]:
    """A project's workflows, newest first: those after (so older than) one and before another; the last with
    `from_end`. `search` is any part of the name, in any case.
    """
    name = "list_workflows_backwards" if from_end else "list_workflows"
    rows = await connection.fetch(_SQL[name], project_id, after, before, search, is_active, limit)
    found = [_workflow(row) for row in rows]
    return found[::-1] if from_end else found


async def read_workflow_versions(
    connection: asyncpg.Connection, *, project_id: UUID, versions: Sequence[tuple[UUID, int]]
) -> list[WorkflowVersionRecord]:
    """Versions by id of the workflow and number, in no order; unknown ones are absent."""
    rows = await connection.fetch(
        _SQL["read_workflow_versions"],
        project_id,
        [workflow_id for workflow_id, _ in versions],
        [version for _, version in versions],
    )
    return [WorkflowVersionRecord(**_with_raw(row, "definition")) for row in rows]


async def read_active_triggers(
    connection: asyncpg.Connection, *, project_id: UUID, known: Collection[tuple[UUID, int]] = ()
) -> list[ActiveTrigger]:
    """What starts the project's workflows that are on, by event or by schedule, in the order of their ids.

    The triggers of `known` versions, by workflow and number, are not read again.
    """
    rows = await connection.fetch(
        _SQL["read_active_triggers"],
        project_id,
        [workflow_id for workflow_id, _ in known],
        [version for _, version in known],
    )
    return [ActiveTrigger(**dict(row.items()) if row["trigger"] is None else _with_raw(row, "trigger")) for row in rows]


async def bump_generation(connection: asyncpg.Connection, *, project_id: UUID) -> None:
    """Note that what starts the project's runs has changed. Locks the generation: after all workflows."""
    await connection.execute(_SQL["bump_generation"], project_id)


async def read_generation(connection: asyncpg.Connection, *, project_id: UUID) -> int:
    """How often what starts the project's runs has changed."""
    generation: int | None = await connection.fetchval(_SQL["read_generation"], project_id)
    return generation or 0


def _workflow(row: Mapping[str, Any]) -> WorkflowRecord:
    return WorkflowRecord(**_with_raw(row, "definition"))


def _with_raw(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    values = dict(row.items())
    return {**values, name: msgspec.Raw(values[name].encode())}
