"""Funnels: how far people come through a sequence of steps."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import strawberry

from db.funnels import FunnelOrder
from engine.analytics import funnels as engine
from engine.analytics.inputs import MAX_GROUPS
from schema.descriptions import described_enum
from schema.funnel_step import FunnelStepInput
from schema.inputs import keep_mapping
from schema.interval import AUDIENCE_DESCRIPTION, PERIOD_DESCRIPTION, UNTIL_DESCRIPTION

described_enum(
    FunnelOrder,
    "Which ways through the steps count.",
    ORDERED="One step after the other; whatever else happens in between.",
    STRICT="One step after the other, and no other event of that person in between.",
    UNORDERED=(
        "In any order: the k-th step counts who did k of the steps. An event stands for the first step that it meets; "
        "a step that is there twice needs two events."
    ),
)


@strawberry.input(description="Steps, and who counts as having come through them.")
class FunnelInput:
    steps: list[FunnelStepInput] = strawberry.field(
        description=(
            f"{engine.MIN_STEPS} to {engine.MAX_STEPS} steps. The first one and another are not optional; in UNORDERED "
            "none is."
        )
    )
    since: datetime | None = strawberry.field(
        default=strawberry.UNSET, description="From this moment on: all steps lie within the period."
    )
    until: datetime | None = strawberry.field(default=strawberry.UNSET, description=UNTIL_DESCRIPTION)
    period: str | None = strawberry.field(default=strawberry.UNSET, description=PERIOD_DESCRIPTION)
    window_seconds: int | None = strawberry.field(
        default=engine.DEFAULT_WINDOW_SECONDS,
        description=f"A person must finish within this long of the first step: 1 to {engine.MAX_WINDOW_SECONDS}.",
    )
    order: FunnelOrder | None = strawberry.field(default=FunnelOrder.ORDERED, description="Which ways count.")
    hold_constant: str | None = strawberry.field(
        default=strawberry.UNSET,
        description="Same value at every step, e.g. event.properties.orderId. Events without one are no step.",
    )
    exclude: list[FunnelStepInput] | None = strawberry.field(
        default=strawberry.UNSET,
        description=(
            f"Up to {engine.MAX_EXCLUDED}: an event of that person between two steps ends the way; they may begin anew."
        ),
    )
    group_by: str | None = strawberry.field(
        default=strawberry.UNSET,
        description=(
            "Breakdown by event.properties.x or profile.traits.x of the first step, of the way on which somebody came "
            "furthest."
        ),
    )
    group_limit: int | None = strawberry.field(
        default=10, description=f"1 to {MAX_GROUPS}: the largest are groups, all others together one."
    )
    audience_id: strawberry.ID | None = strawberry.field(default=strawberry.UNSET, description=AUDIENCE_DESCRIPTION)
    compare: bool | None = strawberry.field(
        default=False, description="Also the period of the same length just before."
    )


keep_mapping(FunnelInput)

FunnelArguments = dict[str, Any]
"""The input as it was coerced: what is absent is not in it."""


@strawberry.type(
    description="One step: who came to it, and how fast. Rates are from 0 to 1, and 0 of nobody. Needs VIEWER."
)
class FunnelStepResult:
    name: str = strawberry.field(description="As in the input.")
    event_type: str = strawberry.field(description="As in the input.")
    count: int = strawberry.field(description="People who came here.")
    conversion_from_previous: float = strawberry.field(
        description="Of those at the step before that is not optional; of the first step, 1."
    )
    conversion_from_start: float = strawberry.field(description="Of those at the first step.")
    median_seconds_from_previous: float | None = strawberry.field(
        description="Since the step before that is not optional, when each person came here first; null for nobody."
    )
    p90_seconds_from_previous: float | None = strawberry.field(description="The same, for nine people in ten.")


@strawberry.type(description="People who had one value at their first step. Needs VIEWER.")
class FunnelGroup:
    value: str | None = strawberry.field(
        description="A string as it is, anything else as JSON; null: not set, or isOther."
    )
    is_other: bool = strawberry.field(description="Whether these are all the groups beyond groupLimit, the last one.")
    steps: list[FunnelStepResult] = strawberry.field(description="As in the report.")
    conversion_rate: float = strawberry.field(description="As in the report.")


@strawberry.type(description="How far people came. Needs VIEWER.")
class FunnelReport:
    steps: list[FunnelStepResult] = strawberry.field(description="One per step of the input.")
    groups: list[FunnelGroup] = strawberry.field(description="With groupBy: the largest first.")
    previous: FunnelReport | None = strawberry.field(description="With compare: the period just before.")
    conversion_rate: float = strawberry.field(description="completed of entered, from 0 to 1; 0 of nobody.")
    entered: int = strawberry.field(description="People who did the first step.")
    completed: int = strawberry.field(description="People who came through all steps that are not optional.")
    as_of: datetime = strawberry.field(description="When it was counted.")

    @staticmethod
    def of(report: engine.FunnelReport) -> FunnelReport:
        return FunnelReport(
            steps=_steps(report.steps),
            groups=[
                FunnelGroup(
                    value=group.value,
                    is_other=group.is_other,
                    steps=_steps(group.steps),
                    conversion_rate=group.conversion_rate,
                )
                for group in report.groups
            ],
            previous=None if report.previous is None else FunnelReport.of(report.previous),
            conversion_rate=report.conversion_rate,
            entered=report.entered,
            completed=report.completed,
            as_of=report.as_of,
        )


def _steps(steps: Sequence[engine.StepReport]) -> list[FunnelStepResult]:
    return [
        FunnelStepResult(
            name=each.step.name,
            event_type=each.step.event_type,
            count=each.count,
            conversion_from_previous=each.from_previous,
            conversion_from_start=each.from_start,
            median_seconds_from_previous=each.median_seconds,
            p90_seconds_from_previous=each.p90_seconds,
        )
        for each in steps
    ]
