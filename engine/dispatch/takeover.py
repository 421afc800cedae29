"""Taking over what dead workers left behind: deliveries that are SENDING under a lease that has ended.

Guarantees: each is decided about once, in one transaction with its attempt, transition and event. Where the receiver
drops what it has already, the attempt is repeated at once; else nobody knows whether the message went out, and the
delivery is UNCERTAIN rather than silently sent twice. Either way the attempt counts and is kept, with `LOST_CODE`.
Leaves to others: finding the projects (`db.dispatch.find_expired`), announcing, and attempting again.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.dispatch import LOST_CODE, ExpiredRecord, SettlementWrite, lock_expired, write_settlements
from engine.announcements import Announcement
from engine.dispatch.ledger import record
from engine.dispatch.retry import Plan, Verdict, judge_lost
from engine.dispatch.settlement import error_properties
from engine.dispatch.status import event_of, transition_of
from engine.dispatch.values import Channel, DeliveryError, DeliveryStatus

if TYPE_CHECKING:
    import asyncpg

TAKE_OVER_LIMIT = 200
"""Deliveries in one transaction."""


class TakenOver(msgspec.Struct, frozen=True):
    """What a round took over: how many, how many of them are due again, and what to announce after the commit."""

    count: int = 0
    due: int = 0
    announcements: tuple[Announcement, ...] = ()


async def take_over(
    connection: asyncpg.Connection, *, project_id: UUID, now: datetime, limit: int = TAKE_OVER_LIMIT
) -> TakenOver:
    """Decide about deliveries whose lease has ended, in the caller's transaction. Locks deliveries, then the heads."""
    expired = await lock_expired(connection, project_id=project_id, limit=limit)
    if not expired:
        return TakenOver()
    verdicts = [_verdict(each, now) for each in expired]
    writes = [_write_of(each, verdict, now) for each, verdict in zip(expired, verdicts, strict=True)]
    await write_settlements(connection, project_id=project_id, settlements=writes, now=now, with_transitions=False)
    transitions, events = [], []
    for each, verdict in zip(expired, verdicts, strict=True):
        delivery = each.delivery
        transition = transition_of(
            delivery,
            before=delivery.status,
            after=verdict.status,
            attempt_number=delivery.attempt_count,
            error_code=LOST_CODE,
        )
        transitions.append(transition)
        event = event_of(delivery, transition, {"attempt": delivery.attempt_count, **error_properties(verdict.error)})
        events += [] if event is None else [event]
    announcements = await record(connection, project_id=project_id, transitions=transitions, events=events, now=now)
    due = sum(verdict.status is DeliveryStatus.RETRYING for verdict in verdicts)
    return TakenOver(len(expired), due, announcements)


def lost_error(*, repeatable: bool) -> DeliveryError:
    """Why an attempt has no outcome."""
    if repeatable:
        return DeliveryError(
            LOST_CODE,
            "The worker died during this attempt. It is repeated: the receiver drops what it has already.",
            permanent=False,
        )
    return DeliveryError(
        LOST_CODE,
        "The worker died during this attempt, and the provider does not drop repeated messages. It may have been sent.",
        permanent=False,
        hint="Look at the provider's own log. If it was not sent, replay the delivery.",
    )


def _verdict(expired: ExpiredRecord, now: datetime) -> Verdict:
    delivery = expired.delivery
    plan = Plan(
        channel=Channel(delivery.channel),
        schedule=delivery.retry_schedule,
        schedule_offset=delivery.schedule_offset,
        attempt_number=delivery.attempt_count,
        repeatable=delivery.repeatable,
    )
    error = lost_error(repeatable=delivery.repeatable)
    return judge_lost(plan, lost_before=expired.lost_count, error=error, now=now)


def _write_of(expired: ExpiredRecord, verdict: Verdict, now: datetime) -> SettlementWrite:
    delivery, error = expired.delivery, lost_error(repeatable=expired.delivery.repeatable)
    return SettlementWrite(
        delivery_id=delivery.delivery_id,
        lease_token=expired.lease_token,
        status=verdict.status,
        next_attempt_at=verdict.next_attempt_at,
        attempt_count=delivery.attempt_count,
        # The schedule goes on where it was.
        schedule_offset=delivery.schedule_offset + 1,
        error_code=error.code,
        error_message=error.message,
        error_permanent=error.permanent,
        error_hint=error.hint,
        number=delivery.attempt_count,
        at=now,
    )
