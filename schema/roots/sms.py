"""Root fields of sms."""

from __future__ import annotations

import strawberry


@strawberry.type
class SmsMutation:
    pass
