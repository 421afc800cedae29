"""Root fields of push."""

from __future__ import annotations

import strawberry


@strawberry.type
class PushQuery:
    pass


@strawberry.type
class PushMutation:
    pass
