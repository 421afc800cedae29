"""Trends: how much of something happened, bucket after bucket."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import strawberry

from db.trends import Measure
from engine.analytics import trends as engine
from engine.analytics.buckets import Interval
from engine.analytics.inputs import MAX_GROUPS
from schema.descriptions import described_enum
from schema.funnel_step import FunnelStepInput
from schema.inputs import keep_mapping
from schema.interval import AUDIENCE_DESCRIPTION, PERIOD_DESCRIPTION, TIMEZONE_DESCRIPTION, UNTIL_DESCRIPTION

described_enum(
    Measure,
    "What is made of the events of a bucket. From SUM on, of the numbers at a property; others are passed over.",
    COUNT="How many events.",
    UNIQUE_USERS="How many people: whoever was anonymous first counts once.",
    SUM="All numbers added up.",
    AVG="The mean.",
    MIN="The least.",
    MAX="The greatest.",
    P50="The median.",
    P90="Nine tenths are at most this; between two numbers, in proportion.",
    P99="99 in 100 are at most this; between two numbers, in proportion.",
)


@strawberry.input(
    description=f"At most {engine.MAX_POINTS} points in all: buckets times series, twice that with compare."
)
class TrendInput:
    event: FunnelStepInput = strawberry.field(description="Which events count.")
    measure: Measure | None = strawberry.field(default=Measure.COUNT, description="What is made of them.")
    property: str | None = strawberry.field(
        default=strawberry.UNSET, description="For SUM … P99: e.g. event.properties.amount."
    )
    since: datetime | None = strawberry.field(default=strawberry.UNSET, description="From this moment on.")
    period: str | None = strawberry.field(default=strawberry.UNSET, description=PERIOD_DESCRIPTION)
    until: datetime | None = strawberry.field(default=strawberry.UNSET, description=UNTIL_DESCRIPTION)
    interval: Interval | None = strawberry.field(default=Interval.DAY, description="How long a bucket is.")
    group_by: str | None = strawberry.field(
        default=strawberry.UNSET,
        description="A series for each value of event.properties.x, or of profile.traits.x of its person as it is now.",
    )
    group_limit: int | None = strawberry.field(
        default=10,
        description=f"1 to {MAX_GROUPS}: those with the greatest totals get a series, all others together one.",
    )
    timezone: str | None = strawberry.field(default="UTC", description=TIMEZONE_DESCRIPTION)
    compare: bool | None = strawberry.field(
        default=False, description="Also the period of the same length just before, of the same groups."
    )
    audience_id: strawberry.ID | None = strawberry.field(default=strawberry.UNSET, description=AUDIENCE_DESCRIPTION)


keep_mapping(TrendInput)

TrendArguments = dict[str, Any]
"""The input as it was coerced: what is absent is not in it."""


@strawberry.type(description="The number of one bucket. Needs VIEWER.")
class TrendPoint:
    at: datetime = strawberry.field(
        description="Where the bucket starts; the first one may start before the period, and then holds a part."
    )
    value: float = strawberry.field(description="0 where nothing happened.")


@strawberry.type(description="One line of a chart. Needs VIEWER.")
class TrendSeries:
    group: str | None = strawberry.field(
        description="The value that it is of; null where it is not set, of the others, and without groupBy."
    )
    is_other: bool = strawberry.field(description="Of all groups beyond the limit together.")
    points: list[TrendPoint] = strawberry.field(description="Every bucket of the period, in order.")
    total: float = strawberry.field(
        description="The measure of the whole period: somebody who came on two days is one unique user."
    )

    @staticmethod
    def of(series: engine.TrendSeries) -> TrendSeries:
        return TrendSeries(
            group=series.group,
            is_other=series.is_other,
            points=[TrendPoint(at=point.at, value=point.value) for point in series.points],
            total=series.total,
        )


@strawberry.type(description="How much of something happened. Needs VIEWER.")
class TrendReport:
    series: list[TrendSeries] = strawberry.field(
        description="The greatest total first, then by name, what is not set last; the others at the end."
    )
    previous: list[TrendSeries] = strawberry.field(
        description="The period before, with the groups of `series` in their order; empty without compare."
    )

    @staticmethod
    def of(report: engine.TrendReport) -> TrendReport:
        return TrendReport(
            series=[TrendSeries.of(each) for each in report.series],
            previous=[TrendSeries.of(each) for each in report.previous],
        )
