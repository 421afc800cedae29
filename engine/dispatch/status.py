"""The status machine of deliveries, and which of its steps the taxonomy has a name for. Pure.

QUEUED → SENDING → SENT → DELIVERED        SCHEDULED: not before a time      RETRYING: after a failed attempt
and from these: FAILED (for good), SUPPRESSED (held back), CANCELLED, DEAD_LETTERED (attempts used up),
UNCERTAIN (handed over when a worker died, to a provider that does not deduplicate)
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

import msgspec

from db.delivery_records import DeliveryRecord, NewDelivery, NewTransition
from db.records import NewEvent
from engine.dispatch.values import Channel, DeliveryStatus
from engine.node_ids import NodeKind, write_node_id

S = DeliveryStatus

NEXT: Mapping[DeliveryStatus | None, frozenset[DeliveryStatus]] = MappingProxyType(
    {
        None: frozenset({S.QUEUED, S.SCHEDULED, S.SUPPRESSED, S.FAILED}),
        S.QUEUED: frozenset({S.SENDING, S.SCHEDULED, S.SUPPRESSED, S.FAILED, S.CANCELLED}),
        S.SCHEDULED: frozenset({S.SENDING, S.SCHEDULED, S.SUPPRESSED, S.FAILED, S.CANCELLED}),
        S.RETRYING: frozenset({S.SENDING, S.SCHEDULED, S.SUPPRESSED, S.FAILED, S.CANCELLED, S.DEAD_LETTERED}),
        S.SENDING: frozenset({S.SENT, S.DELIVERED, S.RETRYING, S.FAILED, S.DEAD_LETTERED, S.UNCERTAIN, S.QUEUED}),
        # What a provider reports later.
        S.SENT: frozenset({S.DELIVERED, S.FAILED, S.QUEUED}),
        S.UNCERTAIN: frozenset({S.SENT, S.DELIVERED, S.FAILED, S.QUEUED}),
        # A replay queues it again; a mail that was delivered may still bounce.
        S.DELIVERED: frozenset({S.FAILED, S.QUEUED}),
        S.FAILED: frozenset({S.QUEUED, S.DELIVERED}),
        S.DEAD_LETTERED: frozenset({S.QUEUED}),
        S.SUPPRESSED: frozenset({S.QUEUED}),
        S.CANCELLED: frozenset({S.QUEUED}),
    }
)
"""What may follow what; None is before it was made."""

PENDING = frozenset({S.QUEUED, S.SCHEDULED, S.RETRYING})
"""Something is still to be done, and it can be cancelled."""
UNDER_WAY = PENDING | {S.SENDING}
"""Nobody knows yet what comes of it."""

_EVENT_TYPES: Mapping[tuple[Channel, DeliveryStatus], str] = MappingProxyType(
    {
        (Channel.PUSH, S.SCHEDULED): "push.scheduled",
        (Channel.PUSH, S.SENT): "push.sent",
        (Channel.PUSH, S.DELIVERED): "push.delivered",
        (Channel.PUSH, S.FAILED): "push.failed",
        (Channel.PUSH, S.DEAD_LETTERED): "push.failed",
        (Channel.PUSH, S.SUPPRESSED): "push.suppressed",
        (Channel.PUSH, S.CANCELLED): "push.cancelled",
        (Channel.EMAIL, S.SENT): "email.sent",
        (Channel.EMAIL, S.DELIVERED): "email.delivered",
        (Channel.SMS, S.SENT): "sms.sent",
        (Channel.SMS, S.DELIVERED): "sms.delivered",
        (Channel.SMS, S.FAILED): "sms.failed",
        (Channel.SMS, S.DEAD_LETTERED): "sms.failed",
        (Channel.WEBHOOK, S.DEAD_LETTERED): "webhook.delivery_dead_lettered",
    }
)


def may_follow(before: DeliveryStatus | None, after: DeliveryStatus) -> bool:
    """Whether a delivery may go from one status to the other."""
    return after in NEXT[before]


def transition_of(
    delivery: DeliveryRecord | NewDelivery,
    *,
    before: str | None,
    after: str,
    attempt_number: int | None = None,
    error_code: str | None = None,
) -> NewTransition:
    """The item for the deliveries lane. Raises `ValueError` for a step that the machine does not have."""
    if not may_follow(None if before is None else DeliveryStatus(before), DeliveryStatus(after)):
        raise ValueError(f"a delivery does not go from {before} to {after}")
    return NewTransition(
        delivery_id=delivery.delivery_id,
        from_status=before,
        to_status=after,
        channel=delivery.channel,
        created_at=delivery.created_at,
        attempt_number=attempt_number,
        batch_id=delivery.batch_id,
        user_id=delivery.user_id,
        workflow_id=delivery.workflow_id,
        workflow_run_id=delivery.workflow_run_id,
        endpoint_id=delivery.endpoint_id,
        event_type=delivery.event_type,
        error_code=error_code,
    )


def event_of(
    delivery: DeliveryRecord | NewDelivery, transition: NewTransition, properties: Mapping[str, Any] | None = None
) -> NewEvent | None:
    """The canonical event of a transition, where the taxonomy has a name for it.

    A push that is made is also `push.send_requested`: see `requested_event_of`.
    """
    name = _EVENT_TYPES.get((Channel(transition.channel), DeliveryStatus(transition.to_status)))
    if name is None:
        return None
    return delivery_event(delivery, name, number=_occasion(delivery, transition), properties=properties)


def requested_event_of(delivery: NewDelivery) -> NewEvent | None:
    """`push.send_requested`, when a push is made."""
    if delivery.channel != Channel.PUSH:
        return None
    return delivery_event(delivery, "push.send_requested")


def step_properties(
    *, reason: str | None, scheduled_for: datetime | None, error_code: str | None, error_message: str | None
) -> dict[str, Any]:
    """What an event says of a step that led to no attempt; nothing of what is not given."""
    known = {"reason": reason, "scheduledFor": scheduled_for, "errorCode": error_code, "error": error_message}
    return {name: value for name, value in known.items() if value is not None}


def _occasion(delivery: DeliveryRecord | NewDelivery, transition: NewTransition) -> int | str:
    """What tells a step from the same step at another time: its attempt; else the replay, and the time put off to."""
    if transition.attempt_number is not None:
        return transition.attempt_number
    batch = "0" if delivery.batch_id is None else delivery.batch_id.hex
    if transition.to_status == S.SCHEDULED and delivery.next_attempt_at is not None:
        return f"{batch}:{delivery.next_attempt_at.timestamp() * 1000:.0f}"
    return batch


def delivery_event(
    delivery: DeliveryRecord | NewDelivery,
    event_type: str,
    *,
    number: int | str = 0,
    properties: Mapping[str, Any] | None = None,
) -> NewEvent:
    """An event about a delivery, stored once per (type, delivery, number).

    `context.cause` names the delivery and `context.depth` how far it is from what a client sent: past
    `engine.dispatch.ledger.MAX_DEPTH` nothing more is started by it. Clients cannot say either
    (`engine.events.SERVERS_OWN`).
    """
    node_id = write_node_id(NodeKind.DELIVERY, delivery.delivery_id)
    known = {
        "deliveryId": node_id,
        "channel": delivery.channel,
        "variant": delivery.variant,
        "locale": delivery.locale,
        "causedBy": delivery.event_type,
    }
    values = {name: value for name, value in known.items() if value is not None}
    return NewEvent(
        key=f"{event_type}:{delivery.delivery_id.hex}:{number}",
        module=event_type.partition(".")[0],
        event_type=event_type,
        timestamp=None,
        user_id=delivery.user_id,
        anonymous_id=None,
        properties=msgspec.json.encode({**values, **(properties or {})}).decode(),
        context=msgspec.json.encode({"cause": node_id, "depth": delivery.depth + 1}).decode(),
    )
