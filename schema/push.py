"""Sending pushes and Live Activities, and what devices report of them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import strawberry

from db.live_activities import LiveActivityRecord
from engine.dispatch.sending import MAX_RECIPIENTS
from engine.dispatch.values import LiveActivity, LocalizedPush, PushNotification, PushVariant
from engine.errors import UserError as EngineUserError
from engine.push.content import MAX_LOCALES, MAX_VARIANTS, PushPriority
from engine.push.interactions import PushInteraction
from engine.push.live_activities import ActivityAction, ActivityState
from engine.push.registration import ActivityRegistration
from resolvers.push_sends import SendActivityArguments, SendPushArguments
from schema.descriptions import TO_AUDIENCE, described_enum
from schema.errors import MutationPayload, user_errors
from schema.inputs import build_with, keep_mapping
from schema.scalars import JSON

described_enum(
    PushPriority,
    "How urgent a push is.",
    NORMAL="When it suits the device's battery.",
    HIGH="At once.",
)
described_enum(
    PushInteraction,
    "What somebody did with a push.",
    OPENED="Opened it: stamps openedAt and stores push.opened.",
    CLICKED="Chose an action of it: stamps clickedAt and stores push.clicked.",
    DISMISSED="Put it away: stores push.dismissed.",
)
described_enum(
    ActivityAction,
    "What is done to a Live Activity.",
    name="LiveActivityAction",
    START="Starts one on devices that registered a token for its type without an activityId.",
    UPDATE="Shows new content.",
    END="Ends it.",
)
described_enum(
    ActivityState,
    "Where a Live Activity stands on a device.",
    name="LiveActivityState",
    STARTABLE="A token that starts activities of the type.",
    STARTING="Started; the app has not registered the activity's own token yet.",
    ACTIVE="It runs and takes updates.",
    ENDED="It has ended.",
    INVALIDATED="Apple does not know its token any more.",
)

IDEMPOTENCY_KEY = (
    "The same key with the same input is answered with what was made the first time; with another input it is a "
    "CONFLICT. Up to 128 characters."
)
HIGH_BY_DEFAULT = "HIGH"
"""The schema's default of a priority. What a client gives is a `PushPriority`, even where it gives the same."""
USER_IDS = f"1 to {MAX_RECIPIENTS:,} people, each on all their active devices."


@strawberry.input(description="What a push says. At most 4,096 bytes as JSON.")
class PushContentInput:
    title: str = strawberry.field(description="The first line. Title or body may be empty, not both.")
    body: str = strawberry.field(description="The text.")
    data: JSON | None = strawberry.field(
        default=strawberry.UNSET, description="What the app is given besides; best a JSON object."
    )
    image_url: str | None = strawberry.field(
        default=strawberry.UNSET, description="A picture that the device loads. Up to 2,048 characters."
    )
    sound: str | None = strawberry.field(
        default=strawberry.UNSET, description="Name of a sound in the app, or default. Up to 128 characters."
    )
    badge: int | None = strawberry.field(
        default=strawberry.UNSET, description="The number on the app's icon, 0 to 99,999; 0 removes it."
    )
    collapse_id: str | None = strawberry.field(
        default=strawberry.UNSET, description="A later push with the same id replaces this one. Up to 64 bytes."
    )
    ttl_seconds: int | None = strawberry.field(
        default=strawberry.UNSET,
        description="How long the push service keeps it for a device that is off: 0 to 2,419,200 (28 days).",
    )
    priority: PushPriority | None = strawberry.field(
        default=HIGH_BY_DEFAULT,
        description="How urgent it is. A localized text that does not give it leaves that of the text under it.",
    )
    category: str | None = strawberry.field(
        default=strawberry.UNSET, description="Which of the app's sets of actions it has. Up to 128 characters."
    )
    thread_id: str | None = strawberry.field(
        default=strawberry.UNSET, description="Pushes with the same id are shown together. Up to 128 characters."
    )
    url: str | None = strawberry.field(
        default=strawberry.UNSET, description="What opening it leads to: a web page or a link into the app."
    )


@strawberry.input(description="One of several texts to try against each other.")
class VariantInput:
    name: str = strawberry.field(description="Unique in the send; see Delivery.variant. 1 to 200 characters.")
    weight: int = strawberry.field(
        description="0 to 10,000: how often it is chosen, relative to the others. A person always gets the same one."
    )
    push: PushContentInput = strawberry.field(description="The text.")


