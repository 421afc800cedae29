"""Root fields of a project's settings."""

from __future__ import annotations

from typing import Annotated

import strawberry

from engine.signatures import MAX_GRACE_SECONDS
from resolvers import project_settings
from schema.head_first import reading
from schema.info import Info
from schema.project_settings import (
    IdentitySecretPayload,
    ProjectSettings,
    ProjectSettingsArgument,
    ProjectSettingsPayload,
)


@strawberry.type
class ProjectSettingsQuery:
    @strawberry.field(description="What holds for the whole project. Needs VIEWER.")
    async def project_settings(self, info: Info) -> ProjectSettings | None:
        ctx = await reading(info)
        return ProjectSettings.of(await project_settings.read_project_settings(ctx))


@strawberry.type
class ProjectSettingsMutation:
    @strawberry.mutation(description="Change what holds for the whole project. Needs ADMIN.")
    async def update_project_settings(
        self, info: Info, given: ProjectSettingsArgument
    ) -> ProjectSettingsPayload | None:
        return ProjectSettingsPayload.of(*await project_settings.update_project_settings(info.context, given=given))

    @strawberry.mutation(
        description=(
            "Make a new secret that the app's server signs user ids with. The old secret is accepted until "
            "graceSeconds have passed. Needs ADMIN."
        )
    )
    async def rotate_identity_secret(
        self,
        info: Info,
        grace_seconds: Annotated[
            int | None,
            strawberry.argument(description=f"0 to {MAX_GRACE_SECONDS}; 0 ends all secrets before it at once."),
        ] = 86400,
    ) -> IdentitySecretPayload | None:
        grace = 86400 if grace_seconds is None else grace_seconds
        return IdentitySecretPayload.of(*await project_settings.rotate_secret(info.context, grace_seconds=grace))
