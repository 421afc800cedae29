"""Root fields of deliveries."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Annotated, cast

import strawberry

from resolvers import deliveries as resolve
from resolvers import delivery_stats, streams
from resolvers.delivery_filters import DeliveryFilterArguments
from resolvers.paging import PageArguments
from schema.delivery_filter import DeliveryFilter, DeliveryFilterArgument
from schema.delivery_list import DeliveryConnection
from schema.delivery_stats import DeliveryHealth, DeliveryStats
from schema.delivery_update import DeliveryUpdateEdge, update_edge
from schema.head_first import reading
from schema.info import Info
from schema.paging import After, Before, First, Last
from schema.scalars import Cursor
from schema.send_payloads import DeliveryPayload, ReplayPayload

DeliveryId = Annotated[strawberry.ID, strawberry.argument(description="Node id of the delivery.")]


@strawberry.type
class DeliveriesQuery:
    @strawberry.field(
        description=("What was sent, or is to be sent, newest first. Needs VIEWER, or the person's own session.")
    )
    async def deliveries(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
        delivery_filter: DeliveryFilterArgument = None,
    ) -> DeliveryConnection | None:
        ctx = await reading(info)
        listed = await resolve.list_deliveries(
            ctx, arguments=PageArguments(first, after, last, before), delivery_filter=delivery_filter
        )
        return DeliveryConnection.of(listed)

    @strawberry.field(description="How deliveries fared that were made in a period. Needs VIEWER.")
    async def delivery_stats(
        self,
        info: Info,
        since: Annotated[
            datetime | None,
            strawberry.argument(description="Made then or later; by default 30 days before until, or before now."),
        ] = None,
        until: Annotated[
            datetime | None, strawberry.argument(description="Made before; by default, up to now.")
        ] = None,
        delivery_filter: DeliveryFilterArgument = None,
    ) -> DeliveryStats | None:
        ctx = await reading(info)
        found = await delivery_stats.read_stats(ctx, since=since, until=until, delivery_filter=delivery_filter)
        return DeliveryStats.of(found)

    @strawberry.field(description="What goes wrong most, and the last failures. Needs VIEWER.")
    async def delivery_health(
        self,
        info: Info,
        since: Annotated[
            datetime | None, strawberry.argument(description="Period of topReasons; by default the last 7 days.")
        ] = None,
    ) -> DeliveryHealth | None:
        ctx = await reading(info)
        return DeliveryHealth.of(await delivery_stats.read_health(ctx, since=since))


@strawberry.type
class DeliveriesMutation:
    @strawberry.mutation(
        description=(
            "End a delivery that was not sent: QUEUED, SCHEDULED or RETRYING becomes CANCELLED at once. "
            "One that is being sent or finished stays as it is: STATE. Needs EDITOR."
        )
    )
    async def cancel_delivery(self, info: Info, id: DeliveryId) -> DeliveryPayload | None:  # noqa: A002
        return DeliveryPayload.of(*await resolve.cancel_delivery(info.context, node_id=id))

    @strawberry.mutation(
        description=(
            "Send a finished delivery again, whatever became of it: it is QUEUED with its event id and a new batchId, "
            "its schedule of retries starts again, and consent, caps and quiet hours are asked again. "
            "One that is still on its way, or whose person was erased: STATE. Needs EDITOR."
        )
    )
    async def replay_delivery(self, info: Info, id: DeliveryId) -> DeliveryPayload | None:  # noqa: A002
        return DeliveryPayload.of(*await resolve.replay_delivery(info.context, node_id=id))

    @strawberry.mutation(
        description=(
            "Send again every finished delivery that the filter matches now; it must have at least one field. Without "
            "statuses that is FAILED, DEAD_LETTERED and UNCERTAIN. The set is fixed and counted at once; a large one "
            "is queued in chunks by workers, and what changes before its chunk is left as it is. Needs EDITOR."
        )
    )
    async def replay_deliveries(
        self,
        info: Info,
        delivery_filter: Annotated[
            DeliveryFilterArguments,
            strawberry.argument(name="filter", description="Which deliveries.", graphql_type=DeliveryFilter),
        ],
    ) -> ReplayPayload | None:
        return ReplayPayload.of(*await resolve.replay_deliveries(info.context, delivery_filter=delivery_filter))


@strawberry.type
class DeliveriesSubscription:
    @strawberry.subscription(
        description=(
            "What happens to deliveries, each step as it is stored, with the delivery as it is now. Needs VIEWER, or "
            "the person's own session."
        )
    )
    async def delivery_updates(
        self,
        info: Info,
        delivery_filter: DeliveryFilterArgument = None,
        after: Annotated[
            Cursor | None,
            strawberry.argument(description="Start just after this: a cursor of this stream, or Project.head."),
        ] = None,
    ) -> AsyncGenerator[DeliveryUpdateEdge | None, None]:
        source = await streams.follow_deliveries(
            info.context, delivery_filter=delivery_filter, after=after, convert=update_edge
        )
        return cast("AsyncGenerator[DeliveryUpdateEdge | None, None]", source)