@strawberry.input(
    description=(
        "A text for one language. It is laid over the default text, or over the variant that was chosen: what it "
        "gives wins, what it leaves out stays."
    )
)
class LocalizedPushInput:
    locale: str = strawberry.field(
        description="BCP 47 tag. A device gets the exact tag, else its language, else the default; _ is as good as -."
    )
    push: PushContentInput = strawberry.field(description="The text.")


@strawberry.input(
    description=(
        "What sendPush takes. Who gets what is decided in this order: consent, devices, quiet hours, frequency caps, "
        "variant, locale; again when it is sent. Texts may take 64 KiB together."
    )
)
class SendPushInput:
    idempotency_key: str | None = strawberry.field(default=strawberry.UNSET, description=IDEMPOTENCY_KEY)
    user_ids: list[str] | None = strawberry.field(default=strawberry.UNSET, description=USER_IDS)
    audience_id: strawberry.ID | None = strawberry.field(
        default=strawberry.UNSET, description=f"Instead of userIds. {TO_AUDIENCE}"
    )
    push: PushContentInput | None = strawberry.field(
        default=strawberry.UNSET,
        description="The default text. Without it variants are needed, or localized, whose first is then the default.",
    )
    variants: list[VariantInput] | None = strawberry.field(
        default=strawberry.UNSET,
        description=f"Up to {MAX_VARIANTS}, in the place of the default text. See LocalizedPushInput for both at once.",
    )
    localized: list[LocalizedPushInput] | None = strawberry.field(
        default=strawberry.UNSET, description=f"Texts for up to {MAX_LOCALES} locales."
    )
    scheduled_for: datetime | None = strawberry.field(
        default=strawberry.UNSET, description="Not before; at most 366 days ahead. In the past: now."
    )
    ignore_quiet_hours: bool | None = strawberry.field(
        default=False, description="Send it whatever the hour: for what cannot wait."
    )


@strawberry.input(description="What trackPush takes.")
class TrackPushInput:
    delivery_id: strawberry.ID = strawberry.field(description="deliveryId of the push's data: Delivery.id.")
    interaction: PushInteraction = strawberry.field(description="What somebody did. Each counts once.")
    action_id: str | None = strawberry.field(
        default=strawberry.UNSET, description="The app's name of the action that was chosen. Up to 128 characters."
    )


@strawberry.input(description="What registerLiveActivityToken takes.")
class RegisterLiveActivityTokenInput:
    device_token: str = strawberry.field(description="The device's token, as registered with registerPushToken.")
    attributes_type: str = strawberry.field(
        description="Name of the type of the activity's attributes. 1 to 200 characters."
    )
    activity_id: str | None = strawberry.field(
        default=strawberry.UNSET,
        description="Your name of the activity that runs. Absent: the token starts activities of the type.",
    )
    token: str = strawberry.field(description="The activity's push token, or the push-to-start token, as hex.")


@strawberry.input(description="What sendLiveActivity takes. At most 4,096 bytes as JSON.")
class SendLiveActivityInput:
    idempotency_key: str | None = strawberry.field(default=strawberry.UNSET, description=IDEMPOTENCY_KEY)
    user_ids: list[str] | None = strawberry.field(default=strawberry.UNSET, description=USER_IDS)
    push_token_id: strawberry.ID | None = strawberry.field(
        default=strawberry.UNSET, description="Instead of userIds: one device."
    )
    action: ActivityAction = strawberry.field(description="What to do.")
    attributes_type: str = strawberry.field(description="Name of the type of the activity's attributes.")
    activity_id: str = strawberry.field(
        description="Your name of the activity: the app registers its token under it. 1 to 200 characters."
    )
    attributes: JSON | None = strawberry.field(
        default=strawberry.UNSET, description="What does not change while it runs; a JSON object. Needed to START."
    )
    content_state: JSON | None = strawberry.field(
        default=strawberry.UNSET, description="What it shows; a JSON object. Needed to START and UPDATE."
    )
    stale_date: datetime | None = strawberry.field(
        default=strawberry.UNSET, description="From when on the content is out of date."
    )
    dismissal_date: datetime | None = strawberry.field(
        default=strawberry.UNSET, description="When an ended activity disappears; by default Apple decides, within 4 h."
    )
    alert: PushContentInput | None = strawberry.field(
        default=strawberry.UNSET, description="Shown and sounded with the change. Needed to START."
    )


