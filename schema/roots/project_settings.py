"""Root fields of a project's settings."""

from __future__ import annotations

import strawberry

from resolvers import project_settings
from schema.head_first import reading
from schema.info import Info
from schema.project_settings import ProjectSettings, ProjectSettingsArgument, ProjectSettingsPayload


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
