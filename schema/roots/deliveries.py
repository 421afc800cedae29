"""Root fields of deliveries."""

from __future__ import annotations

import strawberry


@strawberry.type
class DeliveriesQuery:
    pass


@strawberry.type
class DeliveriesMutation:
    pass


@strawberry.type
class DeliveriesSubscription:
    pass
