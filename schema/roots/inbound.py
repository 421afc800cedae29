"""Root fields of inbound."""

from __future__ import annotations

import strawberry


@strawberry.type
class InboundQuery:
    pass


@strawberry.type
class InboundMutation:
    pass
