"""Accepting a mail to people and addresses: what was asked for, checked, as deliveries.

Guarantees: every address gets one delivery, however often it is named; a sender without a verified domain makes FAILED
ones, so that the counts of the answer are true. Leaves to others: who is held back (`engine.dispatch.addressed`);
idempotency, committing and announcing (`engine.dispatch.sending`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from db.delivery_records import NewDelivery
from db.sender_domains import find_sender_domains
from db.templates import read_templates
from engine.contacts import Malformed
from engine.dispatch.addressed import AddressedSend, make_addressed
from engine.dispatch.audience_sends import MemberPage
from engine.dispatch.recipients import (
    EMAIL_ADDRESSES,
    Recipient,
    check_recipients,
    find_people,
    find_recipients,
    lock_standings,
)
from engine.dispatch.sending import SendRefused, check_schedule
from engine.dispatch.values import Channel, DeliveryError, EmailContent
from engine.email.accounts import read_mail_account
from engine.email.policy import NO_ADDRESS
from engine.email.sender import NO_SENDER, Mailbox, decide_sender, read_mailbox
from engine.email.work import DISPATCH_KEY
from engine.errors import UserError
from engine.templates.texts import check_texts
from engine.vault import Vault

if TYPE_CHECKING:
    import asyncpg

MAX_VARS_BYTES = 64 * 1024
"""As much as an event may hold."""

_content = msgspec.json.Decoder(EmailContent)


class EmailRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for. `to` are addresses, `user_ids` people, whose trait `email` is taken."""

    user_ids: tuple[str, ...] = ()
    to: tuple[str, ...] = ()
    template_id: UUID | None = None
    subject: str | None = None
    body_html: str | None = None
    body_text: str | None = None
    sender: str | None = None
    reply_to: str | None = None
    variables: Mapping[str, Any] | None = None
    scheduled_for: datetime | None = None


class _Batch(msgspec.Struct, frozen=True):
    """What the deliveries made at once share."""

    batch_id: UUID
    content: EmailContent
    scheduled_for: datetime | None
    refusal: DeliveryError | None


class _Sender(msgspec.Struct, frozen=True):
    """Why mail of a sender cannot leave, if so; and whether there is an account that it could ever leave by."""

    refusal: DeliveryError | None
    is_set_up: bool = True


def check_request(request: EmailRequest, *, now: datetime, has_audience: bool = False) -> tuple[UserError, ...]:
    """Everything that can never work. Paths begin with `input`. `has_audience`: the request need not name anybody."""
    return (
        *check_recipients(EMAIL_ADDRESSES, user_ids=request.user_ids, to=request.to, has_audience=has_audience),
        *_check_texts(request),
        *_check_mailbox(request.sender, "from"),
        *_check_mailbox(request.reply_to, "replyTo"),
        *_check_variables(request.variables),
        *check_schedule(request.scheduled_for, now),
    )


async def make_deliveries(
    connection: asyncpg.Connection,
    vault: Vault,
    request: EmailRequest,
    *,
    project_id: UUID,
    batch_id: UUID,
    now: datetime,
) -> list[NewDelivery]:
    """What a checked request consists of. Raises `SendRefused` for a template that is not there, and where nothing
    is set up to send with."""
    await _check_template_is_there(connection, project_id, request)
    sender = await _look_at_sender(connection, vault, project_id, request.sender)
    if not sender.is_set_up:
        raise SendRefused(UserError(f"{NO_SENDER.message} {NO_SENDER.hint}", NO_SENDER.code, ("input",)))
    recipients = await find_recipients(
        connection, EMAIL_ADDRESSES, project_id=project_id, user_ids=request.user_ids, to=request.to
    )
    batch = _Batch(batch_id, content_of(request), request.scheduled_for, sender.refusal)
    return await _make(connection, batch, recipients, project_id=project_id, now=now)


