"""Sending text messages."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.delivery_records import NewDelivery
from engine.dispatch.sending import Sending, SendRefused, SentBatch, check_idempotency_key
from engine.dispatch.values import Channel
from engine.errors import UserError
from engine.identity import Role
from engine.sms.accepting import SmsRequest, check_request, make_deliveries
from resolvers.context import Context
from resolvers.permissions import require

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


async def send_sms(ctx: Context, *, arguments: SmsArguments) -> tuple[SentBatch | None, tuple[UserError, ...]]:
    """Accept a text message to people and numbers."""
    viewer = require(ctx, Role.EDITOR)
    services, request = ctx.services, _request(arguments)
    errors = (
        *_check_audience(arguments.audience_id),
        *check_idempotency_key(arguments.idempotency_key, "input", "idempotencyKey"),
        *await asyncio.to_thread(check_request, request, now=services.clock.now()),
    )
    if errors:
        return None, errors

    async def make(connection: asyncpg.Connection, batch_id: UUID, now: datetime) -> Sequence[NewDelivery]:
        return await make_deliveries(
            connection, services.vault, request, project_id=viewer.project_id, batch_id=batch_id, now=now
        )

    sending = Sending(services.database, services.clock, services.announce, services.wake)
    try:
        batch = await sending.send(
            project_id=viewer.project_id,
            kind=Channel.SMS,
            idempotency_key=arguments.idempotency_key,
            request=request,
            make=make,
        )
    except SendRefused as refused:
        return None, refused.errors
    finally:
        ctx.forget_reads()
    return batch, ()


def _request(arguments: SmsArguments) -> SmsRequest:
    return SmsRequest(
        body=arguments.body,
        user_ids=arguments.user_ids,
        to=arguments.to,
        scheduled_for=arguments.scheduled_for,
    )


def _check_audience(audience_id: str | None) -> tuple[UserError, ...]:
    """Projects have no audiences yet."""
    if audience_id is None:
        return ()
    return (UserError("This project has no such audience.", "NOT_FOUND", ("input", "audienceId")),)
