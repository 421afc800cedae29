"""The deliveries of a mail or a text message, one for each recipient, as they are made when it is accepted.

Guarantees: what may not be sent now is SUPPRESSED at once, and what cannot be sent is FAILED, so that the counts of the
answer are true. For what is sent later the same is decided then. Leaves to others: who the recipients are
(`engine.dispatch.recipients`), and storing what is made (`engine.dispatch.sending`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.delivery_records import NewDelivery
from engine.dispatch.recipients import Recipient, Standings
from engine.dispatch.values import (
    DEFAULT_PROVIDER_SCHEDULE,
    Channel,
    DeliveryError,
    DeliveryStatus,
    EmailContent,
    SmsContent,
)


class AddressedSend(msgspec.Struct, frozen=True, kw_only=True):
    """What the deliveries of one send share. `no_address` is what is wrong with a person without one, `refusal` why
    nothing of it can leave as things are. `now` is business time; without a later `scheduled_for` it is due now."""

    channel: Channel
    dispatch_key: str
    content: EmailContent | SmsContent
    batch_id: UUID
    now: datetime
    scheduled_for: datetime | None
    standings: Standings
    no_address: DeliveryError
    refusal: DeliveryError | None = None


def make_addressed(send: AddressedSend, recipients: list[Recipient]) -> list[NewDelivery]:
    """One delivery for each, in their order."""
    common: dict[str, Any] = {
        "channel": send.channel,
        "dispatch_key": send.dispatch_key,
        "content": msgspec.json.encode(send.content).decode(),
        "retry_schedule": DEFAULT_PROVIDER_SCHEDULE,
        "created_at": send.now,
        "batch_id": send.batch_id,
    }
    return [
        NewDelivery(
            delivery_id=uuid7(), user_id=each.user_id, recipient=each.address, **common, **_first_state(send, each)
        )
        for each in recipients
    ]


def _first_state(send: AddressedSend, to: Recipient) -> dict[str, Any]:
    if to.address is None:
        return _failed(send.no_address, send.now)
    if send.scheduled_for is not None and send.scheduled_for > send.now:
        later = send.scheduled_for
        return {"status": DeliveryStatus.SCHEDULED, "scheduled_for": later, "next_attempt_at": later}
    held = send.standings.held_back(to.user_id, to.address)
    if held is not None:
        return {"status": DeliveryStatus.SUPPRESSED, "suppressed_reason": held.reason, "finished_at": send.now}
    if send.refusal is not None:
        return _failed(send.refusal, send.now)
    return {"status": DeliveryStatus.QUEUED, "next_attempt_at": send.now}


def _failed(error: DeliveryError, now: datetime) -> dict[str, Any]:
    return {
        "status": DeliveryStatus.FAILED,
        "error_code": error.code,
        "error_message": error.message,
        "error_permanent": error.permanent,
        "error_hint": error.hint,
        "finished_at": now,
    }
