"""Root fields of webhooks."""

from __future__ import annotations

from typing import Annotated

import strawberry

from engine.webhooks.endpoints import MAX_GRACE_SECONDS
from resolvers import webhooks
from resolvers.paging import PageArguments
from schema.head_first import reading
from schema.info import Info
from schema.paging import After, First
from schema.send_payloads import DeletePayload
from schema.webhook_endpoint import (
    SaveWebhookEndpointArguments,
    SaveWebhookEndpointInput,
    TestWebhookPayload,
    WebhookEndpointConnection,
    WebhookEndpointPayload,
)

EndpointArgument = Annotated[strawberry.ID, strawberry.argument(description="Node id of the endpoint.")]


@strawberry.type
class WebhooksQuery:
    @strawberry.field(description="Where events are sent to, newest first. Needs VIEWER.")
    async def webhook_endpoints(
        self, info: Info, first: First = None, after: After = None
    ) -> WebhookEndpointConnection | None:
        ctx = await reading(info)
        page = await webhooks.list_webhook_endpoints(ctx, arguments=PageArguments(first, after))
        return WebhookEndpointConnection.of(page)


@strawberry.type
class WebhooksMutation:
    @strawberry.mutation(
        description=(
            "Make or change an endpoint. Its first secret is shown once, to whoever makes it. A url that may not be "
            "called is BLOCKED_URL. Needs EDITOR."
        )
    )
    async def save_webhook_endpoint(
        self,
        info: Info,
        given: Annotated[
            SaveWebhookEndpointArguments,
            strawberry.argument(name="input", description="The endpoint.", graphql_type=SaveWebhookEndpointInput),
        ],
    ) -> WebhookEndpointPayload | None:
        return WebhookEndpointPayload.of(await webhooks.save_webhook_endpoint(info.context, given=given))

    @strawberry.mutation(
        description="Forget an endpoint and its secrets; what still waits for it then fails. Needs EDITOR."
    )
    async def delete_webhook_endpoint(self, info: Info, id: EndpointArgument) -> DeletePayload | None:  # noqa: A002
        return DeletePayload.of(*await webhooks.delete(info.context, node_id=id))

    @strawberry.mutation(
        description=(
            "Adds a second active secret; the old one keeps signing until graceSeconds have passed. At most two are "
            "active. Needs ADMIN."
        )
    )
    async def rotate_webhook_secret(
        self,
        info: Info,
        id: EndpointArgument,  # noqa: A002
        grace_seconds: Annotated[
            int | None,
            strawberry.argument(description=f"0 to {MAX_GRACE_SECONDS}; 0 ends the old one at once."),
        ] = 86400,
    ) -> WebhookEndpointPayload | None:
        grace = 86400 if grace_seconds is None else grace_seconds
        return WebhookEndpointPayload.of(
            await webhooks.rotate_webhook_secret(info.context, node_id=id, grace_seconds=grace)
        )

    @strawberry.mutation(description="Ends an old secret before its grace is over; never the newest. Needs ADMIN.")
    async def retire_webhook_secret(
        self,
        info: Info,
        endpoint_id: EndpointArgument,
        secret_id: Annotated[strawberry.ID, strawberry.argument(description="As in WebhookSecret.id.")],
    ) -> WebhookEndpointPayload | None:
        return WebhookEndpointPayload.of(
            await webhooks.retire_webhook_secret(info.context, node_id=endpoint_id, secret_node_id=secret_id)
        )

    @strawberry.mutation(
        description=(
            "Send a sample event to an endpoint, or to any allowed URL, with a secret made for it. It is queued, and "
            "then a delivery like any other. Needs EDITOR."
        )
    )
    async def send_test_webhook(
        self,
        info: Info,
        event_type: Annotated[
            str, strawberry.argument(description="A canonical type, or one that the project has stored.")
        ],
        endpoint_id: Annotated[
            strawberry.ID | None, strawberry.argument(description="Node id of an endpoint that is on.")
        ] = None,
        url: Annotated[str | None, strawberry.argument(description="Instead of endpointId: an https URL.")] = None,
    ) -> TestWebhookPayload | None:
        return TestWebhookPayload.of(
            await webhooks.send_test_webhook(info.context, node_id=endpoint_id, url=url, event_type=event_type)
        )
