"""Retention: the oldest events of a project go, by the day on which they came.

Guarantees: only the oldest are removed, so what is left has no gaps; each step is a transaction that moves the lane's
floor with the rows, and one that is killed has done whole steps or none. A cursor from before the floor expires
(`CURSOR_EXPIRED`). What a follower has not read yet stays, however old. Everybody is looked at anew for audiences,
which may have counted what goes. Profiles and the counts of event types stay.
Leaves to others: when it runs (`cli.py trim`).
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from db.audience_members import rebuild_audiences
from db.database import Database
from db.events import find_first_since, trim_events
from db.followers import read_slowest_position
from db.heads import read_clock, read_head
from db.records import Lane

STEP_EVENTS = 2_000
"""Removed in one transaction. Appends of the project wait for it, some tens of milliseconds."""


async def trim_project(database: Database, *, project_id: UUID, older_than: timedelta) -> int:
    """Remove the events that the log received longer ago than that, by the database's clock; how many there were.

    Raises `LookupError` for an unknown project.
    """
    async with database.connection() as connection:
        since = await read_clock(connection) - older_than
    removed, more = 0, True
    while more:
        async with database.transaction() as connection:
            head = await read_head(connection, project_id=project_id, lane=Lane.EVENTS)
            end = min(head.first_seq + STEP_EVENTS, head.head + 1)
            kept = await find_first_since(
                connection, project_id=project_id, first=head.first_seq, end=end, received_since=since
            )
            slowest = await read_slowest_position(connection, project_id=project_id, lane=Lane.EVENTS)
            first_seq = kept if slowest is None else min(kept, slowest + 1)
            await rebuild_audiences(connection, project_id=project_id)
            removed += await trim_events(connection, project_id=project_id, first_seq=first_seq)
        more = first_seq == end <= head.head
    return removed
