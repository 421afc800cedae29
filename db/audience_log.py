"""The audiences lane of the log: whoever came to belong to an audience, or ceased to.

Guarantees: every function is one statement in the caller's transaction; a page and the head it is judged by come from
one snapshot. Leaves to others: the order of locks (heads last; after a head only inserts), committing, telling anyone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from db.audience_records import (
    EVERY_AUDIENCE,
    AudienceChangePage,
    AudienceChangeRecord,
    AudienceFilter,
    NewAudienceChange,
)
from db.deliveries import column
from db.erasure import trim_tombstones
from db.records import HeadRecord, Lane
from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("audience_log")


async def append_audience_changes(
    connection: asyncpg.Connection, *, project_id: UUID, changes: Sequence[NewAudienceChange], at: datetime
) -> tuple[int, tuple[AudienceChangeRecord, ...]]:
    """Append to the audiences lane; returns its epoch and what was stored. Locks the lane's head: only inserts after.

    `at` is business time, the same for all of them.
    """
    row = await connection.fetchrow(
        _SQL["append_audience_changes"],
        project_id,
        column(changes, "audience_id"),
        column(changes, "user_id"),
        column(changes, "entered"),
        at,
    )
    first = row["previous_head"] + 1
    records = (
        AudienceChangeRecord(project_id, seq, each.audience_id, each.user_id, each.entered, at)
        for seq, each in enumerate(changes, first)
    )
    return row["epoch"], tuple(records)


async def read_audience_change_page(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    after: int,
    limit: int,
    audience_filter: AudienceFilter = EVERY_AUDIENCE,
) -> AudienceChangePage:
    """Up to `limit` matching changes with seq > `after`, oldest first, and the head row.

    Compare `after` with `head.first_seq`: what lies below was removed. Raises `LookupError` for an unknown project.
    """
    rows = await connection.fetch(_SQL["read_audience_changes"], project_id, after, limit, audience_filter.audience_id)
    if not rows:
        raise LookupError("unknown project")
    head = HeadRecord(project_id, Lane.AUDIENCES, rows[0]["head"], rows[0]["first_seq"], rows[0]["epoch"])
    changes = tuple(
        AudienceChangeRecord(project_id, row["seq"], row["audience_id"], row["user_id"], row["entered"], row["at"])
        for row in rows
        if row["seq"] is not None
    )
    reached = changes[-1].seq if len(changes) == limit else max(after, head.head)
    return AudienceChangePage(changes, reached, head)


async def find_first_change_since(
    connection: asyncpg.Connection, *, project_id: UUID, first: int, end: int, since: datetime
) -> int:
    """Of the changes with `first` ≤ seq < `end`, the seq of the first that was noticed then or later; else `end`.

    Looks at every one of them: keep the range short.
    """
    seq: int = await connection.fetchval(_SQL["find_first_change_since"], project_id, first, end, since)
    return seq


async def trim_audience_changes(connection: asyncpg.Connection, *, project_id: UUID, first_seq: int) -> int:
    """Delete the changes below `first_seq` and move the lane's floor there; as `db.events.trim_events`."""
    head = await connection.fetchrow(_SQL["lock_audiences_head"], project_id)
    if head is None:
        raise LookupError("unknown project")
    floor = min(first_seq, head["head"] + 1)
    if floor <= head["first_seq"]:
        return 0
    status: str = await connection.execute(_SQL["delete_audience_changes_before"], project_id, floor)
    await trim_tombstones(connection, project_id=project_id, lane=Lane.AUDIENCES, first_seq=floor)
    await connection.execute(_SQL["move_first_change"], project_id, floor)
    return int(status.rpartition(" ")[2])
