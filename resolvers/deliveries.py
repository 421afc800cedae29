"""Reading deliveries and what belongs to them, and cancelling and replaying them."""

from __future__ import annotations

import msgspec

from db.delivery_records import AttemptRecord, DeliveryRecord
from db.records import ProfileRecord
from engine.dispatch.values import Channel
from engine.identity import Role
from resolvers.context import Context
from resolvers.nodes import FoundEvent
from resolvers.permissions import require

MASKED = "***"
"""Stands for the value of a header: it may be a credential."""

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_headers = msgspec.json.Decoder(dict[str, str])


async def profile_of(ctx: Context, *, record: DeliveryRecord) -> ProfileRecord | None:
    """The person whom a delivery is for."""
    require(ctx, Role.VIEWER)
    if record.user_id is None:
        return None
    return await ctx.loaders.profiles_by_user.load((record.project_id, record.user_id))


async def event_of(ctx: Context, *, record: DeliveryRecord) -> FoundEvent | None:
    """The event that a delivery is about."""
    viewer = require(ctx, Role.VIEWER)
    if record.event_seq is None:
        return None
    found = await ctx.loaders.events.load((record.project_id, record.event_seq))
    return None if found is None else FoundEvent(viewer.project.organization_id, found)


async def attempts_of(ctx: Context, *, record: DeliveryRecord) -> tuple[AttemptRecord, ...]:
    """What was tried, oldest first."""
    require(ctx, Role.VIEWER)
    return await ctx.loaders.attempts.load((record.project_id, record.delivery_id))


def shown_payload(record: DeliveryRecord) -> msgspec.Raw:
    """What was sent, or what is to be sent: without the secret that signs it and without the values of headers."""
    if record.payload is not None:
        return record.payload
    return _without_secrets(record.content) if record.channel == Channel.WEBHOOK else record.content


def _without_secrets(content: msgspec.Raw) -> msgspec.Raw:
    members = _members.decode(content)
    members.pop("sealedSecret", None)
    if "headers" in members:
        names = _headers.decode(members["headers"])
        members["headers"] = msgspec.Raw(msgspec.json.encode(dict.fromkeys(names, MASKED)))
    return msgspec.Raw(msgspec.json.encode(members))
