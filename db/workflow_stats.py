"""How workflows fare: runs by status, and how their steps ended.

Guarantees: every function is one statement, so one snapshot; the counts are exact. Leaves to others: how long a
statement may take.
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

_SQL = statements("workflow_stats")


class RunCount(msgspec.Struct, frozen=True):
    """How many runs of a workflow have one status."""

    workflow_id: UUID
    status: str
    runs: int


class OutcomeCount(msgspec.Struct, frozen=True):
    """How many steps of a workflow with one label ended in one way."""

    workflow_id: UUID
    label: str
    outcome: str
    steps: int


async def count_runs_by_status(
    connection: asyncpg.Connection, *, project_id: UUID, workflow_ids: Sequence[UUID], since: datetime | None
) -> list[RunCount]:
    """The runs of some workflows that were started since then, by workflow and status, in no order."""
    rows = await connection.fetch(_SQL["count_runs_by_status"], project_id, workflow_ids, since)
    return [RunCount(**dict(row.items())) for row in rows]


async def count_outcomes(
    connection: asyncpg.Connection, *, project_id: UUID, workflow_ids: Sequence[UUID], since: datetime | None
) -> list[OutcomeCount]:
    """The steps of some workflows that began since then and have an outcome, by workflow, label and outcome."""
    rows = await connection.fetch(_SQL["count_outcomes"], project_id, workflow_ids, since)
    return [OutcomeCount(**dict(row.items())) for row in rows]
