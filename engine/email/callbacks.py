"""What Resend reports about mails after it took them: delivered, opened, clicked, bounced, complained.

Guarantees: a report names its delivery by the tag that every mail carries, or else by Resend's id, so that one which
overtakes Resend's answer is found too; the delivery, its events, and what they mean for the address and for consent
change in one transaction; the same report again changes nothing. Leaves to others: the signature of the callback
(`engine.inbound.verifiers`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from db.audience_members import hold_people
from db.database import Database
from db.deliveries import hold_deliveries, lock_deliveries, read_deliveries
from db.delivery_records import DeliveryRecord, NewTransition
from db.delivery_reports import find_by_provider_message, stamp_reading
from db.profiles import lock_profiles
from db.records import NewEvent
from db.suppressions import NewSuppression, insert_suppressions
from engine.announcements import Announcement
from engine.audit import SYSTEM
from engine.consent import ConsentPurpose, ConsentState, set_consent
from engine.dispatch.ledger import record
from engine.dispatch.reports import WAIT_SECONDS, Applied, Report, Reported, apply_reported, move_on
from engine.dispatch.status import delivery_event, event_of
from engine.dispatch.values import Channel, DeliveryError, DeliveryStatus, SuppressedReason

if TYPE_CHECKING:
    import asyncpg

S = DeliveryStatus
COMPLAINT_SOURCE = "spam complaint"
MAX_DETAIL_CHARACTERS = 500


class EmailReport(StrEnum):
    """What happened."""

    DELIVERED = "delivered"
    OPENED = "opened"
    CLICKED = "clicked"
    BOUNCED = "bounced"
    COMPLAINED = "complained"
    FAILED = "failed"


_KINDS = {f"email.{kind}": kind for kind in EmailReport} | {"email.suppressed": EmailReport.BOUNCED}
_EVENTS = {
    EmailReport.OPENED: "email.opened",
    EmailReport.CLICKED: "email.clicked",
    EmailReport.BOUNCED: "email.bounced",
    EmailReport.COMPLAINED: "email.complained",
}


class EmailCallback(msgspec.Struct, frozen=True, kw_only=True):
    """One report. `callback_id` is the same whenever it is sent again; `is_permanent` is about bounces."""

    callback_id: str
    kind: EmailReport
    provider_message_id: str
    delivery_id: UUID | None = None
    is_permanent: bool = True
    reason: str | None = None
    link: str | None = None


def read_email_callback(body: bytes, *, callback_id: str) -> EmailCallback | None:
    """A webhook of Resend's, of which `callback_id` is the header `svix-id`; None for what means nothing here. Pure."""
    try:
        said = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    data = said.get("data")
    kind = _KINDS.get(str(said.get("type")))
    if kind is None or not isinstance(data, dict) or not isinstance(data.get("email_id"), str):
        return None
    bounce, click, failed = (_object(data.get(name)) for name in ("bounce", "click", "failed"))
    return EmailCallback(
        callback_id=callback_id,
        kind=kind,
        provider_message_id=data["email_id"],
        delivery_id=_tagged(data.get("tags")),
        is_permanent=str(bounce.get("type", "Permanent")).lower() != "transient",
        reason=_text(bounce.get("subType") or failed.get("reason")),
        link=_text(click.get("link")),
    )


async def apply_email_callback(
    database: Database,
    announce: Callable[[Announcement], None],
    callback: EmailCallback,
    *,
    project_id: UUID,
    now: datetime,
    wait_seconds: float = WAIT_SECONDS,
) -> Reported:
    """Do what a report means. Raises `Unavailable` when the database does not answer. `now` is business time."""
    return await apply_reported(
        database, announce, lambda connection: _apply(connection, callback, project_id, now), wait_seconds=wait_seconds
    )


def next_status(delivery: DeliveryRecord, callback: EmailCallback) -> DeliveryStatus | None:
    """Where a report moves a delivery; None when it stays where it is. Pure."""
    is_out = delivery.status in (S.SENT, S.UNCERTAIN)
    match callback.kind:
        case EmailReport.DELIVERED if is_out:
            return S.DELIVERED
        case EmailReport.BOUNCED if is_out or delivery.status == S.DELIVERED:
            return S.FAILED
        case EmailReport.FAILED if is_out:
            return S.FAILED
    return None


