"""What deliveries tell their runs: a follower of the deliveries lane has a worker look at runs that wait for them.

Guarantees: a run whose open step waits is looked at once more after each of its deliveries has come to something,
whichever worker dies; nothing is decided here. Leaves to others: reading how the deliveries stand and going on
(`engine.workflows.rounds`); following (`engine.workers.followers`), under `names.REPORTS_FOLLOWER`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from db.delivery_records import TransitionRecord
from db.workflow_runs import set_claims
from engine.work import Work, WorkKind
from engine.workers.followers import NOTHING, Reacted

if TYPE_CHECKING:
    import asyncpg


async def report(
    connection: asyncpg.Connection, *, project_id: UUID, items: Sequence[TransitionRecord], now: datetime
) -> Reacted:
    """Have the runs of these deliveries looked at. `now` is business time."""
    run_ids = sorted({each.workflow_run_id for each in items if each.workflow_run_id is not None})
    if not run_ids or not await set_claims(connection, project_id=project_id, run_ids=run_ids, now=now):
        return NOTHING
    return Reacted(works=(Work(WorkKind.RUNS, project_id),))
