"""Who starts workflows: re-entry, and how far the schedules that are due have been carried out.

Guarantees: every function is one statement in the caller's transaction. Leaves to others: locking people and workflows
before (`db.profiles`, `db.workflows`), so that an answer stays true, and committing. Times are business time.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

MAX_DUE = 10_000
"""Workflows that one sweep looks at, of all projects, those that wait longest."""

_SQL = statements("enrolment")


class Meeting(msgspec.Struct, frozen=True):
    """A person and a workflow. `only_going_on`: only a run that is not over counts."""

    workflow_id: UUID
    user_id: str
    only_going_on: bool


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
) -> list[UUID]:
    """Up to `limit` workflows that are due, those that wait longest first."""
    return [row["workflow_id"] for row in await connection.fetch(_SQL["find_due_workflows"], project_id, now, limit)]


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
