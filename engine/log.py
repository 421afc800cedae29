"""Appending to the log: group commit, one lane per project.

Guarantees: `append` returns only when its events are on disk, each key stored once, in the order given; whatever the
network does to a COMMIT, the first answer for an event never calls it a duplicate; one bad event fails alone; a caller
that goes away takes nothing with it. After a commit its events are announced, in order per project. Events of module
analytics are stored only of people whose consent allows it, as the log has it: a revocation is followed by none.

How: a project has at most one transaction under way here, and whoever arrives meanwhile goes into the next one, because
a project's log takes some hundred transactions a second but thousands of rows in each. The lane's task does the work,
not the callers. An append is a single statement that commits itself: nothing of ours runs while the head is locked.
A lost answer is met by trying again with the same keys and the same batch token.

Bounded: events waiting, per project and in all, by their size (`RateLimited`); the time for one append (`Unavailable`);
transactions at once, so that readers keep connections. `close()` finishes what was accepted, then stops.
Leaves to others: who may write, and healing what was not announced (the worker's relay).
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TypeVar
from uuid import UUID

import asyncpg
import msgspec

from db.database import Database
from db.events import append_events, read_events_by_seq
from db.failures import is_data_refused, is_passing
from db.projects import read_project
from db.records import AppendResult, EventRecord, Lane, NewEvent, ProjectRecord
from engine.announcements import Announcement
from engine.errors import NotFound, RateLimited, Unavailable, UserError
from engine.events import EventDraft, normalise

MAX_ROWS_PER_COMMIT = 2_000
"""Where rows per second stop growing; a larger transaction only makes everyone in it wait longer."""
MAX_BYTES_PER_COMMIT = 8 * 1024 * 1024
"""Bounds how long a project's head is locked when events are large."""
MAX_WAITING_BYTES_PER_PROJECT = 32 * 1024 * 1024
MAX_WAITING_BYTES = 128 * 1024 * 1024
EVENT_OVERHEAD_BYTES = 1_000
"""What an event costs in memory besides its text."""
RETRY_FOR = timedelta(seconds=10)
"""How long an append is tried before its caller is told to come back. Outlives the restart of a PostgreSQL."""
RETRY_AFTER_MS = 1_000
FIRST_PAUSE_SECONDS = 0.01
LONGEST_PAUSE_SECONDS = 0.5
MAX_KNOWN_SALTS = 10_000

logger = logging.getLogger(__name__)


_Result = TypeVar("_Result")


class Stored(msgspec.Struct, frozen=True):
    """An event that is on disk. `duplicate`: its key was there before, and `event` is what is stored under it."""

    event: EventRecord
    duplicate: bool


class Rejected(msgspec.Struct, frozen=True):
    """An event that was refused. The error's path is relative to the event."""

    error: UserError


class Dropped(msgspec.Struct, frozen=True):
    """An event of module analytics whose person's consent does not allow it: nothing is stored, nobody is made."""


class Erased(msgspec.Struct, frozen=True):
    """An event that was stored once and erased since, with its person: it is a duplicate of nothing that is left."""


Outcome = Stored | Rejected | Dropped | Erased


class LogStats(msgspec.Struct, frozen=True):
    """Since the start: transactions, rows stored, tries repeated. Now: bytes waiting, projects being written to."""

    commits: int
    rows: int
    retries: int
    waiting_bytes: int
    busy_projects: int


class _Call(msgspec.Struct, frozen=True, eq=False):
    """One `append`. `since` is when it came, on the monotonic clock."""

    events: tuple[NewEvent, ...]
    size: int
    since: float
    answer: asyncio.Future[tuple[Outcome, ...]]


class _Lane:
    """The calls that wait for one project's next transaction, and the task that makes them."""

    def __init__(self) -> None:
        self.waiting: deque[_Call] = deque()
        self.size = 0
        self.task: asyncio.Task[None] | None = None

    def take(self) -> list[_Call]:
        """The oldest calls that fit into one transaction; at least one."""
        taken = [self.waiting.popleft()]
        rows, size = len(taken[0].events), taken[0].size
        while self.waiting:
            rows += len(self.waiting[0].events)
            size += self.waiting[0].size
            if rows > MAX_ROWS_PER_COMMIT or size > MAX_BYTES_PER_COMMIT:
                break
            taken.append(self.waiting.popleft())
        return taken


