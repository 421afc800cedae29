"""Reading the heads of watched projects: on demand, and over and over while Redis is away and announces nothing.

Guarantees: one statement at a time, whoever asks; who asks while one is under way gets what the next one finds. Where
PostgreSQL is away it goes on until it is back. Stops when `stop` is awaited.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple, TypeAlias
from uuid import UUID

from db.database import Database
from db.heads import read_heads
from db.records import HeadRecord, Lane
from engine.backoff import Backoff
from engine.live.broadcast import Broadcast
from engine.tasks import end_tasks

POLL_INTERVAL = 0.5
"""Seconds between readings of heads while Redis is away: with 1.3 s to notice it, streams are less than 2 s late."""
FIRST_RETRY = 0.05
LAST_RETRY = 1.0
"""Seconds between attempts while PostgreSQL is away."""

Heads: TypeAlias = Mapping[UUID, Mapping[Lane, HeadRecord]]
"""By project; what is unknown is not in it."""

_logger = logging.getLogger(__name__)


class _WantedHead(NamedTuple):
    """Somebody waits for the head of a lane."""

    lane: Lane
    answer: asyncio.Future[HeadRecord]


class HeadReader:
    """`watched` are the projects to read while Redis is away. `stand` is called before a statement, and what it gives
    with what was found."""

    def __init__(
        self,
        database: Database,
        broadcast: Broadcast,
        *,
        watched: Iterable[UUID],
        stand: Callable[[], Callable[[Heads], None]],
    ) -> None:
        self._database = database
        self._broadcast = broadcast
        self._watched = watched
        self._stand = stand
        self._wanted: dict[UUID, list[_WantedHead]] = {}
        self._wake = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        self._forget_health: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Begin."""
        self._forget_health = self._broadcast.on_health(lambda _connected: self._wake.set())
        self._reading = asyncio.create_task(self._read_for_ever(), name="hub-heads")

    async def stop(self) -> None:
        """Read no more. Who waits is not answered."""
        self._forget_health()
        await end_tasks([self._reading])
        self._reading = None

    async def read(self, project_id: UUID, lane: Lane) -> HeadRecord:
        """The head as the database has it after this call began; callers at the same time share one statement.

        Waits as long as PostgreSQL is away: put a limit around it. Raises `LookupError` for an unknown project.
        """
        answer: asyncio.Future[HeadRecord] = asyncio.get_running_loop().create_future()
        self._wanted.setdefault(project_id, []).append(_WantedHead(lane, answer))
        self._wake.set()
        return await answer

    def want(self, project_id: UUID) -> None:
        """Have a head read soon; `stand` is told of it."""
        self._wanted.setdefault(project_id, [])
        self._wake.set()

    async def _read_for_ever(self) -> None:
        """The only reader of heads: on demand, and every `POLL_INTERVAL` while Redis is away."""
        backoff = Backoff(first=FIRST_RETRY, cap=LAST_RETRY)
        while True:
            if await self._until_due():
                try:
                    await self._read_due()
                    backoff.reset()
                except Exception as error:
                    _logger.warning("hub.heads_unreadable", extra={"reason": type(error).__name__})
                    await backoff.wait()

    async def _until_due(self) -> bool:
        """Wait; False when there is nothing to read after all."""
        if not self._wanted or not self._wake.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(None if self._broadcast.connected else POLL_INTERVAL):
                    await self._wake.wait()
        self._wake.clear()
        return bool(self._wanted) or not self._broadcast.connected

    async def _read_due(self) -> None:
        if not self._broadcast.connected:
            for project_id in self._watched:
                self._wanted.setdefault(project_id, [])
        if not self._wanted:
            return
        wanted, self._wanted = self._wanted, {}
        tell = self._stand()
        try:
            async with self._database.connection() as connection:
                heads = await read_heads(connection, project_ids=list(wanted))
        except BaseException:
            self._want_again(wanted)
            raise
        found: defaultdict[UUID, dict[Lane, HeadRecord]] = defaultdict(dict)
        for head in heads:
            found[head.project_id][head.lane] = head
        tell(found)
        for project_id, askers in wanted.items():
            _answer(askers, found[project_id])

    def _want_again(self, wanted: dict[UUID, list[_WantedHead]]) -> None:
        for project_id, askers in wanted.items():
            waiting = [each for each in askers if not each.answer.done()]
            self._wanted.setdefault(project_id, []).extend(waiting)
        self._wake.set()


def _answer(askers: Sequence[_WantedHead], heads: Mapping[Lane, HeadRecord]) -> None:
    for lane, answer in askers:
        if answer.done():
            continue
        head = heads.get(lane)
        if head is None:
            answer.set_exception(LookupError("unknown project"))
        else:
            answer.set_result(head)
