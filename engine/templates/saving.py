"""Keeping templates: what is given goes over what is stored, and only Liquid that parses is kept.

Guarantees: one name once per project; a save takes effect as a whole or not at all, with everything that is wrong said
at once, and is noted in the audit log. Leaves to others: who may.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.templates import (
    TemplateRecord,
    count_templates,
    find_template_name,
    insert_template,
    lock_template,
    update_template,
)
from db.templates import delete_template as remove_template
from engine.audit import Audit
from engine.errors import UserError
from engine.node_ids import NodeKind
from engine.templates.texts import check_texts
from engine.transactions import run_transaction

if TYPE_CHECKING:
    import asyncpg

    from db.database import Database

MAX_TEMPLATES = 1000
"""Of one project."""
MAX_NAME_CHARACTERS = 100
"""Fits on one line of a dashboard."""

Outcome = tuple[TemplateRecord | None, tuple[UserError, ...]]
_NAME_TAKEN = UserError("Another template has this name.", "CONFLICT", ("input", "name"))
_GIVEN = ("name", "channel", "subject", "body_html", "body_text")
NOT_FOUND = "This project has no such template."


async def create_template(database: Database, *, project_id: UUID, given: Mapping[str, Any], audit: Audit) -> Outcome:
    """Make a template. `given` has the names of `TemplateRecord`; absent is as good as None."""
    now = audit.now
    texts: dict[str, Any] = {name: given.get(name) for name in _GIVEN}
    made = TemplateRecord(project_id=project_id, template_id=uuid7(), created_at=now, updated_at=now, **texts)
    errors = await asyncio.to_thread(_check, made)
    if errors:
        return None, tuple(errors)

    async def action(connection: asyncpg.Connection) -> Outcome:
        if await count_templates(connection, project_id=project_id) >= MAX_TEMPLATES:
            return None, (UserError(f"A project has at most {MAX_TEMPLATES} templates.", "LIMIT_EXCEEDED", ("input",)),)
        stored = await insert_template(
            connection,
            project_id=project_id,
            template_id=made.template_id,
            name=made.name,
            channel=made.channel,
            subject=made.subject,
            body_html=made.body_html,
            body_text=made.body_text,
            now=now,
        )
        if stored is None:
            return None, (_NAME_TAKEN,)
        await audit.note_node(
            connection, NodeKind.TEMPLATE, stored.template_id, project_id=project_id, before=None, after=_shown(stored)
        )
        return stored, ()

    return await run_transaction(database, action)


async def change_template(
    database: Database, *, project_id: UUID, template_id: UUID, given: Mapping[str, Any], audit: Audit
) -> Outcome:
    """Change a template: what is absent in `given` stays, None clears."""

    async def action(connection: asyncpg.Connection) -> Outcome:
        held = await lock_template(connection, project_id=project_id, template_id=template_id)
        if held is None:
            return None, (UserError(NOT_FOUND, "NOT_FOUND", ("input", "id")),)
        changed = msgspec.structs.replace(held, **given)
        errors = await asyncio.to_thread(_check, changed)
        if errors:
            return None, tuple(errors)
        holder = await find_template_name(connection, project_id=project_id, name=changed.name)
        if holder not in (None, template_id):
            return None, (_NAME_TAKEN,)
        stored = await update_template(connection, changed=changed, now=audit.now)
        await audit.note_node(
            connection,
            NodeKind.TEMPLATE,
            template_id,
            project_id=project_id,
            before=_shown(held),
            after=_shown(stored),
        )
        return stored, ()

    return await run_transaction(database, action)


async def delete_template(
    database: Database, *, project_id: UUID, template_id: UUID, audit: Audit
) -> tuple[UserError, ...]:
    """Forget a template; why it was not. What was not sent with it yet fails."""
    asked_before = False

    async def action(connection: asyncpg.Connection) -> tuple[UserError, ...]:
        nonlocal asked_before
        held = await lock_template(connection, project_id=project_id, template_id=template_id)
        if held is None:
            # After a COMMIT whose answer was lost it is gone because of this very call.
            return () if asked_before else (UserError(NOT_FOUND, "NOT_FOUND", ("id",)),)
        asked_before = True
        await remove_template(connection, project_id=project_id, template_id=template_id)
        await audit.note_node(
            connection, NodeKind.TEMPLATE, template_id, project_id=project_id, before=_shown(held), after=None
        )
        return ()

    return await run_transaction(database, action)


def _shown(template: TemplateRecord) -> dict[str, Any]:
    """A template as the audit log has it."""
    return {
        "name": template.name,
        "channel": template.channel,
        "subject": template.subject,
        "bodyHtml": template.body_html,
        "bodyText": template.body_text,
    }


def _check(template: TemplateRecord) -> list[UserError]:
    """Everything that is wrong with a template. Its name and channel may still be missing."""
    errors = []
    name: str | None = template.name
    if name is None or not 1 <= len(name.strip()) <= MAX_NAME_CHARACTERS or "\0" in name:
        message = f"A template has a name of 1 to {MAX_NAME_CHARACTERS} characters, without NUL."
        errors.append(UserError(message, "INVALID", ("input", "name")))
    channel: str | None = template.channel
    if channel is None:
        errors.append(UserError("A template is for a channel.", "INVALID", ("input", "channel")))
    if template.body_html is None and template.body_text is None:
        errors.append(
            UserError("A template has a body: bodyHtml, bodyText, or both.", "INVALID", ("input", "bodyText"))
        )
    return errors + check_texts(subject=template.subject, body_html=template.body_html, body_text=template.body_text)
