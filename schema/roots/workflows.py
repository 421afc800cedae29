"""Root fields of workflows."""

from __future__ import annotations

from typing import Annotated

import strawberry

from resolvers import blueprints, workflows
from schema.info import Info
from schema.workflow import TestRunWorkflowPayload, WorkflowBlueprint
from schema.workflow_input import TestRunWorkflowArguments, TestRunWorkflowInput


@strawberry.type
class WorkflowsQuery:
    @strawberry.field(description="Workflows to begin with, to be cloned and changed. Needs VIEWER.")
    def workflow_blueprints(self, info: Info) -> list[WorkflowBlueprint] | None:
        return [WorkflowBlueprint.of(each) for each in blueprints.list_blueprints(info.context)]


@strawberry.type
class WorkflowsMutation:
    @strawberry.mutation(
        description=(
            "What a workflow would do for an event: the decisions of a real run, waits skipped. Nothing is written and "
            "nothing is sent. Needs EDITOR."
        )
    )
    async def test_run_workflow(
        self,
        info: Info,
        given: Annotated[
            TestRunWorkflowArguments,
            strawberry.argument(name="input", description="The workflow.", graphql_type=TestRunWorkflowInput),
        ],
    ) -> TestRunWorkflowPayload | None:
        return TestRunWorkflowPayload.of(await workflows.test_run_workflow(info.context, given=given))
