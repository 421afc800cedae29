"""Hearing what there is to do: Redis's side of waking workers.

Guarantees: a hint about a project that concerns this worker reaches `hint` once or not at all; nothing is remembered.
That a lane has grown is heard once for each follower of that lane, of projects that it follows. Leaves to others: what
a lost hint would have said (the sweeper). Stops when its `run` is cancelled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
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
    """The projects that one follower of a lane follows, as the last sweep found them.

    `kind` is the work of following on, `bell` what rings when the lane has grown.
    """

    def __init__(self, follower: str, lane: Lane, kind: WorkKind, *, bell: WorkKind) -> None:
        self.kind = kind
        self.bell = bell
        self._follower = follower
        self._lane = lane
        self._project_ids: frozenset[UUID] = frozenset()

    def __contains__(self, project_id: UUID) -> bool:
        return project_id in self._project_ids

    async def find_behind(self, connection: asyncpg.Connection) -> list[UUID]:
        """Look anew; the projects whose lane holds more than was followed."""
        projects = await read_followed_projects(connection, follower=self._follower, lane=self._lane)
        self._project_ids = frozenset(each.project_id for each in projects)
        return [each.project_id for each in projects if each.is_behind]


class Hints:
    """Listens on the channel of all workers."""

    def __init__(self, broadcast: Broadcast, followed: Sequence[Followed], hint: Callable[[Work], None]) -> None:
        self._broadcast = broadcast
        self._hint = hint
        self._followed: dict[WorkKind, list[Followed]] = {}
        for each in followed:
            self._followed.setdefault(each.bell, []).append(each)

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
        self.hear(work)

    def hear(self, work: Work) -> None:
        """Take notice of a hint. Never blocks."""
        followers = self._followed.get(work.kind)
        if followers is None:
            self._hint(work)
            return
        for followed in followers:
            if work.project_id in followed:
                self._hint(Work(followed.kind, work.project_id))
