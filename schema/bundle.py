"""What importing a bundle of workflows comes to."""

from __future__ import annotations

import strawberry

from engine.workflows.bundles import Imported
from engine.workflows.saving import SaveOutcome
from schema.audience import Audience
from schema.errors import MutationPayload, user_errors
from schema.scalars import JSON
from schema.workflow import Workflow


@strawberry.type(
    description=(
        "Outcome of importWorkflows; of a dry run, what it would be: then those created are not there. The bundle is a "
        "JSON document with a $schema; templates and audiences by name; export → import → export gives the same "
        "bytes. Needs EDITOR."
    )
)
class ImportWorkflowsPayload(MutationPayload):
    created: list[Workflow] = strawberry.field(description="Of names that there were not.")
    updated: list[Workflow] = strawberry.field(description="Saved anew, or switched on or off.")
    unchanged: list[Workflow] = strawberry.field(description="As the bundle has them already.")
    created_audiences: list[Audience] = strawberry.field(description="Of names that there were not.")
    updated_audiences: list[Audience] = strawberry.field(description="With other conditions than before.")
    unchanged_audiences: list[Audience] = strawberry.field(description="As the bundle has them already.")
    before: JSON | None = strawberry.field(
        description="What the project had under the names of the bundle, as a bundle; null when nothing was done."
    )
    after: JSON | None = strawberry.field(
        description="The same, as it is now: the bundle in its canonical form. Null when nothing was done."
    )

    @staticmethod
    def of(imported: Imported) -> ImportWorkflowsPayload:
        def workflows(outcome: SaveOutcome) -> list[Workflow]:
            return [Workflow.of(each.workflow) for each in imported.workflows if each.outcome is outcome]

        def audiences(outcome: SaveOutcome) -> list[Audience]:
            return [Audience.of(each.audience) for each in imported.audiences if each.outcome is outcome]

        return ImportWorkflowsPayload(
            created=workflows(SaveOutcome.CREATED),
            updated=workflows(SaveOutcome.UPDATED),
            unchanged=workflows(SaveOutcome.UNCHANGED),
            created_audiences=audiences(SaveOutcome.CREATED),
            updated_audiences=audiences(SaveOutcome.UPDATED),
            unchanged_audiences=audiences(SaveOutcome.UNCHANGED),
            before=None if imported.before is None else JSON(imported.before),
            after=None if imported.after is None else JSON(imported.after),
            user_errors=user_errors(imported.errors),
        )
