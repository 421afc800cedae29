"""Workflows: reading, saving, switching, pausing and deleting them, and trying them on a sample event.

A test run stores nothing and sends nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

import msgspec

from db.audiences import AudienceRecord
from db.workflow_records import WorkflowRecord
from db.workflows import list_workflows as read_workflow_list
from engine.cursors import Cursor, CursorKind
from engine.errors import UserError
from engine.identity import Role
from engine.node_ids import NodeKind, parse_node_id
from engine.work import Work, WorkKind
from engine.workflows import standing
from engine.workflows.cloning import clone_blueprint as clone
from engine.workflows.definition import Definition, Schedule
from engine.workflows.dry_run import DryRun, SampleEvent, dry_run
from engine.workflows.saving import NOT_FOUND, WorkflowChange, missing_nodes, save_workflow, set_active
from engine.workflows.schedules import next_occurrence
from engine.workflows.stored import decode_definition
from engine.workflows.validation import read_definition
from resolvers.audiences import look_at_everybody
from resolvers.audit import audit_of
from resolvers.context import Context
from resolvers.filters import check_text
from resolvers.paging import Page, PageArguments, read_window
from resolvers.permissions import require

NEVER = datetime(9999, 12, 31, tzinfo=UTC)
"""When a schedule is due that is not due again: its time zone is gone."""
_DRAFT = ("input", "draft")
_UNNAMED = "Draft"


async def list_workflows(
    ctx: Context, *, arguments: PageArguments, search: str | None, is_active: bool | None
) -> Page[WorkflowRecord]:
    """A page of the project's workflows, newest first."""
    viewer = require(ctx, Role.VIEWER)
    codec, project_id = ctx.services.cursors, viewer.project_id
    window = read_window(arguments, codec, project_id=project_id, kind=CursorKind.WORKFLOWS)
    check_text(search, "search")
    async with ctx.reading(project_id) as connection:
        found = await read_workflow_list(
            connection,
            project_id=project_id,
            after=_position(window.after),
            before=_position(window.before),
            from_end=window.from_end,
            search=search,
            is_active=is_active,
            limit=window.limit + 1,
        )
    shown = found[-window.limit :] if window.from_end else found[: window.limit]
    cursors = tuple(
        codec.encode(Cursor(CursorKind.WORKFLOWS, project_id, 0, (record.workflow_id.hex,))) for record in shown
    )
    return window.page(tuple(shown), cursors, has_more=len(found) > window.limit)


async def find_workflow(ctx: Context, *, workflow_id: UUID) -> WorkflowRecord | None:
    """A workflow of the viewer's project; None when it was deleted."""
    viewer = require(ctx, Role.VIEWER)
    record = await ctx.loaders.workflows.load((viewer.project_id, workflow_id))
    return None if record is None or record.deleted_at is not None else record


async def audience_of(ctx: Context, *, audience_id: UUID | None) -> AudienceRecord | None:
    """For whom a workflow starts; None for everybody, and when the audience was deleted."""
    viewer = require(ctx, Role.VIEWER)
    if audience_id is None:
        return None
    return await ctx.loaders.audiences.load((viewer.project_id, audience_id))


def next_at(ctx: Context, *, schedule: Schedule, due_at: datetime | None) -> datetime:
    """When a schedule is due next: `due_at`, or by its time table, for one that is off."""
    require(ctx, Role.VIEWER)
    return due_at or next_occurrence(schedule, ctx.services.clock.now()) or NEVER


async def save(ctx: Context, *, given: Mapping[str, Any]) -> WorkflowChange:
    """Make a workflow, or change the one with the id that was given. `given` has the names of SaveWorkflowInput."""
    viewer = require(ctx, Role.EDITOR)
    node_id, workflow_id = given.get("id"), None
    if node_id is not None:
        workflow_id = _workflow_id(node_id)
        if workflow_id is None:
            return _unknown("input", "id")
    change = await save_workflow(
        ctx.services.database,
        project_id=viewer.project_id,
        workflow_id=workflow_id,
        given=given,
        egress=ctx.services.egress,
        audit=audit_of(ctx, viewer),
    )
    ctx.forget_reads()
    return change


async def switch(ctx: Context, *, node_id: str, is_active: bool) -> WorkflowChange:
    """Let a workflow start runs, or no more of them."""
    viewer = require(ctx, Role.EDITOR)
    workflow_id = _workflow_id(node_id)
    if workflow_id is None:
        return _unknown("id")
    change = await set_active(
        ctx.services.database,
        project_id=viewer.project_id,
        workflow_id=workflow_id,
        is_active=is_active,
        audit=audit_of(ctx, viewer),
    )
    ctx.forget_reads()
    return change


async def pause(ctx: Context, *, node_id: str) -> WorkflowChange:
    """Hold the runs of a workflow."""
    require(ctx, Role.EDITOR)
    return await _set_paused(ctx, node_id, standing.pause_workflow)


