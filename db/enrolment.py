"""Who starts workflows: re-entry, and how far the schedules that are due have been carried out.

Guarantees: every function is one statement in the caller's transaction. Leaves to others: locking people and workflows
before (`db.profiles`, `db.workflows`), so that an answer stays true, and committing. Times are business time.

Where a statement is composed here, its text is made of constants; whatever a caller supplies is a parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from db.conditions import condition_sql
from db.filters import Condition
from db.statements import statements
from db.workflow_records import WorkflowStanding

if TYPE_CHECKING:
    import asyncpg

MAX_DUE = 10_000
"""Workflows that one sweep looks at, of all projects, those that wait longest."""

MAX_SCANNED = 2_000
"""People that one statement looks at: some tens of milliseconds, a second where their events are counted."""

_SQL = statements("enrolment")


class Meeting(msgspec.Struct, frozen=True):
    """A person and a workflow. `only_going_on`: only a run that is not over counts."""

    workflow_id: UUID
    user_id: str
    only_going_on: bool


class MemberScan(msgspec.Struct, frozen=True):
    """Members of an audience by user id. `reached` is how far people were looked at; None: to the last one."""

    members: tuple[str, ...]
    reached: str | None


async def find_met(
    connection: asyncpg.Connection, *, project_id: UUID, meetings: Sequence[Meeting]
) -> set[tuple[UUID, str]]:
    """Those that have met before, as workflow and person. Asks for a pair in one way only."""
    rows = await connection.fetch(
        _SQL["find_met"],
        project_id,
        [each.workflow_id for each in meetings],
        [each.user_id for each in meetings],
        [each.only_going_on for each in meetings],
    )
    return {(row["workflow_id"], row["user_id"]) for row in rows}


async def find_due_schedules(connection: asyncpg.Connection, *, now: datetime) -> list[UUID]:
    """The projects in which a workflow is due, of all projects."""
    return [row["project_id"] for row in await connection.fetch(_SQL["find_due_schedules"], now, MAX_DUE)]


async def find_due_workflows(
    connection: asyncpg.Connection, *, project_id: UUID, now: datetime, limit: int
) -> list[WorkflowStanding]:
    """Up to `limit` workflows that are due, those that wait longest first. Without locks."""
    rows = await connection.fetch(_SQL["find_due_workflows"], project_id, now, limit)
    return [WorkflowStanding(**dict(row.items())) for row in rows]


async def scan_members(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    conditions: Sequence[Condition],
    after_user_id: str | None,
    limit: int,
    now: datetime,
) -> MemberScan:
    """Look at up to `MAX_SCANNED` people by user id, after one, for up to `limit` who meet the conditions.

    `now` is what the conditions look back from.
    """
    parameters: list[Any] = [project_id, after_user_id or "", MAX_SCANNED, limit]
    met = condition_sql(conditions, parameters, table="profiles", alias="p", now=now, project="$1")
    text = f"""
        WITH scanned AS MATERIALIZED (
            SELECT p.project_id, p.user_id, p.anonymous, p.traits, p.created_at
            FROM profiles AS p
            WHERE p.project_id = $1 AND p.user_id > $2
            ORDER BY p.user_id
            LIMIT $3
        )
        SELECT
            ARRAY(
                SELECT p.user_id FROM scanned AS p
                WHERE {met}
                ORDER BY p.user_id
                LIMIT $4
            ) AS members,
            count(*) AS looked_at,
            max(user_id) AS last
        FROM scanned"""  # noqa: S608
    row = await connection.fetchrow(text, *parameters)
    members = tuple(row["members"])
    if len(members) == limit:
        return MemberScan(members, members[-1])
    return MemberScan(members, row["last"] if row["looked_at"] == MAX_SCANNED else None)


async def save_enrolment(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    workflow_id: UUID,
    next_due_at: datetime | None,
    enrolling_due_at: datetime | None,
    enrolled_up_to: str | None,
) -> None:
    """Write how a schedule stands, of a workflow that the caller has locked."""
    await connection.execute(
        _SQL["save_enrolment"], project_id, workflow_id, next_due_at, enrolling_due_at, enrolled_up_to
    )
