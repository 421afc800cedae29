"""Runs: people on their way through workflows."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import strawberry

from db.workflow_records import RunRecord
from engine.errors import UserError
from engine.node_ids import NodeKind, write_node_id
from engine.workflows.state import MAX_STEPS
from resolvers import workflow_runs as resolve
from resolvers.loaders import RUN_DELIVERIES
from schema.errors import MutationPayload, user_errors
from schema.info import Info
from schema.node import Node
from schema.scalars import JSON
from schema.step_trace import StepTrace
from schema.workflow_terms import RunStatus

if TYPE_CHECKING:
    from schema.delivery import Delivery
    from schema.event import Event
    from schema.profile import Profile
    from schema.workflow import Workflow, WorkflowStep


@strawberry.type(description="One person's way through a workflow, as it is now. Needs VIEWER.")
class WorkflowRun(Node):
    workflow_version: int = strawberry.field(
        description="The version that it started with, and stays on whatever is saved meanwhile."
    )
    status: RunStatus = strawberry.field(description="Where it stands. RUNNING includes waiting; see nextStepAt.")
    user_id: str | None = strawberry.field(description="Whom it takes through; null when its event named nobody.")
    started_at: datetime = strawberry.field(description="When it was triggered.")
    finished_at: datetime | None = strawberry.field(description="When it was over; null before.")
    next_step_at: datetime | None = strawberry.field(
        description="When the next step is due; null while deliveries or a model are waited for, and once it is over."
    )
    error: str | None = strawberry.field(description="Why it FAILED; null otherwise.")
    record: strawberry.Private[RunRecord]

    @strawberry.field(description="What it is a run of, as that is now, also once it is deleted. Needs VIEWER.")
    async def workflow(self, info: Info) -> Annotated[Workflow, strawberry.lazy("schema.workflow")]:
        return workflows.Workflow.of(await resolve.workflow_of(info.context, record=self.record))

    @strawberry.field(description="The steps of that version. Needs VIEWER.")
    async def steps(self, info: Info) -> list[Annotated[WorkflowStep, strawberry.lazy("schema.workflow")]]:
        found = await resolve.steps_of(info.context, record=self.record)
        return [workflows.WorkflowStep.of(step) for step in found]

    @strawberry.field(
        description="The label of the step that is due next or in progress; null once it is over. Needs VIEWER."
    )
    async def current_step(self, info: Info) -> str | None:
        return await resolve.current_step(info.context, record=self.record)

    @strawberry.field(
        description=(
            "What its steps did, in the order in which they ran, those that were repeated in a circle as often; up to "
            f"{MAX_STEPS:,}. Needs VIEWER."
        )
    )
    async def trace(self, info: Info) -> list[StepTrace]:
        return [StepTrace.of_record(each) for each in await resolve.trace_of(info.context, record=self.record)]

    @strawberry.field(
        description=(
            f"What it sent, in the order in which it was made: the first {RUN_DELIVERIES}; the rest are in deliveries "
            "by workflowRunId. Needs VIEWER."
        )
    )
    async def deliveries(self, info: Info) -> list[Annotated[Delivery, strawberry.lazy("schema.delivery")]]:
        found = await resolve.deliveries_of(info.context, record=self.record)
        return [deliveries.Delivery.of(each) for each in found]

    @strawberry.field(
        description=("What started it; null when a schedule did, and once the event is past retention. Needs VIEWER.")
    )
    async def event(self, info: Info) -> Annotated[Event, strawberry.lazy("schema.event")] | None:
        found = await resolve.event_of(info.context, record=self.record)
        return None if found is None else events.Event.of(found.record, organization_id=found.organization_id)

    @strawberry.field(description="Whom it takes through, as known now. Needs VIEWER.")
    async def profile(self, info: Info) -> Annotated[Profile, strawberry.lazy("schema.profile")] | None:
        return profiles.Profile.of_optional(await resolve.profile_of(info.context, record=self.record))

    @strawberry.field(description="What its AI_ACTION steps have saved: run.vars. A JSON object. Needs VIEWER.")
    def vars(self) -> JSON:
        return JSON(self.record.vars)

    @staticmethod
    def of(record: RunRecord) -> WorkflowRun:
        return WorkflowRun(
            id=strawberry.ID(write_node_id(NodeKind.WORKFLOW_RUN, record.run_id)),
            workflow_version=record.version,
            status=RunStatus(record.status),
            user_id=record.user_id,
            started_at=record.started_at,
            finished_at=record.finished_at,
            next_step_at=record.next_step_at,
            error=record.error,
            record=record,
        )

    @staticmethod
    def of_optional(record: RunRecord | None) -> WorkflowRun | None:
        return None if record is None else WorkflowRun.of(record)


@strawberry.type(description="A run after a change, or why nothing was changed. Needs EDITOR.")
class WorkflowRunPayload(MutationPayload):
    run: WorkflowRun | None = strawberry.field(description="As it is now; null when nothing was changed.")

    @staticmethod
    def of(record: RunRecord | None, errors: tuple[UserError, ...] = ()) -> WorkflowRunPayload:
        return WorkflowRunPayload(run=WorkflowRun.of_optional(record), user_errors=user_errors(errors))


# Last, because a run leads to its workflow, its person, its event and its deliveries, and these to runs.
import schema.delivery as deliveries  # noqa: E402
import schema.event as events  # noqa: E402
import schema.profile as profiles  # noqa: E402
import schema.workflow as workflows  # noqa: E402
