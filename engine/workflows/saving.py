"""Keeping workflows: what is given goes over what is stored, as a new version, if it makes any difference.

Guarantees: a save takes effect as a whole or not at all, with everything that is wrong said at once; one name once per
project; a version never changes, so that runs stay on the one they started with; a save that changes nothing makes
none; one that changes something is noted in the audit log with it. What is given is checked by today's rules, what
stays is not. A COMMIT whose answer was lost is tried again and
finds what it made. Saves of one project wait for one another. Leaves to others: who may, and noticing that triggers
have changed (`db.workflows.read_generation`).

Several in one transaction (bundles): `read_draft` for each outside of it, then `save_in` for each in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from msgspec import UNSET
from uuid_utils.compat import uuid7

from db.audiences import read_audiences, share_audiences
from db.followers import ensure_follower
from db.records import Lane
from db.templates import read_templates
from db.workflow_records import WorkflowRecord, WorkflowStanding
from db.workflows import (
    bump_generation,
    count_workflows,
    find_workflow_names,
    hold_workflows,
    insert_workflow,
    insert_workflow_version,
    lock_workflow,
    read_workflows,
    set_workflow_standing,
)
from engine.audit import Audit
from engine.dispatch.values import Channel
from engine.egress import Egress
from engine.errors import UserError
from engine.node_ids import NodeKind
from engine.transactions import run_transaction
from engine.workflows.definition import Definition, Trigger
from engine.workflows.fields import Path
from engine.workflows.names import REPORTS_FOLLOWER, TRIGGERS_FOLLOWER
from engine.workflows.schedules import next_occurrence
from engine.workflows.stored import decode_definition, encode_definition
from engine.workflows.validation import Changes, named_nodes, read_changes, read_definition, unparse_definition

if TYPE_CHECKING:
    import asyncpg

    from db.database import Database

MAX_WORKFLOWS = 5_000
"""Of one project, deleted ones not counted: workers keep the triggers of all that are on in memory."""

NOT_FOUND = "This project has no such workflow."
_WORDS = {NodeKind.TEMPLATE: "template for email", NodeKind.AUDIENCE: "audience"}


class SaveOutcome(StrEnum):
    """What a save came to."""

    CREATED = "CREATED"
    UPDATED = "UPDATED"
    UNCHANGED = "UNCHANGED"


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A save that can be carried out, as far as is known without looking at the project.

    `is_active` None stays as it is, and is off for a new one. `path` is where in the input the workflow was written.
    """

    workflow_id: UUID
    is_new: bool
    changes: Changes = Changes()
    is_active: bool | None = None
    expected_version: int | None = None
    path: Path = ("input",)


class Saved(msgspec.Struct, frozen=True):
    """A workflow as it is now, and what the save came to."""

    workflow: WorkflowRecord
    outcome: SaveOutcome


class WorkflowChange(msgspec.Struct, frozen=True):
    """What became of a change: the workflow as it is now; or why nothing was changed."""

    workflow: WorkflowRecord | None = None
    errors: tuple[UserError, ...] = ()


class Refused(Exception):
    """Ends a transaction that is to change nothing."""

    def __init__(self, *errors: UserError) -> None:
        super().__init__("; ".join(error.code for error in errors))
        self.errors = errors


def read_draft(
    given: Mapping[str, Any], *, workflow_id: UUID | None, egress: Egress, path: Path = ("input",)
) -> tuple[Draft | None, tuple[UserError, ...]]:
    """What to do to the workflow with an id, or to a new one; or everything that is wrong with it.

    `given` has the names of SaveWorkflowInput; its `id` is not looked at. Pure, and as slow as `read_definition`.
    """
    active, expected = given.get("isActive"), given.get("expectedVersion")
    is_active = active is True if "isActive" in given else None
    if workflow_id is not None:
        changes, errors = read_changes(given, egress=egress, path=path)
        if changes is None:
            return None, errors
        draft = Draft(workflow_id=workflow_id, is_new=False, changes=changes, path=path)
        return msgspec.structs.replace(draft, is_active=is_active, expected_version=expected), ()
    definition, errors = read_definition(given, egress=egress, path=path)
    if expected is not None:
        message = "expectedVersion is for a workflow that is there: give its id, or leave this out."
        errors += (UserError(message, "INVALID", (*path, "expectedVersion")),)
    if definition is None or errors:
        return None, errors
    return new_draft(definition, is_active=is_active is True, path=path), ()


def new_draft(definition: Definition, *, is_active: bool = False, path: Path = ("input",)) -> Draft:
    """A workflow to make, with an id of its own."""
    changes = Changes(definition.name, definition.description, definition.trigger, definition.steps)
    return Draft(workflow_id=uuid7(), is_new=True, changes=changes, is_active=is_active, path=path)


