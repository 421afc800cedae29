"""Who comes to belong to audiences, and who ceases to, because of what happens: a follower of the log.

Guarantees: once it has followed an event, what is kept of everybody whom it touches is what the conditions say of a
moment after it. Changes that follow one another within a page may be seen as one, or as none. An event costs the
audiences that it touches; a page that touches none reads their revisions and nothing else of them.
Leaves to others: exactly once, which comes from the follower's position (engine/workers/followers.py), and the passing
of time (`engine.audiences.checking`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from db.audience_members import find_newcomers
from db.records import EventRecord
from engine.audiences.cache import AudienceCache
from engine.audiences.dependencies import Dependencies, Direction
from engine.audiences.keeping import Cause, Touch, look_at
from engine.node_ids import write_event_id
from engine.webhooks.follower import depth_of
from engine.workers.followers import NOTHING, Reacted, TakeLess

if TYPE_CHECKING:
    import asyncpg

ERASED = "consent.erasure_completed"
MAX_PAIRS = 20_000
"""Of audiences and people that one transaction looks at, unless one event alone has more."""


class Following:
    """The reaction to events, with what one process remembers of audiences."""

    def __init__(self, cache: AudienceCache) -> None:
        self._cache = cache

    async def follow(
        self, connection: asyncpg.Connection, *, project_id: UUID, items: Sequence[EventRecord], now: datetime
    ) -> Reacted:
        """Keep what follows from a page of events. `now` is business time."""
        audiences = await self._cache.read(connection, project_id=project_id)
        if any(event.event_type == ERASED for event in items):
            audiences.histories.forget(project_id)
        dependencies = audiences.project.dependencies
        events = [event for event in items if event.user_id is not None]
        if not audiences.project.names or not events:
            return NOTHING
        newcomers = await _newcomers(connection, project_id, dependencies, events)
        asked = _touches(dependencies, events, newcomers)
        return Reacted(await look_at(connection, asked, audiences, now=now)) if asked else NOTHING


async def _newcomers(
    connection: asyncpg.Connection, project_id: UUID, dependencies: Dependencies, events: Sequence[EventRecord]
) -> set[str]:
    if not dependencies.newcomers:
        return set()
    people = sorted({event.user_id for event in events if event.user_id is not None})
    return await find_newcomers(connection, project_id=project_id, user_ids=people, since_seq=events[0].seq)


def _touches(
    dependencies: Dependencies, events: Sequence[EventRecord], newcomers: set[str]
) -> dict[str, dict[UUID, Touch]]:
    """Whom to look at for which audience, and the event because of which: the one that is furthest derived, of equals
    the last. Raises `TakeLess` where that would be too many at once."""
    touches: defaultdict[str, dict[UUID, Touch]] = defaultdict(dict)
    pairs = 0
    for number, event in enumerate(events):
        touched = dependencies.touched_by(event)
        if event.user_id in newcomers:
            touched |= dict.fromkeys(dependencies.newcomers, Direction.EITHER)
        if not touched or event.user_id is None:
            continue
        pairs += len(touched)
        if number and pairs > MAX_PAIRS:
            raise TakeLess(number)
        cause = Cause(write_event_id(event.project_id, event.seq), depth_of(event))
        before = touches[event.user_id]
        reasons = {direction: Touch(direction, cause) for direction in Direction}
        for audience_id, direction in touched.items():
            before[audience_id] = _both(before.get(audience_id), reasons[direction])
    return touches


def _both(before: Touch | None, after: Touch) -> Touch:
    if before is None:
        return after
    cause = after.cause if after.cause.depth >= before.cause.depth else before.cause
    return Touch(after.direction if after.direction is before.direction else Direction.EITHER, cause)
