"""Root fields of push."""

from __future__ import annotations

from typing import Annotated

import strawberry

from db.push_tokens import MAX_ACTIVE_TOKENS_OF_USER
from resolvers import push_sends, push_settings, push_tokens
from resolvers.paging import PageArguments
from schema.head_first import reading
from schema.info import Info
from schema.paging import After, Before, First, Last
from schema.push import (
    ActivityRegistrationArgument,
    LiveActivityTokenPayload,
    SendActivityArgument,
    SendPushArgument,
    TrackPushArgument,
)
from schema.push_settings import PushSettings, PushSettingsPayload, SettingsArgument
from schema.push_token import PushTokenConnection, PushTokenPayload, RegistrationArgument, TokenFilterArgument
from schema.send_payloads import DeliveryPayload, SendPayload
from schema.track import TrackPayload


@strawberry.type
class PushQuery:
    @strawberry.field(description="Devices that get pushes, newest first. Needs VIEWER, or the person's own session.")
    async def push_tokens(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
        token_filter: TokenFilterArgument = None,
    ) -> PushTokenConnection | None:
        ctx = await reading(info)
        page = await push_tokens.list_push_tokens(
            ctx, arguments=PageArguments(first, after, last, before), token_filter=token_filter
        )
        return PushTokenConnection.of(page)

    @strawberry.field(
        description="When pushes wait, how many a person may get, and the key for browsers. Needs VIEWER."
    )
    async def push_settings(self, info: Info) -> PushSettings | None:
        ctx = await reading(info)
        return PushSettings.of(await push_settings.read_push_settings(ctx))


@strawberry.type
class PushMutation:
    @strawberry.mutation(
        description=(
            "Register a device, at each start of the app: a token that is known is updated, comes back if it was "
            "inactive, and moves to userId if that is somebody else. Of a person's active devices the "
            f"{MAX_ACTIVE_TOKENS_OF_USER} that registered last are kept. Needs INGEST."
        )
    )
    async def register_push_token(self, info: Info, registration: RegistrationArgument) -> PushTokenPayload | None:
        return PushTokenPayload.of(await push_tokens.register_push_token(info.context, registration=registration))

    @strawberry.mutation(
        description=(
            "Sign a device off, when its user signs out: nothing more is sent to it until it registers again, and "
            "what waits for it is held back. Needs INGEST."
        )
    )
    async def unregister_push_token(
        self, info: Info, token: Annotated[str, strawberry.argument(description="As it was registered.")]
    ) -> PushTokenPayload | None:
        return PushTokenPayload.of(await push_tokens.unregister_push_token(info.context, token=token))

    @strawberry.mutation(description="Change quiet hours and frequency caps: absent stays, null clears. Needs EDITOR.")
    async def update_push_settings(self, info: Info, given: SettingsArgument) -> PushSettingsPayload | None:
        return PushSettingsPayload.of(*await push_settings.update_push_settings(info.context, given=given))

    @strawberry.mutation(
        description=(
            "Send a push to people: one delivery for each active device, one that is suppressed for whoever has none. "
            "Answered once it is accepted. Devices of a platform without a configured provider are queued as well, and "
            "FAILED with NOT_CONFIGURED when their turn comes: configure it, then replay. Needs EDITOR."
        )
    )
    async def send_push(self, info: Info, arguments: SendPushArgument) -> SendPayload | None:
        return SendPayload.of(*await push_sends.send_push(info.context, arguments=arguments))

    @strawberry.mutation(
        description="Send a test to one device, whatever the hour; it counts against no cap. Needs EDITOR."
    )
    async def send_test_push(
        self,
        info: Info,
        push_token_id: Annotated[strawberry.ID, strawberry.argument(description="Node id of the push token.")],
    ) -> DeliveryPayload | None:
        return DeliveryPayload.of(*await push_sends.send_test_push(info.context, push_token_id=push_token_id))

    @strawberry.mutation(
        description=(
            "Report what somebody did with a push: the first report of each kind is stored as an event; another one "
            "is a duplicate. What is reported has arrived, so a SENT delivery becomes DELIVERED. Needs INGEST."
        )
    )
    async def track_push(self, info: Info, report: TrackPushArgument) -> TrackPayload | None:
        tracked = await push_sends.track_push(
            info.context,
            delivery_id=report["deliveryId"],
            interaction=report["interaction"],
            action_id=report.get("actionId"),
        )
        return TrackPayload.of(tracked)

    @strawberry.mutation(
        description=(
            "Register a token of Live Activities: of one that runs, or the one that starts those of a type. "
            "Needs INGEST."
        )
    )
    async def register_live_activity_token(
        self, info: Info, registration: ActivityRegistrationArgument
    ) -> LiveActivityTokenPayload | None:
        return LiveActivityTokenPayload.of(
            *await push_sends.register_live_activity(info.context, registration=registration)
        )

    @strawberry.mutation(
        description=(
            "Start, update or end a Live Activity: one delivery for each device that has it, or can start it. A start "
            "goes through the same policy as a push; updates and ends skip quiet hours and caps. Needs EDITOR."
        )
    )
    async def send_live_activity(self, info: Info, arguments: SendActivityArgument) -> SendPayload | None:
        return SendPayload.of(*await push_sends.send_live_activity(info.context, arguments=arguments))
