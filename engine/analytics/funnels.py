"""Funnels: from an input to what is counted, and from counts to a report.

Guarantees: an input that can never be answered is refused before anything is read, with the path of what is wrong;
equal inputs at one moment give equal reports. Leaves to others: the counting (`db.funnels`) and turns
(`engine.analytics.pool`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from db.analytics_terms import Period, Step
from db.funnels import Funnel, FunnelCount, FunnelOrder, StepCount, count_funnel
from engine.analytics.inputs import find_audience, read_audience_id, read_group_limit, read_path, read_step, refused
from engine.analytics.periods import read_period

if TYPE_CHECKING:
    import asyncpg

    from db.filters import Condition

MIN_STEPS, MAX_STEPS = 2, 20
MAX_EXCLUDED = 20
DEFAULT_WINDOW_SECONDS = 7 * 24 * 3600
MAX_WINDOW_SECONDS = 366 * 24 * 3600
"""A year: who takes longer has begun anew."""


class FunnelQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """A FunnelInput, checked: which steps, within what period, of whom. `path` leads to the input."""

    funnel: Funnel
    period: Period
    audience_id: UUID | None = None
    compare: bool = False
    path: tuple[str, ...] = ("input",)


class StepReport(msgspec.Struct, frozen=True):
    """A step. Rates are from 0 to 1: of those at the required step before, and of those who entered."""

    step: Step
    count: int
    from_previous: float
    from_start: float
    median_seconds: float | None
    p90_seconds: float | None


class GroupReport(msgspec.Struct, frozen=True):
    """A group. `value` is None where it is not set, and for the rest, which `is_other`."""

    value: str | None
    is_other: bool
    steps: tuple[StepReport, ...]
    conversion_rate: float


class FunnelReport(msgspec.Struct, frozen=True, kw_only=True):
    """The answer as of an instant. `completed` came through all required steps."""

    steps: tuple[StepReport, ...]
    groups: tuple[GroupReport, ...]
    previous: FunnelReport | None
    conversion_rate: float
    entered: int
    completed: int
    as_of: datetime


def read_funnel_input(given: Mapping[str, Any], *, now: datetime, path: tuple[str, ...] = ("input",)) -> FunnelQuestion:
    """A FunnelInput, given with the names of GraphQL; `path` led to it. Raises `BadUserInput`."""
    order = FunnelOrder(given.get("order") or FunnelOrder.ORDERED)
    funnel = Funnel(
        steps=_read_steps(given["steps"], order, (*path, "steps")),
        window_seconds=_read_window(given.get("windowSeconds"), (*path, "windowSeconds")),
        order=order,
        exclude=_read_excluded(given.get("exclude") or (), (*path, "exclude")),
        hold=read_path(given.get("holdConstant"), (*path, "holdConstant"), roots=frozenset({"event"})),
        group=read_path(given.get("groupBy"), (*path, "groupBy"), roots=frozenset({"event", "profile"})),
        group_limit=read_group_limit(given.get("groupLimit"), (*path, "groupLimit")),
    )
    return FunnelQuestion(
        funnel=funnel,
        period=read_period(given.get("since"), given.get("until"), given.get("period"), now=now, path=path),
        audience_id=read_audience_id(given.get("audienceId"), (*path, "audienceId")),
        compare=bool(given.get("compare")),
        path=path,
    )


async def answer_funnel(
    connection: asyncpg.Connection, *, project_id: UUID, asked: FunnelQuestion, now: datetime
) -> FunnelReport:
    """Count it, and the period before where that is asked for. Raises `BadUserInput` for an unknown audience."""
    path = (*asked.path, "audienceId")
    audience = await find_audience(connection, project_id=project_id, audience_id=asked.audience_id, path=path)

    async def report(period: Period, previous: FunnelReport | None) -> FunnelReport:
        counted = await _count(connection, project_id, asked.funnel, period, audience, now)
        return make_report(asked.funnel, counted, previous=previous, as_of=now)

    before = await report(asked.period.before(), None) if asked.compare else None
    return await report(asked.period, before)


def make_report(
    funnel: Funnel, counted: FunnelCount, *, previous: FunnelReport | None, as_of: datetime
) -> FunnelReport:
    """Pure: rates of what was counted."""
    completed = counted.steps[funnel.required[-1]].people
    groups = tuple(
        GroupReport(group.value, group.is_other, _steps(funnel, group.steps), _rate_of_all(funnel, group.steps))
        for group in counted.groups
    )
    return FunnelReport(
        steps=_steps(funnel, counted.steps),
        groups=groups,
        previous=previous,
        conversion_rate=_rate_of_all(funnel, counted.steps),
        entered=counted.steps[0].people,
        completed=completed,
        as_of=as_of,
    )


async def _count(
    connection: asyncpg.Connection,
    project_id: UUID,
    funnel: Funnel,
    period: Period,
    audience: Sequence[Condition] | None,
    now: datetime,
) -> FunnelCount:
    return await count_funnel(
        connection, project_id=project_id, funnel=funnel, period=period, audience=audience, now=now
    )


def _steps(funnel: Funnel, counts: Sequence[StepCount]) -> tuple[StepReport, ...]:
    entered = counts[0].people
    return tuple(
        StepReport(
            step,
            count.people,
            _rate(count.people, counts[funnel.before(number)].people),
            _rate(count.people, entered),
            count.median_seconds,
            count.p90_seconds,
        )
        for number, (step, count) in enumerate(zip(funnel.steps, counts, strict=True))
    )


def _rate_of_all(funnel: Funnel, counts: Sequence[StepCount]) -> float:
    return _rate(counts[funnel.required[-1]].people, counts[0].people)


def _rate(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _read_steps(given: Sequence[Mapping[str, Any]], order: FunnelOrder, path: tuple[str, ...]) -> tuple[Step, ...]:
    if not MIN_STEPS <= len(given) <= MAX_STEPS:
        raise refused(path, f"must have {MIN_STEPS} to {MAX_STEPS} steps")
    steps = tuple(read_step(step, (*path, str(number))) for number, step in enumerate(given))
    optional = [number for number, step in enumerate(steps) if step.optional]
    if optional and order is FunnelOrder.UNORDERED:
        raise refused((*path, str(optional[0]), "optional"), "does not go with UNORDERED, where no step has a place")
    if steps[0].optional:
        raise refused((*path, "0", "optional"), "cannot be true of the first step: everybody enters by it")
    if len(steps) - len(optional) < MIN_STEPS:
        raise refused((*path, str(optional[0]), "optional"), "leaves one step alone: let another one be required")
    return steps


def _read_window(seconds: int | None, path: tuple[str, ...]) -> int:
    window = DEFAULT_WINDOW_SECONDS if seconds is None else seconds
    if not 1 <= window <= MAX_WINDOW_SECONDS:
        raise refused(path, f"must be 1 to {MAX_WINDOW_SECONDS}, a year")
    return window


def _read_excluded(given: Sequence[Mapping[str, Any]], path: tuple[str, ...]) -> tuple[Step, ...]:
    if len(given) > MAX_EXCLUDED:
        raise refused(path, f"has too many entries: at most {MAX_EXCLUDED}")
    excluded = tuple(read_step(step, (*path, str(number))) for number, step in enumerate(given))
    for number, step in enumerate(excluded):
        if step.optional:
            raise refused((*path, str(number), "optional"), "says nothing of what is excluded: leave it out")
    return excluded
