"""Frozen rows of deliveries, their attempts and their lane of the log. JSON columns are the JSON text itself."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from db.records import HeadRecord


class NewDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery to insert. `content` is JSON text; its shape is the channel's (engine/dispatch/values.py).

    `next_attempt_at` is set when it is QUEUED or SCHEDULED, and None when it is SUPPRESSED or FAILED from the start.
    """

    delivery_id: UUID
    channel: str
    status: str
    dispatch_key: str
    content: str
    retry_schedule: tuple[int, ...]
    created_at: datetime
    next_attempt_at: datetime | None = None
    scheduled_for: datetime | None = None
    finished_at: datetime | None = None
    suppressed_reason: str | None = None
    batch_id: UUID | None = None
    user_id: str | None = None
    workflow_id: UUID | None = None
    workflow_run_id: UUID | None = None
    workflow_step_number: int | None = None
    event_seq: int | None = None
    event_type: str | None = None
    endpoint_id: UUID | None = None
    push_token_id: UUID | None = None
    owner_generation: int | None = None
    recipient: str | None = None
    variant: str | None = None
    locale: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    error_permanent: bool | None = None
    error_hint: str | None = None
    depth: int = 0


class DeliveryRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery as it is now. `payload` is what was sent, None until it is resolved."""

    project_id: UUID
    delivery_id: UUID
    batch_id: UUID | None
    channel: str
    status: str
    suppressed_reason: str | None
    user_id: str | None
    workflow_id: UUID | None
    workflow_run_id: UUID | None
    event_seq: int | None
    event_type: str | None
    endpoint_id: UUID | None
    push_token_id: UUID | None
    owner_generation: int | None
    recipient: str | None
    dispatch_key: str
    content: msgspec.Raw
    payload: msgspec.Raw | None
    variant: str | None
    locale: str | None
    error_code: str | None
    error_message: str | None
    error_permanent: bool | None
    error_hint: str | None
    attempt_count: int
    retry_schedule: tuple[int, ...]
    schedule_offset: int
    provider_message_id: str | None
    depth: int
    created_at: datetime
    scheduled_for: datetime | None
    next_attempt_at: datetime | None
    sent_at: datetime | None
    delivered_at: datetime | None
    opened_at: datetime | None
    clicked_at: datetime | None
    finished_at: datetime | None
    repeatable: bool
    workflow_step_number: int | None


class AttemptRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt. `response_body` is at most 4 KiB; `signature_header` the line that was sent, for webhooks."""

    project_id: UUID
    delivery_id: UUID
    number: int
    at: datetime
    duration_ms: int
    status_code: int | None = None
    response_body: str | None = None
    signature_header: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    error_permanent: bool | None = None
    error_hint: str | None = None


class NewTransition(msgspec.Struct, frozen=True, kw_only=True):
    """An item for the deliveries lane. `from_status` is None when the delivery was made."""

    delivery_id: UUID
    from_status: str | None
    to_status: str
    channel: str
    created_at: datetime
    attempt_number: int | None = None
    batch_id: UUID | None = None
    user_id: str | None = None
    workflow_id: UUID | None = None
    workflow_run_id: UUID | None = None
    endpoint_id: UUID | None = None
    event_type: str | None = None
    error_code: str | None = None


class TransitionRecord(msgspec.Struct, frozen=True, array_like=True):
    """An item of the deliveries lane; travels in announcements. `created_at` is when the delivery was made."""

    project_id: UUID
    seq: int
    delivery_id: UUID
    from_status: str | None
    to_status: str
    at: datetime
    attempt_number: int | None
    batch_id: UUID | None
    channel: str
    user_id: str | None
    workflow_id: UUID | None
    workflow_run_id: UUID | None
    endpoint_id: UUID | None
    event_type: str | None
    error_code: str | None
    created_at: datetime


class TransitionPage(msgspec.Struct, frozen=True):
    """Matching transitions past a position, oldest first, read in one snapshot together with the head row.

    Every matching transition up to and including `reached` is in `transitions` or was in an earlier page.
    """

    transitions: tuple[TransitionRecord, ...]
    reached: int
    head: HeadRecord
