"""What a caller has left."""

from __future__ import annotations

import strawberry

from engine.rate_limits import Standing


@strawberry.type(
    description="Points of cost, which operations and the items of streams take and time gives back. Needs INGEST."
)
class RateLimit:
    limit: int = strawberry.field(description="Points of a full bucket.")
    remaining: int = strawberry.field(
        description="Points left now, this operation paid for, on all gateways together; 0 while there is a debt."
    )
    restore_rate: int = strawberry.field(description="Points that come back in a second.")
    cost: int = strawberry.field(description="Points that this operation was charged before it ran.")

    @staticmethod
    def of(standing: Standing, cost: int) -> RateLimit:
        return RateLimit(
            limit=standing.limit, remaining=standing.remaining, restore_rate=standing.restore_rate, cost=cost
        )
