"""Hearing what there is to do: Redis's side of waking workers.

Guarantees: a hint about a project that concerns this worker reaches `hint` once or not at all; nothing is remembered.
Of a log that has grown only projects that some follower follows concern it. Leaves to others: what a lost hint would
have said (the sweeper). Stops when its `run` is cancelled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.followers import read_followed_projects
from db.records import Lane
from engine.live.broadcast import Broadcast, Gap
from engine.work import CHANNEL, Work, WorkKind, decode_work

if TYPE_CHECKING:
    import asyncpg

_logger = logging.getLogger(__name__)


class Followed:
    """The projects that one follower follows, as the last sweep found them."""

    def __init__(self, follower: str) -> None:
        self._follower = follower
        self._project_ids: frozenset[UUID] = frozenset()

    def __contains__(self, project_id: UUID) -> bool:
        return project_id in self._project_ids

    async def find_behind(self, connection: asyncpg.Connection) -> list[UUID]:
        """Look anew; the projects whose log holds more than was followed."""
        projects = await read_followed_projects(connection, follower=self._follower, lane=Lane.EVENTS)
        self._project_ids = frozenset(each.project_id for each in projects)
        return [each.project_id for each in projects if each.is_behind]


class Hints:
    """Listens on the channel of all workers."""

    def __init__(self, broadcast: Broadcast, followed: Followed, hint: Callable[[Work], None]) -> None:
        self._broadcast = broadcast
        self._followed = followed
        self._hint = hint

    async def run(self) -> None:
        """For ever; through restarts of Redis."""
        async with self._broadcast.subscribe(CHANNEL) as mailbox:
            while True:
                message = await mailbox.get()
                if not isinstance(message, Gap):
                    self._hear(message.message)

    def _hear(self, message: bytes) -> None:
        try:
            work = decode_work(message)
        except msgspec.DecodeError:
            _logger.warning("work.unreadable_hint")
            return
        if work.kind is not WorkKind.EVENTS or work.project_id in self._followed:
            self._hint(work)
