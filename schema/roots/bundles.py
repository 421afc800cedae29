"""Root fields of bundles of workflows."""

from __future__ import annotations

from typing import Annotated

import strawberry

from engine.workflows.bundle_format import MAX_WORKFLOWS
from resolvers import bundles
from schema.bundle import ImportWorkflowsPayload
from schema.head_first import reading
from schema.info import Info
from schema.scalars import JSON


@strawberry.type
class BundlesQuery:
    @strawberry.field(
        description=(
            "Workflows and the audiences that they name as one document, to be kept in git and imported elsewhere: "
            f"names instead of ids, the same bytes for the same content. At most {MAX_WORKFLOWS:,} workflows and 2 MB. "
            "Needs VIEWER."
        )
    )
    async def export_workflows(
        self,
        info: Info,
        ids: Annotated[
            list[strawberry.ID] | None,
            strawberry.argument(description="All workflows and audiences of the project when it is absent."),
        ] = None,
    ) -> JSON | None:
        ctx = await reading(info)
        return JSON(await bundles.export_workflows(ctx, node_ids=ids))


@strawberry.type
class BundlesMutation:
    @strawberry.mutation(
        description=(
            "Make workflows and audiences as a bundle has them: one transaction, by name, so that doing it again "
            "changes nothing; what the bundle does not hold is left alone. Needs EDITOR."
        )
    )
    async def import_workflows(
        self,
        info: Info,
        bundle: Annotated[JSON, strawberry.argument(description="As exportWorkflows gives it.")],
        dry_run: Annotated[
            bool | None, strawberry.argument(description="Say what would come of it, and change nothing.")
        ] = False,
    ) -> ImportWorkflowsPayload | None:
        return ImportWorkflowsPayload.of(
            await bundles.import_workflows(info.context, bundle=bundle, is_dry_run=dry_run is True)
        )
