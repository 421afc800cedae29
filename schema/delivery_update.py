"""What happens to deliveries, step by step: the items of the deliveries lane."""

from __future__ import annotations

from datetime import datetime

import strawberry

from db.delivery_records import TransitionRecord
from engine.dispatch.values import DeliveryStatus
from engine.live.items import StreamItem
from resolvers import delivery_updates as resolve
from schema.delivery import Delivery, DeliveryAttempt
from schema.info import Info
from schema.scalars import Cursor


@strawberry.type(
    description=(
        "One transition of one delivery. from, to, at and attempt are as of then; delivery is its state now. "
        "Needs VIEWER, or the person's own session."
    )
)
class DeliveryUpdate:
    from_: DeliveryStatus | None = strawberry.field(
        name="from", description="Where it stood before. Null when it was made."
    )
    to: DeliveryStatus = strawberry.field(description="Where it stood after.")
    at: datetime = strawberry.field(description="When it happened.")
    transition: strawberry.Private[TransitionRecord]

    @strawberry.field(description="The delivery, as it is now.")
    async def delivery(self, info: Info) -> Delivery:
        return Delivery.of(await resolve.delivery_of(info.context, transition=self.transition))

    @strawberry.field(description="The attempt that led to it. Null where none did.")
    async def attempt(self, info: Info) -> DeliveryAttempt | None:
        found = await resolve.attempt_of(info.context, transition=self.transition)
        return None if found is None else DeliveryAttempt.of(found)

    @staticmethod
    def of(record: TransitionRecord) -> DeliveryUpdate:
        return DeliveryUpdate(
            from_=None if record.from_status is None else DeliveryStatus(record.from_status),
            to=DeliveryStatus(record.to_status),
            at=record.at,
            transition=record,
        )


@strawberry.type(
    description=("A transition and its position in the deliveries lane. Needs VIEWER, or the person's own session.")
)
class DeliveryUpdateEdge:
    cursor: Cursor = strawberry.field(description="Position of this transition: valid as `after` of deliveryUpdates.")
    node: DeliveryUpdate = strawberry.field(description="The transition.")


def update_edge(item: StreamItem[TransitionRecord]) -> DeliveryUpdateEdge:
    """A stream's item as its edge."""
    return DeliveryUpdateEdge(cursor=Cursor(item.cursor), node=DeliveryUpdate.of(item.record))
