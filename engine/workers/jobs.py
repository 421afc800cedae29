"""Which worker does what, now: pgqueuer on the same PostgreSQL, behind one small interface.

Guarantees: of one kind of work for one project at most one job is queued or at work, whatever the number of workers; a
job whose worker died is taken over within `HEARTBEAT_TIMEOUT`. Promises no delivery of a single `enqueue`: one that
meets a job just ending is lost, and the sweeper enqueues again a second later.
Leaves to others: when something is due (rows of ours), and everything that must not be lost.
Stops when `stop` is called: jobs at work are waited for, then `run` returns.

A job means "now": it carries a kind of work and a project, never a time. pgqueuer's trigger is not installed, since
NOTIFY takes a lock of the whole server at every commit; `enqueue` wakes this process's own manager instead, and every
worker is woken through Redis.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from pgqueuer import PgQueuer
from pgqueuer.adapters.persistence.queries import Queries
from pgqueuer.core.tm import TaskManager
from pgqueuer.domain.errors import RetryRequested
from pgqueuer.domain.models import Job, TableChangedEvent, TracebackRecord
from pgqueuer.domain.settings import db_settings
from pgqueuer.ports.driver import NotifyCallback

from db.database import Database
from engine.backoff import Backoff
from engine.work import Work, WorkKind

HEARTBEAT_TIMEOUT = timedelta(seconds=6)
"""After this a silent worker's jobs go to another one. Longer than PostgreSQL takes to restart."""
POLL_INTERVAL = timedelta(seconds=5)
"""How often the queue is looked at although nobody was woken: for jobs that another worker left behind."""
BATCH_SIZE = 20
"""Jobs taken at once."""
FIRST_RETRY = 0.2
LAST_RETRY = 2.0
"""Seconds between attempts while PostgreSQL is away."""

_logger = logging.getLogger(__name__)

Handler = Callable[[Work], Awaitable[bool]]
"""Does some work of a project. True: there is more, so the job goes back to the end of the queue."""


class _PooledDriver:
    """pgqueuer's `Driver` over our pool. Its notifications stay in this process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._callbacks: list[NotifyCallback] = []
        self._shutdown = asyncio.Event()

    async def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        async with self._database.connection() as connection:
            return [dict(row.items()) for row in await connection.fetch(query, *args)]

    async def execute(self, query: str, *args: object) -> str:
        async with self._database.connection() as connection:
            status: str = await connection.execute(query, *args)
            return status

    async def add_listener(self, channel: str, callback: NotifyCallback) -> None:  # noqa: ARG002
        self._callbacks.append(callback)

    async def notify(self, channel: str, payload: str) -> None:  # noqa: ARG002
        self._tell(payload)

    def tell_changed(self) -> None:
        """What the trigger would have notified: there are jobs to look for."""
        self._tell(_changed_event().model_dump_json())

    def _tell(self, payload: str) -> None:
        for callback in self._callbacks:
            callback(payload)

    @property
    def shutdown(self) -> asyncio.Event:
        return self._shutdown

    @property
    def tm(self) -> TaskManager:
        return TaskManager()

    async def __aenter__(self) -> _PooledDriver:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._callbacks.clear()


class _Queries(Queries):
    """A job that goes back to the end of the queue is looked for: nobody else would before the next poll."""

    def __init__(self, driver: _PooledDriver) -> None:
        super().__init__(driver)
        self._tell_changed = driver.tell_changed

    async def retry_job(self, job: Job, delay: timedelta, traceback_record: TracebackRecord | None) -> None:
        await super().retry_job(job, delay, traceback_record)
        self._tell_changed()


class Jobs:
    """The queue, for one worker process."""

    def __init__(self, database: Database) -> None:
        self._driver = _PooledDriver(database)
        self._queries = _Queries(self._driver)
        self._running: PgQueuer | None = None
        self._stopping = False

    async def enqueue(self, works: Sequence[Work]) -> list[bool]:
        """Ask for work, once each; False where it is queued or being done already.

        Raises what the database raises.
        """
        if not works:
            return []
        ids = await self._queries.enqueue(
            [work.kind.value for work in works],
            [work.project_id.bytes for work in works],
            [0 for _ in works],
            dedupe_key=[f"{work.kind.value}:{work.project_id}" for work in works],
            on_conflict="skip",
        )
        if any(job_id is not None for job_id in ids):
            self._driver.tell_changed()
        return [job_id is not None for job_id in ids]

    async def run(self, handler: Handler) -> None:
        """Do work until `stop`; through restarts of PostgreSQL."""
        backoff = Backoff(first=FIRST_RETRY, cap=LAST_RETRY)
        while not self._stopping:
            self._running = _manager(self._driver, self._queries, handler)
            try:
                await self._running.qm.run(
                    dequeue_timeout=POLL_INTERVAL, batch_size=BATCH_SIZE, heartbeat_timeout=HEARTBEAT_TIMEOUT
                )
                backoff.reset()
            except Exception as error:
                _logger.warning("jobs.interrupted", extra={"reason": type(error).__name__})
                await backoff.wait()

    def stop(self) -> None:
        """Take no more jobs; `run` returns when those at work are done."""
        self._stopping = True
        if self._running is not None:
            self._running.shutdown.set()


def _changed_event() -> TableChangedEvent:
    settings = db_settings()
    return TableChangedEvent(
        channel=settings.channel,
        operation="insert",
        sent_at=datetime.now(UTC),
        table=settings.queue_table,
        type="table_changed_event",
    )


def _manager(driver: _PooledDriver, queries: _Queries, handler: Handler) -> PgQueuer:
    manager = PgQueuer(driver, queries=queries)

    async def handle(job: Job) -> None:
        assert job.payload is not None  # noqa: S101, every job of ours has one
        if await handler(Work(WorkKind(job.entrypoint), UUID(bytes=job.payload))):
            raise RetryRequested(delay=timedelta())

    for kind in WorkKind:
        manager.entrypoint(kind.value)(handle)
    return manager
