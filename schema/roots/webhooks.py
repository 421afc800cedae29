"""Root fields of webhooks."""

from __future__ import annotations

import strawberry


@strawberry.type
class WebhooksQuery:
    pass


@strawberry.type
class WebhooksMutation:
    pass
