"""Pausing, resuming and deleting workflows: what becomes of the runs that they have.

Guarantees: each takes effect at once for everything that starts or goes on after its commit, and is the same when it is
done again; what it changes is noted in the audit log with it. Leaves to others: who may, and doing to the runs what
`pending_change` says (workers do, in batches).
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from db.workflow_records import WorkflowRecord
from db.workflows import (
    RELEASE,
    bump_generation,
    hold_workflows,
    lock_workflow,
    read_workflows,
    set_workflow_paused,
)
from db.workflows import delete_workflow as remove_workflow
from engine.audit import Audit
from engine.errors import UserError
from engine.node_ids import NodeKind, write_node_id
from engine.transactions import run_transaction
from engine.workflows.saving import NOT_FOUND, WorkflowChange, shown_workflow

if TYPE_CHECKING:
    import asyncpg

    from db.database import Database

_UNKNOWN = WorkflowChange(errors=(UserError(NOT_FOUND, "NOT_FOUND", ("id",)),))


async def pause_workflow(database: Database, *, project_id: UUID, workflow_id: UUID, audit: Audit) -> WorkflowChange:
    """Hold the runs of a workflow at the end of the step that they are in; new ones queue."""
    return await _set_paused(
        database, project_id=project_id, workflow_id=workflow_id, is_paused=True, pending_change=None, audit=audit
    )


async def resume_workflow(database: Database, *, project_id: UUID, workflow_id: UUID, audit: Audit) -> WorkflowChange:
    """Have a worker let the runs of a paused workflow go on, those that queued in the order in which they came."""
    return await _set_paused(
        database, project_id=project_id, workflow_id=workflow_id, is_paused=False, pending_change=RELEASE, audit=audit
    )


async def delete_workflow(database: Database, *, project_id: UUID, workflow_id: UUID, audit: Audit) -> bool:
    """Delete a workflow, and have a worker cancel its runs; whether there was one."""
    deleted_before = False

    async def action(connection: asyncpg.Connection) -> bool:
        nonlocal deleted_before
        await hold_workflows(connection, project_id=project_id)
        if await lock_workflow(connection, project_id=project_id, workflow_id=workflow_id) is None:
            # After a COMMIT whose answer was lost it is gone because of this very call.
            return deleted_before
        deleted_before = True
        held = await _read(connection, project_id, workflow_id)
        await remove_workflow(connection, project_id=project_id, workflow_id=workflow_id, now=audit.now)
        await audit.note_node(
            connection,
            NodeKind.WORKFLOW,
            workflow_id,
            project_id=project_id,
            before=shown_workflow(held),
            after=None,
        )
        await bump_generation(connection, project_id=project_id)
        return True

    return await run_transaction(database, action)


async def _set_paused(
    database: Database,
    *,
    project_id: UUID,
    workflow_id: UUID,
    is_paused: bool,
    pending_change: str | None,
    audit: Audit,
) -> WorkflowChange:
    async def action(connection: asyncpg.Connection) -> WorkflowRecord | None:
        await hold_workflows(connection, project_id=project_id)
        standing = await lock_workflow(connection, project_id=project_id, workflow_id=workflow_id)
        if standing is None:
            return None
        if standing.is_paused != is_paused:
            await set_workflow_paused(
                connection,
                project_id=project_id,
                workflow_id=workflow_id,
                is_paused=is_paused,
                pending_change=pending_change,
                now=audit.now,
            )
            await audit.note(
                connection,
                "workflow.paused" if is_paused else "workflow.resumed",
                write_node_id(NodeKind.WORKFLOW, workflow_id),
                project_id=project_id,
                before={"name": standing.name, "isPaused": standing.is_paused},
                after={"name": standing.name, "isPaused": is_paused},
            )
            await bump_generation(connection, project_id=project_id)
        return await _read(connection, project_id, workflow_id)

    record = await run_transaction(database, action)
    return _UNKNOWN if record is None else WorkflowChange(record)


async def _read(connection: asyncpg.Connection, project_id: UUID, workflow_id: UUID) -> WorkflowRecord:
    """One that this transaction has locked."""
    found = await read_workflows(connection, project_id=project_id, workflow_ids=[workflow_id])
    return found[0]
