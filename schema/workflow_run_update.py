"""What happens to runs, step by step: the items of the runs lane."""

from __future__ import annotations

from datetime import datetime

import msgspec
import strawberry

from db.workflow_records import RunUpdateRecord
from engine.live.items import StreamItem
from engine.workflows.state import StepTrace as TraceValue
from resolvers import workflow_runs as resolve
from schema.info import Info
from schema.scalars import Cursor
from schema.step_trace import StepTrace
from schema.workflow_run import WorkflowRun
from schema.workflow_terms import RunStatus

_step = msgspec.json.Decoder(TraceValue | None)


@strawberry.type(
    description="Change of a run, as it happens. status and step are as of then; run is its state now. Needs VIEWER."
)
class WorkflowRunUpdate:
    status: RunStatus = strawberry.field(description="Where the run stood from then on.")
    step: StepTrace | None = strawberry.field(
        description="The step that began or ended, as it was then. Null when only the status changed."
    )
    at: datetime = strawberry.field(description="When it happened.")
    record: strawberry.Private[RunUpdateRecord]

    @strawberry.field(description="The run, as it is now.")
    async def run(self, info: Info) -> WorkflowRun:
        return WorkflowRun.of(await resolve.run_of(info.context, update=self.record))

    @staticmethod
    def of(record: RunUpdateRecord) -> WorkflowRunUpdate:
        step = _step.decode(record.step)
        return WorkflowRunUpdate(
            status=RunStatus(record.status),
            step=None if step is None else StepTrace.of(step, run_id=record.run_id),
            at=record.at,
            record=record,
        )


@strawberry.type(description="A change of a run and its position in the runs lane. Needs VIEWER.")
class WorkflowRunUpdateEdge:
    cursor: Cursor = strawberry.field(description="Position of this change: valid as `after` of workflowRunUpdates.")
    node: WorkflowRunUpdate = strawberry.field(description="The change.")


def update_edge(item: StreamItem[RunUpdateRecord]) -> WorkflowRunUpdateEdge:
    """A stream's item as its edge."""
    return WorkflowRunUpdateEdge(cursor=Cursor(item.cursor), node=WorkflowRunUpdate.of(item.record))
