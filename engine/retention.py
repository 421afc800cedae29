"""Retention: the oldest events of a project go, by the day on which they came, and the oldest changes of audiences.

Guarantees: only the oldest are removed, and nothing from between them; each step is a transaction that moves the lane's
floor with the rows, and one that is killed has done whole steps or none. A cursor from before the floor expires
(`CURSOR_EXPIRED`). What a follower has not read yet stays, however old. Everybody is looked at anew for audiences,
which may have counted what goes. Profiles and the counts of event types stay.
Leaves to others: when it runs (`cli.py trim`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

import msgspec

from db.audience_log import find_first_change_since, trim_audience_changes
from db.audience_members import rebuild_audiences
from db.database import Database
from db.events import find_first_since, trim_events
from db.followers import read_slowest_position
from db.heads import read_clock, read_head
from db.records import Lane

if TYPE_CHECKING:
    import asyncpg

STEP_ITEMS = 2_000
"""Removed in one transaction. Appends to the lane wait for it, some tens of milliseconds."""


async def trim_project(database: Database, *, project_id: UUID, older_than: timedelta) -> int:
    """Remove the events that the log received longer ago than that, by the database's clock; how many there were.

    So do changes of audiences that were noticed longer ago. Raises `LookupError` for an unknown project.
    """
    async with database.connection() as connection:
        since = await read_clock(connection) - older_than
    removed = await _in_steps(database, project_id, since, Lane.EVENTS, _trim_events)
    await _in_steps(database, project_id, since, Lane.AUDIENCES, _trim_audience_changes)
    return removed


class _Range(msgspec.Struct, frozen=True):
    """What one step looks at: the oldest items, from `first` to before `end`; `limit` is what followers still need."""

    first: int
    end: int
    limit: int


_Trim: TypeAlias = Callable[["asyncpg.Connection", UUID, _Range, datetime], Awaitable[tuple[int, int]]]
"""Removes of a range what is older than an instant; gives the new floor, and how many there were."""


async def _in_steps(database: Database, project_id: UUID, since: datetime, lane: Lane, trim: _Trim) -> int:
    removed, more = 0, True
    while more:
        async with database.transaction() as connection:
            head = await read_head(connection, project_id=project_id, lane=lane)
            end = min(head.first_seq + STEP_ITEMS, head.head + 1)
            slowest = await read_slowest_position(connection, project_id=project_id, lane=lane)
            limit = end if slowest is None else min(end, slowest + 1)
            floor, count = await trim(connection, project_id, _Range(head.first_seq, end, limit), since)
            removed += count
        more = floor == end <= head.head
    return removed


async def _trim_events(
    connection: asyncpg.Connection, project_id: UUID, oldest: _Range, since: datetime
) -> tuple[int, int]:
    kept = await find_first_since(
        connection, project_id=project_id, first=oldest.first, end=oldest.end, received_since=since
    )
    floor = min(kept, oldest.limit)
    await rebuild_audiences(connection, project_id=project_id)
    return floor, await trim_events(connection, project_id=project_id, first_seq=floor)


async def _trim_audience_changes(
    connection: asyncpg.Connection, project_id: UUID, oldest: _Range, since: datetime
) -> tuple[int, int]:
    kept = await find_first_change_since(
        connection, project_id=project_id, first=oldest.first, end=oldest.end, since=since
    )
    floor = min(kept, oldest.limit)
    return floor, await trim_audience_changes(connection, project_id=project_id, first_seq=floor)
