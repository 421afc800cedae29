"""Sending text messages."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.delivery_records import NewDelivery
from engine.dispatch.audience_sends import MemberPage
from engine.dispatch.sending import check_idempotency_key
from engine.dispatch.values import Channel, SmsContent
from engine.identity import Role
from engine.sms.accepting import SmsRequest, check_request, make_deliveries, make_for_members
from resolvers.context import Context
from resolvers.permissions import require
from resolvers.sends import SendOutcome, accept_send, as_asked, check_audience, to_audience

if TYPE_CHECKING:
    import asyncpg


class SmsArguments(msgspec.Struct, frozen=True, kw_only=True):
    """SendSmsInput as it comes in."""

    body: str
    user_ids: tuple[str, ...] = ()
    to: tuple[str, ...] = ()
    audience_id: str | None = None
    scheduled_for: datetime | None = None
    idempotency_key: str | None = None


async def send_sms(ctx: Context, *, arguments: SmsArguments) -> SendOutcome:
    """Accept a text message to people and numbers."""
    viewer = require(ctx, Role.EDITOR)
    services, request = ctx.services, _request(arguments)
    errors = (
        *check_audience(arguments.audience_id),
        *check_idempotency_key(arguments.idempotency_key, "input", "idempotencyKey"),
        *await asyncio.to_thread(
            check_request, request, now=services.clock.now(), has_audience=arguments.audience_id is not None
        ),
    )
    if errors:
        return None, errors

    async def make(connection: asyncpg.Connection, batch_id: UUID, now: datetime) -> Sequence[NewDelivery]:
        return await make_deliveries(
            connection, services.vault, request, project_id=viewer.project_id, batch_id=batch_id, now=now
        )

    async def make_page(connection: asyncpg.Connection, page: MemberPage) -> Sequence[NewDelivery]:
        return await make_for_members(connection, services.vault, page)

    return await accept_send(
        ctx,
        viewer,
        channel=Channel.SMS,
        idempotency_key=arguments.idempotency_key,
        request=as_asked(request, arguments.audience_id),
        make=to_audience(
            make,
            make_page,
            lambda _batch_id: SmsContent(body=request.body),
            project_id=viewer.project_id,
            audience_id=arguments.audience_id,
            scheduled_for=request.scheduled_for,
        ),
        has_audience=arguments.audience_id is not None,
    )


def _request(arguments: SmsArguments) -> SmsRequest:
    return SmsRequest(
        body=arguments.body,
        user_ids=arguments.user_ids,
        to=arguments.to,
        scheduled_for=arguments.scheduled_for,
    )
