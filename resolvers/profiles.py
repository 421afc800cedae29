"""Reading people: one by user id, and lists by condition or search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from db.filters import Condition
from db.profiles import ProfileKey, count_profiles
from db.profiles import list_profiles as read_profile_list
from db.records import CappedCount, ProfileRecord
from engine.cursors import Cursor, CursorKind
from engine.identity import Role
from resolvers.context import Context
from resolvers.filters import PROFILE_ROOTS, check_text, read_conditions
from resolvers.paging import Counter, Listed, PageArguments, read_window
from resolvers.permissions import require

_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


async def find_profile(ctx: Context, *, user_id: str) -> ProfileRecord | None:
    """The person with this user id, if an event ever named it."""
    viewer = require(ctx, Role.VIEWER, person=user_id)
    check_text(user_id, "userId")
    return await ctx.loaders.profiles_by_user.load((viewer.project_id, user_id))


async def find_own_profile(ctx: Context) -> ProfileRecord | None:
    """The person whose session asks; None without a session, and before an event names that person."""
    viewer = require(ctx, Role.INGEST)
    if viewer.session is None:
        return None
    return await ctx.loaders.profiles_by_user.load((viewer.project_id, viewer.session.user_id))


async def list_profiles(
    ctx: Context, *, arguments: PageArguments, where: Sequence[Mapping[str, Any]] | None, search: str | None
) -> Listed[ProfileRecord]:
    """A page of the project's people, newest first."""
    viewer = require(ctx, Role.VIEWER)
    codec, project_id = ctx.services.cursors, viewer.project_id
    window = read_window(arguments, codec, project_id=project_id, kind=CursorKind.PROFILES)
    conditions = read_conditions(where, roots=PROFILE_ROOTS, path=("where",))
    check_text(search, "search")
    async with ctx.reading(project_id) as connection:
        found = await read_profile_list(
            connection,
            project_id=project_id,
            limit=window.limit,
            after=_key(window.after),
            before=_key(window.before),
            from_end=window.from_end,
            where=conditions,
            search=search,
        )
    cursors = tuple(codec.encode(_cursor(record)) for record in found.profiles)
    page = window.page(found.profiles, cursors, has_more=found.has_more)
    return Listed(page, Counter(lambda: _count(ctx, project_id, conditions, search)))


async def _count(ctx: Context, project_id: UUID, where: tuple[Condition, ...], search: str | None) -> CappedCount:
    async with ctx.reading(project_id) as connection:
        return await count_profiles(connection, project_id=project_id, where=where, search=search)


def _cursor(record: ProfileRecord) -> Cursor:
    created = (record.created_at - _BEGINNING) // _MICROSECOND
    return Cursor(CursorKind.PROFILES, record.project_id, 0, (created, record.profile_id.hex))


def _key(cursor: Cursor | None) -> ProfileKey | None:
    if cursor is None:
        return None
    created, profile_id = cursor.key
    return _BEGINNING + int(created) * _MICROSECOND, UUID(hex=str(profile_id))
