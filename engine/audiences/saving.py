"""Keeping audiences: what is given goes over what is stored, and only conditions that can be evaluated are kept.

Guarantees: one name once per project; a save takes effect as a whole or not at all, with everything that is wrong said
at once, and is noted in the audit log; an audience that a workflow which is on starts for, or that an insight asks
about, is not deleted. Saves of one project wait for one another.
Leaves to others: who may, who belongs to it (`engine.audiences.membership`), and looking at everybody for it
(`engine.audiences.checking`, which is to be woken).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.audiences import (
    AudienceRecord,
    count_audiences,
    find_audience_names,
    find_insights_of_audience,
    find_workflows_of_audience,
    hold_audiences,
    insert_audience,
    lock_audience,
    update_audience,
)
from db.audiences import delete_audience as remove_audience
from engine.audiences.conditions import encode_conditions, read_where
from engine.audit import Audit
from engine.conditions import InvalidCondition
from engine.errors import UserError
from engine.node_ids import NodeKind, write_node_id
from engine.transactions import run_transaction

if TYPE_CHECKING:
    import asyncpg

    from db.database import Database

MAX_AUDIENCES = 500
"""Of one project: each is looked at for everybody whom an event may have moved."""
MAX_NAME_CHARACTERS = 100
"""Fits on one line of a dashboard."""
MAX_NAMED = 5
"""Workflows or insights in the sentence that says why an audience cannot be deleted."""

Outcome = tuple[AudienceRecord | None, tuple[UserError, ...]]
NOT_FOUND = "This project has no such audience."
_NAME_TAKEN = UserError("Another audience has this name.", "CONFLICT", ("input", "name"))


class AudienceChange(msgspec.Struct, frozen=True):
    """What was given of an audience; None leaves what is stored. `where` holds ConditionInput as mappings."""

    name: str | None = None
    where: Sequence[Mapping[str, Any]] | None = None


async def create_audience(database: Database, *, project_id: UUID, given: AudienceChange, audit: Audit) -> Outcome:
    """Make an audience."""
    audience_id = uuid7()
    errors = [*_check_name(given.name or ""), *_check_presence(given.where)]
    conditions = _read_conditions(given.where or (), errors)
    if errors:
        return None, tuple(errors)

    async def action(connection: asyncpg.Connection) -> Outcome:
        await hold_audiences(connection, project_id=project_id)
        held = await lock_audience(connection, project_id=project_id, audience_id=audience_id)
        if held is not None:
            # A COMMIT whose answer was lost has made it.
            return held, ()
        if await count_audiences(connection, project_id=project_id) >= MAX_AUDIENCES:
            return None, (UserError(f"A project has at most {MAX_AUDIENCES} audiences.", "LIMIT_EXCEEDED", ("input",)),)
        name = given.name or ""
        if await find_audience_names(connection, project_id=project_id, names=[name]):
            return None, (_NAME_TAKEN,)
        made = await insert_audience(
            connection, project_id=project_id, audience_id=audience_id, name=name, conditions=conditions, now=audit.now
        )
        await note_audience(connection, audit, before=None, after=made)
        return made, ()

    return await run_transaction(database, action)


async def change_audience(
    database: Database, *, project_id: UUID, audience_id: UUID, given: AudienceChange, audit: Audit
) -> Outcome:
    """Change an audience: what is not given stays."""
    errors = [] if given.name is None else _check_name(given.name)
    conditions = None if given.where is None else _read_conditions(given.where, errors)

    async def action(connection: asyncpg.Connection) -> Outcome:
        await hold_audiences(connection, project_id=project_id)
        held = await lock_audience(connection, project_id=project_id, audience_id=audience_id)
        if held is None:
            return None, (UserError(NOT_FOUND, "NOT_FOUND", ("input", "id")),)
        if errors:
            return None, tuple(errors)
        name = held.name if given.name is None else given.name
        holders = await find_audience_names(connection, project_id=project_id, names=[name])
        if holders.get(name, audience_id) != audience_id:
            return None, (_NAME_TAKEN,)
        changed = await update_audience(
            connection,
            project_id=project_id,
            audience_id=audience_id,
            name=name,
            conditions=bytes(held.conditions).decode() if conditions is None else conditions,
            now=audit.now,
        )
        await note_audience(connection, audit, before=held, after=changed)
        return changed, ()

    return await run_transaction(database, action)


async def delete_audience(
    database: Database, *, project_id: UUID, audience_id: UUID, audit: Audit
) -> tuple[UserError, ...]:
    """Delete an audience; why it was not."""
    asked_before = False

    async def action(connection: asyncpg.Connection) -> tuple[UserError, ...]:
        nonlocal asked_before
        held = await lock_audience(connection, project_id=project_id, audience_id=audience_id)
        if held is None:
            # After a COMMIT whose answer was lost it is gone because of this very call.
            return () if asked_before else (UserError(NOT_FOUND, "NOT_FOUND", ("id",)),)
        workflows = await find_workflows_of_audience(
            connection, project_id=project_id, audience_id=audience_id, limit=MAX_NAMED + 1
        )
        if workflows:
            return (UserError(_starts(workflows), "STATE", ("id",)),)
        insights = await find_insights_of_audience(
            connection,
            project_id=project_id,
            node_id=write_node_id(NodeKind.AUDIENCE, audience_id),
            limit=MAX_NAMED + 1,
        )
        if insights:
            return (UserError(_is_asked_about(insights), "STATE", ("id",)),)
        asked_before = True
        await remove_audience(connection, project_id=project_id, audience_id=audience_id, now=audit.now)
        await audit.note_node(
            connection, NodeKind.AUDIENCE, audience_id, project_id=project_id, before=_shown(held), after=None
        )
        return ()

    return await run_transaction(database, action)


async def note_audience(
    connection: asyncpg.Connection, audit: Audit, *, before: AudienceRecord | None, after: AudienceRecord
) -> None:
    """Note that an audience was made, or changed, in the transaction that does it."""
    await audit.note_node(
        connection,
        NodeKind.AUDIENCE,
        after.audience_id,
        project_id=after.project_id,
        before=None if before is None else _shown(before),
        after=_shown(after),
    )


def _shown(audience: AudienceRecord) -> dict[str, Any]:
    """An audience as the audit log has it."""
    return {"name": audience.name, "where": msgspec.json.decode(audience.conditions)}


def _check_name(name: str) -> list[UserError]:
    if name.strip() and len(name) <= MAX_NAME_CHARACTERS and "\0" not in name:
        return []
    message = f"An audience has a name of 1 to {MAX_NAME_CHARACTERS} characters, without NUL."
    return [UserError(message, "INVALID", ("input", "name"))]


def _check_presence(where: Sequence[Mapping[str, Any]] | None) -> list[UserError]:
    if where is not None:
        return []
    message = "Say who belongs to it: where is a list of conditions. An empty one is for everybody."
    return [UserError(message, "INVALID", ("input", "where"))]


def _read_conditions(where: Sequence[Mapping[str, Any]], errors: list[UserError]) -> str:
    """As they are stored; what is wrong goes to `errors`."""
    try:
        return encode_conditions(read_where(where))
    except InvalidCondition as error:
        errors.append(UserError(str(error), "INVALID", error.path))
        return ""


def _starts(workflows: Sequence[str]) -> str:
    return (
        f"Workflows that are on start for the members of this audience: {_listed(workflows)}. Switch them off, or give "
        "them another trigger, first."
    )


def _is_asked_about(insights: Sequence[str]) -> str:
    return (
        f"Insights ask about the members of this audience: {_listed(insights)}. Delete them, or have them ask about "
        "another, first."
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:MAX_NAMED]) + (" and others" if len(names) > MAX_NAMED else "")
