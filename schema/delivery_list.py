"""Lists of deliveries."""

from __future__ import annotations

import strawberry

from resolvers.deliveries import ListedDeliveries
from resolvers.paging import Counter
from schema.delivery import Delivery
from schema.paging import TOTAL_COUNT, TOTAL_IS_CAPPED, PageInfo
from schema.scalars import Cursor


@strawberry.type(description="A delivery and its position in a list. Needs VIEWER.")
class DeliveryEdge:
    cursor: Cursor = strawberry.field(description="Position in lists of deliveries.")
    node: Delivery = strawberry.field(description="The delivery, as it is now.")


@strawberry.type(description="A page of deliveries, newest first. Needs VIEWER.")
class DeliveryConnection:
    edges: list[DeliveryEdge] = strawberry.field(description="Up to 100 deliveries.")
    page_info: PageInfo = strawberry.field(description="Where this page stands in the list.")
    counter: strawberry.Private[Counter]

    @strawberry.field(description=TOTAL_COUNT)
    async def total_count(self) -> int:
        return (await self.counter.count()).total

    @strawberry.field(description=TOTAL_IS_CAPPED)
    async def total_count_is_capped(self) -> bool:
        return (await self.counter.count()).is_capped

    @staticmethod
    def of(listed: ListedDeliveries) -> DeliveryConnection:
        page = listed.page
        return DeliveryConnection(
            edges=[
                DeliveryEdge(cursor=Cursor(cursor), node=Delivery.of(record))
                for record, cursor in zip(page.records, page.cursors, strict=True)
            ],
            page_info=PageInfo.of(page),
            counter=listed.counter,
        )
