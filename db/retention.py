"""Retention: of the people who did one thing in an interval, how many did another in each interval after it.

Guarantees: one statement per question, which reads the events once. Up to `MASK_INTERVALS` a person's events become two
numbers of one bit for each interval; beyond, those of one interval become a row, and what follows costs what there are
rows. Text is made of constants only; whatever a caller supplies is a parameter.
Leaves to others: where intervals begin, and which of them have begun.
"""

# ruff: noqa: S608

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from db.analytics_terms import PERSON, Step, joins_of, member_sql, step_sql, types_sql
from db.filter_terms import bind
from db.filters import Condition

if TYPE_CHECKING:
    import asyncpg


MASK_INTERVALS = 62
"""As many as a bigint has bits for, counted from 1."""


class RetentionQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for. `edges` are where the intervals begin, the first being where events begin to count.

    People begin before `until`; each cohort is followed for `periods` intervals, its own included, as far as there are
    edges. Events count before `end`. `members` are the conditions of an audience, if only its people count.
    """

    start: Step
    back: Step
    edges: tuple[datetime, ...]
    until: datetime
    end: datetime
    periods: int
    members: tuple[Condition, ...] | None = None


class RetentionCell(msgspec.Struct, frozen=True):
    """How many of a cohort (from 1) came back so many intervals later; 0 later is the cohort itself."""

    cohort: int
    later: int
    people: int


async def read_retention(
    connection: asyncpg.Connection, *, project_id: UUID, question: RetentionQuestion, now: datetime
) -> list[RetentionCell]:
    """Every number that is not 0, in no order. `now` is what the conditions look back from."""
    parameters: list[Any] = [project_id]
    text = retention_sql(question, parameters, now=now)
    rows = await connection.fetch(text, *parameters)
    return [RetentionCell(row["cohort"], row["later"], row["people"]) for row in rows]


def retention_sql(question: RetentionQuestion, parameters: list[Any], *, now: datetime) -> str:
    """The statement. Appends to `parameters`, whose first is the project, what it refers to."""
    edges = bind(list(question.edges), parameters)
    bucket = f"width_bucket(e.timestamp, {edges}::timestamptz[])"
    began, came = (step_sql(step, parameters, now=now) for step in (question.start, question.back))
    began = f"{began} AND e.timestamp < {bind(question.until, parameters)}::timestamptz"
    events = _events_sql(question, parameters, now=now)
    if len(question.edges) > MASK_INTERVALS:
        return _joined_sql(bucket, began, came, events, f"{bind(question.periods, parameters)}::int")
    return _masked_sql(bucket, began, came, events, question)


def _events_sql(question: RetentionQuestion, parameters: list[Any], *, now: datetime) -> str:
    """The events that count, of whoever did them."""
    steps = (question.start, question.back)
    return f"""FROM events AS e
            {joins_of(steps)}
            WHERE e.project_id = $1
                AND {types_sql(steps, parameters)}
                AND COALESCE(e.user_id, e.anonymous_id) IS NOT NULL
                AND e.timestamp >= {bind(question.edges[0], parameters)}::timestamptz
                AND e.timestamp < {bind(question.end, parameters)}::timestamptz
                AND {member_sql(question.members, parameters, now=now)}"""


def _masked_sql(bucket: str, began: str, came: str, events: str, question: RetentionQuestion) -> str:
    """A person is two numbers, of one bit for each interval, and many people are the same two.

    What they come to is counted in columns, not in rows: there would be one for each two intervals and kind of people.
    """
    intervals, periods = len(question.edges), min(question.periods, len(question.edges))
    counts = ", ".join(
        f"sum(people) FILTER (WHERE came >> start.bucket >> {later} & 1 = 1)" for later in range(1, periods)
    )
    return f"""
        WITH visits AS MATERIALIZED (
            SELECT
                {PERSON} AS person,
                bit_or(CASE WHEN {began} THEN 1::bigint << {bucket} ELSE 0 END) AS began,
                bit_or(CASE WHEN {came} THEN 1::bigint << {bucket} ELSE 0 END) AS came
            {events}
            GROUP BY 1
        ),
        alike AS MATERIALIZED (
            SELECT began, came, count(*)::int AS people FROM visits WHERE began <> 0 GROUP BY 1, 2
        ),
        counted AS (
            SELECT start.bucket, ARRAY[sum(people){", " * bool(counts)}{counts}] AS counts
            FROM generate_series(1, {intervals}) AS start (bucket)
            JOIN alike ON began >> start.bucket & 1 = 1
            GROUP BY 1
        )
        SELECT bucket AS cohort, (found.number - 1)::int AS later, found.people
        FROM counted
        CROSS JOIN unnest(counts) WITH ORDINALITY AS found (people, number)
        WHERE found.people IS NOT NULL"""


def _joined_sql(bucket: str, began: str, came: str, events: str, periods: str) -> str:
    """However many intervals there are: a person's events of one interval are a row."""
    return f"""
        WITH visits AS MATERIALIZED (
            SELECT {PERSON} AS person, {bucket} AS bucket, bool_or({began}) AS began, bool_or({came}) AS came
            {events}
            GROUP BY 1, 2
        )
        SELECT start.bucket AS cohort, later.bucket - start.bucket AS later, count(*) AS people
        FROM visits AS start
        JOIN visits AS later
            ON later.person = start.person
            AND later.bucket BETWEEN start.bucket AND start.bucket + {periods} - 1
            AND (later.came OR later.bucket = start.bucket)
        WHERE start.began
        GROUP BY 1, 2"""
