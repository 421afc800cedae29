"""Accepting a text message to people and numbers: what was asked for, checked, as deliveries.

Guarantees: every number is in E.164 and gets one delivery, however often it is named. Leaves to others: who is held
back (`engine.dispatch.addressed`); idempotency, committing and announcing (`engine.dispatch.sending`).
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.delivery_records import NewDelivery
from engine.dispatch.addressed import AddressedSend, make_addressed
from engine.dispatch.audience_sends import MemberPage
from engine.dispatch.recipients import (
    PHONE_NUMBERS,
    Recipient,
    check_recipients,
    find_people,
    find_recipients,
    lock_standings,
)
from engine.dispatch.sending import SendRefused, check_schedule
from engine.dispatch.values import Channel, DeliveryError, SmsContent
from engine.errors import UserError
from engine.sms.policy import MAX_TEXT_CHARACTERS, NO_PHONE, NOT_CONFIGURED
from engine.sms.work import DISPATCH_KEY, read_account
from engine.templates.liquid import check_template
from engine.vault import Vault

if TYPE_CHECKING:
    import asyncpg

MAX_TEMPLATE_CHARACTERS = 16_000
"""Of a text with Liquid in it; what it gives has at most `MAX_TEXT_CHARACTERS`."""

_content = msgspec.json.Decoder(SmsContent)


class SmsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for. `to` are numbers, `user_ids` people, whose trait `phone` is taken."""

    body: str
    user_ids: tuple[str, ...] = ()
    to: tuple[str, ...] = ()
    scheduled_for: datetime | None = None


class _Batch(msgspec.Struct, frozen=True):
    """What the deliveries made at once share."""

    batch_id: UUID
    content: SmsContent
    scheduled_for: datetime | None
    refusal: DeliveryError | None


def check_request(request: SmsRequest, *, now: datetime, has_audience: bool = False) -> tuple[UserError, ...]:
    """Everything that can never work. Paths begin with `input`. `has_audience`: the request need not name anybody."""
    return (
        *check_recipients(PHONE_NUMBERS, user_ids=request.user_ids, to=request.to, has_audience=has_audience),
        *_check_body(request.body),
        *check_schedule(request.scheduled_for, now),
    )


async def make_deliveries(
    connection: asyncpg.Connection,
    vault: Vault,
    request: SmsRequest,
    *,
    project_id: UUID,
    batch_id: UUID,
    now: datetime,
) -> list[NewDelivery]:
    """What a checked request consists of. Raises `SendRefused` where no provider is set up."""
    if await read_account(connection, vault, project_id=project_id) is None:
        message = f"{NOT_CONFIGURED.message} {NOT_CONFIGURED.hint}"
        raise SendRefused(UserError(message, "NOT_CONFIGURED", ("input",)))
    recipients = await find_recipients(
        connection, PHONE_NUMBERS, project_id=project_id, user_ids=request.user_ids, to=request.to
    )
    batch = _Batch(batch_id, SmsContent(body=request.body), request.scheduled_for, None)
    return await _make(connection, batch, recipients, project_id=project_id, now=now)


async def make_for_members(connection: asyncpg.Connection, vault: Vault, page: MemberPage) -> list[NewDelivery]:
    """The messages of a page of an audience's members. What cannot leave as things are by now is FAILED."""
    recipients = await find_people(
        connection, PHONE_NUMBERS, project_id=page.project_id, user_ids=page.user_ids, taken=page.taken_addresses
    )
    account = await read_account(connection, vault, project_id=page.project_id)
    batch = _Batch(page.batch_id, _content.decode(page.content), None, NOT_CONFIGURED if account is None else None)
    return await _make(connection, batch, recipients, project_id=page.project_id, now=page.now)


async def _make(
    connection: asyncpg.Connection, batch: _Batch, recipients: list[Recipient], *, project_id: UUID, now: datetime
) -> list[NewDelivery]:
    standings = await lock_standings(
        connection,
        Channel.SMS,
        project_id=project_id,
        user_ids=[each.user_id for each in recipients],
        addresses=[each.address for each in recipients],
    )
    send = AddressedSend(
        channel=Channel.SMS,
        dispatch_key=DISPATCH_KEY,
        content=batch.content,
        batch_id=batch.batch_id,
        now=now,
        scheduled_for=batch.scheduled_for,
        standings=standings,
        no_address=NO_PHONE,
        refusal=batch.refusal,
    )
    return make_addressed(send, recipients)


def _check_body(body: str) -> list[UserError]:
    path = ("input", "body")
    has_liquid = "{{" in body or "{%" in body
    limit = MAX_TEMPLATE_CHARACTERS if has_liquid else MAX_TEXT_CHARACTERS
    if not body.strip() or "\0" in body:
        return [UserError("A text message needs a text, without NUL.", "INVALID", path)]
    if len(body) > limit:
        return [UserError(f"The text may have {limit} characters, and this has {len(body)}.", "LIMIT_EXCEEDED", path)]
    problem = check_template(body)
    return [] if problem is None else [UserError(problem, "INVALID", path)]
