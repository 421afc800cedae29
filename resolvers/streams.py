"""Live sources: what a subscription follows, and for whom the work may be shared."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from engine.identity import Role
from engine.live.cohorts import StreamItem
from engine.live.streams import EventSource
from resolvers.context import Context
from resolvers.filters import STREAM_ROOTS, EventFilterArguments, read_event_filter
from resolvers.permissions import require


async def follow_events(
    ctx: Context,
    *,
    event_filter: EventFilterArguments | None,
    after: str | None,
    converter: Callable[[UUID], Callable[[StreamItem], object]],
) -> EventSource:
    """The project's events that match, from just after a position, or from now.

    `converter`, given the organization, gives what makes an item's value.

    Two viewers of one audience see the same in every event: the project's, with the same role.
    """
    viewer = require(ctx, Role.VIEWER)
    return ctx.services.streams.events(
        viewer.project_id,
        event_filter=read_event_filter(event_filter, roots=STREAM_ROOTS),
        audience=(viewer.project_id, viewer.role),
        after=after,
        convert=converter(viewer.project.organization_id),
    )
