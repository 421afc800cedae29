"""Sending pushes and Live Activities, and what devices report of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.delivery_records import DeliveryRecord, NewDelivery
from db.live_activities import ActivityKey, LiveActivityRecord
from db.live_activities import register_live_activity as write_live_activity
from db.push_tokens import share_token_of_device
from engine.dispatch.sending import MAX_RECIPIENTS, check_idempotency_key, check_schedule
from engine.dispatch.values import Channel, LiveActivity, LocalizedPush, PushContent, PushNotification, PushVariant
from engine.errors import UserError
from engine.events import MAX_ID_CHARACTERS
from engine.identity import Role, Viewer
from engine.node_ids import NodeKind, parse_node_id
from engine.push.accepting import PushRequest, plan_for_device, plan_for_people
from engine.push.content import check_activity, check_texts
from engine.push.interactions import (
    InteractionReport,
    PushInteraction,
    StoredInteraction,
    check_report,
    not_found,
    track_interaction,
)
from engine.push.member_pages import DEVICES_PER_PERSON, make_for_members
from engine.push.registration import ActivityRegistration, Platform, check_activity_registration, stored_form
from engine.push.texts import check_text
from engine.transactions import run_transaction
from resolvers.context import Context
from resolvers.permissions import is_out_of_reach, is_own, require
from resolvers.sends import SendOutcome, accept_send, check_audience, to_audience
from resolvers.tracking import Tracked

if TYPE_CHECKING:
    import asyncpg

TEST_TITLE = "Test"
TEST_BODY = "This device gets the pushes of this project."


class SendPushArguments(msgspec.Struct, frozen=True, kw_only=True):
    """What sendPush takes."""

    idempotency_key: str | None = None
    user_ids: tuple[str, ...] | None = None
    audience_id: str | None = None
    push: PushNotification | None = None
    variants: tuple[PushVariant, ...] = ()
    localized: tuple[LocalizedPush, ...] = ()
    scheduled_for: datetime | None = None
    ignore_quiet_hours: bool = False


class SendActivityArguments(msgspec.Struct, frozen=True, kw_only=True):
    """What sendLiveActivity takes."""

    change: LiveActivity
    idempotency_key: str | None = None
    user_ids: tuple[str, ...] | None = None
    push_token_id: str | None = None


async def send_push(ctx: Context, *, arguments: SendPushArguments) -> SendOutcome:
    """Accept a push to some people."""
    viewer = require(ctx, Role.EDITOR)
    errors = _check_send(arguments, now=ctx.services.clock.now())
    if errors:
        return None, errors

    def content_of(batch_id: UUID) -> PushContent:
        return PushContent(
            message_id=batch_id,
            push=arguments.push,
            variants=arguments.variants,
            localized=arguments.localized,
            ignore_quiet_hours=arguments.ignore_quiet_hours,
        )

    async def make(connection: asyncpg.Connection, batch_id: UUID, now: datetime) -> Sequence[NewDelivery]:
        if arguments.user_ids is None:
            return ()
        is_later = arguments.scheduled_for is not None and arguments.scheduled_for > now
        scheduled_for = arguments.scheduled_for if is_later else None
        request = _request(viewer, batch_id, content_of(batch_id), now, scheduled_for)
        return await plan_for_people(connection, request, user_ids=arguments.user_ids)

    return await accept_send(
        ctx,
        viewer,
        channel=Channel.PUSH,
        idempotency_key=arguments.idempotency_key,
        request=arguments,
        make=to_audience(
            make,
            make_for_members,
            content_of,
            project_id=viewer.project_id,
            audience_id=arguments.audience_id,
            scheduled_for=arguments.scheduled_for,
            per_person=DEVICES_PER_PERSON,
        ),
        has_audience=arguments.audience_id is not None,
    )


async def send_test_push(ctx: Context, *, push_token_id: str) -> tuple[DeliveryRecord | None, tuple[UserError, ...]]:
    """Accept a push to one device, whatever the hour and whatever it got before."""
    viewer = require(ctx, Role.EDITOR)
    token_id, path = _push_token_id(push_token_id), ("pushTokenId",)
    if token_id is None:
        return None, (_no_such_token(path),)

    async def make(connection: asyncpg.Connection, batch_id: UUID, now: datetime) -> Sequence[NewDelivery]:
        push = PushNotification(title=TEST_TITLE, body=TEST_BODY)
        content = PushContent(message_id=batch_id, push=push, is_test=True)
        request = _request(viewer, batch_id, content, now)
        return await plan_for_device(connection, request, push_token_id=token_id, path=path)

    batch, errors = await accept_send(
        ctx, viewer, channel=Channel.PUSH, idempotency_key=None, request=push_token_id, make=make
    )
    return (None if batch is None else batch.deliveries[0]), errors


async def send_live_activity(ctx: Context, *, arguments: SendActivityArguments) -> SendOutcome:
    """Accept a start, an update or the end of a Live Activity."""
    viewer = require(ctx, Role.EDITOR)
    errors = _check_activity_send(arguments)
    if errors:
        return None, errors
    path = ("input", "pushTokenId")
    token_id = None if arguments.push_token_id is None else _push_token_id(arguments.push_token_id)
    if arguments.push_token_id is not None and token_id is None:
        return None, (_no_such_token(path),)

    async def make(connection: asyncpg.Connection, batch_id: UUID, now: datetime) -> Sequence[NewDelivery]:
        content = PushContent(message_id=batch_id, live_activity=arguments.change)
        request = _request(viewer, batch_id, content, now)
        if token_id is not None:
            return await plan_for_device(connection, request, push_token_id=token_id, path=path)
        return await plan_for_people(connection, request, user_ids=arguments.user_ids or ())

    key = arguments.idempotency_key
    return await accept_send(ctx, viewer, channel=Channel.PUSH, idempotency_key=key, request=arguments, make=make)


async def track_push(ctx: Context, *, delivery_id: str, interaction: PushInteraction, action_id: str | None) -> Tracked:
    """Record what a device reports. A key in an app is shown that there is such an event, and nothing it says."""
    viewer = require(ctx, Role.INGEST)
    organization_id, services = viewer.project.organization_id, ctx.services
    parsed = parse_node_id(delivery_id)
    errors = check_report(action_id)
    if not errors and (parsed is None or parsed.kind is not NodeKind.DELIVERY):
        errors = (not_found(),)
    if errors or parsed is None:
        return Tracked(organization_id, None, duplicate=False, errors=errors)
    if viewer.session is not None:
        delivery = await ctx.loaders.deliveries.load((viewer.project_id, parsed.uuid))
        if delivery is None or is_out_of_reach(viewer, delivery.user_id):
            return Tracked(organization_id, None, duplicate=False, errors=(not_found(),))
    report = InteractionReport(parsed.uuid, interaction, action_id)

    was_recorded = False

    async def track(connection: asyncpg.Connection) -> StoredInteraction | UserError:
        nonlocal was_recorded
        now = services.clock.now()
        found = await track_interaction(connection, project_id=viewer.project_id, report=report, now=now)
        if isinstance(found, StoredInteraction):
            if was_recorded:
                # What is there was stored by the try before, whose COMMIT was left unanswered.
                return StoredInteraction(found.event, duplicate=False, announcements=found.announcements)
            was_recorded = not found.duplicate
        return found

    found = await run_transaction(services.database, track)
    if isinstance(found, UserError):
        return Tracked(organization_id, None, duplicate=False, errors=(found,))
    for announcement in found.announcements:
        services.announce(announcement)
    ctx.forget_reads()
    withheld = viewer.role < Role.VIEWER and not is_own(viewer, found.event.user_id)
    return Tracked(organization_id, found.event, found.duplicate, (), withheld=withheld)


async def register_live_activity(
    ctx: Context, *, registration: ActivityRegistration
) -> tuple[LiveActivityRecord | None, tuple[UserError, ...]]:
    """Keep a token of Live Activities, of a device that has registered."""
    viewer = require(ctx, Role.INGEST)
    errors = check_activity_registration(registration)
    if errors:
        return None, errors
    now = ctx.services.clock.now()

    async def register(connection: asyncpg.Connection) -> LiveActivityRecord | None:
        device = stored_form(registration.device_token)
        token = await share_token_of_device(connection, project_id=viewer.project_id, token=device)
        if token is None or token.platform != Platform.IOS or not token.active:
            return None
        if is_out_of_reach(viewer, token.user_id):
            return None
        return await write_live_activity(
            connection,
            project_id=viewer.project_id,
            live_activity_id=uuid7(),
            key=ActivityKey(token.push_token_id, registration.attributes_type, registration.activity_id),
            token=stored_form(registration.token),
            now=now,
        )

    record = await run_transaction(ctx.services.database, register)
    if record is None:
        message = "Register the device with registerPushToken first, as an iOS device."
        return None, (UserError(message, "NOT_FOUND", ("input", "deviceToken")),)
    return record, ()


def _request(
    viewer: Viewer, batch_id: UUID, content: PushContent, now: datetime, scheduled_for: datetime | None = None
) -> PushRequest:
    return PushRequest(
        project_id=viewer.project_id, batch_id=batch_id, content=content, now=now, scheduled_for=scheduled_for
    )


def _check_send(arguments: SendPushArguments, *, now: datetime) -> tuple[UserError, ...]:
    errors = [
        *check_idempotency_key(arguments.idempotency_key, "input", "idempotencyKey"),
        *_check_recipients(arguments.user_ids, arguments.audience_id, "audienceId"),
        *check_texts(arguments.push, arguments.variants, arguments.localized),
        *check_schedule(arguments.scheduled_for, now),
    ]
    if not errors:
        errors += check_audience(arguments.audience_id)
    return tuple(errors)


def _check_activity_send(arguments: SendActivityArguments) -> tuple[UserError, ...]:
    return (
        *check_idempotency_key(arguments.idempotency_key, "input", "idempotencyKey"),
        *_check_recipients(arguments.user_ids, arguments.push_token_id, "pushTokenId"),
        *check_activity(arguments.change),
    )


def _check_recipients(user_ids: tuple[str, ...] | None, other: str | None, name: str) -> Iterator[UserError]:
    path = ("input", "userIds")
    if (user_ids is None) == (other is None):
        yield UserError(f"Give userIds or {name}, one of the two.", "INVALID", path)
    elif user_ids is not None and not 1 <= len(user_ids) <= MAX_RECIPIENTS:
        yield UserError(
            f"userIds has 1 to {MAX_RECIPIENTS:,} entries.", "LIMIT_EXCEEDED" if user_ids else "INVALID", path
        )
    else:
        for index, user_id in enumerate(user_ids or ()):
            yield from check_text(user_id, "A user id", path=(*path, str(index)), most=MAX_ID_CHARACTERS)


def _push_token_id(node_id: str) -> UUID | None:
    parsed = parse_node_id(node_id)
    return parsed.uuid if parsed is not None and parsed.kind is NodeKind.PUSH_TOKEN else None


def _no_such_token(path: tuple[str, ...]) -> UserError:
    return UserError("This project has no such push token.", "NOT_FOUND", path)
