"""Lists of deliveries."""

from __future__ import annotations

import strawberry

from db.delivery_records import DeliveryRecord
from resolvers.paging import Listed
from schema.delivery import Delivery
from schema.paging import CountedConnection, PageInfo, edges_of
from schema.scalars import Cursor


@strawberry.type(description="A delivery and its position in a list. Needs VIEWER, or the person's own session.")
class DeliveryEdge:
    cursor: Cursor = strawberry.field(description="Position in lists of deliveries.")
    node: Delivery = strawberry.field(description="The delivery, as it is now.")


@strawberry.type(description="A page of deliveries, newest first. Needs VIEWER, or the person's own session.")
class DeliveryConnection(CountedConnection[DeliveryEdge]):
    edges: list[DeliveryEdge] = strawberry.field(description="Up to 100 deliveries.")

    @staticmethod
    def of(listed: Listed[DeliveryRecord]) -> DeliveryConnection:
        page = listed.page
        return DeliveryConnection(
            edges=edges_of(page, DeliveryEdge, Delivery.of),
            page_info=PageInfo.of(page),
            counter=listed.counter,
        )
