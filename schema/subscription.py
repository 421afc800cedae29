"""What can be followed: one entry per root field."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, cast

import strawberry

from resolvers import streams
from schema.event_filter import FilterArgument
from schema.event_list import EventEdge, edge_maker
from schema.info import Info
from schema.roots.audiences import AudiencesSubscription
from schema.roots.deliveries import DeliveriesSubscription
from schema.roots.funnels import FunnelsSubscription
from schema.roots.workflow_runs import WorkflowRunsSubscription
from schema.scalars import Cursor


@strawberry.type(
    description=(
        "Live streams. With `after` a stream first replays what the log holds past that cursor, then goes on live, "
        "each item once and in order; without it, it starts at now. Keep-alives carry the stream's position too: as "
        "`id:` over SSE, as the payload of a ping over WebSocket. No item is lost to a slow client, a dropped socket, "
        "a Redis restart or a move to another gateway, as long as the client comes back with its last cursor."
    )
)
class Subscription(DeliveriesSubscription, WorkflowRunsSubscription, AudiencesSubscription, FunnelsSubscription):
    @strawberry.subscription(description="Events as they are stored. Needs VIEWER, or the person's own session.")
    async def event_stream(
        self,
        info: Info,
        event_filter: FilterArgument = None,
        after: Annotated[
            Cursor | None,
            strawberry.argument(
                description="Start just after this: a cursor of this stream, of a list of events, or Project.head."
            ),
        ] = None,
    ) -> AsyncGenerator[EventEdge | None, None]:
        source = await streams.follow_events(info.context, event_filter=event_filter, after=after, converter=edge_maker)
        return cast("AsyncGenerator[EventEdge | None, None]", source)
