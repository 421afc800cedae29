"""How far people come through a sequence of steps: a funnel as one statement over the log.

How it counts: each person's events are gone through once, in the order of time (`seq` where times are equal). A *way*
is a series of a person's events, one per step, that goes on for no longer than the window, and not after the person did
what is excluded. Of all ways that arrive at a step with one event, the one that began last is the best: whatever
another one can still reach, it can. So it is enough to carry one way per step along, by window functions over one sort;
a person arrives at a step with the first event with which any way does.

- ORDERED: the way that arrived last at the required step before; optional steps stop nobody, and carry nobody.
- STRICT: the ways that arrived with the event just before, at the step before or at one that may be skipped after it.
- UNORDERED: the latest events of each kind of step; a person has done k steps when k of them lie within the window.

Guarantees: one statement in the caller's transaction, that reads one partition of the log. Its text is made of
constants; whatever a caller supplies is a parameter. Leaves to others: checking what is asked (`engine.analytics`).
"""

# ruff: noqa: S608
# The statement's text is made of constants, numbers of steps and $n only.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from db.analytics_terms import (
    PERSON,
    Period,
    Step,
    group_sql,
    joins_of,
    member_sql,
    owner_join,
    step_sql,
    types_sql,
    value_sql,
)
from db.condition_terms import Path
from db.filter_terms import bind
from db.filters import Condition

if TYPE_CHECKING:
    import asyncpg

MICROSECONDS = 1_000_000


class FunnelOrder(StrEnum):
    """Which ways through the steps count."""

    ORDERED = "ORDERED"
    STRICT = "STRICT"
    UNORDERED = "UNORDERED"


