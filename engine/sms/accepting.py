"""Accepting a text message to people and numbers: what was asked for, checked, as deliveries.

Guarantees: every number is in E.164 and gets one delivery, however often it is named; what may not be sent now is
SUPPRESSED at once, and whoever has no number FAILED, so that the counts of the answer are true. For what is sent later
the same is decided then. Leaves to others: idempotency, committing and announcing (`engine.dispatch.sending`).
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
from engine.consent import allows_unknown
from engine.contacts import Malformed, parse_phone
from engine.dispatch.sending import SendRefused
from engine.dispatch.values import DEFAULT_PROVIDER_SCHEDULE, Channel, DeliveryStatus, SmsContent
from engine.errors import UserError
from engine.events import MAX_ID_CHARACTERS
from engine.sms.policy import MAX_TEXT_CHARACTERS, NO_PHONE, NOT_CONFIGURED, held_back
from engine.sms.standing import Standings, lock_standings
from engine.sms.work import DISPATCH_KEY, read_account
from engine.templates.liquid import check_template
from engine.vault import Vault

if TYPE_CHECKING:
    import asyncpg

MAX_RECIPIENTS = 1000
"""People and numbers in one send: as many as one transaction makes in some tens of milliseconds."""
MAX_TEMPLATE_CHARACTERS = 16_000
"""Of a text with Liquid in it; what it gives has at most `MAX_TEXT_CHARACTERS`."""
LATEST = timedelta(days=366)
"""How far ahead something may be scheduled."""
PHONE_TRAIT = "phone"


class SmsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for. `to` are numbers, `user_ids` people, whose trait `phone` is taken."""

    body: str
    user_ids: tuple[str, ...] = ()
    to: tuple[str, ...] = ()
    scheduled_for: datetime | None = None


class _Recipient(msgspec.Struct, frozen=True):
    """Whom one delivery is for. A person without a number has None."""

    user_id: str | None
    number: str | None


def check_request(request: SmsRequest, *, now: datetime) -> tuple[UserError, ...]:
    """Everything that can never work. Paths begin with `input`."""
    return (*_check_recipients(request), *_check_body(request.body), *_check_time(request.scheduled_for, now))


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
    recipients = await _find_recipients(connection, project_id, request)
    standings = await lock_standings(
        connection,
        project_id=project_id,
        user_ids=[each.user_id for each in recipients],
        numbers=[each.number for each in recipients],
    )
    project = await read_project(connection, project_id=project_id)
    make = _Maker(
        request, batch_id, now, standings, unknown_allowed=project is not None and allows_unknown(project.region)
    )
    return [make.delivery(each) for each in recipients]


class _Maker:
    """Makes the deliveries of one request."""

    def __init__(
        self, request: SmsRequest, batch_id: UUID, now: datetime, standings: Standings, *, unknown_allowed: bool
    ) -> None:
        self._now = now
        self._standings = standings
        self._unknown_allowed = unknown_allowed
        self._later = request.scheduled_for if request.scheduled_for and request.scheduled_for > now else None
        self._common: dict[str, Any] = {
            "channel": Channel.SMS,
            "dispatch_key": DISPATCH_KEY,
            "content": msgspec.json.encode(SmsContent(body=request.body)).decode(),
            "retry_schedule": DEFAULT_PROVIDER_SCHEDULE,
            "created_at": now,
            "batch_id": batch_id,
        }

    def delivery(self, to: _Recipient) -> NewDelivery:
        return NewDelivery(
            delivery_id=uuid7(), user_id=to.user_id, recipient=to.number, **self._common, **self._state(to)
        )

    def _state(self, to: _Recipient) -> dict[str, Any]:
        if self._later is not None:
            return {
                "status": DeliveryStatus.SCHEDULED,
                "scheduled_for": self._later,
                "next_attempt_at": self._later,
            }
        if to.number is None:
            return {
                "status": DeliveryStatus.FAILED,
                "error_code": NO_PHONE.code,
                "error_message": NO_PHONE.message,
                "error_permanent": NO_PHONE.permanent,
                "error_hint": NO_PHONE.hint,
                "finished_at": self._now,
            }
        held = held_back(self._standings.of(to.user_id, to.number), unknown_allowed=self._unknown_allowed)
        if held is not None:
            return {
                "status": DeliveryStatus.SUPPRESSED,
                "suppressed_reason": held.reason,
                "finished_at": self._now,
            }
        return {"status": DeliveryStatus.QUEUED, "next_attempt_at": self._now}


async def _find_recipients(connection: asyncpg.Connection, project_id: UUID, request: SmsRequest) -> list[_Recipient]:
    """People first, each number once: whoever is named twice gets one message."""
    people = list(dict.fromkeys(request.user_ids))
    profiles = await read_profiles_by_user(connection, project_id=project_id, user_ids=people)
    numbers = {each.user_id: _phone_of(msgspec.json.decode(each.traits)) for each in profiles}
    found = [_Recipient(user_id, numbers.get(user_id)) for user_id in people]
    found += [_Recipient(None, number) for number in map(parse_phone, request.to) if isinstance(number, str)]
    by_number = {each.number: each for each in reversed(found) if each.number is not None}
    return [each for each in found if each.number is None or by_number[each.number] is each]


def _phone_of(traits: Mapping[str, Any]) -> str | None:
    phone = traits.get(PHONE_TRAIT)
    parsed = parse_phone(phone) if isinstance(phone, str) else None
    return parsed if isinstance(parsed, str) else None


def _check_recipients(request: SmsRequest) -> list[UserError]:
    count = len(request.user_ids) + len(request.to)
    if count == 0:
        return [UserError("Name somebody to send to: in userIds, or numbers in to.", "INVALID", ("input", "to"))]
    if count > MAX_RECIPIENTS:
        message = f"At most {MAX_RECIPIENTS} people and numbers at once, and these are {count}."
        return [UserError(message, "LIMIT_EXCEEDED", ("input", "userIds" if request.user_ids else "to"))]
    return [*_check_user_ids(request.user_ids), *_check_numbers(request.to)]


def _check_user_ids(user_ids: Sequence[str]) -> list[UserError]:
    return [
        UserError(
            f"A user id has 1 to {MAX_ID_CHARACTERS} characters without NUL.",
            "INVALID",
            ("input", "userIds", str(index)),
        )
        for index, user_id in enumerate(user_ids)
        if not 1 <= len(user_id) <= MAX_ID_CHARACTERS or "\0" in user_id
    ]


def _check_numbers(numbers: Sequence[str]) -> list[UserError]:
    return [
        UserError(parsed.message, "INVALID", ("input", "to", str(index)))
        for index, parsed in enumerate(map(parse_phone, numbers))
        if isinstance(parsed, Malformed)
    ]


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


def _check_time(scheduled_for: datetime | None, now: datetime) -> list[UserError]:
    if scheduled_for is None or scheduled_for <= now + LATEST:
        return []
    message = f"Something may be scheduled at most {LATEST.days} days ahead."
    return [UserError(message, "INVALID", ("input", "scheduledFor"))]
