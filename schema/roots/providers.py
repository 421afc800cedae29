"""Root fields of providers."""

from __future__ import annotations

import strawberry


@strawberry.type
class ProvidersQuery:
    pass


@strawberry.type
class ProvidersMutation:
    pass
