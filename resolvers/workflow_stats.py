"""How workflows fare: their runs by status, and how their steps ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from db.workflow_records import WorkflowRecord
from db.workflow_stats import OutcomeCount, RunCount
from engine.identity import Role
from engine.workflows.definition import RunStatus, StepOutcome
from engine.workflows.stored import decode_definition
from resolvers.context import Context
from resolvers.filters import check_instant
from resolvers.permissions import require


class StepSummary(msgspec.Struct, frozen=True):
    """How the steps with one label ended: how often each outcome, by its code, in the order of the enum."""

    label: str
    outcomes: Mapping[str, int]


class RunSummary(msgspec.Struct, frozen=True):
    """Runs by status, and steps by outcome: those of the newest version in its order, then those of older ones."""

    by_status: Mapping[RunStatus, int]
    steps: tuple[StepSummary, ...]


async def read_stats(ctx: Context, *, record: WorkflowRecord, since: datetime | None) -> RunSummary:
    """Of runs that were started since then, and of steps that began since then; of all without."""
    viewer = require(ctx, Role.VIEWER)
    check_instant(since, "since")
    runs, outcomes = await ctx.loaders.workflow_counts.load((viewer.project_id, (record.workflow_id, since)))
    labels = [step.label for step in decode_definition(record.definition).steps]
    return summarise(runs, outcomes, labels)


def summarise(runs: Sequence[RunCount], outcomes: Sequence[OutcomeCount], labels: Sequence[str]) -> RunSummary:
    """Pure. `labels` are those of the newest version; each is there, also when none of its steps has ended yet."""
    counted = dict.fromkeys(RunStatus, 0) | {RunStatus(each.status): each.runs for each in runs}
    by_label: dict[str, dict[StepOutcome, int]] = {label: {} for label in labels}
    for each in outcomes:
        by_label.setdefault(each.label, {})[StepOutcome(each.outcome)] = each.steps
    steps = tuple(
        StepSummary(label, {outcome.code: ended[outcome] for outcome in StepOutcome if outcome in ended})
        for label, ended in by_label.items()
    )
    return RunSummary(counted, steps)
