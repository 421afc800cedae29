"""Providers: a project's accounts with push services, mail relays, carriers and models."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import strawberry

from engine.errors import UserError as EngineUserError
from engine.node_ids import NodeKind, write_node_id
from engine.providers.configuring import ShownProvider
from engine.providers.values import ProviderKind
from schema.descriptions import described_enum
from schema.errors import MutationPayload, user_errors
from schema.inputs import keep_mapping
from schema.node import Node
from schema.scalars import JSON

described_enum(
    ProviderKind,
    "Whose account it is. A project has at most one of each kind.",
    APNS=(
        "Apple: pushes to iOS, and Live Activities. Settings keyId, teamId, bundleId; productionUrl, sandboxUrl and "
        "caCertificate (PEM) where they are not Apple's. Secrets privateKey: the text of the .p8 file."
    ),
    FCM=(
        "Firebase Cloud Messaging: pushes to Android. Settings endpoint where it is not Google's. Secrets "
        "serviceAccount: its JSON, as an object or as the text of its file."
    ),
    WEB_PUSH=(
        "Pushes to browsers. Settings subject: a mailto: or https: URL at which you can be reached; this "
        "deployment's when absent. The keys are made by the server; deleting this makes all subscriptions of browsers "
        "void."
    ),
    SMTP=("A mail relay. Settings host, port, security (STARTTLS, TLS or NONE), username, from. Secrets password."),
    RESEND=(
        "Resend: email over HTTP. Settings from; baseUrl where it is not Resend's. Secrets apiKey, and webhookSecret "
        "for its callbacks (whsec_…)."
    ),
    TWILIO=(
        "Twilio: text messages. Settings accountSid, from (a number, short code or name) or messagingServiceSid; "
        "baseUrl where it is not Twilio's. Secrets authToken."
    ),
    OLLAMA="A model that writes text. Settings baseUrl, model. Secrets apiKey.",
)


@strawberry.type(description="An account with a provider. Credentials go in and never come out. Needs VIEWER.")
class Provider(Node):
    kind: ProviderKind = strawberry.field(description="Whose account it is.")
    configured: bool = strawberry.field(description="Whether everything that sending needs is there.")
    settings: JSON = strawberry.field(description="What is not secret, with the names of configureProvider.")
    updated_at: datetime = strawberry.field(description="When settings or secrets were last changed.")
    last_error: str | None = strawberry.field(
        description="What the provider last refused the whole account for; null once it works or was changed."
    )
    callback_url: str | None = strawberry.field(
        description=(
            "Where the provider is to report what became of messages; to be entered in Resend's settings, given to "
            "Twilio with each message. Null for kinds that report nothing."
        )
    )

    @staticmethod
    def of(shown: ShownProvider) -> Provider:
        return Provider(
            id=strawberry.ID(write_node_id(NodeKind.PROVIDER, shown.provider_id)),
            kind=shown.kind,
            configured=shown.is_configured,
            settings=JSON(shown.settings),
            updated_at=shown.updated_at,
            last_error=shown.last_error,
            callback_url=shown.callback_url,
        )


@strawberry.input(
    description="Parts that are absent stay as they are, null clears one. ProviderKind says which parts a kind has."
)
class ConfigureProviderInput:
    kind: ProviderKind = strawberry.field(description="Whose account it is.")
    settings: JSON | None = strawberry.field(default=strawberry.UNSET, description="A JSON object; can be read back.")
    secrets: JSON | None = strawberry.field(
        default=strawberry.UNSET,
        description=(
            "A JSON object; never given out again. To be given again whenever the address they are sent to changes."
        ),
    )


keep_mapping(ConfigureProviderInput)


@strawberry.type(description="Outcome of configureProvider. Needs ADMIN.")
class ProviderPayload(MutationPayload):
    provider: Provider | None = strawberry.field(description="As it is now; null when nothing was changed.")

    @staticmethod
    def of(shown: ShownProvider | None, errors: tuple[EngineUserError, ...]) -> ProviderPayload:
        return ProviderPayload(provider=Provider.of(shown) if shown else None, user_errors=user_errors(errors))


ConfigureProviderArguments = dict[str, Any]
"""The input as it was coerced."""