class EventLog:
    """Appends for one process. `announce` is called after each commit; it must not block, and may do nothing."""

    def __init__(
        self,
        database: Database,
        announce: Callable[[Announcement], None],
        *,
        max_transactions: int | None = None,
        retry_for: timedelta = RETRY_FOR,
    ) -> None:
        self._database = database
        self._announce = announce
        self._slots = asyncio.Semaphore(max_transactions or max(1, database.max_size // 2))
        self._retry_for = retry_for.total_seconds()
        self._lanes: dict[UUID, _Lane] = {}
        self._salts: dict[UUID, asyncio.Task[bytes]] = {}
        self._size = 0
        self._commits = self._rows = self._retries = 0
        self._closed = False

    async def append(self, project_id: UUID, drafts: Sequence[EventDraft]) -> tuple[Outcome, ...]:
        """Store events of one project; one outcome per draft, in order.

        Raises `RateLimited` when too much waits already, `Unavailable` when the database did not answer in time (the
        events may or may not be stored: send them again under the same keys), `NotFound` for an unknown project.
        Cancelling the caller does not stop what was accepted.
        """
        checked = normalise(drafts, salt=await self._salt(project_id))
        events = tuple(event for event in checked if isinstance(event, NewEvent))
        stored = iter(await self._enqueue(project_id, events) if events else ())
        return tuple(next(stored) if isinstance(event, NewEvent) else Rejected(event) for event in checked)

    def stats(self) -> LogStats:
        """For metrics."""
        return LogStats(self._commits, self._rows, self._retries, self._size, len(self._lanes))

    async def close(self) -> None:
        """Refuse new events and finish those accepted; takes `RETRY_FOR` and a statement's time-out at the longest."""
        self._closed = True
        while self._lanes:
            await asyncio.wait([lane.task for lane in self._lanes.values() if lane.task is not None])

    async def _salt(self, project_id: UUID) -> bytes:
        """The project's salt, read once however many ask for it at the same time."""
        reading = self._salts.get(project_id)
        if reading is None:
            if len(self._salts) >= MAX_KNOWN_SALTS:
                self._salts.clear()
            reading = asyncio.get_running_loop().create_task(self._read_salt(project_id))
            reading.add_done_callback(lambda done: self._forget_failed(project_id, done))
            self._salts[project_id] = reading
        return await asyncio.shield(reading)

    async def _read_salt(self, project_id: UUID) -> bytes:
        async def read() -> ProjectRecord | None:
            async with self._database.connection() as connection:
                return await read_project(connection, project_id=project_id)

        project = await self._until_it_passes(read, deadline=time.monotonic() + self._retry_for)
        if project is None:
            raise NotFound("There is no such project.")
        return project.salt

    def _forget_failed(self, project_id: UUID, reading: asyncio.Task[bytes]) -> None:
        if reading.cancelled() or reading.exception() is not None:
            self._salts.pop(project_id, None)

    async def _enqueue(self, project_id: UUID, events: tuple[NewEvent, ...]) -> tuple[Outcome, ...]:
        size = sum(_size(event) for event in events)
        lane = self._lanes.get(project_id) or _Lane()
        self._admit(lane, size)
        loop = asyncio.get_running_loop()
        call = _Call(events, size, time.monotonic(), loop.create_future())
        lane.waiting.append(call)
        lane.size += size
        self._size += size
        if lane.task is None:
            self._lanes[project_id] = lane
            lane.task = loop.create_task(self._run(project_id, lane), name=f"append {project_id}")
        return await call.answer

    def _admit(self, lane: _Lane, size: int) -> None:
        if self._closed:
            raise Unavailable("This gateway is shutting down; try again.", retry_after_ms=RETRY_AFTER_MS)
        if lane.size and lane.size + size > MAX_WAITING_BYTES_PER_PROJECT:
            raise RateLimited(
                f"Events of a project may wait to be stored up to {MAX_WAITING_BYTES_PER_PROJECT:,} bytes here.",
                retry_after_ms=RETRY_AFTER_MS,
            )
        if self._size and self._size + size > MAX_WAITING_BYTES:
            raise RateLimited(
                f"Events may wait to be stored up to {MAX_WAITING_BYTES:,} bytes here.", retry_after_ms=RETRY_AFTER_MS
            )

    async def _run(self, project_id: UUID, lane: _Lane) -> None:
        """Make transactions until nothing waits. Never raises: every call gets an answer or an error."""
        try:
            while lane.waiting:
                async with self._slots:
                    calls = lane.take()
                    await self._answer(project_id, calls)
                size = sum(call.size for call in calls)
                lane.size -= size
                self._size -= size
        finally:
            del self._lanes[project_id]

    async def _answer(self, project_id: UUID, calls: Sequence[_Call]) -> None:
        events = [event for call in calls for event in call.events]
        try:
            outcomes = await self._store(project_id, events, deadline=calls[0].since + self._retry_for)
        except Exception as error:
            for call in calls:
                if not call.answer.done():
                    call.answer.set_exception(error)
            return
        start = 0
        for call in calls:
            if not call.answer.done():
                call.answer.set_result(tuple(outcomes[start : start + len(call.events)]))
            start += len(call.events)

    async def _store(self, project_id: UUID, events: Sequence[NewEvent], *, deadline: float) -> list[Outcome]:
        """One transaction; when its data is refused, two with half of it each, down to the event that is to blame."""
        try:
            return await self._commit(project_id, events, deadline=deadline)
        except Exception as error:
            if not is_data_refused(error):
                raise
            if len(events) == 1:
                return [Rejected(_refusal(error))]
        half = len(events) // 2
        first = await self._store(project_id, events[:half], deadline=deadline)
        return first + await self._store(project_id, events[half:], deadline=deadline)

    async def _commit(self, project_id: UUID, events: Sequence[NewEvent], *, deadline: float) -> list[Outcome]:
        """One transaction, tried under one token until its outcome is known."""
        token = secrets.randbits(63)
        return await self._until_it_passes(lambda: self._try(project_id, token, events), deadline=deadline)

    async def _until_it_passes(self, action: Callable[[], Awaitable[_Result]], *, deadline: float) -> _Result:
        """Try at least once, and again after whatever passes by itself. Raises `Unavailable` at the deadline."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                return await action()
            except Exception as error:
                if not is_passing(error):
                    raise
                if time.monotonic() + pause > deadline:
                    raise _unavailable() from error
            self._retries += 1
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 (jitter)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _try(self, project_id: UUID, token: int, events: Sequence[NewEvent]) -> list[Outcome]:
        async with self._database.connection() as connection:
            result = await append_events(
                connection, project_id=project_id, batch_token=token, events=events, check_consent=True
            )
            fresh = fresh_records(project_id, events, result)
            self._tell(project_id, result.epoch, fresh)
            held = {seq for seq, is_fresh in zip(result.seqs, result.fresh, strict=True) if seq and not is_fresh}
            records = {record.seq: record for record in fresh}
            missing = held - records.keys()
            if missing:
                found = await read_events_by_seq(connection, project_id=project_id, seqs=list(missing))
                records.update({record.seq: record for record in found})
        return [
            _left_out(event, result)
            or Stored(records.get(seq) or _record(project_id, event, seq, result), duplicate=not is_fresh)
            for event, seq, is_fresh in zip(events, result.seqs, result.fresh, strict=True)
        ]

    def _tell(self, project_id: UUID, epoch: int, fresh: tuple[EventRecord, ...]) -> None:
        self._commits += 1
        self._rows += len(fresh)
        if not fresh:
            return
        try:
            self._announce(Announcement(project_id, Lane.EVENTS, epoch, fresh[0].seq, fresh[-1].seq, fresh))
        except Exception:
            logger.exception("announce_failed", extra={"project_id": str(project_id)})


def fresh_records(project_id: UUID, events: Sequence[NewEvent], result: AppendResult) -> tuple[EventRecord, ...]:
    """What an append stored, as it is in the log now, by seq."""
    return tuple(
        _record(project_id, event, seq, result)
        for event, seq, is_fresh in zip(events, result.seqs, result.fresh, strict=True)
        if is_fresh
    )


def _left_out(event: NewEvent, result: AppendResult) -> Dropped | Erased | None:
    if event.key in result.dropped:
        return Dropped()
    return Erased() if event.key in result.erased else None


def _record(project_id: UUID, event: NewEvent, seq: int, result: AppendResult) -> EventRecord:
    return EventRecord(
        project_id,
        seq,
        event.key,
        event.module,
        event.event_type,
        event.timestamp if event.timestamp is not None else result.received_at,
        result.received_at,
        event.user_id,
        event.anonymous_id,
        msgspec.Raw(event.properties.encode()),
        msgspec.Raw(event.context.encode()),
    )


def _size(event: NewEvent) -> int:
    return len(event.properties) + len(event.context) + len(event.traits or "") + EVENT_OVERHEAD_BYTES


def _unavailable() -> Unavailable:
    return Unavailable(
        "The database does not answer. What you sent may or may not be stored: send it again with the same ids.",
        retry_after_ms=RETRY_AFTER_MS,
    )


def _refusal(error: Exception) -> UserError:
    if isinstance(error, asyncpg.CheckViolationError) and error.constraint_name == "profiles_traits_size":
        return UserError(
            "This person's traits, with the times that they were set, would take more than 256 KiB.",
            "LIMIT_EXCEEDED",
            ("traits",),
        )
    return UserError("The event holds a value that cannot be stored.", "INVALID", ())