async def _apply(connection: asyncpg.Connection, callback: EmailCallback, project_id: UUID, now: datetime) -> Applied:
    """Persons, then suppressions, then deliveries, then heads, as everywhere; but a delivery is held from the beginning
    against whoever erases its person, or an address that is gone would be written down again."""
    known = await _find(connection, callback, project_id)
    if known is not None and known.user_id is not None:
        await hold_people(connection, project_id=project_id, user_ids=[known.user_id])
    if known is None or not await hold_deliveries(connection, project_id=project_id, delivery_ids=[known.delivery_id]):
        return Reported.UNKNOWN, ()
    if known.status == S.SENDING:
        return Reported.TOO_EARLY, ()
    if known.provider_message_id not in (None, callback.provider_message_id):
        # About an earlier attempt.
        return Reported.NOTHING_NEW, ()
    events = await _withdraw(connection, known, callback, now)
    delivery = (await lock_deliveries(connection, project_id=project_id, delivery_ids=[known.delivery_id]))[0]
    if delivery.status == S.SENDING:
        # It has just been taken up again. What was withdrawn is withdrawn, and nobody will say so another time.
        return Reported.TOO_EARLY, await record(
            connection, project_id=project_id, transitions=(), events=events, now=now
        )
    transitions: list[NewTransition] = []
    status = next_status(delivery, callback)
    if status is not None:
        after, transition = await move_on(connection, delivery, _report(delivery, callback, status), now=now)
        transitions.append(transition)
        event = event_of(after, transition, {"attempt": after.attempt_count})
        events += [] if event is None else [event]
    if callback.kind in (EmailReport.OPENED, EmailReport.CLICKED):
        await stamp_reading(
            connection,
            project_id=project_id,
            delivery_id=delivery.delivery_id,
            is_click=callback.kind is EmailReport.CLICKED,
            now=now,
        )
    events += _events(delivery, callback)
    if not events and not transitions:
        return Reported.NOTHING_NEW, ()
    announcements = await record(connection, project_id=project_id, transitions=transitions, events=events, now=now)
    return (Reported.APPLIED if announcements else Reported.NOTHING_NEW), announcements


async def _find(connection: asyncpg.Connection, callback: EmailCallback, project_id: UUID) -> DeliveryRecord | None:
    delivery_id = callback.delivery_id or await find_by_provider_message(
        connection,
        project_id=project_id,
        provider_message_id=callback.provider_message_id,
        channel=Channel.EMAIL,
    )
    if delivery_id is None:
        return None
    found = await read_deliveries(connection, project_id=project_id, delivery_ids=[delivery_id])
    return found[0] if found and found[0].channel == Channel.EMAIL else None


async def _withdraw(
    connection: asyncpg.Connection, delivery: DeliveryRecord, callback: EmailCallback, now: datetime
) -> list[NewEvent]:
    """What a bounce or a complaint means for the next mail: the address gets none, and a complaint is a revocation."""
    events: list[NewEvent] = []
    is_complaint = callback.kind is EmailReport.COMPLAINED
    if not is_complaint and not (callback.kind is EmailReport.BOUNCED and callback.is_permanent):
        return events
    user_id, project_id = delivery.user_id, delivery.project_id
    if is_complaint and user_id is not None:
        is_there = await lock_profiles(connection, project_id=project_id, user_ids=[user_id])
        changed = None
        if is_there:
            changed = await set_consent(
                connection,
                project_id=project_id,
                user_id=user_id,
                purpose=ConsentPurpose.EMAIL,
                state=ConsentState.REVOKED,
                source=COMPLAINT_SOURCE,
                actor=SYSTEM,
                now=now,
            )
        events += [] if changed is None else [changed.event]
    if delivery.recipient is not None:
        reason = SuppressedReason.UNSUBSCRIBED if is_complaint else SuppressedReason.BOUNCED
        held = NewSuppression(delivery.recipient.lower(), reason, delivery.delivery_id)
        await insert_suppressions(
            connection, project_id=project_id, channel=Channel.EMAIL, suppressions=[held], now=now
        )
    return events


def _report(delivery: DeliveryRecord, callback: EmailCallback, status: DeliveryStatus) -> Report:
    return Report(
        delivery_id=delivery.delivery_id,
        channel=Channel.EMAIL,
        status=status,
        provider_message_id=callback.provider_message_id,
        error=_error(callback) if status is S.FAILED else None,
    )


def _events(delivery: DeliveryRecord, callback: EmailCallback) -> list[NewEvent]:
    """One per report, however often it comes: of openings and clicks there may be many."""
    name = _EVENTS.get(callback.kind)
    if name is None:
        return []
    said = {"link": callback.link, "reason": callback.reason}
    if callback.kind is EmailReport.BOUNCED:
        said["permanent"] = callback.is_permanent  # type: ignore[assignment]
    event = delivery_event(delivery, name, properties={key: each for key, each in said.items() if each is not None})
    key = f"{name}:{delivery.delivery_id.hex}:{callback.callback_id}"
    return [msgspec.structs.replace(event, key=key)]


def _error(callback: EmailCallback) -> DeliveryError:
    if callback.kind is EmailReport.FAILED:
        return DeliveryError(callback.reason or "failed", "Resend could not send the mail.", permanent=True)
    if not callback.is_permanent:
        message = "The recipient's server did not take the mail for several days."
        return DeliveryError(callback.reason or "Transient", message, permanent=False)
    hint = "Nothing more is sent to this address. Ask the person for another one."
    return DeliveryError(
        callback.reason or "Bounced", "The recipient's server refused the mail.", permanent=True, hint=hint
    )


def _tagged(tags: object) -> UUID | None:
    """The delivery that a mail was tagged with: Resend gives tags as an object, or as it got them."""
    if isinstance(tags, list):
        tags = {each.get("name"): each.get("value") for each in tags if isinstance(each, dict)}
    value = tags.get("delivery_id") if isinstance(tags, dict) else None
    try:
        return UUID(hex=value) if isinstance(value, str) else None
    except ValueError:
        return None


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    return value.replace("\0", "")[:MAX_DETAIL_CHARACTERS] if isinstance(value, str) and value else None
