"""Reading deliveries and what belongs to them, cancelling them, and sending them again."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from db.delivery_filters import DeliveryFilter
from db.delivery_lists import count_deliveries
from db.delivery_lists import list_deliveries as read_delivery_list
from db.delivery_records import AttemptRecord, DeliveryRecord
from db.records import CappedCount, ProfileRecord
from db.replays import read_replay_set
from engine.cursors import Cursor, CursorKind
from engine.dispatch.cancelling import Cancelled
from engine.dispatch.cancelling import cancel_delivery as cancel
from engine.dispatch.replaying import (
    FINISHED,
    MAX_UNFINISHED_REPLAYS,
    REPLAYED_BY_DEFAULT,
    BulkReplay,
    NotReplayable,
    Replayed,
    Replays,
    TooManyReplays,
)
from engine.dispatch.values import Channel, EmailContent
from engine.errors import BadUserInput, UserError
from engine.identity import Role, Viewer
from engine.node_ids import NodeKind, parse_node_id, write_node_id
from resolvers.audit import audit_of
from resolvers.context import Context
from resolvers.delivery_filters import DeliveryFilterArguments, read_delivery_filter
from resolvers.nodes import FoundEvent
from resolvers.paging import Counter, Listed, PageArguments, read_window
from resolvers.permissions import require

MASKED = "***"
"""Stands for the value of a header: it may be a credential."""

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_headers = msgspec.json.Decoder(dict[str, str])
_NOTHING = DeliveryFilter(ids=())
_INTERNAL = frozenset({"fromAddress", "templateId", "isSystem", "messageId", "isTest"})
"""What a delivery's content keeps for the dispatcher, or under another name than the API's."""


async def list_deliveries(
    ctx: Context, *, arguments: PageArguments, delivery_filter: DeliveryFilterArguments | None
) -> Listed[DeliveryRecord]:
    """A page of the project's deliveries, newest first. A session sees those to its own person."""
    viewer = require(ctx, Role.VIEWER, person=delivery_filter.user_id if delivery_filter else None)
    return await _list(ctx, viewer, arguments, read_delivery_filter(delivery_filter))


async def list_of_person(
    ctx: Context, *, profile: ProfileRecord, arguments: PageArguments, delivery_filter: DeliveryFilterArguments | None
) -> Listed[DeliveryRecord]:
    """A page of what was sent to one person. A filter for another person matches nothing."""
    viewer = require(ctx, Role.VIEWER, person=profile.user_id)
    wanted = read_delivery_filter(delivery_filter)
    if wanted.user_id not in (None, profile.user_id):
        wanted = _NOTHING
    return await _list(ctx, viewer, arguments, msgspec.structs.replace(wanted, user_id=profile.user_id))


async def list_of_endpoint(
    ctx: Context, *, endpoint_id: UUID, arguments: PageArguments, delivery_filter: DeliveryFilterArguments | None
) -> Listed[DeliveryRecord]:
    """A page of what was sent to one webhook endpoint. A filter for another endpoint matches nothing."""
    viewer = require(ctx, Role.VIEWER)
    wanted = read_delivery_filter(delivery_filter)
    if wanted.endpoint_id not in (None, endpoint_id):
        wanted = _NOTHING
    return await _list(ctx, viewer, arguments, msgspec.structs.replace(wanted, endpoint_id=endpoint_id))


async def profile_of(ctx: Context, *, record: DeliveryRecord) -> ProfileRecord | None:
    """The person whom a delivery is for."""
    require(ctx, Role.VIEWER, person=record.user_id)
    if record.user_id is None:
        return None
    return await ctx.loaders.profiles_by_user.load((record.project_id, record.user_id))


async def event_of(ctx: Context, *, record: DeliveryRecord) -> FoundEvent | None:
    """The event that a delivery is about: it may be about somebody else than the delivery is for."""
    viewer = require(ctx, Role.VIEWER, person=record.user_id)
    if record.event_seq is None:
        return None
    found = await ctx.loaders.events.load((record.project_id, record.event_seq))
    if found is not None:
        require(ctx, Role.VIEWER, person=found.user_id)
    return None if found is None else FoundEvent(viewer.project.organization_id, found)


async def attempts_of(ctx: Context, *, record: DeliveryRecord) -> tuple[AttemptRecord, ...]:
    """What was tried, oldest first."""
    require(ctx, Role.VIEWER)
    return await ctx.loaders.attempts.load((record.project_id, record.delivery_id))


def shown_payload(record: DeliveryRecord) -> msgspec.Raw:
    """What was sent; before that what was asked for, in the words of the API: without the secret that signs it and
    without the values of headers."""
    if record.payload is not None:
        return record.payload
    match record.channel:
        case Channel.WEBHOOK:
            return _without_secrets(record.content)
        case Channel.EMAIL:
            return _asked_mail(record)
        case Channel.SMS:
            return _asked(record, to=record.recipient)
        case _:
            return _asked(record)


def _asked_mail(record: DeliveryRecord) -> msgspec.Raw:
    content = msgspec.json.decode(record.content, type=EmailContent)
    template = None if content.template_id is None else write_node_id(NodeKind.TEMPLATE, content.template_id)
    named = {"to": record.recipient, "from": content.from_address, "templateId": template}
    return _asked(record, **{name: value for name, value in named.items() if value is not None})


def _asked(record: DeliveryRecord, **named: str | None) -> msgspec.Raw:
    content = msgspec.json.decode(record.content, type=dict[str, Any])
    return msgspec.Raw(
        msgspec.json.encode({**{name: content[name] for name in content.keys() - _INTERNAL}, **named}, order="sorted")
    )


