"""Lists of events and the filters that lists and streams share."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import partial
from uuid import UUID

import strawberry

from db.records import EventRecord
from engine.live.items import StreamItem
from resolvers.events import ListedEvents
from schema.descriptions import described_enum
from schema.event import Event
from schema.paging import CountedConnection, PageInfo, edges_of
from schema.scalars import Cursor


class EventOrder(Enum):
    NEWEST_FIRST = "NEWEST_FIRST"
    OLDEST_FIRST = "OLDEST_FIRST"


described_enum(
    EventOrder,
    "The order of a list of events, by seq.",
    NEWEST_FIRST="The highest seq first.",
    OLDEST_FIRST="The lowest seq first.",
)


@strawberry.type(description="An event and its position in the log. Needs VIEWER, or the person's own session.")
class EventEdge:
    cursor: Cursor = strawberry.field(
        description="Position of this event: valid as `after` of its list and of eventStream."
    )
    node: Event = strawberry.field(description="The event.")


@strawberry.type(description="A page of events. Needs VIEWER, or the person's own session.")
class EventConnection(CountedConnection[EventEdge]):
    edges: list[EventEdge] = strawberry.field(description="Up to 100 events, in the list's order.")

    @staticmethod
    def of(listed: ListedEvents) -> EventConnection:
        page = listed.page
        return EventConnection(
            edges=edges_of(page, event_edge, partial(Event.of, organization_id=listed.organization_id)),
            page_info=PageInfo.of(page),
            counter=listed.counter,
        )


def event_edge(cursor: Cursor, node: Event) -> EventEdge:
    """An event at its position."""
    return EventEdge(cursor=cursor, node=node)


def edge_maker(organization_id: UUID) -> Callable[[StreamItem[EventRecord]], EventEdge]:
    """Gives what turns a stream's item into its edge."""

    def make(item: StreamItem[EventRecord]) -> EventEdge:
        return event_edge(Cursor(item.cursor), Event.of(item.record, organization_id=organization_id))

    return make