async def resume(ctx: Context, *, node_id: str) -> WorkflowChange:
    """Let the runs of a paused workflow go on."""
    viewer = require(ctx, Role.EDITOR)
    change = await _set_paused(ctx, node_id, standing.resume_workflow)
    if change.workflow is not None:
        ctx.services.wake(Work(WorkKind.RUNS, viewer.project_id))
    return change


async def delete(ctx: Context, *, node_id: str) -> tuple[str | None, tuple[UserError, ...]]:
    """Delete a workflow; gives its node id. Its runs are cancelled."""
    viewer = require(ctx, Role.EDITOR)
    workflow_id = _workflow_id(node_id)
    deleted = workflow_id is not None and await standing.delete_workflow(
        ctx.services.database,
        project_id=viewer.project_id,
        workflow_id=workflow_id,
        audit=audit_of(ctx, viewer),
    )
    if not deleted:
        return None, _unknown("id").errors
    ctx.services.wake(Work(WorkKind.RUNS, viewer.project_id))
    ctx.forget_reads()
    return node_id, ()


async def clone_blueprint(ctx: Context, *, key: str, name: str | None) -> WorkflowChange:
    """Make a workflow of a blueprint, with its audience if it brings one."""
    viewer = require(ctx, Role.EDITOR)
    change = await clone(
        ctx.services.database, project_id=viewer.project_id, key=key, name=name, audit=audit_of(ctx, viewer)
    )
    ctx.forget_reads()
    if change.workflow is not None:
        look_at_everybody(ctx, viewer.project_id)
    return change


async def test_run_workflow(ctx: Context, *, given: Mapping[str, Any]) -> DryRun:
    """What a workflow would do for an event. `given` has the names of TestRunWorkflowInput, without what was not."""
    viewer = require(ctx, Role.EDITOR)
    draft = given.get("draft")
    if (given.get("workflowId") is None) == (draft is None):
        message = "Give workflowId or draft, and not both."
        return DryRun(errors=(UserError(message, "INVALID", ("input", "workflowId")),))
    sample = _sample(given)
    if isinstance(sample, UserError):
        return DryRun(errors=(sample,))
    definition, errors = await (_stored(ctx, given["workflowId"]) if draft is None else _read_draft(ctx, draft))
    if definition is None:
        return DryRun(errors=errors)
    async with ctx.reading(viewer.project_id) as connection:
        if draft is not None:
            errors = await missing_nodes(connection, project_id=viewer.project_id, written=definition, path=_DRAFT)
        if errors:
            return DryRun(errors=errors)
        return await dry_run(
            connection,
            ctx.services.vault,
            ctx.services.egress,
            project=viewer.project,
            definition=definition,
            sample=sample,
            now=ctx.services.clock.now(),
        )


async def _set_paused(ctx: Context, node_id: str, make: Callable[..., Awaitable[WorkflowChange]]) -> WorkflowChange:
    viewer = require(ctx, Role.EDITOR)
    workflow_id = _workflow_id(node_id)
    if workflow_id is None:
        return _unknown("id")
    audit = audit_of(ctx, viewer)
    change = await make(ctx.services.database, project_id=viewer.project_id, workflow_id=workflow_id, audit=audit)
    ctx.forget_reads()
    return change


async def _stored(ctx: Context, node_id: str) -> tuple[Definition | None, tuple[UserError, ...]]:
    """The newest version of a workflow."""
    workflow_id = _workflow_id(node_id)
    record = None if workflow_id is None else await find_workflow(ctx, workflow_id=workflow_id)
    if record is None:
        return None, _unknown("input", "workflowId").errors
    return decode_definition(record.definition), ()


async def _read_draft(ctx: Context, draft: Mapping[str, Any]) -> tuple[Definition | None, tuple[UserError, ...]]:
    """One that is not saved, and so needs no name."""
    named = {**draft, "name": draft.get("name") or _UNNAMED}
    return await asyncio.to_thread(partial(read_definition, named, egress=ctx.services.egress, path=_DRAFT))


def _sample(given: Mapping[str, Any]) -> SampleEvent | UserError:
    texts = []
    for name in ("properties", "context"):
        try:
            texts.append(msgspec.json.encode({} if given.get(name) is None else given[name]))
        except (UnicodeEncodeError, TypeError, RecursionError):
            return UserError(f"{name} holds something that is no JSON.", "INVALID", ("input", name))
    return SampleEvent(
        event_type=given["eventType"], user_id=given.get("userId"), properties=texts[0], context=texts[1]
    )


def _workflow_id(node_id: str) -> UUID | None:
    parsed = parse_node_id(node_id)
    return parsed.uuid if parsed is not None and parsed.kind is NodeKind.WORKFLOW else None


def _unknown(*path: str) -> WorkflowChange:
    return WorkflowChange(errors=(UserError(NOT_FOUND, "NOT_FOUND", path),))


def _position(cursor: Cursor | None) -> UUID | None:
    return None if cursor is None else UUID(hex=str(cursor.key[0]))
