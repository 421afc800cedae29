"""Who comes to belong to audiences, and who ceases to, because of what happens: a follower of the log.

Guarantees: once it has followed an event, what is kept of everybody whom it touches is what the conditions say of a
moment after it. Changes that follow one another within a page may be seen as one, or as none. An event costs the
audiences that it touches; a page that touches none reads their revisions and nothing else of them.
Leaves to others: exactly once, which comes from the follower's position (engine/workers/followers.py), and the passing
of time (`engine.audiences.checking`).
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

import msgspec

from db.audience_members import Pair, find_newcomers, read_audience_revisions, read_kept
from db.audiences import AudienceRecord, read_all_audiences
from db.filters import Condition
from db.records import EventRecord
from engine.audiences.conditions import conditions_of
from engine.audiences.dependencies import Dependencies, Direction
from engine.audiences.keeping import Cause, Said, look_at
from engine.node_ids import write_event_id
from engine.webhooks.follower import depth_of
from engine.workers.followers import NOTHING, Reacted, TakeLess

if TYPE_CHECKING:
    import asyncpg

MAX_PAIRS = 5_000
"""Of audiences and people that one transaction looks at, unless one event alone has more."""
MAX_CACHED_PROJECTS = 200
"""Whose audiences one process keeps in memory."""

Revisions: TypeAlias = tuple[tuple[UUID, int], ...]


class ProjectAudiences:
    """The audiences of a project as of some revisions. Only read once it is made."""

    def __init__(self, revisions: Revisions, audiences: Sequence[AudienceRecord]) -> None:
        self.revisions = revisions
        self.names: Mapping[UUID, str] = {each.audience_id: each.name for each in audiences}
        self.conditions: Mapping[UUID, Sequence[Condition]] = {
            each.audience_id: conditions_of(each) for each in audiences
        }
        self.dependencies = Dependencies(self.conditions)


class AudienceCache:
    """What one process keeps of audiences; looked at again for each page."""

    def __init__(self) -> None:
        self._kept: OrderedDict[UUID, ProjectAudiences] = OrderedDict()

    async def read(self, connection: asyncpg.Connection, *, project_id: UUID) -> ProjectAudiences:
        """The project's audiences as the transaction sees them."""
        revisions = await read_audience_revisions(connection, project_id=project_id)
        kept = self._kept.get(project_id)
        if kept is None or kept.revisions != revisions:
            kept = ProjectAudiences(revisions, await read_all_audiences(connection, project_id=project_id))
            if kept.names.keys() == {audience_id for audience_id, _ in revisions}:
                self._kept[project_id] = kept
        if project_id in self._kept:
            self._kept.move_to_end(project_id)
            while len(self._kept) > MAX_CACHED_PROJECTS:
                self._kept.popitem(last=False)
        return kept


class Following:
    """The reaction to events, with what one process remembers of audiences."""

    def __init__(self, cache: AudienceCache) -> None:
        self._cache = cache

    async def follow(
        self, connection: asyncpg.Connection, *, project_id: UUID, items: Sequence[EventRecord], now: datetime
    ) -> Reacted:
        """Keep what follows from a page of events. `now` is business time."""
        audiences = await self._cache.read(connection, project_id=project_id)
        events = [event for event in items if event.user_id is not None]
        if not audiences.names or not events:
            return NOTHING
        newcomers = await _newcomers(connection, project_id, audiences.dependencies, events)
        causes = await _open(connection, project_id, _touches(audiences.dependencies, events, newcomers))
        people: defaultdict[UUID, list[str]] = defaultdict(list)
        for audience_id, user_id in causes:
            people[audience_id].append(user_id)
        announcements = await look_at(
            connection,
            people,
            audiences.conditions,
            project_id=project_id,
            now=now,
            said=Said(audiences.names, causes),
        )
        return Reacted(announcements)


async def _newcomers(
    connection: asyncpg.Connection, project_id: UUID, dependencies: Dependencies, events: Sequence[EventRecord]
) -> set[str]:
    if not dependencies.newcomers:
        return set()
    people = sorted({event.user_id for event in events if event.user_id is not None})
    return await find_newcomers(connection, project_id=project_id, user_ids=people, since_seq=events[0].seq)


class _Touch(msgspec.Struct, frozen=True):
    """Why to look at a pair, and which way it may have moved."""

    cause: Cause
    direction: Direction


async def _open(connection: asyncpg.Connection, project_id: UUID, touches: Mapping[Pair, _Touch]) -> dict[Pair, Cause]:
    """The pairs that can have moved: whoever belongs stays where one can only come in, and the other way round.

    That the time to look at those again is not moved on costs one look too many when it comes.
    """
    if not touches:
        return {}
    kept = await read_kept(connection, project_id=project_id, pairs=list(touches))
    settled = {True: Direction.IN, False: Direction.OUT}
    return {
        pair: touch.cause for pair, touch in touches.items() if touch.direction is not settled[kept[pair].is_member]
    }


def _touches(dependencies: Dependencies, events: Sequence[EventRecord], newcomers: set[str]) -> dict[Pair, _Touch]:
    """Whom to look at for which audience, and the event because of which: the one that is furthest derived, of equals
    the last. Raises `TakeLess` where that would be too many at once."""
    touches: dict[Pair, _Touch] = {}
    for number, event in enumerate(events):
        if event.user_id is None:
            continue
        touched = dependencies.touched_by(event)
        if event.user_id in newcomers:
            touched |= dict.fromkeys(dependencies.newcomers, Direction.EITHER)
        if number and len(touches) + len(touched) > MAX_PAIRS:
            raise TakeLess(number)
        cause = Cause(write_event_id(event.project_id, event.seq), depth_of(event))
        for audience_id, direction in touched.items():
            pair = (audience_id, event.user_id)
            touches[pair] = _both(touches.get(pair), _Touch(cause, direction))
    return touches


def _both(before: _Touch | None, after: _Touch) -> _Touch:
    if before is None:
        return after
    cause = after.cause if after.cause.depth >= before.cause.depth else before.cause
    return _Touch(cause, after.direction if after.direction is before.direction else Direction.EITHER)
