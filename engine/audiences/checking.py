"""Looking at people for audiences although nothing happened: when time has passed, and when an audience was saved.

Guarantees: whoever may belong, or cease to, by the passing of time alone is looked at when that time has come, and
nobody else; everybody is looked at for an audience that was saved, and everything forgotten of one that was deleted. It
goes in steps, each one transaction that also says how far it has come, under the lock of the project's follower
`audiences`: so no step goes over what the follower found later, and what happens during a build is not lost, since the
follower looks at it after the position where the log stood when the build began.
What a build finds is said in the audiences lane, but is no event: nothing happened to anybody.
Leaves to others: finding the projects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.audience_members import (
    BuildingAudience,
    delete_members,
    find_rechecks,
    hold_follower,
    hold_people,
    lock_building,
    move_building,
    page_members,
    page_people,
)
from db.followers import ensure_follower
from db.records import Lane
from engine.announcements import Announcement
from engine.audiences.cache import AudienceCache
from engine.audiences.conditions import decode_conditions
from engine.audiences.keeping import NAME, look_again, look_for_one
from engine.clock import Clock
from engine.transactions import run_transaction

if TYPE_CHECKING:
    import asyncpg

    from db.database import Database

STEP_PEOPLE = 500
"""Looked at in one transaction, during which the follower waits: some tens of milliseconds."""


class _Step(msgspec.Struct, frozen=True):
    """What one transaction has to say."""

    announcements: tuple[Announcement, ...] = ()


class Checking:
    """Looks at people for one process. `announce` is called after each commit; it never blocks."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        cache: AudienceCache,
        announce: Callable[[Announcement], None],
    ) -> None:
        self._database = database
        self._clock = clock
        self._cache = cache
        self._announce = announce

    async def go_on(self, project_id: UUID) -> bool:
        """One step for a project, of what is due before what is being built; call it again while it says True.

        Raises `Unavailable`.
        """
        now = self._clock.now()
        step = await run_transaction(self._database, lambda connection: self._step(connection, project_id, now))
        if step is None:
            return False
        for announcement in step.announcements:
            self._announce(announcement)
        return True

    async def _step(self, connection: asyncpg.Connection, project_id: UUID, now: datetime) -> _Step | None:
        # The follower begins where the log stands when an audience is built first: what was before, the build sees.
        await ensure_follower(connection, project_id=project_id, follower=NAME, lane=Lane.EVENTS)
        await hold_follower(connection, project_id=project_id, follower=NAME)
        due = await find_rechecks(connection, project_id=project_id, now=now, limit=STEP_PEOPLE)
        if due:
            audiences = await self._cache.read(connection, project_id=project_id)
            return _Step(await look_again(connection, frozenset(due), audiences, now=now))
        building = await lock_building(connection, project_id=project_id)
        if building is None:
            return None
        if building.is_deleted:
            return await _forget(connection, project_id, building)
        return await _build(connection, project_id, building, now)


async def _build(connection: asyncpg.Connection, project_id: UUID, audience: BuildingAudience, now: datetime) -> _Step:
    audience_id = audience.audience_id
    people = await page_people(connection, project_id=project_id, after=audience.built_up_to, limit=STEP_PEOPLE)
    up_to = await _mark(connection, project_id, audience, people)
    await move_building(connection, project_id=project_id, audience_id=audience_id, built_up_to=up_to)
    conditions = decode_conditions(audience.conditions)
    return _Step(await look_for_one(connection, people, audience_id, conditions, project_id=project_id, now=now))


async def _mark(
    connection: asyncpg.Connection, project_id: UUID, audience: BuildingAudience, people: Sequence[str]
) -> str | None:
    """Where the next step goes on: at the last of these people who is there, and stays until the commit, so that nobody
    is named who was erased meanwhile. None after the last step."""
    if len(people) < STEP_PEOPLE:
        return None
    for user_id in reversed(people):
        if await hold_people(connection, project_id=project_id, user_ids=[user_id]):
            return user_id
    return audience.built_up_to or ""


async def _forget(connection: asyncpg.Connection, project_id: UUID, audience: BuildingAudience) -> _Step:
    audience_id = audience.audience_id
    people = await page_members(
        connection,
        project_id=project_id,
        audience_id=audience_id,
        after=audience.built_up_to,
        limit=STEP_PEOPLE,
    )
    up_to = await _mark(connection, project_id, audience, people)
    await move_building(connection, project_id=project_id, audience_id=audience_id, built_up_to=up_to)
    pairs = [(audience_id, user_id) for user_id in people]
    await delete_members(connection, project_id=project_id, pairs=pairs)
    return _Step()