def _notification(value: dict[str, Any]) -> PushNotification:
    given = {name: each for name, each in value.items() if each is not None}
    return PushNotification(
        title=given["title"],
        body=given["body"],
        data=given.get("data"),
        image_url=given.get("imageUrl"),
        sound=given.get("sound"),
        badge=given.get("badge"),
        collapse_id=given.get("collapseId"),
        ttl_seconds=given.get("ttlSeconds"),
        priority=_given_priority(given.get("priority")),
        category=given.get("category"),
        thread_id=given.get("threadId"),
        url=given.get("url"),
    )


def _given_priority(value: str | None) -> str | None:
    """None for the schema's default: laid over another text it would win against what somebody gave there."""
    return value.value if isinstance(value, PushPriority) else None


def _optional(value: dict[str, Any] | None) -> PushNotification | None:
    return None if value is None else _notification(value)


def _several(values: list[str] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(values)


def _send_push(value: dict[str, Any]) -> SendPushArguments:
    return SendPushArguments(
        idempotency_key=value.get("idempotencyKey"),
        user_ids=_several(value.get("userIds")),
        audience_id=value.get("audienceId"),
        push=_optional(value.get("push")),
        variants=tuple(
            PushVariant(each["name"], each["weight"], _notification(each["push"]))
            for each in value.get("variants") or ()
        ),
        localized=tuple(
            LocalizedPush(each["locale"], _notification(each["push"])) for each in value.get("localized") or ()
        ),
        scheduled_for=value.get("scheduledFor"),
        ignore_quiet_hours=bool(value.get("ignoreQuietHours")),
    )


def _send_activity(value: dict[str, Any]) -> SendActivityArguments:
    change = LiveActivity(
        action=value["action"],
        attributes_type=value["attributesType"],
        activity_id=value["activityId"],
        attributes=value.get("attributes"),
        content_state=value.get("contentState"),
        stale_date=_unix(value.get("staleDate")),
        dismissal_date=_unix(value.get("dismissalDate")),
        alert=_optional(value.get("alert")),
    )
    return SendActivityArguments(
        change=change,
        idempotency_key=value.get("idempotencyKey"),
        user_ids=_several(value.get("userIds")),
        push_token_id=value.get("pushTokenId"),
    )


def _unix(instant: datetime | None) -> int | None:
    return None if instant is None else int(instant.timestamp())


def _activity_registration(value: dict[str, Any]) -> ActivityRegistration:
    return ActivityRegistration(
        device_token=value["deviceToken"],
        attributes_type=value["attributesType"],
        token=value["token"],
        activity_id=value.get("activityId"),
    )


build_with(SendPushInput, _send_push)
build_with(SendLiveActivityInput, _send_activity)
build_with(RegisterLiveActivityTokenInput, _activity_registration)
keep_mapping(TrackPushInput)

SendPushArgument = Annotated[
    SendPushArguments, strawberry.argument(name="input", description="The push.", graphql_type=SendPushInput)
]
TrackPushArgument = Annotated[
    dict[str, Any], strawberry.argument(name="input", description="The report.", graphql_type=TrackPushInput)
]
ActivityRegistrationArgument = Annotated[
    ActivityRegistration,
    strawberry.argument(name="input", description="The token.", graphql_type=RegisterLiveActivityTokenInput),
]
SendActivityArgument = Annotated[
    SendActivityArguments,
    strawberry.argument(name="input", description="The change.", graphql_type=SendLiveActivityInput),
]


@strawberry.type(description="Outcome of registerLiveActivityToken. Needs INGEST.")
class LiveActivityTokenPayload(MutationPayload):
    state: ActivityState | None = strawberry.field(description="Where it stands now; null when nothing was changed.")

    @staticmethod
    def of(record: LiveActivityRecord | None, errors: tuple[EngineUserError, ...]) -> LiveActivityTokenPayload:
        return LiveActivityTokenPayload(
            state=None if record is None else ActivityState(record.state), user_errors=user_errors(errors)
        )
