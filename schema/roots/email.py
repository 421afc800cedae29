"""Root fields of email."""

from __future__ import annotations

import strawberry


@strawberry.type
class EmailQuery:
    pass


@strawberry.type
class EmailMutation:
    pass
