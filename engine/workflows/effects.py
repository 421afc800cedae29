"""From what a step asks to send to the deliveries that do it. Pure, but for the ids that it gives.

Guarantees: every delivery names its run and step, by which the step hears of it, and the event that started the run;
when it is dispatched its texts see what the step saw: the person and the event by their rows, `run` in its content.
Somebody who was erased is not named, so that the log does not bring them back.
Leaves to others: whether anything may be sent (`engine.workflows.steps`, and again at dispatch), inserting.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.delivery_records import NewDelivery
from db.records import EventRecord
from db.workflow_records import RunRecord
from db.workflow_runs import StepDelivery
from engine.dispatch.values import (
    DEFAULT_PROVIDER_SCHEDULE,
    Channel,
    DeliveryStatus,
    PushContent,
    SuppressedReason,
    WebhookContent,
    host_key,
)
from engine.email.work import DISPATCH_KEY as EMAIL
from engine.node_ids import NodeKind, write_node_id
from engine.push.accepting import PushRequest
from engine.sms.work import DISPATCH_KEY as SMS
from engine.webhooks.bodies import event_body
from engine.workflows.state import (
    DeliverEmail,
    DeliverPush,
    DeliverSms,
    DeliverWebhook,
    DeliveryReport,
    DeliveryResult,
)

Sent: TypeAlias = DeliverEmail | DeliverSms | DeliverWebhook
"""What makes one delivery, whoever it is for."""


class StepOrigin(msgspec.Struct, frozen=True, kw_only=True):
    """The step that asks. `user_id` is whom the run is about, None for somebody who was erased; `event` started it."""

    run: RunRecord
    number: int
    user_id: str | None
    event: EventRecord | None
    organization_id: UUID
    now: datetime


def delivery_of(effect: Sent, origin: StepOrigin) -> NewDelivery:
    """One delivery, due now."""
    known: dict[str, Any] = {
        "delivery_id": uuid7(),
        "status": DeliveryStatus.QUEUED,
        "created_at": origin.now,
        "next_attempt_at": origin.now,
        "user_id": origin.user_id,
        **_links(origin),
    }
    match effect:
        case DeliverEmail():
            return _addressed(Channel.EMAIL, EMAIL, effect, known)
        case DeliverSms():
            return _addressed(Channel.SMS, SMS, effect, known)
        case DeliverWebhook():
            return _webhook(effect, origin, known)


def push_request_of(effect: DeliverPush, origin: StepOrigin) -> PushRequest:
    """A push to all devices of the person."""
    content = PushContent(message_id=uuid7(), push=effect.push, ignore_quiet_hours=effect.ignore_quiet_hours)
    return PushRequest(
        project_id=origin.run.project_id, batch_id=None, content=content, now=origin.now, **_links(origin)
    )


def report_of(deliveries: Sequence[NewDelivery | StepDelivery]) -> DeliveryReport:
    """How the deliveries of a step stand; some are over as soon as they are made."""
    return DeliveryReport(tuple(_result(each) for each in deliveries))


def _links(origin: StepOrigin) -> dict[str, Any]:
    """By which a delivery, and its events, are traced back."""
    return {
        "workflow_id": origin.run.workflow_id,
        "workflow_run_id": origin.run.run_id,
        "workflow_step_number": origin.number,
        "event_seq": origin.run.event_seq,
        "event_type": None if origin.event is None else origin.event.event_type,
        "depth": origin.run.depth,
    }


def _addressed(
    channel: Channel, dispatch_key: str, effect: DeliverEmail | DeliverSms, known: dict[str, Any]
) -> NewDelivery:
    return NewDelivery(
        channel=channel,
        dispatch_key=dispatch_key,
        content=msgspec.json.encode(effect.content).decode(),
        retry_schedule=DEFAULT_PROVIDER_SCHEDULE,
        recipient=effect.recipient,
        **known,
    )


def _webhook(effect: DeliverWebhook, origin: StepOrigin, known: dict[str, Any]) -> NewDelivery:
    """Its id is the step's: two steps that send one event to one receiver are two messages."""
    content = WebhookContent(
        event_id=f"{write_node_id(NodeKind.WORKFLOW_RUN, origin.run.run_id)}_{origin.number}",
        body=_body(effect, origin),
        url=effect.url,
        method=effect.method,
        headers=dict(effect.headers),
    )
    return NewDelivery(
        channel=Channel.WEBHOOK,
        dispatch_key=host_key(effect.url),
        content=msgspec.json.encode(content).decode(),
        retry_schedule=effect.retry_schedule,
        **known,
    )


def _body(effect: DeliverWebhook, origin: StepOrigin) -> str:
    if effect.body is not None:
        return effect.body
    if origin.event is None:
        raise ValueError("a webhook without a body is about an event")
    return event_body(origin.event, organization_id=origin.organization_id)[1]


def _result(delivery: NewDelivery | StepDelivery) -> DeliveryResult:
    reason = delivery.suppressed_reason
    return DeliveryResult(
        status=DeliveryStatus(delivery.status),
        at=delivery.created_at if isinstance(delivery, NewDelivery) else delivery.at,
        reason=None if reason is None else SuppressedReason(reason),
        error_code=delivery.error_code,
        error_message=delivery.error_message,
    )
