"""What a project has chosen for itself as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import strawberry

from engine.errors import UserError as EngineUserError
from engine.project_settings import ProjectSettings as SettingsRecord
from schema.errors import MutationPayload, user_errors
from schema.inputs import keep_mapping


@strawberry.type(
    description="What holds for the whole project. A change holds everywhere within a second. Needs VIEWER."
)
class ProjectSettings:
    require_signed_identity: bool = strawberry.field(
        description="identify, and whatever else names a person from an app, must be signed or come with that person's "
        "session."
    )
    allow_unknown_consent: bool = strawberry.field(
        description="What UNKNOWN consent means; by default allow in US, deny in EU."
    )
    default_timezone: str = strawberry.field(
        description="IANA name: whose day it is for people and devices that did not say theirs. UTC by default."
    )
    default_locale: str = strawberry.field(
        description="BCP 47 tag: which text devices get that did not say theirs. en by default."
    )
    require_trusted_documents: bool = strawberry.field(
        description="Whether operations outside the registry of trusted documents are refused."
    )

    @staticmethod
    def of(record: SettingsRecord) -> ProjectSettings:
        return ProjectSettings(
            require_signed_identity=record.require_signed_identity,
            allow_unknown_consent=record.unknown_allowed,
            default_timezone=record.default_timezone,
            default_locale=record.default_locale,
            require_trusted_documents=record.require_trusted_documents,
        )


@strawberry.input(description="What updateProjectSettings takes: absent stays, null goes back to the default.")
class ProjectSettingsInput:
    require_signed_identity: bool | None = strawberry.field(default=strawberry.UNSET, description="Null: false.")
    allow_unknown_consent: bool | None = strawberry.field(
        default=strawberry.UNSET, description="Null: what the region says, allow in US and deny in EU."
    )
    default_timezone: str | None = strawberry.field(
        default=strawberry.UNSET, description="IANA name, e.g. Europe/Berlin. Null: UTC."
    )
    default_locale: str | None = strawberry.field(
        default=strawberry.UNSET, description="BCP 47 tag, e.g. pt-BR; at most 35 characters. Null: en."
    )
    require_trusted_documents: bool | None = strawberry.field(default=strawberry.UNSET, description="Null: false.")


keep_mapping(ProjectSettingsInput)

ProjectSettingsArgument = Annotated[
    Mapping[str, Any],
    strawberry.argument(name="input", description="What to change.", graphql_type=ProjectSettingsInput),
]


@strawberry.type(description="The settings after a change, or why nothing was changed. Needs ADMIN.")
class ProjectSettingsPayload(MutationPayload):
    project_settings: ProjectSettings | None = strawberry.field(
        description="As they are now; null when nothing was changed."
    )

    @staticmethod
    def of(record: SettingsRecord | None, errors: tuple[EngineUserError, ...]) -> ProjectSettingsPayload:
        return ProjectSettingsPayload(
            project_settings=None if record is None else ProjectSettings.of(record), user_errors=user_errors(errors)
        )


@strawberry.type(description="A new identity secret, or why there is none. Needs ADMIN.")
class IdentitySecretPayload(MutationPayload):
    secret: str | None = strawberry.field(description="Shown once. Its text as it is, prefix included, is the key.")

    @staticmethod
    def of(secret: str | None, errors: tuple[EngineUserError, ...]) -> IdentitySecretPayload:
        return IdentitySecretPayload(secret=secret, user_errors=user_errors(errors))
