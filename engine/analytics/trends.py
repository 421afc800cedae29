"""Trends: one number of some events in each bucket of time, broken down by a property or trait where asked for.

Guarantees: every bucket is there, 0 where nothing happened; `total` is the measure of the whole period, not a sum of
its buckets (two visits of one person on two days are one unique user); groups come by their totals, then by name,
*not set* last, and all beyond the limit are measured together as *other*. The period before has the same groups.
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
from db.condition_terms import Path
from db.trends import Measure, TrendCell, TrendQuestion, read_trend
from engine.analytics.buckets import Interval, bucket_starts
from engine.analytics.inputs import find_audience, read_audience_id, read_group_limit, read_path, read_step, refused
from engine.analytics.periods import read_period
from engine.push.quiet_hours import find_zone

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    import asyncpg

MAX_POINTS = 10_000
"""Of one answer, over all of its series: more than any chart shows, and a second of work to write out."""
DEFAULT_ZONE = "UTC"
_WITHOUT_PROPERTY = frozenset({Measure.COUNT, Measure.UNIQUE_USERS})


class TrendInput(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for, checked but for the audience, which is looked up. `path` led to it, for messages.

    `starts` are the buckets of the period, `before` those of the one before if it is compared with.
    """

    step: Step
    measure: Measure
    value: Path | None
    period: Period
    starts: tuple[datetime, ...]
    before: tuple[datetime, ...]
    group: Path | None
    group_limit: int
    audience_id: UUID | None
    path: tuple[str, ...]


class TrendPoint(msgspec.Struct, frozen=True):
    """The number of one bucket; `at` is where the bucket starts."""

    at: datetime
    value: float


class TrendSeries(msgspec.Struct, frozen=True):
    """One line of the chart. `group` is None for *not set*, for *other*, and where nothing is broken down."""

    group: str | None
    is_other: bool
    points: tuple[TrendPoint, ...]
    total: float


class TrendReport(msgspec.Struct, frozen=True):
    """The series of the period, and of the one before: empty unless it is compared with."""

    series: tuple[TrendSeries, ...]
    previous: tuple[TrendSeries, ...]


def read_trend_input(given: Mapping[str, Any], *, now: datetime, path: tuple[str, ...] = ("input",)) -> TrendInput:
    """A TrendInput, given with the names of GraphQL. Raises `BadUserInput`."""
    period = read_period(given.get("since"), given.get("until"), given.get("period"), now=now, path=path)
    zone, interval = read_zone(given.get("timezone"), (*path, "timezone")), Interval(given.get("interval") or "DAY")
    group = read_path(given.get("groupBy"), (*path, "groupBy"), roots=frozenset({"event", "profile"}))
    group_limit = read_group_limit(given.get("groupLimit"), (*path, "groupLimit"))
    measure = Measure(given.get("measure") or "COUNT")
    starts = _starts(period, interval, zone)
    before = _starts(period.before(), interval, zone) if given.get("compare") else ()
    series = 1 if group is None else group_limit + 1
    if (len(starts) + len(before)) * series > MAX_POINTS:
        wanted = "a longer interval, a shorter period" + ("" if group is None else ", or a smaller groupLimit")
        raise refused((*path, "interval"), f"makes more than {MAX_POINTS} points: ask for {wanted}")
    return TrendInput(
        step=read_step(given["event"], (*path, "event")),
        measure=measure,
        value=_read_value(given.get("property"), measure, (*path, "property")),
        period=period,
        starts=starts,
        before=before,
        group=group,
        group_limit=group_limit if group is not None else 1,
        audience_id=read_audience_id(given.get("audienceId"), (*path, "audienceId")),
        path=path,
    )


def read_zone(name: str | None, path: tuple[str, ...]) -> ZoneInfo:
    """A time zone by its IANA name; UTC where none is given."""
    zone = find_zone(DEFAULT_ZONE if name is None else name)
    if zone is None:
        raise refused(path, "must be a time zone of the IANA database, e.g. Europe/Berlin")
    return zone


async def answer_trend(
    connection: asyncpg.Connection, *, project_id: UUID, asked: TrendInput, now: datetime
) -> TrendReport:
    """The trend as the statement finds it. `now` is business time. Raises `BadUserInput` without the audience."""
    members = await find_audience(
        connection, project_id=project_id, audience_id=asked.audience_id, path=(*asked.path, "audienceId")
    )
    question = TrendQuestion(
        step=asked.step,
        measure=asked.measure,
        edges=(*_edges(asked.before, asked.period.before()), *_edges(asked.starts, asked.period)),
        until=asked.period.until,
        compared=len(asked.before),
        value=asked.value,
        group=asked.group,
        group_limit=asked.group_limit,
        members=members,
    )
    return report_of(asked, await read_trend(connection, project_id=project_id, question=question, now=now))


def report_of(asked: TrendInput, cells: Sequence[TrendCell]) -> TrendReport:
    """The series that some numbers make, every bucket in them."""
    by_place = {(cell.rank, cell.is_current, cell.bucket): cell for cell in cells}
    ranks = [1] if asked.group is None else sorted({cell.rank for cell in cells if cell.rank is not None})
    has_other = (None, True, None) in by_place
    had_other = has_other or (None, False, None) in by_place
    names = {cell.rank: cell.name for cell in cells if asked.group is not None}

    def line(rank: int | None, *, is_current: bool) -> TrendSeries:
        starts, skipped = (asked.starts, len(asked.before)) if is_current else (asked.before, 0)
        points = tuple(
            TrendPoint(start, _value(by_place.get((rank, is_current, number))))
            for number, start in enumerate(starts, skipped + 1)
        )
        return TrendSeries(names.get(rank), rank is None, points, _value(by_place.get((rank, is_current, None))))

    current = [line(rank, is_current=True) for rank in (*ranks, *([None] if has_other else []))]
    if not asked.before:
        return TrendReport(tuple(current), ())
    previous = [line(rank, is_current=False) for rank in (*ranks, *([None] if had_other else []))]
    return TrendReport(tuple(current), tuple(previous))


def _read_value(text: str | None, measure: Measure, path: tuple[str, ...]) -> Path | None:
    if measure in _WITHOUT_PROPERTY:
        if text is not None:
            raise refused(path, f"does not go with {measure}: leave it out, or ask for SUM, AVG, MIN, MAX or a share")
        return None
    if text is None:
        raise refused(path, f"is missing: say what {measure} is of, e.g. event.properties.amount")
    return read_path(text, path, roots=frozenset({"event"}))


def _starts(period: Period, interval: Interval, zone: ZoneInfo) -> tuple[datetime, ...]:
    """No more than it takes to see that they are too many."""
    return tuple(islice(bucket_starts(period.since, period.until, interval, zone), MAX_POINTS + 1))


def _edges(starts: tuple[datetime, ...], period: Period) -> tuple[datetime, ...]:
    """Where events begin to fall into each bucket: into the first, with the period."""
    return (period.since, *starts[1:]) if starts else ()


def _value(cell: TrendCell | None) -> float:
    return 0.0 if cell is None else cell.value
