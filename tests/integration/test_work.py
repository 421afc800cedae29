"""From a hint to work done: once per project at a time, whatever the number of workers, and never left undone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from db.database import Database
from engine.clock import DatabaseClock
from engine.errors import Unavailable
from engine.work import Work, WorkKind, decode_work, encode_work
from engine.workers import attendance
from engine.workers.attendance import Attendance
from engine.workers.jobs import POLL_INTERVAL, Jobs
from engine.workers.sweeper import Sweeper
from tests.integration.log_support import open_database

Do = Callable[[UUID], Awaitable[bool]]


@asynccontextmanager
async def worker(database: Database, do: Do) -> AsyncIterator[Attendance]:
    attending = Attendance(Jobs(database), dict.fromkeys(WorkKind, do))
    running = asyncio.create_task(attending.run())
    try:
        yield attending
    finally:
        attending.stop()
        async with asyncio.timeout(10):
            await running


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def test_work_travels_as_it_is() -> None:
    work = Work(WorkKind.DELIVERIES, uuid4())
    assert decode_work(encode_work(work)) == work


async def test_a_hint_becomes_work_at_once(database_url: str) -> None:
    done: list[tuple[UUID, float]] = []
    loop = asyncio.get_running_loop()

    async def do(project_id: UUID) -> bool:
        done.append((project_id, loop.time()))
        return False

    async with open_database(database_url) as database, worker(database, do) as attending:
        attending.hint(Work(WorkKind.DELIVERIES, first := uuid4()))
        await until(lambda: len(done) == 1)
        hinted_at = loop.time()
        attending.hint(Work(WorkKind.DELIVERIES, first))
        await until(lambda: len(done) == 2)

    assert [project for project, _ in done] == [first, first]
    # Whoever attends already hears it without asking the queue.
    assert done[1][1] - hinted_at < 0.05


async def test_a_worker_rings_for_itself_where_it_attends(database_url: str) -> None:
    """Then no other worker does, so nobody else has to be told."""
    done = 0

    async def do(_project_id: UUID) -> bool:
        nonlocal done
        done += 1
        return False

    async with open_database(database_url) as database, worker(database, do) as attending:
        work = Work(WorkKind.RUNS, uuid4())
        assert not attending.ring(work)
        attending.hint(work)
        await until(lambda: done == 1)
        assert attending.ring(work)
        await until(lambda: done == 2)
        assert not attending.ring(Work(WorkKind.TRIGGERS, work.project_id))


async def test_several_workers_never_do_one_project_at_the_same_time(database_url: str) -> None:
    at_work: Counter[UUID] = Counter()
    done: Counter[UUID] = Counter()
    overlaps: list[UUID] = []
    projects = [uuid4() for _ in range(5)]

    async def do(project_id: UUID) -> bool:
        at_work[project_id] += 1
        if at_work[project_id] > 1:
            overlaps.append(project_id)
        await asyncio.sleep(0.01)
        done[project_id] += 1
        at_work[project_id] -= 1
        return False

    async with (
        open_database(database_url) as database,
        worker(database, do) as one,
        worker(database, do) as other,
        worker(database, do) as third,
    ):
        for _ in range(5):
            for project_id in projects:
                for attending in (one, other, third):
                    attending.hint(Work(WorkKind.EVENTS, project_id))
            await asyncio.sleep(0.02)
        await until(lambda: len(done) == len(projects))

    assert overlaps == []


async def test_a_hint_during_the_work_makes_it_done_again(database_url: str) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()
    done = 0

    async def do(_project_id: UUID) -> bool:
        nonlocal done
        began.set()
        await go_on.wait()
        done += 1
        return False

    async with open_database(database_url) as database, worker(database, do) as attending:
        work = Work(WorkKind.DELIVERIES, uuid4())
        attending.hint(work)
        await began.wait()
        attending.hint(work)
        go_on.set()
        await until(lambda: done == 2)


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (ConnectionResetError(), "WARNING"),
        # Tried again for as long as it makes sense
        (Unavailable("The database does not answer.", retry_after_ms=1), "WARNING"),
        (LookupError(), "ERROR"),
    ],
)
async def test_work_that_fails_is_done_when_it_is_asked_for_again(
    database_url: str, caplog: pytest.LogCaptureFixture, error: Exception, level: str
) -> None:
    tries = 0

    async def do(_project_id: UUID) -> bool:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise error
        return False

    async with open_database(database_url) as database, worker(database, do) as attending:
        work = Work(WorkKind.DELIVERIES, uuid4())
        async with asyncio.timeout(10):
            while tries < 2:
                await attending.enqueue([work])
                await asyncio.sleep(0.05)

    # What passes by itself is no error of ours.
    assert [record.levelname for record in caplog.records] == [level]


async def test_work_whose_time_is_over_goes_to_the_end_of_the_queue(database_url: str) -> None:
    order: list[UUID] = []
    busy, other, rounds = uuid4(), uuid4(), 30

    async with open_database(database_url) as database:
        jobs = Jobs(database)

        async def handle(work: Work) -> bool:
            order.append(work.project_id)
            return work.project_id == busy and order.count(busy) < rounds

        await jobs.enqueue([Work(WorkKind.DELIVERIES, busy), Work(WorkKind.DELIVERIES, other)])
        running = asyncio.create_task(jobs.run(handle))
        # It does not wait there for the next look at the queue, not even once.
        async with asyncio.timeout(POLL_INTERVAL.total_seconds() - 0.5):
            await until(lambda: len(order) == rounds + 1)
        jobs.stop()
        async with asyncio.timeout(10):
            await running

    assert Counter(order) == {busy: rounds, other: 1}
    assert order.index(other) < 2


async def test_a_job_is_asked_for_once(database_url: str) -> None:
    async with open_database(database_url) as database:
        jobs = Jobs(database)
        work = Work(WorkKind.REPLAYS, uuid4())

        assert await jobs.enqueue([work]) == [True]
        assert await jobs.enqueue([work, Work(WorkKind.EVENTS, work.project_id)]) == [False, True]
        assert await jobs.enqueue([]) == []


async def test_stopping_waits_for_what_is_at_work(database_url: str) -> None:
    began = asyncio.Event()
    finished = False

    async def do(_project_id: UUID) -> bool:
        nonlocal finished
        began.set()
        await asyncio.sleep(0.1)
        finished = True
        return False

    async with open_database(database_url) as database:
        async with worker(database, do) as attending:
            attending.hint(Work(WorkKind.DELIVERIES, uuid4()))
            await began.wait()
        assert finished


async def test_the_sweeper_asks_for_what_is_found_and_keeps_house(database_url: str) -> None:
    asked: list[Work] = []
    due = uuid4()

    async def find_due(_connection: object) -> list[UUID]:
        return [due]

    async def find_nothing(_connection: object) -> list[UUID]:
        return []

    async def enqueue(works: object) -> None:
        asked.extend(works)  # type: ignore[call-overload]

    async with open_database(database_url) as database:
        clock = DatabaseClock(database)
        sweeper = Sweeper(database, clock, [(WorkKind.DELIVERIES, find_due), (WorkKind.EVENTS, find_nothing)], enqueue)
        await sweeper.step()
        assert asked == [Work(WorkKind.DELIVERIES, due)]

        async with database.connection() as connection:
            await connection.execute(
                "INSERT INTO pgqueuer_log (created, job_id, status, priority, entrypoint)"
                " SELECT created, 1, 'successful', 0, 'deliveries' FROM unnest($1::timestamptz[]) AS created",
                [datetime.now(UTC) - timedelta(hours=2), datetime.now(UTC)],
            )
            await sweeper.keep_house()
            assert await connection.fetchval("SELECT count(*) FROM pgqueuer_log") == 1


def test_a_worker_lingers_longer_than_others_believe_a_job_taken() -> None:
    assert attendance.TAKEN_FOR < attendance.LINGER
