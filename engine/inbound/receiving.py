"""From a request that was believed to the event that it becomes.

Guarantees: a redelivery becomes the same event (`key`), which the log stores once; what the log cannot hold as JSON it
gets as text, and what is too large for an event it gets the beginning of, so that nothing that was signed is turned
away. Signatures are left out. Leaves to others: judging the request, reading it, bounded, and appending.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from db.inbound_endpoints import InboundEndpointRecord
from engine.errors import UserError
from engine.events import EventDraft, normalise
from engine.inbound.endpoints import MODULE
from engine.node_ids import NodeKind, write_node_id

MAX_JSON_BYTES = 60 * 1024
"""Of a body that is stored whole: with what is said around it, it fits into an event."""
MAX_TEXT_BYTES = 9 * 1024
"""Of the beginning of a larger one: in JSON each of its bytes may take six."""
MAX_HEADER_CHARACTERS = 256
KEPT_HEADERS = (
    "content-type",
    "user-agent",
    "webhook-id",
    "webhook-timestamp",
    "svix-id",
    "x-github-delivery",
    "x-github-event",
    "x-github-hook-id",
    "x-slack-retry-num",
    "x-slack-retry-reason",
)
"""What says something about a request and proves nothing."""


def event_key(endpoint: InboundEndpointRecord, event_id: str) -> str:
    """The same for a redelivery, another for every endpoint."""
    return f"{MODULE}:{endpoint.endpoint_id.hex}:{event_id}"


def make_draft(
    endpoint: InboundEndpointRecord, *, event_id: str, headers: Mapping[str, str], body: bytes
) -> EventDraft:
    """The event. The names of `headers` are in lower case."""
    around: dict[str, Any] = {
        "verifier": endpoint.verifier,
        "headers": {name: headers[name][:MAX_HEADER_CHARACTERS] for name in KEPT_HEADERS if name in headers},
    }
    if len(body) <= MAX_JSON_BYTES:
        whole = _draft(endpoint, event_id, {**around, "body": _body(body)})
        if not isinstance(normalise([whole], salt=b"")[0], UserError):
            return whole
    return _draft(endpoint, event_id, {**around, **_as_text(body)})


def _draft(endpoint: InboundEndpointRecord, event_id: str, properties: dict[str, Any]) -> EventDraft:
    node_id = write_node_id(NodeKind.INBOUND_ENDPOINT, endpoint.endpoint_id)
    return EventDraft(
        endpoint.event_type,
        MODULE,
        key=event_key(endpoint, event_id),
        properties=msgspec.json.encode(properties),
        context=msgspec.json.encode({"inboundEndpointId": node_id}),
    )


def _body(body: bytes) -> Any:
    """JSON as it came, anything else as text."""
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _text(body)
    return msgspec.Raw(body)


def _as_text(body: bytes) -> dict[str, Any]:
    """Its beginning, with what tells it from others that begin so."""
    said: dict[str, Any] = {"body": _text(body[:MAX_TEXT_BYTES])}
    if len(body) > MAX_TEXT_BYTES:
        said |= {"bodyIsTruncated": True, "bodyBytes": len(body), "bodySha256": hashlib.sha256(body).hexdigest()}
    return said


def _text(body: bytes) -> str:
    return body.decode("utf-8", "replace").replace("\0", "\ufffd")
