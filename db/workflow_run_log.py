"""The runs lane of the log: every change of a run's status, and every step that began or ended.

Guarantees: every function is one statement in the caller's transaction; a page and the head it is judged by come from
one snapshot. A statement that is composed here is made of constants; whatever a caller supplies is a parameter. Leaves
to others: the order of locks (runs, deliveries, then heads; after a head only inserts), committing, and telling anyone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from db.deliveries import column
from db.records import HeadRecord, Lane
from db.run_filters import EVERY_RUN, RunFilter, is_selective, run_update_filter_sql
from db.statements import statements
from db.workflow_records import NewRunUpdate, RunUpdatePage, RunUpdateRecord

if TYPE_CHECKING:
    import asyncpg

MAX_SCANNED = 50_000
"""How many positions one page looks at when no index leads to its matches: about 100 ms of one backend."""

_SQL = statements("workflow_run_log")
_NO_STEP = msgspec.Raw(b"null")
_COLUMNS = "u.project_id, u.seq, u.run_id, u.workflow_id, u.user_id, u.status, u.step, u.at, u.started_at"


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


async def read_run_update_page(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    after: int,
    limit: int,
    run_filter: RunFilter = EVERY_RUN,
) -> RunUpdatePage:
    """Up to `limit` matching updates with seq > `after`, oldest first, and the head row.

    A page may be short, or empty, before the end: go on from `reached` until it is `head.head`. Compare `after` with
    `head.first_seq`: what lies below was removed. Raises `LookupError` for an unknown project.
    """
    window = MAX_SCANNED if run_filter != EVERY_RUN and not is_selective(run_filter) else None
    parameters: list[Any] = [project_id, after, limit, window, Lane.RUNS]
    text = f"""
        SELECT h.lane, h.head, h.first_seq, h.epoch, b.last, page.*
        FROM heads AS h
        CROSS JOIN LATERAL (SELECT least(h.head, $2::bigint + $4::bigint) AS last) AS b
        LEFT JOIN LATERAL (
            SELECT {_COLUMNS}
            FROM workflow_run_updates AS u
            WHERE u.project_id = $1 AND u.seq > $2 AND u.seq <= b.last
                AND {run_update_filter_sql(run_filter, parameters)}
            ORDER BY u.seq
            LIMIT $3
        ) AS page ON true
        WHERE h.project_id = $1 AND h.lane = $5
        ORDER BY page.seq"""  # noqa: S608
    rows = await connection.fetch(text, *parameters)
    if not rows:
        raise LookupError("unknown project")
    head = HeadRecord(project_id, Lane(rows[0]["lane"]), rows[0]["head"], rows[0]["first_seq"], rows[0]["epoch"])
    updates = tuple(_stored(row) for row in rows if row["seq"] is not None)
    reached = updates[-1].seq if len(updates) == limit else max(after, rows[0]["last"])
    return RunUpdatePage(updates, reached, head)


def _stored(row: Mapping[str, Any]) -> RunUpdateRecord:
    return RunUpdateRecord(
        row["project_id"],
        row["seq"],
        row["run_id"],
        row["workflow_id"],
        row["user_id"],
        row["status"],
        _step(row["step"]),
        row["at"],
        row["started_at"],
    )


def _update(project_id: UUID, seq: int, new: NewRunUpdate, at: datetime) -> RunUpdateRecord:
    return RunUpdateRecord(
        project_id, seq, new.run_id, new.workflow_id, new.user_id, new.status, _step(new.step), at, new.started_at
    )


def _step(text: str | None) -> msgspec.Raw:
    return _NO_STEP if text is None else msgspec.Raw(text.encode())
