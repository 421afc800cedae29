"""The runs lane of the log: every change of a run's status, and every step that began or ended.

Guarantees: every function is one statement in the caller's transaction. Leaves to others: the order of locks (runs,
deliveries, then heads; after a head only inserts), committing, and telling anyone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.deliveries import column
from db.statements import statements
from db.workflow_records import NewRunUpdate, RunUpdateRecord

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("workflow_run_log")


async def append_run_updates(
    connection: asyncpg.Connection, *, project_id: UUID, updates: Sequence[NewRunUpdate], at: datetime
) -> tuple[int, tuple[RunUpdateRecord, ...]]:
    """Append to the runs lane; returns its epoch and what was stored. Locks the lane's head: only inserts after.

    `at` is business time, the same for all of them.
    """
    row = await connection.fetchrow(
        _SQL["append_run_updates"],
        project_id,
        column(updates, "run_id"),
        column(updates, "workflow_id"),
        column(updates, "user_id"),
        column(updates, "status"),
        column(updates, "step"),
        column(updates, "started_at"),
        at,
    )
    first = row["previous_head"] + 1
    records = (_update(project_id, seq, each, at) for seq, each in enumerate(updates, first))
    return row["epoch"], tuple(records)


def _update(project_id: UUID, seq: int, new: NewRunUpdate, at: datetime) -> RunUpdateRecord:
    step = None if new.step is None else msgspec.Raw(new.step.encode())
    return RunUpdateRecord(
        project_id, seq, new.run_id, new.workflow_id, new.user_id, new.status, step, at, new.started_at
    )
