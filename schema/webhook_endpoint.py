"""Webhook endpoints: where a project's events go, and what they are signed with."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import strawberry

from db.webhook_endpoints import WebhookEndpointRecord, WebhookSecretRecord
from engine.node_ids import NodeKind, write_node_id
from engine.webhooks.endpoints import (
    MAX_DESCRIPTION_CHARACTERS,
    MAX_PATTERNS,
    MAX_RETRIES,
    MAX_RETRY_SECONDS,
    WebhookChange,
)
from engine.webhooks.samples import SampleWebhook
from engine.webhooks.signing import SignatureScheme
from resolvers import deliveries
from resolvers import webhooks as resolve
from resolvers.paging import Page, PageArguments
from schema.delivery_filter import DeliveryFilterArgument
from schema.descriptions import described_enum
from schema.errors import MutationPayload, user_errors
from schema.info import Info
from schema.inputs import keep_mapping
from schema.node import Node
from schema.paging import After, First, PageInfo, edges_of
from schema.scalars import Cursor

if TYPE_CHECKING:
    from schema.delivery import Delivery
    from schema.delivery_list import DeliveryConnection

described_enum(
    SignatureScheme,
    (
        "Format of X-Sendora-Signature. Every delivery carries besides: X-Sendora-Timestamp, X-Sendora-Event-Id, "
        "Sendora-Signature: t=<unix>,v1=<hex>[,v1=<hex>], X-Sendora-Signature-256: sha256=<hex>, and the Standard "
        "Webhooks headers webhook-id, webhook-timestamp, webhook-signature. All are made anew for every attempt; the "
        "event id stays. While two secrets are active, what has room for one signature is made with the older one."
    ),
    HEX="<hex of body>",
    SHA256_PREFIXED="sha256=<hex of body>",
    STRIPE="t=<unix>,v1=<hex of t.body>, one v1 per active secret",
)


@strawberry.type(
    description="A secret that an endpoint's deliveries are signed with; not the secret itself. Needs VIEWER."
)
class WebhookSecret:
    id: strawberry.ID = strawberry.field(description="For retireWebhookSecret.")
    hint: str = strawberry.field(description="How it begins and ends: enough to tell it from another.")
    created_at: datetime = strawberry.field(description="When it was made.")
    expires_at: datetime | None = strawberry.field(
        description="Until when it signs, once there is a newer one; null for the newest."
    )

    @staticmethod
    def of(record: WebhookSecretRecord) -> WebhookSecret:
        return WebhookSecret(
            id=strawberry.ID(write_node_id(NodeKind.WEBHOOK_SECRET, record.secret_id)),
            hint=record.hint,
            created_at=record.created_at,
            expires_at=record.expires_at,
        )


@strawberry.type(description="A URL of the customer's that events are sent to. Needs VIEWER.")
class WebhookEndpoint(Node):
    url: str = strawberry.field(description="Where to.")
    description: str | None = strawberry.field(description="For people.")
    events: list[str] = strawberry.field(description="Which: exact types or wildcards, as in EventFilter.eventTypes.")
    enabled: bool = strawberry.field(description="Whether anything is sent.")
    signature_scheme: SignatureScheme = strawberry.field(description="Format of X-Sendora-Signature.")
    retry_schedule: list[int] = strawberry.field(
        description="Seconds to wait before attempt 2, 3, …; by default [2, 8, 30, 90, 1670]."
    )
    allow_plain_http: bool = strawberry.field(description="Whether its url may be http.")
    created_at: datetime = strawberry.field(description="When it was made: it is sent what was stored after.")
    disabled_reason: str | None = strawberry.field(
        description="Why it was switched off by itself: 410 was answered, or nothing accepted for five days."
    )
    record: strawberry.Private[WebhookEndpointRecord]

    @strawberry.field(description="The one or two secrets that sign now, the older one first.")
    def secrets(self, info: Info) -> list[WebhookSecret]:
        return [WebhookSecret.of(each) for each in resolve.secrets_of(info.context, record=self.record)]

    @strawberry.field(description="What was sent to it, newest first. Needs VIEWER.")
    async def deliveries(
        self,
        info: Info,
        first: First = 20,
        after: After = None,
        delivery_filter: DeliveryFilterArgument = None,
    ) -> Annotated[DeliveryConnection, strawberry.lazy("schema.delivery_list")]:
        listed = await deliveries.list_of_endpoint(
            info.context,
            endpoint_id=self.record.endpoint_id,
            arguments=PageArguments(first=first, after=after),
            delivery_filter=delivery_filter,
        )
        return delivery_lists.DeliveryConnection.of(listed)

    @staticmethod
    def of(record: WebhookEndpointRecord) -> WebhookEndpoint:
        return WebhookEndpoint(
            id=strawberry.ID(write_node_id(NodeKind.WEBHOOK_ENDPOINT, record.endpoint_id)),
            url=record.url,
            description=record.description,
            events=list(record.events),
            enabled=record.enabled,
            signature_scheme=SignatureScheme(record.signature_scheme),
            retry_schedule=list(record.retry_schedule),
            allow_plain_http=record.allow_plain_http,
            created_at=record.created_at,
            disabled_reason=record.disabled_reason,
            record=record,
        )

    @staticmethod
    def of_optional(record: WebhookEndpointRecord | None) -> WebhookEndpoint | None:
        return None if record is None else WebhookEndpoint.of(record)


@strawberry.type(description="An endpoint and its position in a list. Needs VIEWER.")
class WebhookEndpointEdge:
    cursor: Cursor = strawberry.field(description="Position in lists of webhook endpoints.")
    node: WebhookEndpoint = strawberry.field(description="The endpoint.")


@strawberry.type(description="A page of endpoints, newest first. Needs VIEWER.")
class WebhookEndpointConnection:
    edges: list[WebhookEndpointEdge] = strawberry.field(description="Up to 100 endpoints.")
    page_info: PageInfo = strawberry.field(description="Where this page stands in the list.")

    @staticmethod
    def of(page: Page[WebhookEndpointRecord]) -> WebhookEndpointConnection:
        return WebhookEndpointConnection(
            edges=edges_of(page, WebhookEndpointEdge, WebhookEndpoint.of),
            page_info=PageInfo.of(page),
        )


@strawberry.input(
    description="With id, what is absent stays as it is and null clears it. Without, an endpoint is made."
)
class SaveWebhookEndpointInput:
    id: strawberry.ID | None = strawberry.field(default=strawberry.UNSET, description="Which to change.")
    url: str | None = strawberry.field(
        default=strawberry.UNSET,
        description=(
            "https, or http with allowPlainHttp; port 80, 443, 8080 or 8443; a public host. Needed when it is made."
        ),
    )
    description: str | None = strawberry.field(
        default=strawberry.UNSET, description=f"For people, at most {MAX_DESCRIPTION_CHARACTERS} characters."
    )
    events: list[str] | None = strawberry.field(
        default=strawberry.UNSET,
        description=(
            f"1 to {MAX_PATTERNS} exact types or wildcards: order.placed, push.*, *.failed, *. Needed when it is made."
        ),
    )
    enabled: bool | None = strawberry.field(
        default=strawberry.UNSET,
        description="True on create. Switched on again, it is sent what is stored from then on.",
    )
    signature_scheme: SignatureScheme | None = strawberry.field(default=strawberry.UNSET, description="HEX on create.")
    retry_schedule: list[int] | None = strawberry.field(
        default=strawberry.UNSET,
        description=(
            f"Seconds before attempt 2, 3, …: at most {MAX_RETRIES} waits of 1 to {MAX_RETRY_SECONDS}. Empty: one "
            "attempt only."
        ),
    )
    allow_plain_http: bool | None = strawberry.field(
        default=strawberry.UNSET,
        description="False on create. With it events travel unencrypted, for everybody on the way to read.",
    )


keep_mapping(SaveWebhookEndpointInput)

SaveWebhookEndpointArguments: TypeAlias = Mapping[str, Any]
"""The input as it was coerced."""


@strawberry.type(
    description=(
        "Outcome of saveWebhookEndpoint, rotateWebhookSecret and retireWebhookSecret. Needs EDITOR, or what its "
        "mutation says."
    )
)
class WebhookEndpointPayload(MutationPayload):
    endpoint: WebhookEndpoint | None = strawberry.field(description="As it is now; null when nothing was changed.")
    secret: str | None = strawberry.field(description="whsec_… and base64. Shown once: null unless it was just made.")

    @staticmethod
    def of(change: WebhookChange) -> WebhookEndpointPayload:
        return WebhookEndpointPayload(
            endpoint=WebhookEndpoint.of_optional(change.endpoint),
            secret=change.secret,
            user_errors=user_errors(change.errors),
        )


@strawberry.type(description="Outcome of sendTestWebhook. Needs EDITOR.")
class TestWebhookPayload(MutationPayload):
    delivery: Annotated[Delivery, strawberry.lazy("schema.delivery")] | None = strawberry.field(
        description="Queued; a worker sends it. Null when nothing was made."
    )
    secret: str | None = strawberry.field(
        description="What a delivery to a bare URL was signed with; null for an endpoint, which has its own."
    )

    @staticmethod
    def of(sample: SampleWebhook) -> TestWebhookPayload:
        return TestWebhookPayload(
            delivery=None if sample.delivery is None else delivery_types.Delivery.of(sample.delivery),
            secret=sample.secret,
            user_errors=user_errors(sample.errors),
        )


# Last, because an endpoint leads to its deliveries and a delivery to its endpoint: each module names the other's types.
import schema.delivery as delivery_types  # noqa: E402
import schema.delivery_list as delivery_lists  # noqa: E402
