"""What people allow: saying it, what holds now, and the log of every change."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.consent_changes import ConsentChangeFilter, ConsentChangeRecord, list_consent_changes
from db.consents import ConsentRecord
from db.identity_links import is_retired
from db.profiles import ensure_profile, lock_profiles
from db.records import ProfileRecord
from engine.announcements import Announcement
from engine.consent import ConsentPurpose, ConsentState, set_consent
from engine.cursors import Cursor, CursorKind
from engine.dispatch.ledger import record
from engine.errors import UserError
from engine.events import MAX_ID_CHARACTERS
from engine.identity import Role
from engine.transactions import run_transaction
from resolvers.context import Context
from resolvers.filters import check_text
from resolvers.naming import RETIRED, check_person, is_from_app
from resolvers.paging import Page, PageArguments, read_window
from resolvers.permissions import is_own, require

if TYPE_CHECKING:
    import asyncpg

MAX_SOURCE_CHARACTERS = 200


class ConsentArguments(msgspec.Struct, frozen=True):
    """What a person says, and where they said it."""

    user_id: str
    purpose: ConsentPurpose
    state: ConsentState
    source: str
    signature: str | None = None


class ConsentSet(msgspec.Struct, frozen=True):
    """What became of a word. `change` is None where the same was said before. `withheld`: of what was before, and of
    the person, the viewer sees ids alone."""

    profile: ProfileRecord | None
    change: ConsentChangeRecord | None
    errors: tuple[UserError, ...] = ()
    withheld: bool = False


class HeldConsent(msgspec.Struct, frozen=True):
    """What a person says about a purpose now. `updated_at` is None where nothing was ever said."""

    purpose: ConsentPurpose
    state: ConsentState
    updated_at: datetime | None


async def set_person_consent(ctx: Context, *, arguments: ConsentArguments) -> ConsentSet:
    """Record what a person says. Whoever was not known is from then on."""
    viewer = require(ctx, Role.INGEST)
    errors = _check(arguments) or await check_person(ctx, viewer, arguments.user_id, arguments.signature, ("input",))
    if errors:
        return ConsentSet(None, None, errors)
    project_id, now = viewer.project_id, ctx.services.clock.now()

    async def change(
        connection: asyncpg.Connection,
    ) -> tuple[ConsentChangeRecord | UserError | None, tuple[Announcement, ...]]:
        await lock_profiles(connection, project_id=project_id, user_ids=[arguments.user_id])
        if await is_retired(connection, project_id=project_id, user_id=arguments.user_id):
            return RETIRED, ()
        await ensure_profile(connection, project_id=project_id, user_id=arguments.user_id, profile_id=uuid7())
        changed = await set_consent(
            connection,
            project_id=project_id,
            user_id=arguments.user_id,
            purpose=arguments.purpose,
            state=arguments.state,
            source=arguments.source,
            actor=viewer.actor,
            now=now,
        )
        if changed is None:
            return None, ()
        announcements = await record(
            connection, project_id=project_id, transitions=(), events=(changed.event,), now=now
        )
        return changed.change, announcements

    made, announcements = await run_transaction(ctx.services.database, change)
    if isinstance(made, UserError):
        return ConsentSet(None, None, (made,))
    for announcement in announcements:
        ctx.services.announce(announcement)
    ctx.forget_reads()
    own = is_own(viewer, arguments.user_id)
    profile = None
    if own or arguments.signature is not None or not is_from_app(viewer):
        profile = await ctx.loaders.profiles_by_user.load((project_id, arguments.user_id))
    return ConsentSet(profile, made, withheld=viewer.role < Role.VIEWER and not own)


async def consents_of(ctx: Context, *, profile: ProfileRecord) -> tuple[HeldConsent, ...]:
    """What a person says now, of every purpose."""
    require(ctx, Role.VIEWER, person=profile.user_id)
    found: tuple[ConsentRecord, ...] = await ctx.loaders.consents_by_user.load((profile.project_id, profile.user_id))
    said = {each.purpose: each for each in found}
    return tuple(
        HeldConsent(
            purpose,
            ConsentState(said[purpose].state) if purpose in said else ConsentState.UNKNOWN,
            said[purpose].updated_at if purpose in said else None,
        )
        for purpose in ConsentPurpose
    )


async def consent_history(
    ctx: Context, *, profile: ProfileRecord, arguments: PageArguments
) -> Page[ConsentChangeRecord]:
    """A page of everything that a person said, newest first."""
    require(ctx, Role.VIEWER, person=profile.user_id)
    return await _list(ctx, profile.project_id, arguments, ConsentChangeFilter(user_id=profile.user_id))


async def list_consent_log(
    ctx: Context, *, arguments: PageArguments, change_filter: ConsentChangeFilter | None
) -> Page[ConsentChangeRecord]:
    """A page of everything that anybody said, newest first."""
    viewer = require(ctx, Role.VIEWER)
    wanted = change_filter or ConsentChangeFilter()
    check_text(wanted.user_id, "filter.userId")
    return await _list(ctx, viewer.project_id, arguments, wanted)


async def _list(
    ctx: Context, project_id: UUID, arguments: PageArguments, wanted: ConsentChangeFilter
) -> Page[ConsentChangeRecord]:
    codec = ctx.services.cursors
    window = read_window(arguments, codec, project_id=project_id, kind=CursorKind.CONSENT_LOG)
    async with ctx.reading(project_id) as connection:
        found = await list_consent_changes(
            connection,
            project_id=project_id,
            change_filter=wanted,
            after=_key(window.after),
            before=_key(window.before),
            from_end=window.from_end,
            limit=window.limit,
        )
    cursors = tuple(codec.encode(Cursor(CursorKind.CONSENT_LOG, project_id, 0, (each.seq,))) for each in found.changes)
    return window.page(found.changes, cursors, has_more=found.has_more)


def _key(cursor: Cursor | None) -> int | None:
    return None if cursor is None else int(cursor.key[0])


def _check(arguments: ConsentArguments) -> tuple[UserError, ...]:
    errors = []
    for name, text, most in (
        ("userId", arguments.user_id, MAX_ID_CHARACTERS),
        ("source", arguments.source, MAX_SOURCE_CHARACTERS),
    ):
        if not 1 <= len(text) <= most or "\0" in text or any("\ud800" <= each <= "\udfff" for each in text):
            message = f"{name} must have 1 to {most} characters, without NUL and halves of surrogate pairs."
            errors.append(UserError(message, "INVALID", ("input", name)))
    return tuple(errors)
