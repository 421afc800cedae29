"""The bodies of webhooks, made once and sent byte for byte at every attempt. Pure.

The shape is Standard Webhooks' (id, type, timestamp, data), `data` the event's envelope with the names of the GraphQL
type `Event`. Events larger than the 20 kB which that standard advises are sent whole: half an event is none.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from db.records import EventRecord
from engine.node_ids import write_event_id


class _Envelope(msgspec.Struct, frozen=True, rename="camel"):
    """An event, in the order of its GraphQL type. Ids of organization and project are UUIDs, as everywhere outside."""

    id: str
    seq: int
    org_id: UUID
    project_id: UUID
    key: str
    module: str
    event_type: str
    timestamp: datetime
    received_at: datetime
    user_id: str | None
    anonymous_id: str | None
    properties: msgspec.Raw
    context: msgspec.Raw


class _Body(msgspec.Struct, frozen=True):
    id: str
    type: str
    timestamp: datetime
    data: _Envelope


def event_body(event: EventRecord, *, organization_id: UUID) -> tuple[str, str]:
    """The event's id, which goes into `webhook-id`, and the body as JSON text: equal for equal events."""
    event_id = write_event_id(event.project_id, event.seq)
    return event_id, _write(
        _Envelope(
            event_id,
            event.seq,
            organization_id,
            event.project_id,
            event.key,
            event.module,
            event.event_type,
            event.timestamp,
            event.received_at,
            event.user_id,
            event.anonymous_id,
            event.properties,
            event.context,
        )
    )


def sample_body(
    event_type: str, *, test_id: UUID, organization_id: UUID, project_id: UUID, now: datetime
) -> tuple[str, str]:
    """The same for an event that never happened: `seq` is 0, and context says that it is a test."""
    event_id = f"test_{test_id.hex}"
    return event_id, _write(
        _Envelope(
            event_id,
            0,
            organization_id,
            project_id,
            event_id,
            event_type.partition(".")[0],
            event_type,
            now,
            now,
            "sample-user",
            None,
            msgspec.Raw(b'{"sample":true}'),
            msgspec.Raw(b'{"test":true}'),
        )
    )


def _write(data: _Envelope) -> str:
    return msgspec.json.encode(_Body(data.id, data.event_type, data.timestamp, data)).decode()
