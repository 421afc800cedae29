"""Workflows made of blueprints, each with the audience that its blueprint brings.

Guarantees: both are made in one transaction, switched off; a name that is taken gets the next free number, unless the
caller chose it. A COMMIT whose answer was lost is tried again and finds what it made. Leaves to others: who may.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.audiences import count_audiences, find_audience_names, hold_audiences, insert_audience
from db.workflows import find_workflow_names, lock_workflow
from engine.audiences.conditions import encode_conditions
from engine.audiences.saving import MAX_AUDIENCES, note_audience
from engine.audit import Audit
from engine.errors import UserError
from engine.push.texts import check_text
from engine.transactions import run_transaction
from engine.workflows.blueprints import BLUEPRINTS, Blueprint, BlueprintAudience
from engine.workflows.definition import Definition
from engine.workflows.fields import nearest, quote
from engine.workflows.saving import Refused, Saved, WorkflowChange, new_draft, save_in
from engine.workflows.validation import MAX_NAME_CHARACTERS

if TYPE_CHECKING:
    import asyncpg

    from db.database import Database

_NAMES_AT_ONCE = 50
"""Looked up together."""

_FindNames = Callable[[Sequence[str]], Awaitable[Mapping[str, UUID]]]


async def clone_blueprint(
    database: Database, *, project_id: UUID, key: str, name: str | None, audit: Audit
) -> WorkflowChange:
    """Make a workflow of a blueprint. `name` None is the blueprint's, with a number if that is taken."""
    blueprint = BLUEPRINTS.get(key)
    if blueprint is None:
        return WorkflowChange(errors=(_unknown(key),))
    errors = () if name is None else _check_name(name)
    if errors:
        return WorkflowChange(errors=errors)
    draft, audience_id = new_draft(blueprint.definition, path=()), uuid7()

    async def action(connection: asyncpg.Connection) -> Saved:
        await hold_audiences(connection, project_id=project_id)
        held = await lock_workflow(connection, project_id=project_id, workflow_id=draft.workflow_id)
        definition = blueprint.definition
        if held is None:
            definition = await _settle(connection, project_id, blueprint, name, audience_id, audit)
        changes = new_draft(definition).changes
        settled = msgspec.structs.replace(draft, changes=changes)
        return await save_in(connection, project_id=project_id, draft=settled, audit=audit)

    try:
        return WorkflowChange((await run_transaction(database, action)).workflow)
    except Refused as refused:
        return WorkflowChange(errors=refused.errors)


async def _settle(
    connection: asyncpg.Connection,
    project_id: UUID,
    blueprint: Blueprint,
    name: str | None,
    audience_id: UUID,
    audit: Audit,
) -> Definition:
    """The blueprint's definition under a name that it may have, for an audience that is there."""

    async def find(names: Sequence[str]) -> Mapping[str, UUID]:
        return await find_workflow_names(connection, project_id=project_id, names=names)

    definition = blueprint.definition
    chosen = await _free_name(definition.name, find) if name is None else name
    definition = msgspec.structs.replace(definition, name=chosen)
    if blueprint.audience is None:
        return definition
    await _make_audience(connection, project_id, blueprint.audience, audience_id, audit)
    trigger = msgspec.structs.replace(definition.trigger, audience_id=audience_id)
    return msgspec.structs.replace(definition, trigger=trigger)


async def _make_audience(
    connection: asyncpg.Connection, project_id: UUID, audience: BlueprintAudience, audience_id: UUID, audit: Audit
) -> None:
    async def find(names: Sequence[str]) -> Mapping[str, UUID]:
        return await find_audience_names(connection, project_id=project_id, names=names)

    if await count_audiences(connection, project_id=project_id) >= MAX_AUDIENCES:
        message = f"This blueprint brings an audience, and a project has at most {MAX_AUDIENCES}: delete one first."
        raise Refused(UserError(message, "LIMIT_EXCEEDED", ("key",)))
    made = await insert_audience(
        connection,
        project_id=project_id,
        audience_id=audience_id,
        name=await _free_name(audience.name, find),
        conditions=encode_conditions(audience.where),
        now=audit.now,
    )
    await note_audience(connection, audit, before=None, after=made)


async def _free_name(name: str, find: _FindNames) -> str:
    """The name, or the first of "name 2", "name 3" … that nobody has. There are fewer holders than numbers."""
    first = 1
    while True:
        names = [name if number == 1 else f"{name} {number}" for number in range(first, first + _NAMES_AT_ONCE)]
        taken = await find(names)
        free = next((each for each in names if each not in taken), None)
        if free is not None:
            return free
        first += _NAMES_AT_ONCE


def _check_name(name: str) -> tuple[UserError, ...]:
    if not name.strip():
        return (UserError("name is empty: give it a text, or leave it out.", "INVALID", ("name",)),)
    return tuple(check_text(name, "name", path=("name",), most=MAX_NAME_CHARACTERS))


def _unknown(key: str) -> UserError:
    near = nearest(key, BLUEPRINTS)
    meant = f"use one of {', '.join(BLUEPRINTS)}." if near is None else f"did you mean {near}?"
    return UserError(f"There is no blueprint {quote(key)}: {meant}", "NOT_FOUND", ("key",))
