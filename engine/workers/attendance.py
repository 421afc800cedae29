"""Attending to projects: from a hint that there is something to do to doing it, at once and by one worker.

Guarantees: a hint that arrives while its work is done here makes it done once more; where nothing comes for `LINGER`
the work is let go, and after `TIME_BOX` it goes to the end of the queue, so that no project keeps a worker for itself.
A hint may be lost (Redis, a job just ending): the sweeper finds what is due within about a second.
Leaves to others: what the work is (`handlers`), and which worker gets it (jobs).
Stops when `stop` is called: nothing new is begun, and what is at work is told to come to an end.

While a worker attends to a project it hears further hints itself, without asking the queue: an attempt follows its
enqueue within milliseconds. The others hear them too; having found the job taken they do not ask again for a moment.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from uuid import UUID

from db.failures import is_passing
from engine.errors import Unavailable
from engine.work import Work, WorkKind
from engine.workers.jobs import Jobs

LINGER = 1.0
"""Seconds for which a worker waits for more of the same. A job costs three statements, a hint to who waits none."""
TIME_BOX = 10.0
"""Seconds after which a job goes back to the end of the queue."""
TAKEN_FOR = 0.5
"""Seconds for which a job that another worker holds is not asked for again. Shorter than `LINGER`."""
MAX_REMEMBERED = 10_000

_logger = logging.getLogger(__name__)

Handler = Callable[[UUID], Awaitable[bool]]
"""Does what is due for a project. True: it has taken long enough, and there is more."""


class Attendance:
    """One worker's work in progress, by kind and project. Belongs to one event loop."""

    def __init__(self, jobs: Jobs, handlers: Mapping[WorkKind, Handler]) -> None:
        self._jobs = jobs
        self._handlers = handlers
        self._bells: dict[Work, asyncio.Event] = {}
        self._taken: dict[Work, float] = {}
        self._wanted: dict[Work, None] = {}
        self._wake = asyncio.Event()
        self._stopping = False

    def hint(self, work: Work) -> None:
        """There may be something to do. Never blocks."""
        if not self.ring(work) and not self._is_taken(work):
            self._wanted[work] = None
            self._wake.set()

    def ring(self, work: Work) -> bool:
        """A hint of this worker's own; False when it is not attended to here, so that others have to be told."""
        bell = self._bells.get(work)
        if bell is not None:
            bell.set()
        return bell is not None

    async def enqueue(self, works: Sequence[Work]) -> None:
        """The same from the sweeper, for several. Raises what the database raises."""
        for work in works:
            if work in self._bells:
                self._bells[work].set()
        absent = [work for work in works if work not in self._bells]
        for work, is_new in zip(absent, await self._jobs.enqueue(absent), strict=True):
            if not is_new:
                self._remember_taken(work)

    async def run(self) -> None:
        """Turn hints into jobs, many at a time, and do the jobs that come here; until `stop`."""
        asking = asyncio.create_task(self._ask_for_ever(), name="work-hints")
        try:
            await self._jobs.run(self._attend)
        finally:
            asking.cancel()

    def stop(self) -> None:
        """Begin nothing new."""
        self._stopping = True
        self._jobs.stop()
        for bell in self._bells.values():
            bell.set()

    async def _ask_for_ever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            works = list(self._wanted)
            self._wanted.clear()
            try:
                await self.enqueue(works)
            except Exception as error:
                _logger.warning("work.not_enqueued", extra={"reason": type(error).__name__})

    async def _attend(self, work: Work) -> bool:
        """One job. True when its time is over and there may be more."""
        bell = self._bells.setdefault(work, asyncio.Event())
        deadline = time.monotonic() + TIME_BOX
        try:
            while not self._stopping:
                bell.clear()
                more = await self._try(work)
                if not more and not await _rings(bell, LINGER):
                    return False
                if time.monotonic() > deadline:
                    return True
            return False
        finally:
            self._bells.pop(work, None)

    async def _try(self, work: Work) -> bool:
        """Do the work. What passes by itself is no fault of it: whoever looks next does it again."""
        try:
            return await self._handlers[work.kind](work.project_id)
        except Exception as error:
            if not is_passing(error) and not isinstance(error, Unavailable):
                raise
            names = {"kind": work.kind, "project_id": str(work.project_id), "reason": type(error).__name__}
            _logger.warning("work.interrupted", extra=names)
            return False

    def _is_taken(self, work: Work) -> bool:
        return time.monotonic() < self._taken.get(work, 0.0)

    def _remember_taken(self, work: Work) -> None:
        if len(self._taken) >= MAX_REMEMBERED:
            self._taken.clear()
        self._taken[work] = time.monotonic() + TAKEN_FOR


async def _rings(bell: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await bell.wait()
    except TimeoutError:
        # It may have rung in the moment in which the time was over.
        return bell.is_set()
    return True