async def make_for_members(connection: asyncpg.Connection, vault: Vault, page: MemberPage) -> list[NewDelivery]:
    """The mails of a page of an audience's members. What cannot leave as things are by now is FAILED."""
    content = _content.decode(page.content)
    recipients = await find_people(
        connection,
        EMAIL_ADDRESSES,
        project_id=page.project_id,
        user_ids=page.user_ids,
        taken=page.taken_addresses,
    )
    sender = await _look_at_sender(connection, vault, page.project_id, content.from_address)
    batch = _Batch(page.batch_id, content, None, sender.refusal)
    return await _make(connection, batch, recipients, project_id=page.project_id, now=page.now)


async def _make(
    connection: asyncpg.Connection, batch: _Batch, recipients: list[Recipient], *, project_id: UUID, now: datetime
) -> list[NewDelivery]:
    standings = await lock_standings(
        connection,
        Channel.EMAIL,
        project_id=project_id,
        user_ids=[each.user_id for each in recipients],
        addresses=[each.address for each in recipients],
    )
    send = AddressedSend(
        channel=Channel.EMAIL,
        dispatch_key=DISPATCH_KEY,
        content=batch.content,
        batch_id=batch.batch_id,
        now=now,
        scheduled_for=batch.scheduled_for,
        standings=standings,
        no_address=NO_ADDRESS,
        refusal=batch.refusal,
    )
    return make_addressed(send, recipients)


def content_of(request: EmailRequest) -> EmailContent:
    """What each delivery of a request asks for."""
    return EmailContent(
        template_id=request.template_id,
        subject=request.subject,
        body_html=request.body_html,
        body_text=request.body_text,
        from_address=request.sender,
        reply_to=request.reply_to,
        vars=request.variables or None,
    )


async def _check_template_is_there(connection: asyncpg.Connection, project_id: UUID, request: EmailRequest) -> None:
    if request.template_id is None:
        return
    found = await read_templates(connection, project_id=project_id, template_ids=[request.template_id])
    path = ("input", "templateId")
    if not found:
        raise SendRefused(UserError("This project has no such template.", "NOT_FOUND", path))
    if found[0].channel != Channel.EMAIL:
        raise SendRefused(UserError(f"This is a template for {found[0].channel}.", "INVALID", path))


async def _look_at_sender(
    connection: asyncpg.Connection, vault: Vault, project_id: UUID, sender: str | None
) -> _Sender:
    """Whether mail of this sender can leave as things are. Looked at again when it is due."""
    account = await read_mail_account(connection, vault, project_id=project_id)
    default = None if account is None else account.default_from
    written = sender or default
    mailbox = None if written is None else read_mailbox(written)
    names = [mailbox.domain] if isinstance(mailbox, Mailbox) else []
    domains = await find_sender_domains(connection, project_id=project_id, domains=names)
    decided = decide_sender(sender, default, {each.domain: each for each in domains})
    if account is None and (decided is NO_SENDER or not isinstance(decided, DeliveryError)):
        return _Sender(NO_SENDER, is_set_up=False)
    return _Sender(decided if isinstance(decided, DeliveryError) else None)


def _check_texts(request: EmailRequest) -> list[UserError]:
    errors = []
    if request.template_id is None:
        if not (request.subject or "").strip():
            errors.append(UserError("A mail needs a subject, or a template.", "INVALID", ("input", "subject")))
        if not (request.body_html or request.body_text or "").strip():
            errors.append(UserError("A mail needs a body, or a template.", "INVALID", ("input", "bodyHtml")))
    return errors + check_texts(subject=request.subject, body_html=request.body_html, body_text=request.body_text)


def _check_mailbox(text: str | None, name: str) -> list[UserError]:
    read = None if text is None else read_mailbox(text)
    return [UserError(read.message, "INVALID", ("input", name))] if isinstance(read, Malformed) else []


def _check_variables(variables: Mapping[str, Any] | None) -> list[UserError]:
    path = ("input", "vars")
    if variables is None:
        return []
    if not isinstance(variables, dict):
        return [UserError("vars has to be a JSON object.", "INVALID", path)]
    encoded = msgspec.json.encode(variables)
    if len(encoded) > MAX_VARS_BYTES:
        return [UserError(f"vars has at most {MAX_VARS_BYTES // 1024} KiB as JSON.", "LIMIT_EXCEEDED", path)]
    if b"\\u0000" in encoded:
        return [UserError("vars cannot hold a NUL character.", "INVALID", path)]
    return []
