"""What Twilio's status callbacks mean for deliveries.

Guarantees: a callback names its delivery in its own, signed, URL, so that one whose answer was lost is found too; it
moves the delivery on once; a number that turns out to be dead is suppressed in the same transaction. A callback that
overtakes the answer it belongs to waits for it. Leaves to others: the signature (`engine.inbound.verifiers`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING
from uuid import UUID

from db.database import Database
from db.deliveries import hold_deliveries, read_deliveries
from db.suppressions import NewSuppression, insert_suppressions
from engine.announcements import Announcement
from engine.channels.twilio_errors import error_of
from engine.dispatch.reports import WAIT_SECONDS, Applied, Report, Reported, apply_report, apply_reported
from engine.dispatch.values import Channel, DeliveryStatus
from engine.sms.work import suppression_for

if TYPE_CHECKING:
    import asyncpg

STATUSES: Mapping[str, DeliveryStatus] = MappingProxyType(
    {
        "accepted": DeliveryStatus.SENT,
        "queued": DeliveryStatus.SENT,
        "sending": DeliveryStatus.SENT,
        "sent": DeliveryStatus.SENT,
        "delivered": DeliveryStatus.DELIVERED,
        "read": DeliveryStatus.DELIVERED,
        "undelivered": DeliveryStatus.FAILED,
        "failed": DeliveryStatus.FAILED,
        "canceled": DeliveryStatus.FAILED,
    }
)
"""Twilio's words; of any other nothing is made."""

_SID = re.compile(r"[A-Za-z0-9]{1,64}")
_CODE = re.compile(r"[0-9]{1,6}")


def read_sms_callback(form: Mapping[str, str], *, delivery_id: UUID) -> Report | None:
    """What a callback says; None for what means nothing here. Pure."""
    status = STATUSES.get(form.get("MessageStatus", ""))
    sid = form.get("MessageSid", "")
    if status is None or not _SID.fullmatch(sid):
        return None
    code = form.get("ErrorCode", "")
    error = error_of(int(code) if _CODE.fullmatch(code) else None) if status is DeliveryStatus.FAILED else None
    return Report(delivery_id=delivery_id, channel=Channel.SMS, status=status, provider_message_id=sid, error=error)


async def apply_sms_callback(
    database: Database,
    announce: Callable[[Announcement], None],
    report: Report,
    *,
    project_id: UUID,
    now: datetime,
    wait_seconds: float = WAIT_SECONDS,
) -> Reported:
    """Move the delivery on. Raises `Unavailable` when the database does not answer. `now` is business time."""
    return await apply_reported(
        database, announce, lambda connection: _apply(connection, report, project_id, now), wait_seconds=wait_seconds
    )


async def _apply(connection: asyncpg.Connection, report: Report, project_id: UUID, now: datetime) -> Applied:
    """Suppressions before deliveries, as everywhere; but first a delivery is held against whoever erases its person."""
    reason = suppression_for(_number(report)) if report.error else None
    if reason is not None:
        await hold_deliveries(connection, project_id=project_id, delivery_ids=[report.delivery_id])
        found = await read_deliveries(connection, project_id=project_id, delivery_ids=[report.delivery_id])
        numbers = [each.recipient for each in found if each.recipient is not None and each.channel == Channel.SMS]
        await insert_suppressions(
            connection,
            project_id=project_id,
            channel=Channel.SMS,
            suppressions=[NewSuppression(number, reason, report.delivery_id) for number in numbers],
            now=now,
        )
    return await apply_report(connection, report, project_id=project_id, now=now)


def _number(report: Report) -> int | None:
    code = "" if report.error is None else report.error.code
    return int(code) if code.isdigit() else None
