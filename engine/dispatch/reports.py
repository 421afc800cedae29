"""What a provider reports later: a delivery that it took was delivered, or was not after all.

Guarantees: the delivery, its transition and its event change in one transaction; the same report again, an older one
after a newer one, and one about a delivery that was meanwhile replayed change nothing. Leaves to others: whether the
report is the provider's (`engine.inbound.verifiers`), and what else it means (`engine.email.callbacks`,
`engine.sms.callbacks`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

import msgspec

from db.database import Database
from db.deliveries import lock_deliveries
from db.delivery_records import DeliveryRecord, NewTransition
from db.delivery_reports import report_status
from engine.announcements import Announcement
from engine.dispatch.ledger import record
from engine.dispatch.settlement import error_properties
from engine.dispatch.status import event_of, transition_of
from engine.dispatch.values import Channel, DeliveryError, DeliveryStatus
from engine.transactions import run_transaction

if TYPE_CHECKING:
    import asyncpg

S = DeliveryStatus
WAIT_SECONDS = 5.0
"""For the worker that holds a delivery to write the provider's answer. Twilio waits 15 s, and does not come again."""
PAUSE_SECONDS = 0.1


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """`status` is SENT, DELIVERED or FAILED; `error` belongs to FAILED. `provider_message_id` as the provider says."""

    delivery_id: UUID
    channel: Channel
    status: DeliveryStatus
    provider_message_id: str | None = None
    error: DeliveryError | None = None


class Reported(Enum):
    """What became of a report."""

    APPLIED = "applied"
    NOTHING_NEW = "nothing_new"
    UNKNOWN = "unknown"
    """The project has no such delivery."""
    TOO_EARLY = "too_early"
    """A worker still holds the delivery: report it again once it has written what it knows."""


Applied: TypeAlias = tuple[Reported, tuple[Announcement, ...]]
"""What became of a report, and what is to be announced after the commit."""


def judge_report(delivery: DeliveryRecord, report: Report) -> Reported:
    """What a report means for a delivery as it is. Pure."""
    if delivery.channel != report.channel:
        return Reported.UNKNOWN
    known, said = delivery.provider_message_id, report.provider_message_id
    if known is not None and said is not None and known != said:
        # About an earlier attempt.
        return Reported.NOTHING_NEW
    if delivery.status == S.SENDING:
        return Reported.TOO_EARLY
    if report.status is S.SENT:
        return Reported.APPLIED if delivery.status == S.UNCERTAIN else Reported.NOTHING_NEW
    return Reported.APPLIED if delivery.status in (S.SENT, S.UNCERTAIN) else Reported.NOTHING_NEW


async def apply_reported(
    database: Database,
    announce: Callable[[Announcement], None],
    apply: Callable[[asyncpg.Connection], Awaitable[Applied]],
    *,
    wait_seconds: float = WAIT_SECONDS,
) -> Reported:
    """Apply a report in a transaction of its own, and announce what it changed; one that comes too early waits.

    Raises `Unavailable` when the database does not answer.
    """
    deadline = asyncio.get_running_loop().time() + wait_seconds
    while True:
        reported, announcements = await run_transaction(database, apply)
        for announcement in announcements:
            announce(announcement)
        if reported is not Reported.TOO_EARLY or asyncio.get_running_loop().time() >= deadline:
            return reported
        await asyncio.sleep(PAUSE_SECONDS)


async def apply_report(connection: asyncpg.Connection, report: Report, *, project_id: UUID, now: datetime) -> Applied:
    """Lock the delivery and move it on, where there is anything new. Takes the heads last. `now` is business time."""
    found = await lock_deliveries(connection, project_id=project_id, delivery_ids=[report.delivery_id])
    reported = judge_report(found[0], report) if found else Reported.UNKNOWN
    if reported is not Reported.APPLIED:
        return reported, ()
    after, transition = await move_on(connection, found[0], report, now=now)
    event = event_of(after, transition, {"attempt": after.attempt_count, **error_properties(report.error)})
    events = [] if event is None else [event]
    return reported, await record(connection, project_id=project_id, transitions=[transition], events=events, now=now)


async def move_on(
    connection: asyncpg.Connection, before: DeliveryRecord, report: Report, *, now: datetime
) -> tuple[DeliveryRecord, NewTransition]:
    """Give a locked delivery the status that is reported. Its transition is the caller's to record."""
    error = report.error
    after = await report_status(
        connection,
        project_id=before.project_id,
        delivery_id=before.delivery_id,
        status=report.status,
        provider_message_id=report.provider_message_id,
        now=now,
        error_code=error.code if error else None,
        error_message=error.message if error else None,
        error_permanent=error.permanent if error else None,
        error_hint=error.hint if error else None,
    )
    transition = transition_of(
        after,
        before=before.status,
        after=after.status,
        attempt_number=after.attempt_count or None,
        error_code=after.error_code,
    )
    return after, transition
