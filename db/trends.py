"""Trends: one number of some events in each bucket of time, and of each of their most important groups.

Guarantees: one statement per question, and so one moment: the period before, where it is asked for, is read along. What
groups there are, and which are the most important, is decided by the period itself. Text is made of constants only;
whatever a caller supplies is a parameter.
Leaves to others: where buckets begin, and showing those in which nothing happened.
"""

# ruff: noqa: S608

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from db.analytics_terms import (
    MAX_GROUP_CHARACTERS,
    PERSON,
    Step,
    group_sql,
    joins_of,
    member_sql,
    owner_join,
    step_sql,
    value_sql,
)
from db.condition_terms import Path
from db.filter_terms import bind
from db.filters import Condition

if TYPE_CHECKING:
    import asyncpg

_NOTHING = "\U0010ffff" * (MAX_GROUP_CHARACTERS + 1)
"""Stands for *not set* among the values of a group: longer than any of them, and last in their order."""


class Measure(StrEnum):
    """What is made of some events: their number, their persons', or one number of the values of a property."""

    COUNT = "COUNT"
    UNIQUE_USERS = "UNIQUE_USERS"
    SUM = "SUM"
    AVG = "AVG"
    MIN = "MIN"
    MAX = "MAX"
    P50 = "P50"
    P90 = "P90"
    P99 = "P99"


class TrendQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for. `edges` are where the buckets begin, those of the period before first: `compared` of them.

    The first edge is also where events begin to count, and `until` where they end. `value` is what a measure other than
    COUNT and UNIQUE_USERS reads; `members` are the conditions of an audience, if only its people count.
    """

    step: Step
    measure: Measure
    edges: tuple[datetime, ...]
    until: datetime
    compared: int = 0
    value: Path | None = None
    group: Path | None = None
    group_limit: int = 1
    members: tuple[Condition, ...] | None = None


class TrendCell(msgspec.Struct, frozen=True, kw_only=True):
    """A number. `rank` is the place of its group, from 1, None for all others together; `name` is what it is called.

    `bucket` is the number of an edge, from 1, None for the whole period; `is_current` tells it from the period before.
    """

    rank: int | None
    is_current: bool
    bucket: int | None
    name: str | None
    value: float


class _Shape(msgspec.Struct, frozen=True):
    """How a measure is taken in two steps: `columns` of a cell, and what joins cells."""

    columns: str
    joined: str


_SHAPES = {
    Measure.COUNT: _Shape("count(*) AS events", "sum(events)"),
    Measure.SUM: _Shape("sum(number) AS added", "sum(added)"),
    Measure.AVG: _Shape("sum(number) AS added, count(*) AS events", "sum(added) / sum(events)"),
    Measure.MIN: _Shape("min(number) AS least", "min(least)"),
    Measure.MAX: _Shape("max(number) AS most", "max(most)"),
}
_SHARES = {Measure.P50: 0.5, Measure.P90: 0.9, Measure.P99: 0.99}


async def read_trend(
    connection: asyncpg.Connection, *, project_id: UUID, question: TrendQuestion, now: datetime
) -> list[TrendCell]:
    """Every number that is not of nothing, in no order. `now` is what the conditions look back from."""
    parameters: list[Any] = [project_id]
    text = trend_sql(question, parameters, now=now)
    return [_cell_of(row) for row in await connection.fetch(text, *parameters)]


def trend_sql(question: TrendQuestion, parameters: list[Any], *, now: datetime) -> str:
    """The statement. Appends to `parameters`, whose first is the project, what it refers to."""
    compared, limit = f"{bind(question.compared, parameters)}::int", f"{bind(question.group_limit, parameters)}::int"
    nothing = f"{bind(_NOTHING, parameters)}::text"
    # Groups are chosen by the period itself. Without groups there is one, also where only the period before had events.
    ranking = "true" if question.group is None else f"bucket > {compared}"
    if question.measure is Measure.UNIQUE_USERS:
        happened = _happened_sql(question, nothing, parameters, now=now)
        placing = _placed_as_one(limit) if question.group is None else _placed_by_group(compared, limit)
        return _people_sql(happened, placing, compared=compared, nothing=nothing)
    cells, joined = _cells_sql(question, nothing, parameters, now=now)
    return f"""
        WITH cells AS MATERIALIZED ({cells}), ranked AS (
            SELECT name, row_number() OVER (ORDER BY {joined} DESC, name) AS rank
            FROM cells
            WHERE {ranking}
            GROUP BY name
        )
        SELECT rank, is_current, bucket, NULLIF(min(kept), {nothing}) AS name, {joined} AS value
        FROM (
            SELECT cells.*, cells.bucket > {compared} AS is_current, ranked.rank, ranked.name AS kept
            FROM cells LEFT JOIN ranked ON ranked.name = cells.name AND ranked.rank <= {limit}
        ) AS placed
        GROUP BY GROUPING SETS ((rank, is_current, bucket), (rank, is_current))"""


def _people_sql(happened: str, placing: str, *, compared: str, nothing: str) -> str:
    """How many people each place of each bucket has, and each place of each period: made distinct by hashing, since to
    sort them took most of the time. `placing` makes `ranked` (rank, name) and `placed` (rank, bucket, person)."""
    return f"""
        WITH happened AS ({happened}), {placing}
        SELECT counted.rank, is_current, bucket, NULLIF(ranked.name, {nothing}) AS name, value
        FROM (
            SELECT rank, bucket > {compared} AS is_current, bucket, count(*) AS value
            FROM placed
            GROUP BY rank, bucket
            UNION ALL
            SELECT rank, is_current, NULL, count(*)
            FROM (SELECT rank, bucket > {compared} AS is_current FROM placed GROUP BY 1, 2, person) AS once
            GROUP BY rank, is_current
        ) AS counted
        LEFT JOIN ranked ON ranked.rank = counted.rank"""


def _placed_as_one(limit: str) -> str:
    """Without groups all are one."""
    return f"""ranked AS (
            SELECT 1 AS rank, '' AS name LIMIT {limit}
        ), placed AS MATERIALIZED (
            SELECT 1 AS rank, bucket, person FROM happened GROUP BY bucket, person
        )"""


def _placed_by_group(compared: str, limit: str) -> str:
    """The people of a group are distinct before it has a place; those of all the others together are not."""
    return f"""cells AS MATERIALIZED (
            SELECT bucket, name, person FROM happened GROUP BY bucket, name, person
        ), ranked AS MATERIALIZED (
            SELECT name, row_number() OVER (ORDER BY count(*) DESC, name) AS rank
            FROM (SELECT name FROM cells WHERE bucket > {compared} GROUP BY name, person) AS once
            GROUP BY name
            ORDER BY rank
            LIMIT {limit}
        ), placed AS MATERIALIZED (
            SELECT ranked.rank, cells.bucket, cells.person FROM cells JOIN ranked ON ranked.name = cells.name
            UNION ALL
            SELECT NULL, bucket, person
            FROM cells
            WHERE NOT EXISTS (SELECT FROM ranked WHERE ranked.name = cells.name)
            GROUP BY bucket, person
        )"""


def _cells_sql(question: TrendQuestion, nothing: str, parameters: list[Any], *, now: datetime) -> tuple[str, str]:
    """Numbers by bucket and name of the group, and how several of them make one."""
    happened = _happened_sql(question, nothing, parameters, now=now)
    if question.measure in _SHARES:
        share = f"percentile_cont({_SHARES[question.measure]}) WITHIN GROUP (ORDER BY number)"
        return f"SELECT bucket, name, number::float8 AS number FROM ({happened}) AS happened", share
    shape = _SHAPES[question.measure]
    cells = f"SELECT bucket, name, {shape.columns} FROM ({happened}) AS happened GROUP BY bucket, name"
    return cells, shape.joined


def _happened_sql(question: TrendQuestion, nothing: str, parameters: list[Any], *, now: datetime) -> str:
    """The events that count, each with what its measure reads."""
    edges = bind(list(question.edges), parameters)
    name = "''" if question.group is None else f"COALESCE({group_sql(question.group, parameters)}, {nothing})"
    selected = [f"width_bucket(e.timestamp, {edges}::timestamptz[]) AS bucket", f'({name}) COLLATE "C" AS name']
    tests = [
        "e.project_id = $1",
        step_sql(question.step, parameters, now=now),
        f"e.timestamp >= {bind(question.edges[0], parameters)}::timestamptz",
        f"e.timestamp < {bind(question.until, parameters)}::timestamptz",
        member_sql(question.members, parameters, now=now),
    ]
    if question.measure is Measure.UNIQUE_USERS:
        selected.append(f"{PERSON} AS person")
        tests.append("COALESCE(e.user_id, e.anonymous_id) IS NOT NULL")
    if question.value is None:
        return _select(selected, question, tests)
    selected.append(f"{value_sql(question.value, parameters)} AS found")
    # OFFSET keeps the JSON from being taken apart once for each time that `found` is named.
    return (
        f"SELECT found.*, found.found::numeric AS number FROM ({_select(selected, question, tests)} OFFSET 0) AS found"
        " WHERE jsonb_typeof(found.found) = 'number'"
    )


def _select(selected: Sequence[str], question: TrendQuestion, tests: Sequence[str]) -> str:
    joins = f"{joins_of([question.step])} {owner_join(question.group)}"
    return f"SELECT {', '.join(selected)} FROM events AS e {joins} WHERE {' AND '.join(tests)}"


def _cell_of(row: Any) -> TrendCell:
    values = {name: row[name] for name in TrendCell.__struct_fields__}
    return TrendCell(**{**values, "value": float(row["value"])})
