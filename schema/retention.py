"""Retention: who comes back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import strawberry

from engine.analytics import retention as engine
from engine.analytics.buckets import Interval
from engine.analytics.trends import MAX_POINTS
from schema.funnel_step import FunnelStepInput
from schema.inputs import keep_mapping
from schema.interval import AUDIENCE_DESCRIPTION, PERIOD_DESCRIPTION, TIMEZONE_DESCRIPTION, UNTIL_DESCRIPTION


@strawberry.input(description=f"At most {MAX_POINTS} numbers in all: cohorts times periods.")
class RetentionInput:
    start_event: FunnelStepInput = strawberry.field(description="Whoever does this in an interval is in its cohort.")
    return_event: FunnelStepInput = strawberry.field(description="Whoever does this in a later one has come back.")
    since: datetime | None = strawberry.field(default=strawberry.UNSET, description="Cohorts begin at this moment.")
    period: str | None = strawberry.field(default=strawberry.UNSET, description=PERIOD_DESCRIPTION)
    until: datetime | None = strawberry.field(
        default=strawberry.UNSET,
        description=f"{UNTIL_DESCRIPTION} Of what begins cohorts: people who come back are counted as far as now.",
    )
    timezone: str | None = strawberry.field(default="UTC", description=TIMEZONE_DESCRIPTION)
    interval: Interval | None = strawberry.field(default=Interval.DAY, description="How long an interval is.")
    periods: int | None = strawberry.field(
        default=engine.DEFAULT_PERIODS, description="How many intervals a cohort is followed for, its own included."
    )
    audience_id: strawberry.ID | None = strawberry.field(default=strawberry.UNSET, description=AUDIENCE_DESCRIPTION)


keep_mapping(RetentionInput)

RetentionArguments = dict[str, Any]
"""The input as it was coerced: what is absent is not in it."""


@strawberry.type(description="Who began in one interval, and how many of them came back. Needs VIEWER.")
class RetentionCohort:
    start: datetime = strawberry.field(
        description="Where its interval starts; the first one may start before the period, and then holds a part."
    )
    size: int = strawberry.field(description="How many people did the first thing in it.")
    returned: list[int] = strawberry.field(
        description=(
            "At 0 the cohort itself; at n how many of it did the second thing in the n-th interval after. "
            "Intervals that have not begun are left out; the one that is on still grows."
        )
    )
    rates: list[float] = strawberry.field(description="The same as shares of the cohort, 0 to 1; 0 of nobody.")


@strawberry.type(description="Who comes back. Needs VIEWER.")
class RetentionReport:
    cohorts: list[RetentionCohort] = strawberry.field(description="Every interval of the period, in order.")

    @staticmethod
    def of(cohorts: Sequence[engine.RetentionCohort]) -> RetentionReport:
        return RetentionReport(
            cohorts=[
                RetentionCohort(
                    start=each.start, size=each.size, returned=list(each.returned), rates=list(each.rates())
                )
                for each in cohorts
            ]
        )
