"""Inbound endpoints: where other services send to."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
import strawberry

from engine.errors import UserError as EngineUserError
from engine.inbound.endpoints import MAX_ENDPOINTS, EndpointDraft
from engine.inbound.verifiers import InboundVerifier
from engine.node_ids import NodeKind, write_node_id
from resolvers.inbound import ShownEndpoint
from schema.descriptions import described_enum
from schema.errors import MutationPayload, user_errors
from schema.inputs import build_with
from schema.node import Node

described_enum(
    InboundVerifier,
    "Whose rules a request is checked by, and what makes a redelivery the same event.",
    STRIPE="Stripe-Signature, at most 300 s old. The same event by the id in its body.",
    GITHUB="X-Hub-Signature-256. The same event by X-GitHub-Delivery.",
    SLACK="X-Slack-Signature, within 300 s. The same event by the event_id in its body. url_verification is answered.",
    STANDARD_WEBHOOKS="webhook-signature, within 300 s; the secret is whsec_… The same event by webhook-id.",
    HMAC_SHA256=(
        "X-Signature-256 or X-Signature: HMAC-SHA256 of the body in hexadecimal, with sha256= before it or without. "
        "Nothing else is signed, so that the same body is the same event."
    ),
)


@strawberry.type(
    description=(
        "Accepts a provider's callbacks at url and stores each, once, as an event of module inbound, whose properties "
        "hold its body (JSON where it is JSON) and some headers. Up to 1 MiB; of what an event cannot hold, the "
        f"beginning is stored. At most {MAX_ENDPOINTS} per project. Needs VIEWER."
    )
)
class InboundEndpoint(Node):
    name: str = strawberry.field(description="For people, 1 to 100 characters.")
    verifier: InboundVerifier = strawberry.field(description="Whose rules requests are checked by.")
    url: str = strawberry.field(description="Where the other service is to send to, with POST.")
    event_type: str = strawberry.field(description="The type of the events that are stored.")
    created_at: datetime = strawberry.field(description="When it was made.")

    @staticmethod
    def of(shown: ShownEndpoint) -> InboundEndpoint:
        record = shown.record
        return InboundEndpoint(
            id=strawberry.ID(write_node_id(NodeKind.INBOUND_ENDPOINT, record.endpoint_id)),
            name=record.name,
            verifier=InboundVerifier(record.verifier),
            url=shown.url,
            event_type=record.event_type,
            created_at=record.created_at,
        )


@strawberry.input(
    description=(
        "Without id an endpoint is made, and all the rest is needed; with one, what is absent stays as it is. "
        "Nothing else than id may be null."
    )
)
class SaveInboundEndpointInput:
    id: strawberry.ID | None = strawberry.field(default=strawberry.UNSET, description="Node id of the one to change.")
    name: str | None = strawberry.field(default=strawberry.UNSET, description="For people, 1 to 100 characters.")
    verifier: InboundVerifier | None = strawberry.field(
        default=strawberry.UNSET, description="Whose rules requests are checked by."
    )
    secret: str | None = strawberry.field(
        default=strawberry.UNSET,
        description="As the other service shows it; never given out again. A new one replaces the old one at once.",
    )
    event_type: str | None = strawberry.field(
        default=strawberry.UNSET, description="The type of the events to store, e.g. stripe.event_received."
    )


class SaveInboundArguments(msgspec.Struct, frozen=True):
    """SaveInboundEndpointInput as it comes in."""

    node_id: str | None
    draft: EndpointDraft


_PARTS = ("name", "verifier", "secret", "eventType")


def _arguments(value: dict[str, Any]) -> SaveInboundArguments:
    verifier = value.get("verifier")
    draft = EndpointDraft(
        name=value.get("name"),
        verifier=None if verifier is None else InboundVerifier(verifier),
        secret=value.get("secret"),
        event_type=value.get("eventType"),
        cleared=tuple(name for name in _PARTS if name in value and value[name] is None),
    )
    return SaveInboundArguments(value.get("id"), draft)


build_with(SaveInboundEndpointInput, _arguments)


@strawberry.type(description="Outcome of saveInboundEndpoint. Needs ADMIN.")
class InboundEndpointPayload(MutationPayload):
    endpoint: InboundEndpoint | None = strawberry.field(description="As it is now; null when nothing was changed.")

    @staticmethod
    def of(shown: ShownEndpoint | None, errors: tuple[EngineUserError, ...]) -> InboundEndpointPayload:
        return InboundEndpointPayload(
            endpoint=InboundEndpoint.of(shown) if shown else None, user_errors=user_errors(errors)
        )
