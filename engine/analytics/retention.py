"""Retention: of the people who began in an interval, how many came back in each of the intervals after it.

Guarantees: whoever does the first thing in an interval is in its cohort, in as many cohorts as there are intervals in
which they do it; the numbers at 0 are the cohort itself; the one at n counts whoever does the second thing within the
n-th interval after it, as the calendar has it. Intervals that have not begun are left out rather than shown as 0.
Cohorts are those of the period; whether their people came back is looked at beyond it, as far as now.
Leaves to others: connections and turns (`engine.analytics.pool`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from db.analytics_terms import Period, Step
from db.retention import RetentionCell, RetentionQuestion, read_retention
from engine.analytics.buckets import Interval, bucket_starts, next_start
from engine.analytics.inputs import find_audience, read_audience_id, read_step, refused
from engine.analytics.periods import read_period
from engine.analytics.trends import MAX_POINTS, read_zone

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    import asyncpg

DEFAULT_PERIODS = 8


class RetentionInput(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for, checked but for the audience, which is looked up. `path` led to it, for messages.

    `starts` are the intervals that people are followed into, as far as they have begun, and `end` is where the last of
    them ends; the first `cohorts` are those of the period.
    """

    start: Step
    back: Step
    period: Period
    starts: tuple[datetime, ...]
    cohorts: int
    end: datetime
    periods: int
    audience_id: UUID | None
    path: tuple[str, ...]


class RetentionCohort(msgspec.Struct, frozen=True):
    """Who began in one interval: `returned[n]` of them came back n intervals later."""

    start: datetime
    size: int
    returned: tuple[int, ...]

    def rates(self) -> tuple[float, ...]:
        """The shares that returned, from 0 to 1; 0 of nobody."""
        return tuple(count / self.size if self.size else 0.0 for count in self.returned)


def read_retention_input(
    given: Mapping[str, Any], *, now: datetime, path: tuple[str, ...] = ("input",)
) -> RetentionInput:
    """A RetentionInput, given with the names of GraphQL. Raises `BadUserInput`."""
    period = read_period(given.get("since"), given.get("until"), given.get("period"), now=now, path=path)
    zone, interval = read_zone(given.get("timezone"), (*path, "timezone")), Interval(given.get("interval") or "DAY")
    periods = _periods(given.get("periods"))
    if not 1 <= periods <= MAX_POINTS:
        raise refused((*path, "periods"), f"must be 1 to {MAX_POINTS}")
    cohorts = tuple(islice(bucket_starts(period.since, period.until, interval, zone), MAX_POINTS + 1))
    if len(cohorts) * periods > MAX_POINTS:
        raise refused((*path, "interval"), f"makes more than {MAX_POINTS} numbers: ask for a longer interval, or less")
    starts = _followed(cohorts, periods, interval, zone, now)
    return RetentionInput(
        start=read_step(given["startEvent"], (*path, "startEvent")),
        back=read_step(given["returnEvent"], (*path, "returnEvent")),
        period=period,
        starts=starts,
        cohorts=len(cohorts),
        end=next_start(starts[-1], interval, zone),
        periods=periods,
        audience_id=read_audience_id(given.get("audienceId"), (*path, "audienceId")),
        path=path,
    )


async def answer_retention(
    connection: asyncpg.Connection, *, project_id: UUID, asked: RetentionInput, now: datetime
) -> tuple[RetentionCohort, ...]:
    """The cohorts as the statement finds them. `now` is business time. Raises `BadUserInput` without the audience."""
    members = await find_audience(
        connection, project_id=project_id, audience_id=asked.audience_id, path=(*asked.path, "audienceId")
    )
    question = RetentionQuestion(
        start=asked.start,
        back=asked.back,
        edges=(asked.period.since, *asked.starts[1:]),
        until=asked.period.until,
        end=asked.end,
        periods=asked.periods,
        members=members,
    )
    return cohorts_of(asked, await read_retention(connection, project_id=project_id, question=question, now=now))


def cohorts_of(asked: RetentionInput, cells: Sequence[RetentionCell]) -> tuple[RetentionCohort, ...]:
    """The cohorts that some numbers make, every interval in them."""
    people = {(cell.cohort, cell.later): cell.people for cell in cells}
    cohorts = []
    for number, start in enumerate(asked.starts[: asked.cohorts], 1):
        followed = min(asked.periods, len(asked.starts) - number + 1)
        returned = tuple(people.get((number, later), 0) for later in range(followed))
        cohorts.append(RetentionCohort(start, returned[0], returned))
    return tuple(cohorts)


def _periods(given: int | None) -> int:
    return DEFAULT_PERIODS if given is None else given


def _followed(
    cohorts: tuple[datetime, ...], periods: int, interval: Interval, zone: ZoneInfo, now: datetime
) -> tuple[datetime, ...]:
    """The intervals of the cohorts, and those after the last one that have begun."""
    starts = list(cohorts)
    while len(starts) < len(cohorts) + periods - 1 and (following := next_start(starts[-1], interval, zone)) < now:
        starts.append(following)
    return tuple(starts)
