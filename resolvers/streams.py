"""Live sources: what a subscription follows, and for whom the work may be shared."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

from db.audience_records import AudienceChangeRecord, AudienceFilter
from db.delivery_records import TransitionRecord
from db.records import EventRecord
from db.workflow_records import RunUpdateRecord
from engine.errors import NotFound
from engine.identity import Role, Viewer
from engine.lanes import AUDIENCES, DELIVERIES, EVENTS, RUNS, LaneKind
from engine.live.items import StreamItem
from engine.live.streams import StreamSource
from resolvers.audiences import audience_id_of, audience_of
from resolvers.context import Context
from resolvers.delivery_filters import DeliveryFilterArguments, read_delivery_filter
from resolvers.filters import STREAM_ROOTS, EventFilterArguments, read_event_filter
from resolvers.permissions import require
from resolvers.run_filters import RunFilterArguments, read_run_filter

R = TypeVar("R")
F = TypeVar("F")


async def follow_events(
    ctx: Context,
    *,
    event_filter: EventFilterArguments | None,
    after: str | None,
    converter: Callable[[UUID], Callable[[StreamItem[EventRecord]], object]],
) -> StreamSource:
    """The project's events that match, from just after a position, or from now.

    `converter`, given the organization, gives what makes an item's value.
    """
    viewer = require(ctx, Role.VIEWER, person=event_filter.user_id if event_filter else None)
    wanted = read_event_filter(event_filter, roots=STREAM_ROOTS)
    convert = converter(viewer.project.organization_id)
    return _follow(ctx, viewer, EVENTS, item_filter=wanted, after=after, convert=convert)


async def follow_deliveries(
    ctx: Context,
    *,
    delivery_filter: DeliveryFilterArguments | None,
    after: str | None,
    convert: Callable[[StreamItem[TransitionRecord]], object],
) -> StreamSource:
    """What happens to the project's deliveries that match, from just after a position, or from now."""
    viewer = require(ctx, Role.VIEWER, person=delivery_filter.user_id if delivery_filter else None)
    wanted = read_delivery_filter(delivery_filter)
    return _follow(ctx, viewer, DELIVERIES, item_filter=wanted, after=after, convert=convert)


async def follow_runs(
    ctx: Context,
    *,
    run_filter: RunFilterArguments | None,
    after: str | None,
    convert: Callable[[StreamItem[RunUpdateRecord]], object],
) -> StreamSource:
    """What happens to the project's runs that match, from just after a position, or from now."""
    viewer = require(ctx, Role.VIEWER)
    wanted = read_run_filter(run_filter)
    return _follow(ctx, viewer, RUNS, item_filter=wanted, after=after, convert=convert)


async def follow_audience(
    ctx: Context,
    *,
    audience_id: str,
    after: str | None,
    convert: Callable[[StreamItem[AudienceChangeRecord]], object],
) -> StreamSource:
    """Who comes to belong to an audience and who ceases to, from just after a position, or from now."""
    viewer = require(ctx, Role.VIEWER)
    found = await audience_of(ctx, audience_id=audience_id_of(audience_id))
    if found is None:
        raise NotFound("This project has no such audience.")
    return _follow(ctx, viewer, AUDIENCES, item_filter=AudienceFilter(found.audience_id), after=after, convert=convert)


def _follow(
    ctx: Context,
    viewer: Viewer,
    kind: LaneKind[R, F],
    *,
    item_filter: F,
    after: str | None,
    convert: Callable[[StreamItem[R]], object],
) -> StreamSource:
    """Two viewers of one audience see the same in every item: the project's, with the same role and, as sessions, of
    the same person; members reach further than keys."""
    person = None if viewer.session is None else viewer.session.user_id
    organization_wide = viewer.member is not None
    return ctx.services.streams.follow(
        kind,
        viewer.project_id,
        item_filter=item_filter,
        audience=(viewer.project_id, viewer.role, person, organization_wide),
        after=after,
        convert=convert,
    )
