"""Push tokens: the devices that apps have registered."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import strawberry

from db.push_tokens import MAX_TOKENS_OF_USER, PushTokenFilter, PushTokenRecord
from engine.channels.push_message import PushEnvironment
from engine.node_ids import NodeKind, write_node_id
from engine.push.registration import Platform, Registration, WebPushKeys
from resolvers.paging import Page
from resolvers.push_tokens import RegisteredToken
from schema.descriptions import described_enum
from schema.errors import MutationPayload, user_errors
from schema.inputs import build_with
from schema.node import Node
from schema.paging import PageInfo, edges_of
from schema.scalars import Cursor
from schema.withheld import WITHHELD

described_enum(
    Platform,
    "What a device runs, and so who delivers to it.",
    IOS="Apple's push service.",
    ANDROID="Firebase Cloud Messaging.",
    WEB="The push service of the browser.",
)
described_enum(
    PushEnvironment,
    "Which of Apple's two services a token belongs to. Means nothing for Android and the web.",
    PRODUCTION="The App Store and TestFlight.",
    SANDBOX="Builds that Xcode installs.",
)

NEWEST_TOKENS = (
    f"The newest {MAX_TOKENS_OF_USER} devices, inactive ones included, newest first. Needs VIEWER, or the person's "
    "own session."
)


@strawberry.type(
    description=(
        "A device that gets pushes. Needs VIEWER, or the person's own session; INGEST sees what it has "
        "just said itself."
    )
)
class PushToken(Node):
    platform: Platform = strawberry.field(description="What the device runs.")
    environment: PushEnvironment = strawberry.field(
        description="As registered; where the other one took a push, that one."
    )
    user_id: str | None = strawberry.field(description="Whose device it is, once known. Up to 256 characters.")
    active: bool = strawberry.field(description="Whether anything is sent to it.")
    timezone: str | None = strawberry.field(description="IANA name; quiet hours go by it. UTC when null.")
    locale: str | None = strawberry.field(description="BCP 47 tag; localized texts go by it.")
    app_version: str | None = strawberry.field(description="As the app says. Up to 64 characters.")
    registered_at: datetime = strawberry.field(description="When it was last registered.")
    last_used_at: datetime | None = strawberry.field(description="When a push was last taken for it.")
    invalidated_reason: str | None = strawberry.field(
        description="Why it is inactive: the push service's own word, or UnregisteredByApp."
    )

    @staticmethod
    def of(record: PushTokenRecord, *, hidden: frozenset[str] = frozenset()) -> PushToken:
        """`hidden` names what the viewer may not see."""
        known: dict[str, Any] = {
            "platform": Platform(record.platform),
            "environment": PushEnvironment(record.environment),
            "user_id": record.user_id,
            "active": record.active,
            "timezone": record.timezone,
            "locale": record.locale,
            "app_version": record.app_version,
            "registered_at": record.registered_at,
            "last_used_at": record.last_used_at,
            "invalidated_reason": record.invalidated_reason,
        }
        return PushToken(
            id=strawberry.ID(write_node_id(NodeKind.PUSH_TOKEN, record.push_token_id)),
            **(known | dict.fromkeys(hidden, WITHHELD)),
        )

    @staticmethod
    def of_optional(record: PushTokenRecord | None) -> PushToken | None:
        return None if record is None else PushToken.of(record)


@strawberry.type(description="A device and its position in a list. Needs VIEWER, or the person's own session.")
class PushTokenEdge:
    cursor: Cursor = strawberry.field(description="Position in lists of push tokens.")
    node: PushToken = strawberry.field(description="The device.")


@strawberry.type(
    description=(
        "A page of devices, those first that were registered first most recently. Needs VIEWER, or the person's own "
        "session."
    )
)
class PushTokenConnection:
    edges: list[PushTokenEdge] = strawberry.field(description="Up to 100 devices.")
    page_info: PageInfo = strawberry.field(description="Where this page stands in the list.")

    @staticmethod
    def of(page: Page[PushTokenRecord]) -> PushTokenConnection:
        return PushTokenConnection(
            edges=edges_of(page, PushTokenEdge, PushToken.of),
            page_info=PageInfo.of(page),
        )


@strawberry.input(name="PushTokenFilter", description="All that is given must hold.")
class PushTokenFilterInput:
    user_id: str | None = strawberry.field(default=strawberry.UNSET, description="Devices of this person.")
    platforms: list[Platform] | None = strawberry.field(default=strawberry.UNSET, description="Any of these.")
    active: bool | None = strawberry.field(default=strawberry.UNSET, description="Only active, or only inactive ones.")


@strawberry.input(description="Of a browser's subscription, as PushSubscription.toJSON().keys gives them.")
class WebPushKeysInput:
    p256dh: str = strawberry.field(description="The browser's public key: 65 bytes as base64url.")
    auth: str = strawberry.field(description="The browser's secret: 16 bytes as base64url.")


@strawberry.input(description="What registerPushToken takes.")
class RegisterPushTokenInput:
    platform: Platform = strawberry.field(description="What the device runs.")
    token: str = strawberry.field(description="Hex for iOS, FCM token for Android, endpoint URL for the web.")
    web_push_keys: WebPushKeysInput | None = strawberry.field(
        default=strawberry.UNSET, description="Needed for the web, and only there."
    )
    environment: PushEnvironment | None = strawberry.field(
        default=PushEnvironment.PRODUCTION,
        description="Where an iOS token belongs. If Apple says otherwise, the other one is tried and kept.",
    )
    user_id: str | None = strawberry.field(
        default=strawberry.UNSET,
        description=(
            "Whose device it is. Another person than before takes it over. When absent, it stays with whom it was, "
            "unless the app has unregistered it since. 1 to 256 characters."
        ),
    )
    signature: str | None = strawberry.field(
        default=strawberry.UNSET,
        description=(
            "HMAC-SHA256 hex of userId under the project's identity secret; see ProjectSettings.requireSignedIdentity."
        ),
    )
    timezone: str | None = strawberry.field(
        default=strawberry.UNSET, description="IANA name, e.g. Europe/Berlin. Absent leaves what is known."
    )
    locale: str | None = strawberry.field(
        default=strawberry.UNSET, description="BCP 47 tag, e.g. pt-BR. Absent leaves what is known."
    )
    app_version: str | None = strawberry.field(
        default=strawberry.UNSET, description="1 to 64 characters. Absent leaves what is known."
    )


def _filter(value: dict[str, Any]) -> PushTokenFilter:
    platforms = value.get("platforms")
    return PushTokenFilter(
        user_id=value.get("userId"),
        platforms=None if platforms is None else tuple(platforms),
        active=value.get("active"),
    )


def _registration(value: dict[str, Any]) -> Registration:
    keys = value.get("webPushKeys")
    return Registration(
        platform=value["platform"],
        token=value["token"],
        web_push_keys=None if keys is None else WebPushKeys(p256dh=keys["p256dh"], auth=keys["auth"]),
        environment=value.get("environment") or PushEnvironment.PRODUCTION,
        user_id=value.get("userId"),
        signature=value.get("signature"),
        timezone=value.get("timezone"),
        locale=value.get("locale"),
        app_version=value.get("appVersion"),
    )


build_with(PushTokenFilterInput, _filter)
build_with(RegisterPushTokenInput, _registration)

TokenFilterArgument = Annotated[
    PushTokenFilter | None,
    strawberry.argument(
        name="filter", description="Which devices; all when absent.", graphql_type=PushTokenFilterInput | None
    ),
]
RegistrationArgument = Annotated[
    Registration,
    strawberry.argument(name="input", description="The device.", graphql_type=RegisterPushTokenInput),
]


@strawberry.type(description="A device after a change, or why nothing was. Needs INGEST, which sees what it said.")
class PushTokenPayload(MutationPayload):
    push_token: PushToken | None = strawberry.field(description="As it is now; null when nothing was changed.")
    warnings: list[str] = strawberry.field(
        description="What was accepted and will not work, with what to do: a token of Expo's, for instance."
    )

    @staticmethod
    def of(registered: RegisteredToken) -> PushTokenPayload:
        record = registered.record
        return PushTokenPayload(
            push_token=None if record is None else PushToken.of(record, hidden=registered.hidden),
            warnings=list(registered.warnings),
            user_errors=user_errors(registered.errors),
        )