async def cancel_delivery(ctx: Context, *, node_id: str) -> tuple[DeliveryRecord | None, tuple[UserError, ...]]:
    """End a delivery that was not sent yet."""
    viewer = require(ctx, Role.EDITOR)
    delivery_id = _delivery_id(node_id)
    if delivery_id is None:
        return None, _NOT_FOUND
    services = ctx.services
    found = await cancel(
        services.database,
        services.announce,
        project_id=viewer.project_id,
        delivery_id=delivery_id,
        audit=audit_of(ctx, viewer),
    )
    ctx.forget_reads()
    match found:
        case Cancelled(delivery=delivery):
            return delivery, ()
        case None:
            return None, _NOT_FOUND
    message = f"This delivery is {found.status}: only a QUEUED, SCHEDULED or RETRYING one can be cancelled."
    return None, (UserError(message, "STATE", ("id",)),)


async def replay_delivery(ctx: Context, *, node_id: str) -> tuple[DeliveryRecord | None, tuple[UserError, ...]]:
    """Send a finished delivery again."""
    viewer = require(ctx, Role.EDITOR)
    delivery_id = _delivery_id(node_id)
    if delivery_id is None:
        return None, _NOT_FOUND
    found = await _replays(ctx).replay_one(
        project_id=viewer.project_id, delivery_id=delivery_id, audit=audit_of(ctx, viewer)
    )
    ctx.forget_reads()
    match found:
        case Replayed(delivery=delivery):
            return delivery, ()
        case None:
            return None, _NOT_FOUND
    return None, (UserError(_why_not(found), "STATE", ("id",)),)


async def replay_deliveries(
    ctx: Context, *, delivery_filter: DeliveryFilterArguments
) -> tuple[BulkReplay | None, tuple[UserError, ...]]:
    """Send again what a filter matches; None without errors when it matches nothing."""
    viewer = require(ctx, Role.EDITOR)
    try:
        wanted = read_delivery_filter(delivery_filter)
    except BadUserInput as error:
        return None, (UserError(str(error), "INVALID", error.path),)
    errors = _check_replay(wanted)
    if errors:
        return None, errors
    if wanted.statuses is None:
        wanted = msgspec.structs.replace(wanted, statuses=tuple(REPLAYED_BY_DEFAULT))
    async with ctx.reading(viewer.project_id) as connection:
        found = await read_replay_set(connection, project_id=viewer.project_id, delivery_filter=wanted)
    begun = await _replays(ctx).begin(
        project_id=viewer.project_id, delivery_filter=wanted, found=found, audit=audit_of(ctx, viewer)
    )
    ctx.forget_reads()
    if isinstance(begun, TooManyReplays):
        message = f"{MAX_UNFINISHED_REPLAYS} replays are still at work: wait until one of them is done."
        return None, (UserError(message, "LIMIT_EXCEEDED", ("filter",)),)
    return begun, ()


async def _list(
    ctx: Context, viewer: Viewer, arguments: PageArguments, delivery_filter: DeliveryFilter
) -> Listed[DeliveryRecord]:
    codec, project_id = ctx.services.cursors, viewer.project_id
    window = read_window(arguments, codec, project_id=project_id, kind=CursorKind.DELIVERY_LIST)
    async with ctx.reading(project_id) as connection:
        found = await read_delivery_list(
            connection,
            project_id=project_id,
            limit=window.limit,
            after=_key(window.after),
            before=_key(window.before),
            from_end=window.from_end,
            delivery_filter=delivery_filter,
        )
    cursors = tuple(codec.encode(_cursor(record)) for record in found.deliveries)
    page = window.page(found.deliveries, cursors, has_more=found.has_more)
    return Listed(page, Counter(lambda: _count(ctx, project_id, delivery_filter)))


async def _count(ctx: Context, project_id: UUID, delivery_filter: DeliveryFilter) -> CappedCount:
    async with ctx.reading(project_id) as connection:
        return await count_deliveries(connection, project_id=project_id, delivery_filter=delivery_filter)


def _cursor(record: DeliveryRecord) -> Cursor:
    return Cursor(CursorKind.DELIVERY_LIST, record.project_id, 0, (record.delivery_id.hex,))


def _key(cursor: Cursor | None) -> UUID | None:
    return None if cursor is None else UUID(hex=str(cursor.key[0]))


def _without_secrets(content: msgspec.Raw) -> msgspec.Raw:
    members = _members.decode(content)
    members.pop("sealedSecret", None)
    if "headers" in members:
        names = _headers.decode(members["headers"])
        members["headers"] = msgspec.Raw(msgspec.json.encode(dict.fromkeys(names, MASKED)))
    return msgspec.Raw(msgspec.json.encode(members))


_NOT_FOUND = (UserError("This project has no such delivery.", "NOT_FOUND", ("id",)),)


def _delivery_id(node_id: str) -> UUID | None:
    parsed = parse_node_id(node_id)
    return parsed.uuid if parsed is not None and parsed.kind is NodeKind.DELIVERY else None


def _replays(ctx: Context) -> Replays:
    services = ctx.services
    return Replays(services.database, services.clock, services.announce, services.wake)


def _why_not(found: NotReplayable) -> str:
    if found.is_erased:
        return "The person whom this delivery was for has been erased: there is nothing left to send."
    return f"This delivery is {found.status}: it can be replayed once it is finished."


def _check_replay(wanted: DeliveryFilter) -> tuple[UserError, ...]:
    if wanted == DeliveryFilter():
        message = "Say what to replay: give at least one field of the filter, for example statuses or since."
        return (UserError(message, "INVALID", ("filter",)),)
    pending = sorted(set(wanted.statuses or ()) - FINISHED)
    if pending:
        message = f"Only finished deliveries can be replayed: leave {', '.join(pending)} out."
        return (UserError(message, "INVALID", ("filter", "statuses")),)
    return ()
