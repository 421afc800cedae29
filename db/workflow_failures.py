"""How many runs of a workflow have failed one after another.

Guarantees: every function is one statement in the caller's transaction, and locks workflows' counts in the order of
their ids. Leaves to others: what it means (`engine.workflows.rounds`), and committing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("workflow_failures")


async def forget_failures(connection: asyncpg.Connection, *, project_id: UUID, workflow_ids: Sequence[UUID]) -> None:
    """Begin counting anew: runs of these workflows were completed."""
    await connection.execute(_SQL["forget_failures"], project_id, workflow_ids)


async def count_failures(
    connection: asyncpg.Connection, *, project_id: UUID, failed: Mapping[UUID, int]
) -> dict[UUID, int]:
    """Add runs that failed, by workflow; how many these are now, one after another."""
    rows = await connection.fetch(_SQL["count_failures"], project_id, list(failed), list(failed.values()))
    return {row["workflow_id"]: row["consecutive"] for row in rows}
