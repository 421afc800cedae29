"""Accepting a mail to people and addresses: what was asked for, checked, as deliveries.

Guarantees: every address gets one delivery, however often it is named; what may not be sent now is SUPPRESSED at once,
and whoever has no address, or a sender without a verified domain, makes FAILED ones, so that the counts of the answer
are true. For what is sent later the same is decided then. Leaves to others: idempotency, committing and announcing
(`engine.dispatch.sending`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.delivery_records import NewDelivery
from db.profiles import read_profiles_by_user
from db.projects import read_project
from db.sender_domains import find_sender_domains
from db.templates import read_templates
from engine.consent import allows_unknown
from engine.contacts import Malformed, parse_email
from engine.dispatch.sending import SendRefused
from engine.dispatch.values import DEFAULT_PROVIDER_SCHEDULE, Channel, DeliveryError, DeliveryStatus, EmailContent
from engine.email.accounts import read_mail_account
from engine.email.policy import NO_ADDRESS, held_back
from engine.email.sender import NO_SENDER, Mailbox, decide_sender, read_mailbox
from engine.email.standing import Standings, lock_standings
from engine.email.work import DISPATCH_KEY
from engine.errors import UserError
from engine.events import MAX_ID_CHARACTERS
from engine.templates.texts import check_texts
from engine.vault import Vault

if TYPE_CHECKING:
    import asyncpg

MAX_RECIPIENTS = 1000
"""People and addresses in one send: as many as one transaction makes in some tens of milliseconds."""
MAX_VARS_BYTES = 64 * 1024
"""As much as an event may hold."""
LATEST = timedelta(days=366)
"""How far ahead something may be scheduled."""
EMAIL_TRAIT = "email"


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


class _Recipient(msgspec.Struct, frozen=True):
    """Whom one delivery is for. A person without an address has None."""

    user_id: str | None
    address: str | None


def check_request(request: EmailRequest, *, now: datetime) -> tuple[UserError, ...]:
    """Everything that can never work. Paths begin with `input`."""
    return (
        *_check_recipients(request),
        *_check_texts(request),
        *_check_mailbox(request.sender, "from"),
        *_check_mailbox(request.reply_to, "replyTo"),
        *_check_variables(request.variables),
        *_check_time(request.scheduled_for, now),
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
    refusal = await _check_sender(connection, vault, project_id, request)
    recipients = await _find_recipients(connection, project_id, request)
    standings = await lock_standings(
        connection,
        project_id=project_id,
        user_ids=[each.user_id for each in recipients],
        addresses=[each.address for each in recipients],
    )
    project = await read_project(connection, project_id=project_id)
    maker = _Maker(
        request,
        batch_id,
        now,
        standings,
        refusal,
        unknown_allowed=project is not None and allows_unknown(project.region),
    )
    return [maker.delivery(each) for each in recipients]


class _Maker:
    """Makes the deliveries of one request."""

    def __init__(
        self,
        request: EmailRequest,
        batch_id: UUID,
        now: datetime,
        standings: Standings,
        refusal: DeliveryError | None,
        *,
        unknown_allowed: bool,
    ) -> None:
        self._now = now
        self._standings = standings
        self._refusal = refusal
        self._unknown_allowed = unknown_allowed
        self._later = request.scheduled_for if request.scheduled_for and request.scheduled_for > now else None
        self._common: dict[str, Any] = {
            "channel": Channel.EMAIL,
            "dispatch_key": DISPATCH_KEY,
            "content": msgspec.json.encode(_content_of(request)).decode(),
            "retry_schedule": DEFAULT_PROVIDER_SCHEDULE,
            "created_at": now,
            "batch_id": batch_id,
        }

    def delivery(self, to: _Recipient) -> NewDelivery:
        return NewDelivery(
            delivery_id=uuid7(), user_id=to.user_id, recipient=to.address, **self._common, **self._state(to)
        )

    def _state(self, to: _Recipient) -> dict[str, Any]:
        if to.address is None:
            return self._failed(NO_ADDRESS)
        if self._later is not None:
            return {"status": DeliveryStatus.SCHEDULED, "scheduled_for": self._later, "next_attempt_at": self._later}
        held = held_back(self._standings.of(to.user_id, to.address), unknown_allowed=self._unknown_allowed)
        if held is not None:
            return {
                "status": DeliveryStatus.SUPPRESSED,
                "suppressed_reason": held.reason,
                "finished_at": self._now,
            }
        if self._refusal is not None:
            return self._failed(self._refusal)
        return {"status": DeliveryStatus.QUEUED, "next_attempt_at": self._now}

    def _failed(self, error: DeliveryError) -> dict[str, Any]:
        return {
            "status": DeliveryStatus.FAILED,
            "error_code": error.code,
            "error_message": error.message,
            "error_permanent": error.permanent,
            "error_hint": error.hint,
            "finished_at": self._now,
        }


def _content_of(request: EmailRequest) -> EmailContent:
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


async def _check_sender(
    connection: asyncpg.Connection, vault: Vault, project_id: UUID, request: EmailRequest
) -> DeliveryError | None:
    """Why mail of this sender cannot leave as things are. Looked at again when it is due."""
    account = await read_mail_account(connection, vault, project_id=project_id)
    default = None if account is None else account.default_from
    written = request.sender or default
    mailbox = None if written is None else read_mailbox(written)
    names = [mailbox.domain] if isinstance(mailbox, Mailbox) else []
    domains = await find_sender_domains(connection, project_id=project_id, domains=names)
    decided = decide_sender(request.sender, default, {each.domain: each for each in domains})
    if account is None and (decided is NO_SENDER or not isinstance(decided, DeliveryError)):
        raise SendRefused(UserError(f"{NO_SENDER.message} {NO_SENDER.hint}", NO_SENDER.code, ("input",)))
    return decided if isinstance(decided, DeliveryError) else None


async def _find_recipients(connection: asyncpg.Connection, project_id: UUID, request: EmailRequest) -> list[_Recipient]:
    """People first, each address once: whoever is named twice gets one mail."""
    people = list(dict.fromkeys(request.user_ids))
    profiles = await read_profiles_by_user(connection, project_id=project_id, user_ids=people)
    addresses = {each.user_id: _address_of(msgspec.json.decode(each.traits)) for each in profiles}
    found = [_Recipient(user_id, addresses.get(user_id)) for user_id in people]
    found += [_Recipient(None, address) for address in map(parse_email, request.to) if isinstance(address, str)]
    first: dict[str, _Recipient] = {}
    for each in found:
        if each.address is not None:
            first.setdefault(each.address.lower(), each)
    return [each for each in found if each.address is None or first[each.address.lower()] is each]


def _address_of(traits: Mapping[str, Any]) -> str | None:
    address = traits.get(EMAIL_TRAIT)
    parsed = parse_email(address) if isinstance(address, str) else None
    return parsed if isinstance(parsed, str) else None


def _check_recipients(request: EmailRequest) -> list[UserError]:
    count = len(request.user_ids) + len(request.to)
    if count == 0:
        return [UserError("Name somebody to send to: in userIds, or addresses in to.", "INVALID", ("input", "to"))]
    if count > MAX_RECIPIENTS:
        message = f"At most {MAX_RECIPIENTS} people and addresses at once, and these are {count}."
        return [UserError(message, "LIMIT_EXCEEDED", ("input", "userIds" if request.user_ids else "to"))]
    return [*_check_user_ids(request.user_ids), *_check_addresses(request.to)]


def _check_user_ids(user_ids: Sequence[str]) -> list[UserError]:
    message = f"A user id has 1 to {MAX_ID_CHARACTERS} characters without NUL."
    return [
        UserError(message, "INVALID", ("input", "userIds", str(index)))
        for index, user_id in enumerate(user_ids)
        if not 1 <= len(user_id) <= MAX_ID_CHARACTERS or "\0" in user_id
    ]


def _check_addresses(addresses: Sequence[str]) -> list[UserError]:
    return [
        UserError(parsed.message, "INVALID", ("input", "to", str(index)))
        for index, parsed in enumerate(map(parse_email, addresses))
        if isinstance(parsed, Malformed)
    ]


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


def _check_time(scheduled_for: datetime | None, now: datetime) -> list[UserError]:
    if scheduled_for is None or scheduled_for <= now + LATEST:
        return []
    message = f"Something may be scheduled at most {LATEST.days} days ahead."
    return [UserError(message, "INVALID", ("input", "scheduledFor"))]
