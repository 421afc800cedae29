"""What devices report of pushes: opened, an action chosen, dismissed.

Guarantees: the first report of each kind stamps the delivery and stores one event; another one changes nothing and is
answered with the first one's event. A push that is reported has arrived, so SENT and UNCERTAIN become DELIVERED, in the
same transaction. Dismissing stores `push.dismissed`, which the taxonomy has no name for, and stamps nothing else.
Leaves to others: who may report (anyone with a key of the project who knows the delivery's id).
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.deliveries import lock_deliveries
from db.delivery_records import DeliveryRecord
from db.events import read_events_by_key
from db.push_interactions import stamp_interaction
from db.records import EventRecord, NewEvent
from engine.announcements import Announcement
from engine.dispatch.ledger import record
from engine.dispatch.status import delivery_event, event_of, transition_of
from engine.dispatch.values import Channel, DeliveryStatus
from engine.errors import UserError
from engine.push.content import MAX_SHORT_CHARACTERS
from engine.push.texts import check_text

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg


class PushInteraction(StrEnum):
    """What somebody did with a push."""

    OPENED = "OPENED"
    CLICKED = "CLICKED"
    DISMISSED = "DISMISSED"


class InteractionReport(msgspec.Struct, frozen=True):
    """What a device reports. `action_id` is the app's name of the action that was chosen."""

    delivery_id: UUID
    interaction: PushInteraction
    action_id: str | None = None


class StoredInteraction(msgspec.Struct, frozen=True):
    """The event of a report. `announcements` are to be told after the commit."""

    event: EventRecord
    duplicate: bool
    announcements: tuple[Announcement, ...] = ()


_EVENTS = {
    PushInteraction.OPENED: "push.opened",
    PushInteraction.CLICKED: "push.clicked",
    PushInteraction.DISMISSED: "push.dismissed",
}
_ARRIVED = frozenset({DeliveryStatus.SENT, DeliveryStatus.UNCERTAIN})
"""What a report moves to DELIVERED."""


def check_report(action_id: str | None) -> tuple[UserError, ...]:
    """Everything that is wrong with a report."""
    return tuple(check_text(action_id, "actionId", path=("input", "actionId"), most=MAX_SHORT_CHARACTERS))


def not_found() -> UserError:
    """For an unknown delivery, one of another project, and one that is no push: the three look the same."""
    return UserError("This project has no such push.", "NOT_FOUND", ("input", "deliveryId"))


async def track_interaction(
    connection: asyncpg.Connection, *, project_id: UUID, report: InteractionReport, now: datetime
) -> StoredInteraction | UserError:
    """Record a report in the caller's transaction, heads last. `now` is business time."""
    found = await lock_deliveries(connection, project_id=project_id, delivery_ids=[report.delivery_id])
    if not found or found[0].channel != Channel.PUSH:
        return not_found()
    delivery = found[0]
    if delivery.attempt_count == 0:
        return UserError("This push has not been sent: nobody can have seen it.", "STATE", ("input", "deliveryId"))
    event = _event(delivery, report)
    held = await read_events_by_key(connection, project_id=project_id, keys=[event.key])
    if held:
        return StoredInteraction(held[0], duplicate=True)
    return await _record(connection, delivery, report, event, now)


async def _record(
    connection: asyncpg.Connection, delivery: DeliveryRecord, report: InteractionReport, event: NewEvent, now: datetime
) -> StoredInteraction:
    arrived = DeliveryStatus(delivery.status) in _ARRIVED
    await stamp_interaction(
        connection,
        project_id=delivery.project_id,
        delivery_id=delivery.delivery_id,
        is_opened=report.interaction is PushInteraction.OPENED,
        is_clicked=report.interaction is PushInteraction.CLICKED,
        is_delivered=arrived,
        now=now,
    )
    transitions, events = [], [event]
    if arrived:
        transition = transition_of(delivery, before=delivery.status, after=DeliveryStatus.DELIVERED)
        transitions.append(transition)
        events += [each for each in [event_of(delivery, transition)] if each is not None]
    announcements = await record(
        connection, project_id=delivery.project_id, transitions=transitions, events=events, now=now
    )
    stored = (item for each in announcements for item in each.items if isinstance(item, EventRecord))
    return StoredInteraction(
        next(each for each in stored if each.key == event.key), duplicate=False, announcements=announcements
    )


def _event(delivery: DeliveryRecord, report: InteractionReport) -> NewEvent:
    properties = {} if report.action_id is None else {"actionId": report.action_id}
    return delivery_event(delivery, _EVENTS[report.interaction], properties=properties)
