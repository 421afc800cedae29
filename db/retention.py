"""Retention: of the people who did one thing in an interval, how many did another in each interval after it.

Guarantees: one statement per question, which reads the events once: a person's events of one interval become one row,
and what follows costs what there are rows, however many intervals there are. Text is made of constants only; whatever a
caller supplies is a parameter.
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
    steps = (question.start, question.back)
    edges = bind(list(question.edges), parameters)
    began, came = (step_sql(step, parameters, now=now) for step in steps)
    until, periods = bind(question.until, parameters), bind(question.periods, parameters)
    return f"""
        WITH visits AS MATERIALIZED (
            SELECT
                {PERSON} AS person,
                width_bucket(e.timestamp, {edges}::timestamptz[]) AS bucket,
                bool_or({began} AND e.timestamp < {until}::timestamptz) AS began,
                bool_or({came}) AS came
            FROM events AS e
            {joins_of(steps)}
            WHERE e.project_id = $1
                AND {types_sql(steps, parameters)}
                AND COALESCE(e.user_id, e.anonymous_id) IS NOT NULL
                AND e.timestamp >= {bind(question.edges[0], parameters)}::timestamptz
                AND e.timestamp < {bind(question.end, parameters)}::timestamptz
                AND {member_sql(question.members, parameters, now=now)}
            GROUP BY 1, 2
        )
        SELECT start.bucket AS cohort, later.bucket - start.bucket AS later, count(*) AS people
        FROM visits AS start
        JOIN visits AS later
            ON later.person = start.person
            AND later.bucket BETWEEN start.bucket AND start.bucket + {periods}::int - 1
            AND (later.came OR later.bucket = start.bucket)
        WHERE start.began
        GROUP BY 1, 2"""