async def save_workflow(
    database: Database,
    *,
    project_id: UUID,
    workflow_id: UUID | None,
    given: Mapping[str, Any],
    egress: Egress,
    audit: Audit,
) -> WorkflowChange:
    """Make a workflow, or change the one with the id. `given` has the names of SaveWorkflowInput."""
    draft, errors = await asyncio.to_thread(partial(read_draft, given, workflow_id=workflow_id, egress=egress))
    if draft is None:
        return WorkflowChange(errors=errors)
    return await carry_out(database, project_id=project_id, draft=draft, audit=audit)


async def set_active(
    database: Database, *, project_id: UUID, workflow_id: UUID, is_active: bool, audit: Audit
) -> WorkflowChange:
    """Switch a workflow on or off. What it has started goes on either way."""
    draft = Draft(workflow_id=workflow_id, is_new=False, is_active=is_active, path=())
    return await carry_out(database, project_id=project_id, draft=draft, audit=audit)


async def carry_out(database: Database, *, project_id: UUID, draft: Draft, audit: Audit) -> WorkflowChange:
    """One save, in a transaction of its own."""
    tried_before = False

    async def action(connection: asyncpg.Connection) -> Saved:
        nonlocal tried_before
        again, tried_before = tried_before, True
        return await save_in(connection, project_id=project_id, draft=draft, audit=audit, tried_before=again)

    try:
        saved = await run_transaction(database, action)
    except Refused as refused:
        return WorkflowChange(errors=refused.errors)
    return WorkflowChange(saved.workflow)


async def save_in(
    connection: asyncpg.Connection, *, project_id: UUID, draft: Draft, audit: Audit, tried_before: bool = False
) -> Saved:
    """Carry a draft out in the caller's transaction, which commits it. Raises `Refused`: then roll back.

    `tried_before`: the same draft was committed before, perhaps. Locks the project's workflows against other saves,
    then this one, the audiences that it names, and the generation."""
    await hold_workflows(connection, project_id=project_id)
    standing = await lock_workflow(connection, project_id=project_id, workflow_id=draft.workflow_id)
    if standing is None:
        if not draft.is_new:
            raise Refused(UserError(NOT_FOUND, "NOT_FOUND", (*draft.path, "id")))
        made = await _create(connection, project_id, draft, audit.now)
        await _note(connection, audit, before=None, after=made.workflow)
        return made
    before = await _read(connection, project_id, draft.workflow_id)
    if draft.is_new:
        return Saved(before, SaveOutcome.CREATED)
    saved = await _change(connection, draft, standing, before, audit.now, tried_before)
    if saved.outcome is SaveOutcome.UPDATED:
        await _note(connection, audit, before=before, after=saved.workflow)
    return saved


async def _create(connection: asyncpg.Connection, project_id: UUID, draft: Draft, now: datetime) -> Saved:
    changes = draft.changes
    if changes.name is UNSET or changes.trigger is UNSET or changes.steps is UNSET:
        raise ValueError("a new workflow has a name, a trigger and steps")
    definition = changes.over(Definition(changes.name, changes.trigger, changes.steps))
    if await count_workflows(connection, project_id=project_id) >= MAX_WORKFLOWS:
        message = f"A project has at most {MAX_WORKFLOWS:,} workflows: delete one first."
        raise Refused(UserError(message, "LIMIT_EXCEEDED", draft.path))
    await _check(connection, project_id, draft, definition.name)
    is_active = draft.is_active is True
    for follower, lane in ((TRIGGERS_FOLLOWER, Lane.EVENTS), (REPORTS_FOLLOWER, Lane.DELIVERIES)):
        await ensure_follower(connection, project_id=project_id, follower=follower, lane=lane)
    await insert_workflow(
        connection,
        project_id=project_id,
        workflow_id=draft.workflow_id,
        name=definition.name,
        definition=encode_definition(definition),
        is_active=is_active,
        next_due_at=_next_due(definition.trigger, now) if is_active else None,
        now=now,
    )
    await bump_generation(connection, project_id=project_id)
    return Saved(await _read(connection, project_id, draft.workflow_id), SaveOutcome.CREATED)


