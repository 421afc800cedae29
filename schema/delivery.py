"""Deliveries: messages on their way out, with what became of them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import strawberry

from db.delivery_records import AttemptRecord, DeliveryRecord
from engine.node_ids import NodeKind, write_node_id
from resolvers import deliveries as resolve
from resolvers import webhooks, workflow_runs
from resolvers.push_tokens import push_token_of
from schema.delivery_terms import Channel, DeliveryStatus, SuppressedReason
from schema.info import Info
from schema.node import Node
from schema.push_token import PushToken
from schema.scalars import JSON

if TYPE_CHECKING:
    from schema.event import Event
    from schema.profile import Profile
    from schema.webhook_endpoint import WebhookEndpoint
    from schema.workflow_run import WorkflowRun


@strawberry.type(description="Why an attempt failed. Needs VIEWER, or the person's own session.")
class DeliveryError:
    code: str = strawberry.field(
        description="The provider's own word where it has one: BadDeviceToken, Unregistered, MismatchSenderId, 550."
    )
    message: str = strawberry.field(description="What happened, in English. Holds no address and no secret.")
    permanent: bool = strawberry.field(description="Whether trying again is useless.")
    hint: str | None = strawberry.field(description="What usually causes it and what to do.")

    @staticmethod
    def of(record: DeliveryRecord | AttemptRecord) -> DeliveryError | None:
        """None where nothing failed."""
        if record.error_code is None:
            return None
        return DeliveryError(
            code=record.error_code,
            message=record.error_message or "",
            permanent=bool(record.error_permanent),
            hint=record.error_hint,
        )


@strawberry.type(description="One attempt to send. Needs VIEWER.")
class DeliveryAttempt:
    number: int = strawberry.field(description="1, 2, 3 … within the delivery, replays included.")
    at: datetime = strawberry.field(description="When it began.")
    duration_ms: int = strawberry.field(description="Milliseconds until it was answered or given up.")
    status_code: int | None = strawberry.field(description="HTTP or SMTP status; null when there was no answer.")
    response_body: str | None = strawberry.field(description="What was answered, cut to 4 KiB.")
    signature_header: str | None = strawberry.field(description="The signature line that was sent, for webhooks.")
    error: DeliveryError | None = strawberry.field(description="Null when the attempt succeeded.")

    @staticmethod
    def of(record: AttemptRecord) -> DeliveryAttempt:
        return DeliveryAttempt(
            number=record.number,
            at=record.at,
            duration_ms=record.duration_ms,
            status_code=record.status_code,
            response_body=record.response_body,
            signature_header=record.signature_header,
            error=DeliveryError.of(record),
        )


@strawberry.type(description="One message to one recipient, as it is now. Needs VIEWER, or the person's own session.")
class Delivery(Node):
    batch_id: strawberry.ID | None = strawberry.field(
        description="Of the send or replay that made it: a filter for deliveries and deliveryUpdates."
    )
    channel: Channel = strawberry.field(description="How it leaves.")
    status: DeliveryStatus = strawberry.field(description="Where it stands.")
    suppressed_reason: SuppressedReason | None = strawberry.field(description="Only while SUPPRESSED.")
    user_id: str | None = strawberry.field(description="The person it is for; null for a bare address or a webhook.")
    recipient: str | None = strawberry.field(
        description="The email address, or the phone number in E.164; null for push and webhooks."
    )
    variant: str | None = strawberry.field(description="Name of the variant that was chosen; kept by every retry.")
    locale: str | None = strawberry.field(description="BCP 47 tag of the text that was chosen; null for the default.")
    error: DeliveryError | None = strawberry.field(description="Of the last attempt, or why none was made.")
    attempt_count: int = strawberry.field(description="Attempts begun so far, those before a replay included.")
    created_at: datetime = strawberry.field(description="When it was made.")
    scheduled_for: datetime | None = strawberry.field(description="It is not sent before.")
    next_attempt_at: datetime | None = strawberry.field(
        description="When it is due; null when there is nothing more to do, and while SENDING."
    )
    sent_at: datetime | None = strawberry.field(description="When the provider took it.")
    delivered_at: datetime | None = strawberry.field(description="When the receiver had it.")
    opened_at: datetime | None = strawberry.field(description="When it was first opened.")
    clicked_at: datetime | None = strawberry.field(description="When it was first clicked.")
    finished_at: datetime | None = strawberry.field(
        description="When there was nothing more to do; null before, and again while a replay runs."
    )
    record: strawberry.Private[DeliveryRecord]

    @strawberry.field(
        description=(
            "What was sent, after templates, variant and locale were resolved; before that, what was asked for. "
            "Signing secrets and header values are left out. Needs VIEWER, or the person's own session."
        )
    )
    def payload(self) -> JSON:
        return JSON(resolve.shown_payload(self.record))

    @strawberry.field(description="The person it is for, as known now. Needs VIEWER, or the person's own session.")
    async def profile(self, info: Info) -> Annotated[Profile, strawberry.lazy("schema.profile")] | None:
        return profiles.Profile.of_optional(await resolve.profile_of(info.context, record=self.record))

    @strawberry.field(description="The device it goes to; null without one. Needs VIEWER, or the person's own session.")
    async def push_token(self, info: Info) -> PushToken | None:
        return PushToken.of_optional(await push_token_of(info.context, record=self.record))

    @strawberry.field(
        description=(
            "The event it is about, or that caused it; null without one and once it is past retention. Needs VIEWER, "
            "or the person's own session."
        )
    )
    async def event(self, info: Info) -> Annotated[Event, strawberry.lazy("schema.event")] | None:
        found = await resolve.event_of(info.context, record=self.record)
        return None if found is None else events.Event.of(found.record, organization_id=found.organization_id)

    @strawberry.field(description="The run of a workflow that made it; null when none did. Needs VIEWER.")
    async def workflow_run(self, info: Info) -> Annotated[WorkflowRun, strawberry.lazy("schema.workflow_run")] | None:
        found = await workflow_runs.find_run(info.context, run_id=self.record.workflow_run_id)
        return runs.WorkflowRun.of_optional(found)

    @strawberry.field(
        description="The webhook endpoint that it goes to; null without one and once it is deleted. Needs VIEWER."
    )
    async def endpoint(
        self, info: Info
    ) -> Annotated[WebhookEndpoint, strawberry.lazy("schema.webhook_endpoint")] | None:
        found = await webhooks.endpoint_of(info.context, endpoint_id=self.record.endpoint_id)
        return webhook_endpoints.WebhookEndpoint.of_optional(found)

    @strawberry.field(description="What was tried, oldest first. Needs VIEWER.")
    async def attempts(self, info: Info) -> list[DeliveryAttempt]:
        return [DeliveryAttempt.of(each) for each in await resolve.attempts_of(info.context, record=self.record)]

    @staticmethod
    def of(record: DeliveryRecord) -> Delivery:
        reason = record.suppressed_reason
        return Delivery(
            id=strawberry.ID(write_node_id(NodeKind.DELIVERY, record.delivery_id)),
            batch_id=None if record.batch_id is None else batch_node_id(record.batch_id),
            channel=Channel(record.channel),
            status=DeliveryStatus(record.status),
            suppressed_reason=None if reason is None else SuppressedReason(reason),
            user_id=record.user_id,
            recipient=record.recipient,
            variant=record.variant,
            locale=record.locale,
            error=DeliveryError.of(record),
            attempt_count=record.attempt_count,
            created_at=record.created_at,
            scheduled_for=record.scheduled_for,
            next_attempt_at=record.next_attempt_at,
            sent_at=record.sent_at,
            delivered_at=record.delivered_at,
            opened_at=record.opened_at,
            clicked_at=record.clicked_at,
            finished_at=record.finished_at,
            record=record,
        )


def batch_node_id(batch_id: UUID) -> strawberry.ID:
    """The id of a send or replay."""
    return strawberry.ID(write_node_id(NodeKind.BATCH, batch_id))


# Last, because a delivery leads to its person and a person to their deliveries: each module names the other's types.
import schema.event as events  # noqa: E402
import schema.profile as profiles  # noqa: E402
import schema.webhook_endpoint as webhook_endpoints  # noqa: E402
import schema.workflow_run as runs  # noqa: E402
