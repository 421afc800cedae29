"""What the three push senders share: bounded answers, custom data as an object, and refusals that need no network."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from engine.channels.base import Answer, Rejected
from engine.channels.push_message import MAX_PAYLOAD_BYTES
from engine.dispatch.values import DeliveryError, PushNotification
from engine.node_ids import NodeKind, write_node_id

MAX_RETRY_AFTER = timedelta(days=1)
"""A provider that asks for more is asked again after this."""


def custom_data(delivery_id: UUID, notification: PushNotification) -> dict[str, Any]:
    """What the app is given besides the text, in the same words for all platforms: the keys of `data` (or `data`, when
    that is no object), then `deliveryId`, `url` and `imageUrl`, which win over keys of the same name."""
    data = notification.data
    custom = dict(data) if isinstance(data, dict) else {} if data is None else {"data": data}
    custom["deliveryId"] = write_node_id(NodeKind.DELIVERY, delivery_id)
    if notification.url is not None:
        custom["url"] = notification.url
    if notification.image_url is not None:
        custom["imageUrl"] = notification.image_url
    return custom


def too_large(size: int, limit: int = MAX_PAYLOAD_BYTES) -> Rejected:
    """Said before anything is sent."""
    return Rejected(
        error=DeliveryError(
            code="PayloadTooLarge",
            message=f"The payload has {size:,} bytes; at most {limit:,} are taken.",
            permanent=True,
            hint="Shorten the text or data: have the app load what is long.",
        )
    )


def read_retry_after(value: str | None) -> timedelta | None:
    """The seconds of a Retry-After header; None for its other form, an HTTP date, and for nonsense."""
    if value is None or not value.isascii() or not value.isdigit() or len(value) > 9:
        return None
    return min(timedelta(seconds=int(value)), MAX_RETRY_AFTER)


def http_answer(status: int, body: str) -> Answer:
    """For the delivery's log."""
    return Answer(status_code=status, response_body=body or None)