class Funnel(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked. The first step and one more are required ones; only ORDERED and STRICT have optional ones.

    `hold` leads to a value of events that is the same all the way, `group` to what people are broken down by, as it was
    at the first step of the way on which they came furthest.
    """

    steps: tuple[Step, ...]
    window_seconds: int
    order: FunnelOrder = FunnelOrder.ORDERED
    exclude: tuple[Step, ...] = ()
    hold: Path | None = None
    group: Path | None = None
    group_limit: int = 10

    @property
    def required(self) -> tuple[int, ...]:
        """The numbers of the steps that nobody may skip, from 0."""
        return tuple(number for number, step in enumerate(self.steps) if not step.optional)

    def before(self, step: int) -> int:
        """The number of the required step before one; of the first, itself."""
        return max((number for number in self.required if number < step), default=0)


class StepCount(msgspec.Struct, frozen=True):
    """People who arrived at a step, and how long they took since the required step before it; None for nobody."""

    people: int
    median_seconds: float | None
    p90_seconds: float | None


class GroupCount(msgspec.Struct, frozen=True):
    """A group's people at each step. `value` is None where it is not set, and for the rest, which `is_other`."""

    value: str | None
    is_other: bool
    steps: tuple[StepCount, ...]


class FunnelCount(msgspec.Struct, frozen=True):
    """Everybody at each step, and group by group: the largest first, the rest last."""

    steps: tuple[StepCount, ...]
    groups: tuple[GroupCount, ...]


async def count_funnel(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    funnel: Funnel,
    period: Period,
    audience: Sequence[Condition] | None,
    now: datetime,
) -> FunnelCount:
    """How far people came within a period. `audience` is what its members meet; conditions look back from `now`."""
    text, parameters = funnel_sql(project_id, funnel, period, audience, now)
    total, groups = _none_of(funnel), []
    for row in await connection.fetch(text, *parameters):
        if row["is_total"]:
            total = _steps_of(row, funnel)
        else:
            groups.append(GroupCount(row["value"], row["is_other"], _steps_of(row, funnel)))
    return FunnelCount(total, tuple(groups))


def funnel_sql(
    project_id: UUID, funnel: Funnel, period: Period, audience: Sequence[Condition] | None, now: datetime
) -> tuple[str, list[Any]]:
    """The statement and its parameters: a row for everybody, and one per group."""
    writer = _FunnelWriter(funnel, [project_id], now)
    return writer.write(period, audience), writer.parameters


def _steps_of(row: Any, funnel: Funnel) -> tuple[StepCount, ...]:
    return tuple(
        StepCount(row[f"people{k}"], *(row[f"seconds{k}"] if k and row[f"seconds{k}"] else (None, None)))
        for k in range(len(funnel.steps))
    )


def _none_of(funnel: Funnel) -> tuple[StepCount, ...]:
    return tuple(StepCount(0, None, None) for _ in funnel.steps)


class _FunnelWriter:
    """Writes one statement.

    Rows of `events`: person, t (microseconds), seq, and which steps the event counts for: m{k}, for each step, or in
    UNORDERED `kind`, the first kind of step that it meets. Behind each step k stand what arrives there: s{k}, when the
    best way that arrives with the event began (NULL: none arrives), b{k}, when it was at the required step before, and
    where it matters q{k}, the number of its first event among its person's.
    """

    def __init__(self, funnel: Funnel, parameters: list[Any], now: datetime) -> None:
        self.parameters = parameters
        self._funnel = funnel
        self._now = now
        self._numbers = range(len(funnel.steps))
        self._is_strict = funnel.order is FunnelOrder.STRICT
        self._keeps_place = self._is_strict or bool(funnel.exclude) or funnel.group is not None
        # What is sorted must then be the few columns that came of it (OFFSET 0), not the JSON; else workers may sort.
        self._looks_inside = (
            any(step.where for step in (*funnel.steps, *funnel.exclude))
            or funnel.hold is not None
            or funnel.group is not None
        )
        self._window = self._bind(funnel.window_seconds * MICROSECONDS) + "::bigint"

    def write(self, period: Period, audience: Sequence[Condition] | None) -> str:
        matched = self._numbered(self._events(period, audience))
        match self._funnel.order:
            case FunnelOrder.ORDERED:
                arrivals = self._ordered()
            case FunnelOrder.STRICT:
                arrivals = self._strict()
            case FunnelOrder.UNORDERED:
                arrivals = self._unordered()
        return f"""
        WITH matched AS ({matched}),
        people AS ({self._people(arrivals)})
        {self._report()}"""

    def _bind(self, value: Any) -> str:
        return bind(value, self.parameters)

    def _events(self, period: Period, audience: Sequence[Condition] | None) -> str:
        funnel = self._funnel
        asked = (*funnel.steps, *funnel.exclude)
        columns = [f"{PERSON} AS person", f"{_micros('e.timestamp')} AS t", "e.seq", *self._match_columns()]
        if funnel.exclude:
            tests = " OR ".join(step_sql(step, self.parameters, now=self._now) for step in funnel.exclude)
            columns.append(f"({tests}) AS excluded")
        if funnel.hold is not None:
            columns.append(f"{value_sql(funnel.hold, self.parameters)} AS held")
        if funnel.group is not None:
            columns.append(f"COALESCE('=' || {group_sql(funnel.group, self.parameters)}, '') AS value")
        typed = "true" if self._is_strict else types_sql(asked, self.parameters)
        since, until = self._bind(period.since), self._bind(period.until)
        return f"""
            SELECT {", ".join(columns)}
            FROM events AS e {joins_of(asked)} {owner_join(funnel.group)}
            WHERE e.project_id = $1 AND e.timestamp >= {since} AND e.timestamp < {until} AND {typed}
                AND (e.user_id IS NOT NULL OR e.anonymous_id IS NOT NULL)
                AND {member_sql(audience, self.parameters, now=self._now)}
            {"OFFSET 0" if self._looks_inside else ""}"""

    def _match_columns(self) -> list[str]:
        steps = self._funnel.steps
        if self._funnel.order is FunnelOrder.UNORDERED:
            tests = [step_sql(steps[first], self.parameters, now=self._now) for first, _ in self._kinds()]
            cases = " ".join(f"WHEN {test} THEN {kind}" for kind, test in enumerate(tests))
            return [f"CASE {cases} END AS kind"]
        return [f"{step_sql(step, self.parameters, now=self._now)} AS m{k}" for k, step in enumerate(steps)]

    def _kinds(self) -> list[tuple[int, int]]:
        """Of UNORDERED: the steps that differ, each the number of its first and how often it is asked for."""
        asked: dict[Any, list[int]] = {}
        for number, step in enumerate(self._funnel.steps):
            asked.setdefault((step.event_types, msgspec.json.encode(step.where)), []).append(number)
        return [(numbers[0], len(numbers)) for numbers in asked.values()]

    def _numbered(self, events: str) -> str:
        """Those that a step can use. `n` is an event's number among its person's, `x` that of the last excluded one."""
        funnel = self._funnel
        source = events
        if self._keeps_place:
            source = f"""
            SELECT *, row_number() OVER way AS n FROM ({source}) AS e
            WINDOW way AS (PARTITION BY person ORDER BY t, seq)"""
        if funnel.exclude:
            source = f"""
            SELECT *, max(n) FILTER (WHERE excluded) OVER (
                PARTITION BY person ORDER BY t, seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ) AS x
            FROM ({source}) AS e"""
        tests = []
        if not self._is_strict:
            counts = " OR ".join(f"m{k}" for k in self._numbers)
            is_step = "kind IS NOT NULL" if funnel.order is FunnelOrder.UNORDERED else f"({counts})"
            tests += [is_step] if self._looks_inside or funnel.exclude else []
            tests += ["held IS NOT NULL"] if funnel.hold is not None else []
        return f"SELECT * FROM ({source}) AS e WHERE {' AND '.join(tests)}" if tests else source

    def _way(self) -> str:
        """A person's rows, one value's where one is held, in order."""
        held = ", held" if self._funnel.hold is not None and not self._is_strict else ""
        return f"PARTITION BY person{held} ORDER BY t, seq"

    def _ordered(self) -> str:
        before = f"OVER ({self._way()} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
        place = ", CASE WHEN m0 THEN n END AS q0" if self._keeps_place else ""
        source = f"SELECT *, CASE WHEN m0 THEN t END AS s0{place} FROM matched"
        for k in self._numbers[1:]:
            last = self._funnel.before(k)
            carried = [f"max(s{last}) {before} AS a{k}", f"max(t) FILTER (WHERE s{last} IS NOT NULL) {before} AS b{k}"]
            if self._keeps_place:
                carried.append(f"max(q{last}) {before} AS c{k}")
            source = f"SELECT *, {', '.join(carried)} FROM ({source}) AS e"
            arrives = f"m{k} AND t - a{k} <= {self._window}{self._not_excluded(f'c{k}')}"
            columns = [f"CASE WHEN {arrives} THEN a{k} END AS s{k}"]
            columns += [f"CASE WHEN {arrives} THEN c{k} END AS q{k}"] if self._keeps_place else []
            source = f"SELECT *, {', '.join(columns)} FROM ({source}) AS e"
        return source

    def _strict(self) -> str:
        """z{k} is the way that arrives: the number and time of its first event, the time of its last required step."""
        held = self._funnel.hold is not None
        counts = "m0" + (" AND held IS NOT NULL" if held else "")
        source = f"""SELECT *, CASE WHEN {counts} THEN ARRAY[n, t, t] END AS z0, CASE WHEN {counts} THEN t END AS s0,
            CASE WHEN {counts} THEN n END AS q0 FROM matched"""
        for k in self._numbers[1:]:
            last = self._funnel.before(k)
            ways = ", ".join(f"lag(z{c}) OVER way" for c in range(last, k))
            same = " AND held = lag(held) OVER way" if held else ""
            source = f"""SELECT *, CASE WHEN m{k}{same} THEN GREATEST({ways}) END AS a{k}
            FROM ({source}) AS e WINDOW way AS ({self._way()})"""
            arrives = f"t - a{k}[2] <= {self._window}{self._not_excluded(f'a{k}[1]')}"
            at = "t" if k in self._funnel.required else f"a{k}[3]"
            source = f"""SELECT *, CASE WHEN {arrives} THEN ARRAY[a{k}[1], a{k}[2], {at}] END AS z{k},
            CASE WHEN {arrives} THEN a{k}[2] END AS s{k}, CASE WHEN {arrives} THEN a{k}[1] END AS q{k}, a{k}[3] AS b{k}
            FROM ({source}) AS e"""
        return source

    def _unordered(self) -> str:
        """The latest events of each kind, as many of it as are asked for, in one list: the k-th latest began a way."""
        before = f"OVER ({self._way()} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
        by_now = f"OVER ({self._way()} ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)"
        measures = ("t", "n") if self._keeps_place else ("t",)
        source, slots = "SELECT * FROM matched", []
        for kind, (_, times) in enumerate(self._kinds()):
            for turn in range(times):
                slots.append(f"{kind}_{turn}")
                earlier = [
                    f"{m} AS {m}{kind}_0" if turn == 0 else f"max({m}_at{kind}_{turn - 1}) {before} AS {m}{kind}_{turn}"
                    for m in measures
                ]
                source = f"SELECT *, {', '.join(earlier)} FROM ({source}) AS e"
                at = [f"CASE WHEN kind = {kind} THEN {m}{kind}_{turn} END AS {m}_at{kind}_{turn}" for m in measures]
                source = f"SELECT *, {', '.join(at)} FROM ({source}) AS e"
        latest = [f"max({m}_at{slot}) {by_now} AS {m}_last{slot}" for slot in slots for m in measures]
        source = f"SELECT *, {', '.join(latest)} FROM ({source}) AS e"
        lists = [f"{_descending([f'{m}_last{slot}' for slot in slots])} AS {m}s" for m in measures]
        source = f"SELECT *, {', '.join(lists)} FROM ({source}) AS e OFFSET 0"
        columns = []
        for k in self._numbers:
            arrives = f"t - ts[{k + 1}] <= {self._window}{self._not_excluded(f'ns[{k + 1}]')}"
            columns.append(f"CASE WHEN {arrives} THEN ts[{k + 1}] END AS s{k}")
            columns += [f"CASE WHEN {arrives} THEN ns[{k + 1}] END AS q{k}"] if self._keeps_place else []
            columns += [f"ts[2] AS b{k}"] if k else []
        return f"SELECT *, {', '.join(columns)} FROM ({source}) AS e"

    def _not_excluded(self, first: str) -> str:
        """Nothing excluded since the event with this number; that event itself, and the one that arrives, may be."""
        return f" AND {first} >= COALESCE(x, 0)" if self._funnel.exclude else ""

    def _people(self, arrivals: str) -> str:
        """A row per person who entered: f{k}, when they arrived first at a step, b{k} and q{k} of that way."""
        is_pairing = self._is_strict or self._funnel.hold is not None
        columns = [f"min(t) FILTER (WHERE s{k} IS NOT NULL) AS f{k}" for k in self._numbers]
        columns += [
            f"(min(ARRAY[t, b{k}]) FILTER (WHERE s{k} IS NOT NULL))[2] AS b{k}"
            if is_pairing
            else f"min(b{k}) FILTER (WHERE s{k} IS NOT NULL) AS b{k}"
            for k in self._numbers[1:]
        ]
        if self._funnel.group is not None:
            columns += [f"min(q{k}) AS q{k}" for k in self._funnel.required]
        people = f"""
            SELECT person, {", ".join(columns)} FROM ({arrivals}) AS e
            GROUP BY person HAVING count(s0) > 0"""
        if self._funnel.group is None:
            return people
        furthest = ", ".join(f"q{k}" for k in reversed(self._funnel.required))
        return f"""
            SELECT people.*, matched.value FROM ({people}) AS people
            JOIN matched ON matched.person = people.person AND matched.n = COALESCE({furthest})"""

    def _report(self) -> str:
        columns = ", ".join(self._measures())
        if self._funnel.group is None:
            return f"SELECT true AS is_total, NULL::text AS value, false AS is_other, {columns} FROM people"
        limit = self._bind(self._funnel.group_limit)
        return f""",
        places AS (
            SELECT value, row_number() OVER (ORDER BY count(*) DESC, value COLLATE "C") AS place
            FROM people GROUP BY value
        ),
        placed AS (
            SELECT people.*,
                CASE WHEN place <= {limit} THEN people.value END AS shown, least(place, {limit} + 1) AS place
            FROM people JOIN places USING (value)
        )
        SELECT GROUPING(place) = 1 AS is_total, substr(NULLIF(shown, ''), 2) AS value,
            GROUPING(place) = 0 AND shown IS NULL AS is_other, {columns}
        FROM placed GROUP BY GROUPING SETS ((), (place, shown)) ORDER BY place NULLS FIRST"""

    def _measures(self) -> Iterator[str]:
        for k in self._numbers:
            yield f"count(f{k}) AS people{k}"
        for k in self._numbers[1:]:
            yield (
                f"percentile_cont(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY (f{k} - b{k}) / {MICROSECONDS}.0::float8)"
                f" AS seconds{k}"
            )


def _micros(column: str) -> str:
    """Microseconds since 1970, exactly: the nearest whole number to what a double holds."""
    return f"CAST(round(date_part('epoch', {column}) * {MICROSECONDS}) AS bigint)"


def _descending(values: Sequence[str]) -> str:
    listed = f"SELECT v FROM unnest(ARRAY[{', '.join(values)}]) AS v WHERE v IS NOT NULL ORDER BY v DESC"
    return f"ARRAY({listed})"
