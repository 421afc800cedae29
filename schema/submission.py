"""From what a client submits to the drafts that the log takes: one way, whether it came through GraphQL's own coercion
(a mapping with the names of GraphQL) or through a compiled decoder."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from engine.events import EventDraft
from resolvers.tracking import Claim, EventBatch
from schema.scalars import check_json_text

DEFAULT_MODULE = "analytics"
EMPTY = b"{}"
_encode = msgspec.json.Encoder().encode


def json_text(value: object) -> bytes:
    """A JSON value as compact text. Raises `ValueError` for what JSON, or this API, cannot hold."""
    try:
        text = _encode(value)
    except (UnicodeEncodeError, TypeError, RecursionError) as error:
        raise ValueError("not a JSON value") from error
    check_json_text(text, value)
    return text


def make_draft(
    event_type: str,
    module: str | None,
    key: str | None,
    timestamp: datetime | None,
    user_id: str | None,
    anonymous_id: str | None,
    properties: bytes,
    context: bytes,
    traits: bytes | None,
) -> EventDraft:
    """One draft; the last three are JSON text."""
    return EventDraft(
        event_type,
        DEFAULT_MODULE if module is None else module,
        key,
        timestamp,
        user_id,
        anonymous_id,
        properties,
        context,
        traits,
    )


def event_batch(value: Any) -> EventBatch:
    """A TrackBatchInput. What a compiled decoder has made already is taken as it is."""
    return value if isinstance(value, EventBatch) else batch_of(value["events"])


def single_event(value: Any) -> EventBatch:
    """A TrackInput."""
    return batch_of([value["event"]])


def batch_of(events: list[dict[str, Any]]) -> EventBatch:
    """Events as graphql-core has coerced them."""
    return EventBatch(
        tuple(_draft(event) for event in events),
        tuple(
            Claim(index, event.get("orgId"), event.get("projectId"), event.get("signature"))
            for index, event in enumerate(events)
            if any(event.get(name) is not None for name in ("orgId", "projectId", "signature"))
        ),
    )


def _draft(event: dict[str, Any]) -> EventDraft:
    return make_draft(
        event["eventType"],
        event.get("module"),
        event.get("id"),
        event.get("timestamp"),
        event.get("userId"),
        event.get("anonymousId"),
        _text_of(event, "properties") or EMPTY,
        _text_of(event, "context") or EMPTY,
        _text_of(event, "traits"),
    )


def _text_of(event: dict[str, Any], name: str) -> bytes | None:
    """A null is as good as an absent value."""
    value = event.get(name)
    return None if value is None else json_text(value)
