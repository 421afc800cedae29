"""What the tests of live membership share: a project's people, the worker's part, and what is kept of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from db.audience_log import read_audience_change_page
from db.audiences import find_members, read_all_audiences
from db.database import Database
from db.records import EventRecord
from engine.announcements import Announcement
from engine.audiences.cache import AudienceCache
from engine.audiences.checking import Checking
from engine.audiences.conditions import conditions_of
from engine.audiences.following import Following
from engine.audiences.keeping import NAME
from engine.clock import Clock
from engine.lanes import EVENTS
from engine.workers.followers import Follower


class AudienceWorker:
    """What a worker does for audiences, driven by hand."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self.database = database
        self.announced: list[Announcement] = []
        cache = AudienceCache()
        self.follower: Follower[EventRecord] = Follower(
            NAME,
            EVENTS,
            Following(cache).follow,
            database=database,
            clock=clock,
            announce=self.announced.append,
            wake=lambda _work: None,
        )
        self.checking = Checking(database, clock, cache, self.announced.append)

    async def follow(self, project_id: UUID) -> None:
        """Read on to the head; its own events too, which ring in a worker."""
        said = -1
        while said != len(self.announced):
            said = len(self.announced)
            await self.follower.follow(project_id)

    async def check(self, project_id: UUID) -> None:
        """Look at whoever is due, and build what was saved."""
        while await self.checking.go_on(project_id):
            pass

    async def catch_up(self, project_id: UUID) -> None:
        """Everything that there is to do."""
        await self.check(project_id)
        await self.follow(project_id)


async def kept(database: Database, project_id: UUID) -> set[tuple[str, str]]:
    """Who is kept as belonging to what: names of audiences, and people."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            """SELECT a.name, m.user_id FROM audience_members AS m
               JOIN audiences AS a ON a.project_id = m.project_id AND a.audience_id = m.audience_id
               WHERE m.project_id = $1""",
            project_id,
        )
    return {(row["name"], row["user_id"]) for row in rows}


async def evaluated(
    database: Database, project_id: UUID, user_ids: Sequence[str], now: datetime
) -> set[tuple[str, str]]:
    """Who belongs to what, as the conditions say."""
    found: set[tuple[str, str]] = set()
    async with database.connection() as connection:
        for audience in await read_all_audiences(connection, project_id=project_id):
            members = await find_members(
                connection, project_id=project_id, conditions=conditions_of(audience), user_ids=user_ids, now=now
            )
            found |= {(audience.name, user_id) for user_id in members}
    return found


async def changes(database: Database, project_id: UUID) -> list[tuple[str, bool]]:
    """The audiences lane: who, and whether they entered."""
    async with database.connection() as connection:
        page = await read_audience_change_page(connection, project_id=project_id, after=0, limit=10_000)
    assert [each.seq for each in page.changes] == list(range(1, page.head.head + 1))
    return [(each.user_id, each.entered) for each in page.changes]


def happened(event_type: str, op: str, value: Any, **count: Any) -> dict[str, Any]:
    """A count of events, as clients write it."""
    return {"events": {"eventType": event_type, **count}, "op": op, "value": value}
