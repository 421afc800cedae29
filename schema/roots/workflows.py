"""Root fields of workflows."""

from __future__ import annotations

import strawberry

from resolvers import blueprints
from schema.info import Info
from schema.workflow import WorkflowBlueprint


@strawberry.type
class WorkflowsQuery:
    @strawberry.field(description="Workflows to begin with, to be cloned and changed. Needs VIEWER.")
    def workflow_blueprints(self, info: Info) -> list[WorkflowBlueprint] | None:
        return [WorkflowBlueprint.of(each) for each in blueprints.list_blueprints(info.context)]
