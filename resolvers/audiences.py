"""Audiences: reading, saving and deleting them, and who belongs to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from db.audience_records import AudienceChangeRecord
from db.audiences import AudienceRecord, count_members, count_some_members
from db.audiences import list_audiences as read_audience_list
from db.audiences import list_members as read_member_list
from db.records import CappedCount, ProfileRecord
from engine.audiences.conditions import conditions_of
from engine.audiences.saving import NOT_FOUND, AudienceChange, Outcome, change_audience, create_audience
from engine.audiences.saving import delete_audience as remove_audience
from engine.cursors import Cursor, CursorKind
from engine.errors import NotFound, UserError
from engine.identity import Role
from engine.node_ids import NodeKind, parse_node_id
from engine.work import Work, WorkKind
from resolvers.audit import audit_of
from resolvers.context import Context
from resolvers.filters import check_text
from resolvers.paging import Counter, Listed, Page, PageArguments, read_window
from resolvers.permissions import require


async def list_audiences(ctx: Context, *, arguments: PageArguments, search: str | None) -> Page[AudienceRecord]:
    """A page of the project's audiences, by name."""
    viewer = require(ctx, Role.VIEWER)
    codec, project_id = ctx.services.cursors, viewer.project_id
    window = read_window(arguments, codec, project_id=project_id, kind=CursorKind.AUDIENCE_LIST)
    check_text(search, "search")
    async with ctx.reading(project_id) as connection:
        found = await read_audience_list(
            connection,
            project_id=project_id,
            after=None if window.after is None else str(window.after.key[0]),
            search=search,
            limit=window.limit + 1,
        )
    records = tuple(found[: window.limit])
    cursors = tuple(codec.encode(Cursor(CursorKind.AUDIENCE_LIST, project_id, 0, (each.name,))) for each in records)
    return window.page(records, cursors, has_more=len(found) > window.limit)


async def size_of(ctx: Context, *, record: AudienceRecord) -> int:
    """How many belong to an audience now, exactly."""
    require(ctx, Role.VIEWER)
    async with ctx.reading(record.project_id) as connection:
        return await count_members(
            connection,
            project_id=record.project_id,
            conditions=conditions_of(record),
            now=ctx.services.clock.now(),
        )


async def list_members(ctx: Context, *, record: AudienceRecord, arguments: PageArguments) -> Listed[ProfileRecord]:
    """A page of those who belong to an audience now, by user id."""
    require(ctx, Role.VIEWER)
    codec, project_id, conditions = ctx.services.cursors, record.project_id, conditions_of(record)
    window = read_window(arguments, codec, project_id=project_id, kind=CursorKind.AUDIENCE_MEMBERS)
    async with ctx.reading(project_id) as connection:
        found = await read_member_list(
            connection,
            project_id=project_id,
            conditions=conditions,
            after_user_id=None if window.after is None else str(window.after.key[0]),
            limit=window.limit + 1,
            now=ctx.services.clock.now(),
        )
    records = tuple(found[: window.limit])
    cursors = tuple(
        codec.encode(Cursor(CursorKind.AUDIENCE_MEMBERS, project_id, 0, (each.user_id,))) for each in records
    )
    page = window.page(records, cursors, has_more=len(found) > window.limit)
    return Listed(page, Counter(lambda: _count_members(ctx, record)))


async def audiences_of(ctx: Context, *, profile: ProfileRecord) -> Sequence[AudienceRecord]:
    """The audiences that a person belonged to when that was last looked at, by name."""
    require(ctx, Role.VIEWER)
    found = await ctx.loaders.audiences_of_people.load((profile.project_id, profile.user_id))
    return [audience for _, audience in found]


async def audience_of(ctx: Context, *, audience_id: UUID | None) -> AudienceRecord | None:
    """An audience of the viewer's project; None when it was deleted."""
    viewer = require(ctx, Role.VIEWER)
    return None if audience_id is None else await ctx.loaders.audiences.load((viewer.project_id, audience_id))


async def save_audience(ctx: Context, *, given: Mapping[str, Any]) -> Outcome:
    """Make an audience, or change the one with the id. `given` has the names of SaveAudienceInput."""
    viewer = require(ctx, Role.EDITOR)
    database, audit = ctx.services.database, audit_of(ctx, viewer)
    change = AudienceChange(given.get("name"), given.get("where"))
    if given.get("id") is None:
        outcome = await create_audience(database, project_id=viewer.project_id, given=change, audit=audit)
    else:
        audience_id = audience_id_of(given["id"])
        if audience_id is None:
            return None, (UserError(NOT_FOUND, "NOT_FOUND", ("input", "id")),)
        outcome = await change_audience(
            database, project_id=viewer.project_id, audience_id=audience_id, given=change, audit=audit
        )
    ctx.forget_reads()
    if outcome[0] is not None:
        look_at_everybody(ctx, viewer.project_id)
    return outcome


async def delete(ctx: Context, *, node_id: str) -> tuple[str | None, tuple[UserError, ...]]:
    """Delete an audience; gives its node id. What is still to be sent to it is not."""
    viewer = require(ctx, Role.EDITOR)
    audience_id = audience_id_of(node_id)
    if audience_id is None:
        return None, (UserError(NOT_FOUND, "NOT_FOUND", ("id",)),)
    errors = await remove_audience(
        ctx.services.database, project_id=viewer.project_id, audience_id=audience_id, audit=audit_of(ctx, viewer)
    )
    ctx.forget_reads()
    if errors:
        return None, errors
    look_at_everybody(ctx, viewer.project_id)
    return node_id, ()


async def audience_of_change(ctx: Context, *, change: AudienceChangeRecord) -> AudienceRecord:
    """The audience of an item of the lane, as it is now; one that was deleted as it was last."""
    require(ctx, Role.VIEWER)
    found = await ctx.loaders.audiences_ever.load((change.project_id, change.audience_id))
    if found is None:
        raise NotFound("This audience no longer exists.")
    return found


def audience_id_of(node_id: str) -> UUID | None:
    """None for anything but the node id of an audience."""
    parsed = parse_node_id(node_id)
    return parsed.uuid if parsed is not None and parsed.kind is NodeKind.AUDIENCE else None


def look_at_everybody(ctx: Context, project_id: UUID) -> None:
    """Have a worker begin at once, for audiences that were saved."""
    ctx.services.wake(Work(WorkKind.AUDIENCE_CHECKS, project_id))


async def _count_members(ctx: Context, record: AudienceRecord) -> CappedCount:
    async with ctx.reading(record.project_id) as connection:
        return await count_some_members(
            connection,
            project_id=record.project_id,
            conditions=conditions_of(record),
            now=ctx.services.clock.now(),
        )
