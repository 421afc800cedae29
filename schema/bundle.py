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
    imported: strawberry.Private[Imported]
    before: JSON | None = strawberry.field(
        description="What the project had under the names of the bundle, as a bundle; null when nothing was done."
    )
    after: JSON | None = strawberry.field(
        description="The same, as it is now: the bundle in its canonical form. Null when nothing was done."
    )

    @strawberry.field(description="Workflows of names that there were not. Needs EDITOR.")
    def created(self) -> list[Workflow]:
        return self._workflows(SaveOutcome.CREATED)

    @strawberry.field(description="Workflows that were saved anew, or switched on or off. Needs EDITOR.")
    def updated(self) -> list[Workflow]:
        return self._workflows(SaveOutcome.UPDATED)

    @strawberry.field(description="Workflows that are as the bundle has them already. Needs EDITOR.")
    def unchanged(self) -> list[Workflow]:
        return self._workflows(SaveOutcome.UNCHANGED)

    @strawberry.field(description="Audiences of names that there were not. Needs EDITOR.")
    def created_audiences(self) -> list[Audience]:
        return self._audiences(SaveOutcome.CREATED)

    @strawberry.field(description="Audiences that have other conditions than before. Needs EDITOR.")
    def updated_audiences(self) -> list[Audience]:
        return self._audiences(SaveOutcome.UPDATED)

    @strawberry.field(description="Audiences that are as the bundle has them already. Needs EDITOR.")
    def unchanged_audiences(self) -> list[Audience]:
        return self._audiences(SaveOutcome.UNCHANGED)

    @staticmethod
    def of(imported: Imported) -> ImportWorkflowsPayload:
        return ImportWorkflowsPayload(
            imported=imported,
            before=None if imported.before is None else JSON(imported.before),
            after=None if imported.after is None else JSON(imported.after),
            user_errors=user_errors(imported.errors),
        )

    def _workflows(self, outcome: SaveOutcome) -> list[Workflow]:
        """Made when they are asked for: there may be a thousand."""
        return [Workflow.of(each.workflow) for each in self.imported.workflows if each.outcome is outcome]

    def _audiences(self, outcome: SaveOutcome) -> list[Audience]:
        return [Audience.of(each.audience) for each in self.imported.audiences if each.outcome is outcome]
