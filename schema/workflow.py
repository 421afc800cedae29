"""What a workflow is to clients: its trigger, its steps, blueprints to begin with, and what a run did."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import strawberry

from db.workflow_records import WorkflowRecord
from engine.conditions import unparse_conditions
from engine.node_ids import NodeKind, write_node_id
from engine.workflows.blueprints import Blueprint
from engine.workflows.blueprints import BlueprintAudience as AudienceValue
from engine.workflows.definition import Schedule as ScheduleValue
from engine.workflows.definition import Step, Trigger
from engine.workflows.dry_run import DryRun
from engine.workflows.saving import WorkflowChange
from engine.workflows.stored import decode_definition
from engine.workflows.triggers import unparse_filters
from engine.workflows.validation import unparse_step
from resolvers import workflow_runs, workflow_stats
from resolvers import workflows as resolve
from resolvers.paging import Page, PageArguments
from schema.errors import MutationPayload, user_errors
from schema.info import Info
from schema.node import Node
from schema.paging import After, First, PageInfo, edges_of
from schema.run_filter import RunFilterArgument
from schema.scalars import JSON, Cursor
from schema.step_trace import StepTrace
from schema.workflow_stats import WorkflowStats
from schema.workflow_terms import ReentryPolicy, RunStatus, StepType

if TYPE_CHECKING:
    from schema.audience import Audience
    from schema.workflow_run_list import WorkflowRunConnection


@strawberry.type(description="When a workflow starts by itself. Needs VIEWER.")
class Schedule:
    cron: str = strawberry.field(description="Minute, hour, day of the month, month, day of the week.")
    timezone: str = strawberry.field(description="The IANA time zone that cron is read in.")
    value: strawberry.Private[ScheduleValue]
    due_at: strawberry.Private[datetime | None]

    @strawberry.field(
        description="When it is due next; of a workflow that is off, and of a blueprint: if it were on. Needs VIEWER."
    )
    def next_at(self, info: Info) -> datetime:
        return resolve.next_at(info.context, schedule=self.value, due_at=self.due_at)

    @staticmethod
    def of(value: ScheduleValue | None, *, due_at: datetime | None = None) -> Schedule | None:
        if value is None:
            return None
        return Schedule(cron=value.cron, timezone=value.timezone, value=value, due_at=due_at)


@strawberry.type(description="What starts a workflow: an event, or a schedule for an audience. Needs VIEWER.")
class WorkflowTrigger:
    event_type: str | None = strawberry.field(description="Exact or wildcard: checkout_completed, csat.*.")
    filters: JSON = strawberry.field(description="All of these hold, as in WorkflowTriggerInput.filters.")
    reentry: ReentryPolicy = strawberry.field(description="Whether somebody may go through it again.")
    schedule: Schedule | None = strawberry.field(
        description="Instead of an event: every member of the audience, each time it is due."
    )
    audience_id: strawberry.Private[UUID | None]

    @strawberry.field(
        description=("Only its members. Null without one; also when it was deleted: then nobody starts. Needs VIEWER.")
    )
    async def audience(self, info: Info) -> Annotated[Audience, strawberry.lazy("schema.audience")] | None:
        record = await resolve.audience_of(info.context, audience_id=self.audience_id)
        return audiences.Audience.of_optional(record)

    @staticmethod
    def of(trigger: Trigger, *, due_at: datetime | None = None) -> WorkflowTrigger:
        return WorkflowTrigger(
            event_type=trigger.event_type,
            filters=JSON(unparse_filters(trigger)),
            reentry=trigger.reentry,
            schedule=Schedule.of(trigger.schedule, due_at=due_at),
            audience_id=trigger.audience_id,
        )


@strawberry.type(description="One step of a workflow. Needs VIEWER.")
class WorkflowStep:
    label: str = strawberry.field(description='Unique in the workflow; never a number, never "end".')
    type: StepType = strawberry.field(description="What it does.")
    config: JSON = strawberry.field(description="Shape by type, as in StepType; it can be sent back as it is.")
    delay_minutes: float | None = strawberry.field(description="How long it waits before it runs; null: not at all.")
    next: str | None = strawberry.field(
        description="Label or index of the step that follows, or end; null: the next one, or as a branch says."
    )

    @staticmethod
    def of(step: Step) -> WorkflowStep:
        written = unparse_step(step)
        return WorkflowStep(
            label=step.label,
            type=step.type,
            config=JSON(written["config"]),
            delay_minutes=written.get("delayMinutes"),
            next=None if step.next is None else str(step.next),
        )


@strawberry.type(description="A journey that people are taken through: what starts it, and its steps. Needs VIEWER.")
class Workflow(Node):
    name: str = strawberry.field(description="Once per project.")
    description: str | None = strawberry.field(description="For people.")
    is_active: bool = strawberry.field(description="Whether it starts runs. Those that it has go on either way.")
    is_paused: bool = strawberry.field(description="Paused: triggers queue, runs hold still.")
    version: int = strawberry.field(
        description="1, 2, 3 …: one more with each save that changes it. Runs stay on the one they started with."
    )
    trigger: WorkflowTrigger = strawberry.field(description="What starts it.")
    steps: list[WorkflowStep] = strawberry.field(description="What it does, in order.")
    created_at: datetime = strawberry.field(description="When it was made.")
    updated_at: datetime = strawberry.field(description="When it was last saved, switched, paused or resumed.")
    record: strawberry.Private[WorkflowRecord]

    @strawberry.field(description="Those whom it takes, or took, through its steps. Newest first; needs VIEWER.")
    async def runs(
        self, info: Info, first: First = 20, after: After = None, run_filter: RunFilterArgument = None
    ) -> Annotated[WorkflowRunConnection, strawberry.lazy("schema.workflow_run_list")]:
        listed = await workflow_runs.list_of_workflow(
            info.context,
            workflow_id=self.record.workflow_id,
            arguments=PageArguments(first=first, after=after),
            run_filter=run_filter,
        )
        return run_lists.WorkflowRunConnection.of(listed)

    @strawberry.field(description="How its runs and their steps fare, counted exactly. Needs VIEWER.")
    async def stats(
        self,
        info: Info,
        since: Annotated[
            datetime | None,
            strawberry.argument(
                description="Only runs that were started, and steps that began, then or later; all when absent."
            ),
        ] = None,
    ) -> WorkflowStats:
        return WorkflowStats.of(await workflow_stats.read_stats(info.context, record=self.record, since=since))

    @staticmethod
    def of(record: WorkflowRecord) -> Workflow:
        definition = decode_definition(record.definition)
        return Workflow(
            id=strawberry.ID(write_node_id(NodeKind.WORKFLOW, record.workflow_id)),
            name=record.name,
            description=definition.description,
            is_active=record.is_active,
            is_paused=record.is_paused,
            version=record.version,
            trigger=WorkflowTrigger.of(definition.trigger, due_at=record.next_due_at),
            steps=[WorkflowStep.of(step) for step in definition.steps],
            created_at=record.created_at,
            updated_at=record.updated_at,
            record=record,
        )

    @staticmethod
    def of_optional(record: WorkflowRecord | None) -> Workflow | None:
        return None if record is None else Workflow.of(record)


@strawberry.type(description="A workflow and its position in a list. Needs VIEWER.")
class WorkflowEdge:
    cursor: Cursor = strawberry.field(description="Position in lists of workflows.")
    node: Workflow = strawberry.field(description="The workflow.")


@strawberry.type(description="A page of workflows, newest first. Needs VIEWER.")
class WorkflowConnection:
    edges: list[WorkflowEdge] = strawberry.field(description="Up to 100 workflows.")
    page_info: PageInfo = strawberry.field(description="Where this page stands in the list.")

    @staticmethod
    def of(page: Page[WorkflowRecord]) -> WorkflowConnection:
        return WorkflowConnection(
            edges=edges_of(page, WorkflowEdge, Workflow.of),
            page_info=PageInfo.of(page),
        )


@strawberry.type(
    description=(
        "Outcome of saveWorkflow, setWorkflowActive, pauseWorkflow, resumeWorkflow and cloneBlueprint. Needs EDITOR."
    )
)
class SaveWorkflowPayload(MutationPayload):
    workflow: Workflow | None = strawberry.field(description="As it is now; null when nothing was changed.")

    @staticmethod
    def of(change: WorkflowChange) -> SaveWorkflowPayload:
        return SaveWorkflowPayload(
            workflow=Workflow.of_optional(change.workflow), user_errors=user_errors(change.errors)
        )


@strawberry.type(description="The people for whom a blueprint with a schedule starts. Needs VIEWER.")
class BlueprintAudience:
    name: str = strawberry.field(description="What the clone's audience is called, with a number if that is taken.")
    where: JSON = strawberry.field(description="All of these hold, as in SaveAudienceInput.where.")

    @staticmethod
    def of_optional(value: AudienceValue | None) -> BlueprintAudience | None:
        if value is None:
            return None
        return BlueprintAudience(name=value.name, where=JSON(unparse_conditions(value.where)))


@strawberry.type(description="A workflow to begin with: clone it, then change what you like. Needs VIEWER.")
class WorkflowBlueprint:
    key: str = strawberry.field(description="For cloneBlueprint.")
    name: str = strawberry.field(description="What a clone is called unless you say.")
    description: str = strawberry.field(description="What it does, and which events and traits it reads.")
    trigger: WorkflowTrigger = strawberry.field(description="What starts it.")
    steps: list[WorkflowStep] = strawberry.field(description="What it does, in order.")
    audience: BlueprintAudience | None = strawberry.field(
        description="What a clone's trigger.audience is made of: cloneBlueprint makes it. Null without a schedule."
    )

    @staticmethod
    def of(blueprint: Blueprint) -> WorkflowBlueprint:
        definition = blueprint.definition
        return WorkflowBlueprint(
            key=blueprint.key,
            name=definition.name,
            description=definition.description or "",
            trigger=WorkflowTrigger.of(definition.trigger),
            steps=[WorkflowStep.of(step) for step in definition.steps],
            audience=BlueprintAudience.of_optional(blueprint.audience),
        )


@strawberry.type(description="Outcome of testRunWorkflow: nothing is written and nothing is sent. Needs EDITOR.")
class TestRunWorkflowPayload(MutationPayload):
    matched: bool = strawberry.field(description="Whether the event starts a run.")
    status: RunStatus | None = strawberry.field(description="Where the run ends; null when there is none.")
    trace: list[StepTrace] = strawberry.field(description="What each step would do, in the order in which they run.")

    error: str | None = strawberry.field(description="Why the run would fail; null when it would not.")

    @staticmethod
    def of(run: DryRun) -> TestRunWorkflowPayload:
        return TestRunWorkflowPayload(
            matched=run.matched,
            status=run.status,
            trace=[StepTrace.of(each) for each in run.trace],
            error=run.error,
            user_errors=user_errors(run.errors),
        )


# Last, because a workflow leads to an audience and to its runs, and these to people and what they went through.
import schema.audience as audiences  # noqa: E402
import schema.workflow_run_list as run_lists  # noqa: E402
