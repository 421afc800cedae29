"""Forgetting what a gateway holds of a project's people in memory, when one of them is erased.

Guarantees: within a second of the commit (within two while Redis is away) everything that a gateway keeps of the lanes
of that project is dropped: recent items, pages that were read, and what was rendered of either. What was on its way
then, read or announced before the erasure, is dropped `AGAIN_SECONDS` later. Nobody who reads misses anything: what is
not held is read from the log.
How it is told: by the log of the system project, which every gateway follows, since a gateway that follows only the
deliveries of a project does not see its events.
Leaves to others: what lives no longer than an operation (loaders), and counting anew (`engine.analytics.live`).
Stops when `stop` is called.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID

import msgspec

from db.database import CLIENT_MARGIN, STATEMENT_TIMEOUT
from db.records import SYSTEM_PROJECT, EventRecord
from engine.lanes import EVENTS
from engine.live.hub import Hub, Watch

PERSON_ERASED: Final = "person.erased"
"""The event in the log of the system project; its property `projectId` says whose."""
AGAIN_SECONDS: Final = (STATEMENT_TIMEOUT + CLIENT_MARGIN).total_seconds()
"""No page that was begun before an erasure is read for longer, and no announcement waits for so long."""

_logger = logging.getLogger(__name__)


class _Properties(msgspec.Struct, frozen=True, rename="camel"):
    project_id: UUID


_decoder = msgspec.json.Decoder(_Properties)


class Forgetting:
    """Tells what holds items that they are to be dropped. Belongs to one event loop.

    Each of `forgetters` is called with the project, and must not raise.
    """

    def __init__(self, hub: Hub, *forgetters: Callable[[UUID], None], again: float = AGAIN_SECONDS) -> None:
        self._hub = hub
        self._forgetters = forgetters
        self._again = again
        self._watch: Watch | None = None
        self._timers: dict[UUID, asyncio.TimerHandle] = {}

    async def start(self) -> None:
        """Follow the log from its head: nothing is held yet. Waits as long as PostgreSQL is away."""
        self._watch = await self._hub.watch(SYSTEM_PROJECT, EVENTS)
        self._watch.feed.followers.append(self)

    def stop(self) -> None:
        """Follow no more."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.feed.followers.remove(self)
            watch.release()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def advance(self, records: Sequence[EventRecord], reached: int) -> None:  # noqa: ARG002
        """See `feed.Follower`."""
        for event in records:
            if event.event_type == PERSON_ERASED:
                self._heed(event)

    def expire(self) -> None:
        """See `feed.Follower`. After a restore the lanes are others too, and feeds have begun anew."""

    def _heed(self, event: EventRecord) -> None:
        try:
            project_id = _decoder.decode(event.properties).project_id
        except msgspec.DecodeError:
            _logger.error("forgetting.unreadable", extra={"seq": event.seq})
            return
        self._forget(project_id)
        timer = self._timers.pop(project_id, None)
        if timer is not None:
            timer.cancel()
        self._timers[project_id] = asyncio.get_running_loop().call_later(self._again, self._forget_again, project_id)

    def _forget_again(self, project_id: UUID) -> None:
        del self._timers[project_id]
        self._forget(project_id)

    def _forget(self, project_id: UUID) -> None:
        for forget in self._forgetters:
            forget(project_id)
