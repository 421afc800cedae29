"""Compiled decoders of hot input types: raw JSON in, the value that the resolver takes out, in one pass.

GraphQL's own coercion costs some 150 µs per event, this some 2. It accepts only what coercion accepts, and gives the
same value; for anything else it raises `ValueError`, and the ordinary path runs and words the error. What either path
lets through is judged by the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType

import msgspec

from resolvers.tracking import Claim, EventBatch
from schema.instants import Instant, in_utc
from schema.scalars import is_plain_json
from schema.submission import EMPTY, json_text, make_draft

ABSENT = msgspec.Raw(b"null")
"""JSON that is not there is as good as a null."""
NULL = b"null"


class _Event(msgspec.Struct, rename="camel", forbid_unknown_fields=True, gc=False):
    """EventInput, as it stands in JSON."""

    event_type: str
    id: str | None = None
    org_id: str | None = None
    project_id: str | None = None
    module: str | None = None
    timestamp: Instant | None = None
    user_id: str | None = None
    anonymous_id: str | None = None
    signature: str | None = None
    properties: msgspec.Raw = ABSENT
    context: msgspec.Raw = ABSENT
    traits: msgspec.Raw = ABSENT


class _Batch(msgspec.Struct, forbid_unknown_fields=True):
    """TrackBatchInput, as it stands in JSON."""

    events: list[_Event]


_decode = msgspec.json.Decoder(_Batch).decode
_decode_any = msgspec.json.Decoder().decode


def decode_track_batch(raw: bytes, /) -> EventBatch:
    """A TrackBatchInput."""
    try:
        return _batch(_decode(raw).events)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _batch(events: list[_Event]) -> EventBatch:
    return EventBatch(
        tuple(
            [
                make_draft(
                    event.event_type,
                    event.module,
                    event.id,
                    _utc(event.timestamp),
                    event.user_id,
                    event.anonymous_id,
                    _text(event.properties) or EMPTY,
                    _text(event.context) or EMPTY,
                    _text(event.traits),
                )
                for event in events
            ]
        ),
        tuple(
            [
                Claim(index, event.org_id, event.project_id, event.signature)
                for index, event in enumerate(events)
                if event.org_id is not None or event.project_id is not None or event.signature is not None
            ]
        ),
    )


def _text(json: msgspec.Raw) -> bytes | None:
    """The client's own text where it is plain; else written anew from its value, as ordinary coercion does."""
    text = bytes(json)
    if text == NULL:
        return None
    return text if is_plain_json(text) else json_text(_decode_any(text))


def _utc(instant: datetime | None) -> datetime | None:
    return None if instant is None else in_utc(instant)


DECODERS: Mapping[str, Callable[[bytes], object]] = MappingProxyType({"TrackBatchInput": decode_track_batch})
"""By name of GraphQL input type. Each raises `ValueError` for whatever it does not like."""
