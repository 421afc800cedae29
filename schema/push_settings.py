"""A project's settings for push."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

import strawberry

from engine.errors import UserError as EngineUserError
from resolvers import push_settings as resolve
from resolvers.push_settings import MAX_CAP, ShownSettings
from schema.errors import MutationPayload, user_errors
from schema.info import Info
from schema.inputs import keep_mapping

_CAP = f"1 to {MAX_CAP:,}; null: no cap."


@strawberry.type(description="When pushes wait and how many a person may get. Needs VIEWER.")
class PushSettings:
    quiet_hours_start_local: int | None = strawberry.field(
        description="First hour of the recipient's day, 0 to 23, in which nothing is sent. Needs both hours to be set."
    )
    quiet_hours_end_local: int | None = strawberry.field(
        description="First hour in which it is sent again; may be less than the start. Equal: no window."
    )
    defer_in_quiet_hours: bool = strawberry.field(
        description="True: wait until the quiet hours end. False: hold back for good, as QUIET_HOURS."
    )
    freq_cap_per_user_per_day: int | None = strawberry.field(
        description="Messages to one person in any 24 hours, however many devices they have; the rest is held back."
    )
    freq_cap_per_user_per_hour: int | None = strawberry.field(description="The same for any 60 minutes.")
    project_id: strawberry.Private[UUID]

    @strawberry.field(
        description=(
            "Public half of the Web Push key pair, made on first use: the applicationServerKey that browsers "
            "subscribe with. 65 bytes as base64url."
        )
    )
    async def vapid_public_key(self, info: Info) -> str:
        return await resolve.read_vapid_public_key(info.context, project_id=self.project_id)

    @staticmethod
    def of(shown: ShownSettings) -> PushSettings:
        record = shown.record
        return PushSettings(
            quiet_hours_start_local=record.quiet_hours_start_local,
            quiet_hours_end_local=record.quiet_hours_end_local,
            defer_in_quiet_hours=record.defer_in_quiet_hours,
            freq_cap_per_user_per_day=record.freq_cap_per_user_per_day,
            freq_cap_per_user_per_hour=record.freq_cap_per_user_per_hour,
            project_id=shown.project_id,
        )


@strawberry.input(description="What updatePushSettings takes: absent stays, null clears.")
class PushSettingsInput:
    quiet_hours_start_local: int | None = strawberry.field(default=strawberry.UNSET, description="0 to 23.")
    quiet_hours_end_local: int | None = strawberry.field(default=strawberry.UNSET, description="0 to 23.")
    defer_in_quiet_hours: bool | None = strawberry.field(default=strawberry.UNSET, description="Null: true.")
    freq_cap_per_user_per_day: int | None = strawberry.field(default=strawberry.UNSET, description=_CAP)
    freq_cap_per_user_per_hour: int | None = strawberry.field(default=strawberry.UNSET, description=_CAP)


keep_mapping(PushSettingsInput)

SettingsArgument = Annotated[
    Mapping[str, Any],
    strawberry.argument(name="input", description="What to change.", graphql_type=PushSettingsInput),
]


@strawberry.type(description="The settings after a change, or why nothing was changed. Needs EDITOR.")
class PushSettingsPayload(MutationPayload):
    push_settings: PushSettings | None = strawberry.field(description="As they are now; null when nothing was changed.")

    @staticmethod
    def of(shown: ShownSettings | None, errors: tuple[EngineUserError, ...]) -> PushSettingsPayload:
        return PushSettingsPayload(
            push_settings=None if shown is None else PushSettings.of(shown), user_errors=user_errors(errors)
        )