async def _change(
    connection: asyncpg.Connection,
    draft: Draft,
    standing: WorkflowStanding,
    before: WorkflowRecord,
    now: datetime,
    tried_before: bool,
) -> Saved:
    project_id = before.project_id
    stored = decode_definition(before.definition)
    definition = draft.changes.over(stored)
    is_active = standing.is_active if draft.is_active is None else draft.is_active
    is_same = is_equal(definition, stored)
    is_unchanged = is_same and is_active == standing.is_active
    if draft.expected_version not in (None, standing.version) and not (tried_before and is_unchanged):
        message = (
            f"The workflow was saved meanwhile: its version is {standing.version}, not {draft.expected_version}. "
            "Read it again, and change that."
        )
        raise Refused(UserError(message, "CONFLICT", (*draft.path, "expectedVersion")))
    await _check(connection, project_id, draft, definition.name)
    if is_unchanged:
        return Saved(before, SaveOutcome.UNCHANGED)
    if is_active and not standing.is_active:
        await _check_audience(connection, project_id, draft, definition.trigger)
    if not is_same:
        await insert_workflow_version(
            connection,
            project_id=project_id,
            workflow_id=draft.workflow_id,
            version=standing.version + 1,
            name=definition.name,
            definition=encode_definition(definition),
            now=now,
        )
    if is_active != standing.is_active or definition.trigger.schedule != stored.trigger.schedule:
        await set_workflow_standing(
            connection,
            project_id=project_id,
            workflow_id=draft.workflow_id,
            is_active=is_active,
            next_due_at=_next_due(definition.trigger, now) if is_active else None,
            now=now,
        )
    await bump_generation(connection, project_id=project_id)
    return Saved(await _read(connection, project_id, draft.workflow_id), SaveOutcome.UPDATED)


async def _note(
    connection: asyncpg.Connection, audit: Audit, *, before: WorkflowRecord | None, after: WorkflowRecord
) -> None:
    await audit.note_node(
        connection,
        NodeKind.WORKFLOW,
        after.workflow_id,
        project_id=after.project_id,
        before=None if before is None else shown_workflow(before),
        after=shown_workflow(after),
    )


def shown_workflow(workflow: WorkflowRecord) -> dict[str, Any]:
    """A workflow as the audit log has it. Trigger and steps that are too large for it are those of the version."""
    return {
        "version": workflow.version,
        "isActive": workflow.is_active,
        **unparse_definition(decode_definition(workflow.definition)),
    }


def is_equal(one: Definition, other: Definition) -> bool:
    """Whether two definitions do the same: 1 is not true, as it is to Python; the order of members does not matter."""
    return _canonical(one) == _canonical(other)


def _canonical(definition: Definition) -> bytes:
    """As it is once it was stored: a delay of 0 is one of 0.0."""
    return msgspec.json.encode(decode_definition(encode_definition(definition)), order="sorted")


def _next_due(trigger: Trigger, now: datetime) -> datetime | None:
    return None if trigger.schedule is None else next_occurrence(trigger.schedule, now)


async def _check(connection: asyncpg.Connection, project_id: UUID, draft: Draft, name: str) -> None:
    """What cannot be known without the project: whose the name is, and whether there is what the draft names."""
    missing = await missing_nodes(connection, project_id=project_id, written=draft.changes, path=draft.path, hold=True)
    errors = list(missing)
    if draft.changes.name is not UNSET:
        holders = await find_workflow_names(connection, project_id=project_id, names=[name])
        if holders.get(name, draft.workflow_id) != draft.workflow_id:
            errors.insert(0, UserError("Another workflow has this name.", "CONFLICT", (*draft.path, "name")))
    if errors:
        raise Refused(*errors)


async def _check_audience(connection: asyncpg.Connection, project_id: UUID, draft: Draft, trigger: Trigger) -> None:
    """Nobody can be in an audience that was deleted while the workflow was off."""
    audience_id = trigger.audience_id
    if audience_id is None:
        return
    if not await share_audiences(connection, project_id=project_id, audience_ids=[audience_id]):
        message = "The audience that this workflow starts for was deleted: give it another one first."
        raise Refused(UserError(message, "STATE", (*draft.path, "isActive")))


async def missing_nodes(
    connection: asyncpg.Connection, *, project_id: UUID, written: Definition | Changes, path: Path, hold: bool = False
) -> tuple[UserError, ...]:
    """What a workflow names and the project does not have.

    `hold`: the audiences that are there cannot be deleted until the transaction ends.
    """
    named = list(named_nodes(written, path))
    templates = [uuid for kind, uuid, _ in named if kind is NodeKind.TEMPLATE]
    audiences = [uuid for kind, uuid, _ in named if kind is NodeKind.AUDIENCE]
    there: set[UUID] = set()
    if templates:
        found = await read_templates(connection, project_id=project_id, template_ids=templates)
        there |= {each.template_id for each in found if each.channel == Channel.EMAIL}
    if audiences and hold:
        there |= await share_audiences(connection, project_id=project_id, audience_ids=audiences)
    elif audiences:
        known = await read_audiences(connection, project_id=project_id, audience_ids=audiences)
        there |= {each.audience_id for each in known}
    return tuple(
        UserError(f"This project has no such {_WORDS[kind]}.", "NOT_FOUND", where)
        for kind, uuid, where in named
        if uuid not in there
    )


async def _read(connection: asyncpg.Connection, project_id: UUID, workflow_id: UUID) -> WorkflowRecord:
    """One that this transaction has locked or made."""
    found = await read_workflows(connection, project_id=project_id, workflow_ids=[workflow_id])
    return found[0]
