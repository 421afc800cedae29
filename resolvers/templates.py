"""Templates: reading, saving and deleting them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from db.templates import TemplateRecord
from db.templates import list_templates as read_template_list
from engine.cursors import Cursor, CursorKind
from engine.dispatch.values import Channel
from engine.errors import UserError
from engine.identity import Role
from engine.node_ids import NodeKind, parse_node_id
from engine.templates.saving import NOT_FOUND, Outcome, change_template, create_template
from engine.templates.saving import delete_template as remove_template
from resolvers.audit import audit_of
from resolvers.context import Context
from resolvers.paging import Page, PageArguments, read_window
from resolvers.permissions import require


async def list_templates(ctx: Context, *, arguments: PageArguments, channel: Channel | None) -> Page[TemplateRecord]:
    """A page of the project's templates, by name."""
    viewer = require(ctx, Role.VIEWER)
    codec, project_id = ctx.services.cursors, viewer.project_id
    window = read_window(arguments, codec, project_id=project_id, kind=CursorKind.TEMPLATES)
    async with ctx.reading(project_id) as connection:
        found = await read_template_list(
            connection,
            project_id=project_id,
            channel=channel,
            after=None if window.after is None else str(window.after.key[0]),
            limit=window.limit + 1,
        )
    records = tuple(found[: window.limit])
    cursors = tuple(codec.encode(Cursor(CursorKind.TEMPLATES, project_id, 0, (each.name,))) for each in records)
    return window.page(records, cursors, has_more=len(found) > window.limit)


async def save_template(ctx: Context, *, node_id: str | None, given: Mapping[str, Any]) -> Outcome:
    """Make a template, or change the one with the id. `given` has the names of `TemplateRecord`."""
    viewer = require(ctx, Role.EDITOR)
    database, audit = ctx.services.database, audit_of(ctx, viewer)
    if node_id is None:
        outcome = await create_template(database, project_id=viewer.project_id, given=given, audit=audit)
    else:
        parsed = parse_node_id(node_id)
        if parsed is None or parsed.kind is not NodeKind.TEMPLATE:
            return None, (UserError(NOT_FOUND, "NOT_FOUND", ("input", "id")),)
        outcome = await change_template(
            database, project_id=viewer.project_id, template_id=parsed.uuid, given=given, audit=audit
        )
    ctx.forget_reads()
    return outcome


async def delete(ctx: Context, *, node_id: str) -> tuple[str | None, tuple[UserError, ...]]:
    """Forget a template; gives its node id. What was not sent with it yet fails."""
    viewer = require(ctx, Role.EDITOR)
    parsed = parse_node_id(node_id)
    if parsed is None or parsed.kind is not NodeKind.TEMPLATE:
        return None, (UserError(NOT_FOUND, "NOT_FOUND", ("id",)),)
    errors = await remove_template(
        ctx.services.database, project_id=viewer.project_id, template_id=parsed.uuid, audit=audit_of(ctx, viewer)
    )
    ctx.forget_reads()
    return (None, errors) if errors else (node_id, ())
