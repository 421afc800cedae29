"""The types of events that a project knows."""

from __future__ import annotations

from datetime import datetime

import strawberry

from engine.taxonomy import CANONICAL
from resolvers.events import EventTypeEntry
from resolvers.paging import Page
from schema.paging import PageInfo, edges_of
from schema.scalars import BigInt, Cursor


@strawberry.type(
    description=(
        "A type of event: one of the canonical ones, or another that this project has stored. One entry per type and "
        "module. Needs VIEWER."
    )
)
class EventTypeInfo:
    event_type: str = strawberry.field(description="Dotted object.past_tense_verb, e.g. order.placed.")
    module: str = strawberry.field(description="The part of the product that the events are of.")
    canonical: bool = strawberry.field(description="Whether Sendora itself gives this type its meaning.")
    description: str | None = strawberry.field(description="What it means; canonical types have one.")
    count: BigInt = strawberry.field(description="How many were ever stored; 0 for a canonical type never seen.")
    last_seen_at: datetime | None = strawberry.field(
        description="Timestamp of the newest one, by seq; null when there never was one."
    )

    @staticmethod
    def of(entry: EventTypeEntry) -> EventTypeInfo:
        canonical = CANONICAL.get(entry.event_type)
        return EventTypeInfo(
            event_type=entry.event_type,
            module=entry.module,
            canonical=canonical is not None,
            description=canonical.description if canonical else None,
            count=BigInt(entry.seen.count if entry.seen else 0),
            last_seen_at=entry.seen.last_seen_at if entry.seen else None,
        )


@strawberry.type(description="A type of event and its position in the list. Needs VIEWER.")
class EventTypeInfoEdge:
    cursor: Cursor = strawberry.field(description="Position in this list.")
    node: EventTypeInfo = strawberry.field(description="The type of event.")


@strawberry.type(description="A page of types of events, by name and module. Needs VIEWER.")
class EventTypeInfoConnection:
    edges: list[EventTypeInfoEdge] = strawberry.field(description="Up to 100 types.")
    page_info: PageInfo = strawberry.field(description="Where this page stands in the list.")

    @staticmethod
    def of(page: Page[EventTypeEntry]) -> EventTypeInfoConnection:
        return EventTypeInfoConnection(
            edges=edges_of(page, EventTypeInfoEdge, EventTypeInfo.of),
            page_info=PageInfo.of(page),
        )
