"""Root fields of workflows."""

from __future__ import annotations

from typing import Annotated

import strawberry

from resolvers import blueprints, workflows
from resolvers.paging import PageArguments
from schema.head_first import reading
from schema.info import Info
from schema.paging import After, Before, First, Last
from schema.send_payloads import DeletePayload
from schema.workflow import SaveWorkflowPayload, TestRunWorkflowPayload, WorkflowBlueprint, WorkflowConnection
from schema.workflow_input import (
    SaveWorkflowArguments,
    SaveWorkflowInput,
    TestRunWorkflowArguments,
    TestRunWorkflowInput,
)

WorkflowArgument = Annotated[strawberry.ID, strawberry.argument(description="Node id of the workflow.")]


@strawberry.type
class WorkflowsQuery:
    @strawberry.field(description="The project's workflows, newest first. Needs VIEWER.")
    async def workflows(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
        search: Annotated[str | None, strawberry.argument(description="Any part of the name, in any case.")] = None,
        is_active: Annotated[
            bool | None, strawberry.argument(description="Only those that are on, or that are off.")
        ] = None,
    ) -> WorkflowConnection | None:
        ctx = await reading(info)
        page = await workflows.list_workflows(
            ctx, arguments=PageArguments(first, after, last, before), search=search, is_active=is_active
        )
        return WorkflowConnection.of(page)

    @strawberry.field(description="Workflows to begin with, to be cloned and changed. Needs VIEWER.")
    def workflow_blueprints(self, info: Info) -> list[WorkflowBlueprint] | None:
        return [WorkflowBlueprint.of(each) for each in blueprints.list_blueprints(info.context)]


@strawberry.type
class WorkflowsMutation:
    @strawberry.mutation(
        description=(
            "Make or change a workflow. Everything that is wrong is said at once, where it is; then nothing is saved. "
            "Runs that go on stay on the version they started with. Needs EDITOR."
        )
    )
    async def save_workflow(
        self,
        info: Info,
        given: Annotated[
            SaveWorkflowArguments,
            strawberry.argument(name="input", description="The workflow.", graphql_type=SaveWorkflowInput),
        ],
    ) -> SaveWorkflowPayload | None:
        return SaveWorkflowPayload.of(await workflows.save(info.context, given=given))

    @strawberry.mutation(
        description=(
            "Switch a workflow on: what happens from now on starts it; or off: nothing does. Runs go on either way. "
            "Needs EDITOR."
        )
    )
    async def set_workflow_active(
        self,
        info: Info,
        id: WorkflowArgument,  # noqa: A002
        is_active: Annotated[bool, strawberry.argument(description="On or off.")],
    ) -> SaveWorkflowPayload | None:
        return SaveWorkflowPayload.of(await workflows.switch(info.context, node_id=id, is_active=is_active))

    @strawberry.mutation(
        description="Hold the runs of a workflow where they are; new ones are QUEUED meanwhile. Needs EDITOR."
    )
    async def pause_workflow(self, info: Info, id: WorkflowArgument) -> SaveWorkflowPayload | None:  # noqa: A002
        return SaveWorkflowPayload.of(await workflows.pause(info.context, node_id=id))

    @strawberry.mutation(
        description="Let the runs of a paused workflow go on; those that queued, in their order. Needs EDITOR."
    )
    async def resume_workflow(self, info: Info, id: WorkflowArgument) -> SaveWorkflowPayload | None:  # noqa: A002
        return SaveWorkflowPayload.of(await workflows.resume(info.context, node_id=id))

    @strawberry.mutation(
        description="Delete a workflow. Its runs are cancelled, with what they have not sent yet. Needs EDITOR."
    )
    async def delete_workflow(self, info: Info, id: WorkflowArgument) -> DeletePayload | None:  # noqa: A002
        return DeletePayload.of(*await workflows.delete(info.context, node_id=id))

    @strawberry.mutation(
        description="Make a workflow of a blueprint, switched off, with the audience that it brings. Needs EDITOR."
    )
    async def clone_blueprint(
        self,
        info: Info,
        key: Annotated[str, strawberry.argument(description="As in WorkflowBlueprint.key.")],
        name: Annotated[
            str | None,
            strawberry.argument(description="By default the blueprint's, with a number if that is taken."),
        ] = None,
    ) -> SaveWorkflowPayload | None:
        return SaveWorkflowPayload.of(await workflows.clone_blueprint(info.context, key=key, name=name))

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
