"""Which endpoints hear of which events: a follower of the log turns a page of events into deliveries.

Guarantees: every endpoint that is on gets one delivery for each event past the place where the log stood when it was
made or switched on, and whose type one of its patterns matches, under either name of an alias; never one about a
delivery that was given up, nor about an event so derived that it may start nothing more, which the log of the worker
says. Costs what its matches cost.
Leaves to others: exactly once, which comes from the follower's position (engine/workers/followers.py).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.delivery_records import NewDelivery
from db.filters import EventFilter
from db.projects import read_project
from db.records import EventRecord
from db.webhook_endpoints import WebhookSubscription, read_webhook_subscriptions
from engine.dispatch.ledger import MAX_DEPTH, create_deliveries
from engine.dispatch.values import Channel, DeliveryStatus, WebhookContent, host_key
from engine.filter_index import FilterIndex
from engine.filters import EVENT_MATCHING
from engine.taxonomy import expand_names
from engine.webhooks.bodies import event_body
from engine.work import Work, WorkKind
from engine.workers.followers import NOTHING, Reacted

if TYPE_CHECKING:
    import asyncpg

NAME = "webhooks"
"""Its position in the log is stored under this."""

NEVER_SENT = frozenset({"webhook.delivery_dead_lettered"})
"""A webhook about a webhook would go on for ever."""

Subscriptions: TypeAlias = tuple[WebhookSubscription, ...]
_Index: TypeAlias = FilterIndex[int, EventFilter, EventRecord]
"""By place in `Subscriptions`."""


class _Depth(msgspec.Struct):
    """Of an event's context: how many derived events lie between it and what a client sent."""

    depth: object = 0


_read_depth = msgspec.json.Decoder(_Depth).decode
_logger = logging.getLogger(__name__)


async def follow(
    connection: asyncpg.Connection, *, project_id: UUID, items: Sequence[EventRecord], now: datetime
) -> Reacted:
    """Make the deliveries that follow from a page of events, in their order. `now` is business time."""
    deliveries = await _deliveries(connection, project_id, items, now)
    if not deliveries:
        return NOTHING
    announcements = await create_deliveries(connection, project_id=project_id, deliveries=deliveries, now=now)
    return Reacted(announcements, (Work(WorkKind.DELIVERIES, project_id),))


def match_events(
    subscriptions: Subscriptions, events: Sequence[EventRecord]
) -> list[tuple[EventRecord, list[WebhookSubscription]]]:
    """Each event that somebody wants, with those who do, the oldest endpoint first. Pure."""
    if not subscriptions:
        return []
    index = _index(tuple(each.events for each in subscriptions))
    found = ((event, _wanted(index, subscriptions, event)) for event in events)
    return [(event, wanted) for event, wanted in found if wanted]


def depth_of(event: EventRecord) -> int:
    """0 for what a client sent: its context has no depth (`engine.events`)."""
    context = bytes(event.context)
    if b'"depth"' not in context:
        return 0
    depth = _read_depth(context).depth
    return depth if type(depth) is int and depth > 0 else 0


async def _deliveries(
    connection: asyncpg.Connection, project_id: UUID, events: Sequence[EventRecord], now: datetime
) -> list[NewDelivery]:
    subscriptions = await read_webhook_subscriptions(connection, project_id=project_id)
    matches = [match for match in match_events(subscriptions, events) if _may_start(match[0])]
    if not matches:
        return []
    project = await read_project(connection, project_id=project_id)
    if project is None:
        return []
    deliveries: list[NewDelivery] = []
    for event, wanted in matches:
        event_id, body = event_body(event, organization_id=project.organization_id)
        content = msgspec.json.encode(WebhookContent(event_id=event_id, body=body)).decode()
        deliveries += [_delivery(event, subscription, content, now) for subscription in wanted]
    return deliveries


def _wanted(index: _Index, subscriptions: Subscriptions, event: EventRecord) -> list[WebhookSubscription]:
    found = (subscriptions[place] for place in index.match(event))
    matched = [subscription for subscription in found if event.seq > subscription.after_seq]
    return matched if event.event_type not in NEVER_SENT else []


def _may_start(event: EventRecord) -> bool:
    """Asked of what somebody wants, so that the log says what was not made."""
    if depth_of(event) <= MAX_DEPTH:
        return True
    _logger.info("webhook.too_deep", extra={"project_id": str(event.project_id), "seq": event.seq})
    return False


@lru_cache(maxsize=256)
def _index(patterns: tuple[tuple[str, ...], ...]) -> _Index:
    """Kept for the pages that follow: endpoints change seldom, and an index is only read."""
    index: _Index = FilterIndex(EVENT_MATCHING)
    for place, names in enumerate(patterns):
        index.add(place, EventFilter(event_types=expand_names(names)))
    return index


def _delivery(event: EventRecord, subscription: WebhookSubscription, content: str, now: datetime) -> NewDelivery:
    return NewDelivery(
        delivery_id=uuid7(),
        channel=Channel.WEBHOOK,
        status=DeliveryStatus.QUEUED,
        dispatch_key=host_key(subscription.url),
        content=content,
        retry_schedule=subscription.retry_schedule,
        created_at=now,
        next_attempt_at=now,
        event_seq=event.seq,
        event_type=event.event_type,
        endpoint_id=subscription.endpoint_id,
        depth=depth_of(event),
    )
