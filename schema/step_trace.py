"""What the steps of a run did."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, NamedTuple
from uuid import UUID

import strawberry

from db.workflow_records import RunStepRecord
from engine.workflows.state import StepTrace as TraceValue
from resolvers import workflow_runs as resolve
from schema.info import Info
from schema.scalars import JSON
from schema.workflow_terms import StepOutcome, StepType

if TYPE_CHECKING:
    from schema.delivery import Delivery


class StepOfRun(NamedTuple):
    """Which step of which run; steps of a test run have none."""

    run_id: UUID
    number: int


@strawberry.type(description="What one step of a run did. Needs VIEWER.")
class StepTrace:
    label: str = strawberry.field(description="The step's.")
    type: StepType = strawberry.field(description="What it does.")
    outcome: StepOutcome | None = strawberry.field(
        description="How it ended; null while it is in progress, but for AI_PENDING."
    )
    outcome_code: str | None = strawberry.field(
        description="The outcome as the documents spell it, e.g. skipped-missing-config."
    )
    detail: str | None = strawberry.field(description="For people: why it ended so, and which values were missing.")
    started_at: datetime = strawberry.field(description="When it began.")
    finished_at: datetime = strawberry.field(description="When it ended; while it is in progress, when it began.")
    input: JSON = strawberry.field(description="Its config after interpolation, secrets masked.")
    output: JSON | None = strawberry.field(description="What came of it.")
    place: strawberry.Private[StepOfRun | None]

    @strawberry.field(
        description=(
            "What it sent, as it is now; the first, where it sent to several devices. Null in a test run. Needs VIEWER."
        )
    )
    async def delivery(self, info: Info) -> Annotated[Delivery, strawberry.lazy("schema.delivery")] | None:
        if self.place is None:
            return None
        found = await resolve.delivery_of_step(info.context, run_id=self.place.run_id, number=self.place.number)
        return None if found is None else deliveries.Delivery.of(found)

    @staticmethod
    def of(trace: TraceValue, *, run_id: UUID | None = None) -> StepTrace:
        """A step as a decision gave it. Without `run_id` it is of a test run, which made no delivery."""
        return StepTrace(
            label=trace.label,
            type=trace.type,
            outcome=trace.outcome,
            outcome_code=None if trace.outcome is None else trace.outcome.code,
            detail=trace.detail,
            started_at=trace.started_at,
            finished_at=trace.finished_at or trace.started_at,
            input=JSON({} if trace.input is None else trace.input),
            output=None if trace.output is None else JSON(trace.output),
            place=None if run_id is None else StepOfRun(run_id, trace.number),
        )

    @staticmethod
    def of_record(record: RunStepRecord) -> StepTrace:
        """A step as it stands now."""
        outcome = None if record.outcome is None else StepOutcome(record.outcome)
        return StepTrace(
            label=record.label,
            type=StepType(record.type),
            outcome=outcome,
            outcome_code=None if outcome is None else outcome.code,
            detail=record.detail,
            started_at=record.started_at,
            finished_at=record.finished_at or record.started_at,
            input=JSON(record.input),
            output=None if record.output is None else JSON(record.output),
            place=StepOfRun(record.run_id, record.number),
        )


# Last, because a step leads to its delivery and a delivery to the run that made it.
import schema.delivery as deliveries  # noqa: E402
