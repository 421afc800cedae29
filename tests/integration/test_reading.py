"""Lists and counts take turns: a project's own wait for each other, another project's come next."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from db.database import Database
from engine.errors import RateLimited
from engine.reading import POOL_SIZE, PROJECT_READS, PROJECT_WAITING, Readers


@pytest.fixture
async def readers(database_url: str) -> AsyncIterator[Readers]:
    database = Database(database_url, min_size=0, max_size=POOL_SIZE)
    await database.connect()
    yield Readers(database)
    await database.disconnect()


async def test_one_project_never_takes_the_whole_pool(readers: Readers) -> None:
    project, at_work, most = uuid4(), 0, 0
    release = asyncio.Event()

    async def read() -> None:
        nonlocal at_work, most
        async with readers.connection(project):
            at_work += 1
            most = max(most, at_work)
            await release.wait()
            at_work -= 1

    tasks = [asyncio.create_task(read()) for _ in range(20)]
    async with asyncio.timeout(5):
        while at_work < PROJECT_READS:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        async with readers.connection(uuid4()) as connection:
            assert await connection.fetchval("SELECT 1") == 1
    release.set()
    await asyncio.gather(*tasks)
    assert most == PROJECT_READS


async def test_too_many_waiting_are_refused_at_once_and_later_ones_are_served_again(readers: Readers) -> None:
    project, release = uuid4(), asyncio.Event()

    async def read() -> None:
        async with readers.connection(project):
            await release.wait()

    tasks = [asyncio.create_task(read()) for _ in range(PROJECT_READS + PROJECT_WAITING)]
    await asyncio.sleep(0)

    with pytest.raises(RateLimited) as refused:
        await read()

    assert refused.value.extensions() == {"code": "RATE_LIMITED", "retryAfterMs": 1000}
    release.set()
    await asyncio.gather(*tasks)
    async with readers.connection(project) as connection:
        assert await connection.fetchval("SELECT 1") == 1


async def test_a_reader_that_goes_away_while_waiting_leaves_its_place(readers: Readers) -> None:
    project, release = uuid4(), asyncio.Event()

    async def read() -> None:
        async with readers.connection(project):
            await release.wait()

    tasks = [asyncio.create_task(read()) for _ in range(PROJECT_READS + 10)]
    await asyncio.sleep(0.1)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    release.set()

    async with asyncio.timeout(2):
        await asyncio.gather(*(read() for _ in range(PROJECT_READS)))
