"""Push tokens: registering and signing off devices, and reading what is registered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.delivery_records import DeliveryRecord
from db.identity_links import is_retired
from db.profiles import share_profiles
from db.push_tokens import PushTokenFilter, PushTokenRecord, share_token_of_device
from db.push_tokens import list_push_tokens as read_push_token_list
from db.push_tokens import unregister_push_token as end_push_token
from engine.announcements import Announcement
from engine.cursors import Cursor, CursorKind
from engine.errors import UserError
from engine.identity import Role, Viewer
from engine.push.in_flight import until_pushes_end
from engine.push.registering import register_device
from engine.push.registration import (
    MAX_TOKEN_BYTES,
    Registration,
    check_registration,
    new_push_token,
    stored_form,
    warnings_of,
)
from engine.transactions import run_transaction
from resolvers.context import Context
from resolvers.filters import check_text
from resolvers.naming import RETIRED, check_person, own_user_id
from resolvers.paging import Page, PageArguments, read_window
from resolvers.permissions import is_out_of_reach, is_own, require

if TYPE_CHECKING:
    import asyncpg

_NOTHING: frozenset[str] = frozenset()


class RegisteredToken(msgspec.Struct, frozen=True):
    """What became of a registration. `hidden` names the fields of the record that the viewer may not see."""

    record: PushTokenRecord | None
    errors: tuple[UserError, ...] = ()
    warnings: tuple[str, ...] = ()
    hidden: frozenset[str] = _NOTHING


async def register_push_token(ctx: Context, *, registration: Registration) -> RegisteredToken:
    """Register a device, or bring it back. A key in an app is shown nothing of it but what it said itself, and cannot
    make sends to a person larger without bound: one device too many replaces the one that registered first."""
    viewer = require(ctx, Role.INGEST)
    registration = msgspec.structs.replace(registration, user_id=own_user_id(viewer, registration.user_id))
    errors = (
        *check_registration(registration, ctx.services.egress),
        *await check_person(ctx, viewer, registration.user_id, registration.signature, ("input",)),
    )
    if errors:
        return RegisteredToken(None, errors)
    new, now = new_push_token(registration, uuid7()), ctx.services.clock.now()

    async def register(
        connection: asyncpg.Connection, *, is_last_try: bool
    ) -> tuple[PushTokenRecord | UserError, tuple[Announcement, ...]]:
        if new.user_id is not None:
            await share_profiles(connection, project_id=viewer.project_id, user_ids=[new.user_id])
            if await is_retired(connection, project_id=viewer.project_id, user_id=new.user_id):
                return RETIRED, ()
        return await register_device(
            connection, project_id=viewer.project_id, new=new, is_last_try=is_last_try, now=now
        )

    record, announcements = await until_pushes_end(
        ctx.services.database,
        lambda is_last_try: lambda connection: register(connection, is_last_try=is_last_try),
    )
    if isinstance(record, UserError):
        return RegisteredToken(None, (record,))
    for announcement in announcements:
        ctx.services.announce(announcement)
    ctx.forget_reads()
    open_to = viewer.role >= Role.VIEWER or is_own(viewer, record.user_id)
    hidden = _NOTHING if open_to else _unsaid(record, registration)
    return RegisteredToken(record, warnings=warnings_of(registration), hidden=hidden)


async def unregister_push_token(ctx: Context, *, token: str) -> RegisteredToken:
    """Sign a device off: nothing more is sent to it until it registers again."""
    viewer = require(ctx, Role.INGEST)
    record = None
    if 1 <= len(token) <= MAX_TOKEN_BYTES and token.isascii() and token.isprintable():
        record = await run_transaction(ctx.services.database, lambda connection: _end(connection, viewer, token))
    if record is None:
        return RegisteredToken(None, (UserError("This project has no such push token.", "NOT_FOUND", ("token",)),))
    ctx.forget_reads()
    open_to = viewer.role >= Role.VIEWER or is_own(viewer, record.user_id)
    hidden = _NOTHING if open_to else _ABOUT_THE_DEVICE
    return RegisteredToken(record, hidden=hidden)


async def _end(connection: asyncpg.Connection, viewer: Viewer, token: str) -> PushTokenRecord | None:
    """None where there is no such device, or where it is out of a session's reach."""
    project_id, stored = viewer.project_id, stored_form(token)
    if viewer.session is not None:
        device = await share_token_of_device(connection, project_id=project_id, token=stored)
        if device is None or is_out_of_reach(viewer, device.user_id):
            return None
    return await end_push_token(connection, project_id=project_id, token=stored)


async def list_push_tokens(
    ctx: Context, *, arguments: PageArguments, token_filter: PushTokenFilter | None
) -> Page[PushTokenRecord]:
    """A page of the project's devices, newest first. A session sees those of its own person."""
    viewer = require(ctx, Role.VIEWER, person=token_filter.user_id if token_filter else None)
    codec, project_id = ctx.services.cursors, viewer.project_id
    window = read_window(arguments, codec, project_id=project_id, kind=CursorKind.PUSH_TOKENS)
    wanted = token_filter or PushTokenFilter()
    check_text(wanted.user_id, "filter.userId")
    async with ctx.reading(project_id) as connection:
        found = await read_push_token_list(
            connection,
            project_id=project_id,
            limit=window.limit,
            after=_key(window.after),
            before=_key(window.before),
            from_end=window.from_end,
            token_filter=wanted,
        )
    cursors = tuple(codec.encode(_cursor(record)) for record in found.tokens)
    return window.page(found.tokens, cursors, has_more=found.has_more)


async def tokens_of(ctx: Context, *, project_id: UUID, user_id: str) -> tuple[PushTokenRecord, ...]:
    """The newest devices of a person."""
    require(ctx, Role.VIEWER, person=user_id)
    return await ctx.loaders.push_tokens_by_user.load((project_id, user_id))


async def push_token_of(ctx: Context, *, record: DeliveryRecord) -> PushTokenRecord | None:
    """The device that something was sent to: it may be somebody else's by now."""
    require(ctx, Role.VIEWER, person=record.user_id)
    if record.push_token_id is None:
        return None
    found = await ctx.loaders.push_tokens.load((record.project_id, record.push_token_id))
    if found is not None:
        require(ctx, Role.VIEWER, person=found.user_id)
    return found


_ABOUT_THE_DEVICE = frozenset(
    {"platform", "environment", "user_id", "timezone", "locale", "app_version", "registered_at", "last_used_at"}
)


def _unsaid(record: PushTokenRecord, registration: Registration) -> frozenset[str]:
    """What the record knows that the registration did not say: an earlier one did, maybe somebody else's."""
    said: Mapping[str, object] = {
        "user_id": registration.user_id,
        "timezone": registration.timezone,
        "locale": registration.locale,
        "app_version": registration.app_version,
        "last_used_at": None,
    }
    return frozenset(name for name, value in said.items() if getattr(record, name) != value)


def _cursor(record: PushTokenRecord) -> Cursor:
    return Cursor(CursorKind.PUSH_TOKENS, record.project_id, 0, (record.push_token_id.hex,))


def _key(cursor: Cursor | None) -> UUID | None:
    return None if cursor is None else UUID(hex=str(cursor.key[0]))
