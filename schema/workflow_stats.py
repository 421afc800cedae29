"""How a workflow fares."""

from __future__ import annotations

import strawberry

from engine.workflows.definition import RunStatus
from resolvers.workflow_stats import RunSummary, StepSummary
from schema.scalars import JSON


@strawberry.type(description="How the steps with one label ended. Needs VIEWER.")
class WorkflowStepStats:
    label: str = strawberry.field(description="The steps', of any version of the workflow.")
    outcomes: JSON = strawberry.field(
        description='How often each outcome came, by its code, e.g. {"sent": 12, "ai_unavailable": 1}.'
    )

    @staticmethod
    def of(summary: StepSummary) -> WorkflowStepStats:
        return WorkflowStepStats(label=summary.label, outcomes=JSON(dict(summary.outcomes)))


@strawberry.type(description="How a workflow fares: its runs as they stand now, of all its versions. Needs VIEWER.")
class WorkflowStats:
    started: int = strawberry.field(description="All runs, wherever they stand now.")
    queued: int = strawberry.field(description="Triggered while the workflow was paused, and still waiting for it.")
    completed: int = strawberry.field(description="Reached their end.")
    failed: int = strawberry.field(description="Could not go on.")
    running: int = strawberry.field(description="Going on, or waiting for what is due next.")
    paused: int = strawberry.field(description="Held until they are resumed.")
    cancelled: int = strawberry.field(description="Stopped by somebody.")
    steps: list[WorkflowStepStats] = strawberry.field(
        description="Those of the newest version, in its order, then those that only older ones had, by label."
    )

    @staticmethod
    def of(summary: RunSummary) -> WorkflowStats:
        runs = summary.by_status
        return WorkflowStats(
            started=sum(runs.values()),
            queued=runs[RunStatus.QUEUED],
            completed=runs[RunStatus.COMPLETED],
            failed=runs[RunStatus.FAILED],
            running=runs[RunStatus.RUNNING],
            paused=runs[RunStatus.PAUSED],
            cancelled=runs[RunStatus.CANCELLED],
            steps=[WorkflowStepStats.of(each) for each in summary.steps],
        )
