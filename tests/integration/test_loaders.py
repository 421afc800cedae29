"""Look-ups: what is asked for together costs one statement, whoever asks, and no answer is older than its question."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from db.database import Database
from engine.reading import Readers
from resolvers.loaders import MAX_KEYS, Loader, Loaders, Lookup, Lookups
from tests.integration.log_support import make_project, open_database

ONE, TWO = uuid4(), uuid4()


class Table:
    """A table that notes who asked it for what, and answers when it is let."""

    def __init__(self, database: Database) -> None:
        self.read: list[tuple[UUID, list[int]]] = []
        self.asked = asyncio.Event()
        self.let = asyncio.Event()
        self.let.set()
        self.error: Exception | None = None
        self.version = 0
        self.lookup: Lookup[int, str | None] = Lookup(lambda _project: database.connection(), self._read, missing=None)

    async def _read(self, connection: asyncpg.Connection, project_id: UUID, keys: list[int]) -> dict[int, str | None]:
        self.read.append((project_id, keys))
        self.asked.set()
        version = self.version
        assert await connection.fetchval("SELECT 1") == 1
        await self.let.wait()
        if self.error is not None:
            raise self.error
        return {key: f"{key} v{version}" for key in keys if key >= 0}


@pytest.fixture
async def table(module_database_url: str) -> AsyncIterator[Table]:
    async with open_database(module_database_url) as database:
        yield Table(database)


async def test_operations_that_ask_at_once_share_a_statement_per_project(table: Table) -> None:
    operations = [Loader(table.lookup) for _ in range(50)]
    answers = await asyncio.gather(
        *(each.load((ONE, number % 20)) for number, each in enumerate(operations)),
        operations[0].load((TWO, 7)),
        operations[1].load((ONE, -1)),
    )
    assert sorted(table.read, key=lambda each: len(each[1])) == [(TWO, [7]), (ONE, [*range(20), -1])]
    assert answers[:3] == ["0 v0", "1 v0", "2 v0"]
    assert answers[50:] == ["7 v0", None]


async def test_one_operation_sees_one_row_throughout_and_the_next_one_the_new_row(table: Table) -> None:
    operation = Loader(table.lookup)
    assert await operation.load((ONE, 1)) == "1 v0"
    table.version = 1
    assert await operation.load_many([(ONE, 1), (ONE, 2)]) == ["1 v0", "2 v1"]
    assert await Loader(table.lookup).load((ONE, 1)) == "1 v1"


async def test_an_answer_is_never_older_than_its_question(table: Table) -> None:
    table.let.clear()
    early = Loader(table.lookup).load((ONE, 1))
    await table.asked.wait()
    table.version = 1
    late = [Loader(table.lookup).load((ONE, 1)) for _ in range(10)]
    table.let.set()
    assert await early == "1 v0"
    assert set(await asyncio.gather(*late)) == {"1 v1"}
    assert len(table.read) == 2


async def test_a_statement_asks_for_a_bounded_number_of_keys(table: Table) -> None:
    answers = await asyncio.gather(*(Loader(table.lookup).load((ONE, number)) for number in range(MAX_KEYS + 1)))
    assert [len(keys) for _, keys in table.read] == [MAX_KEYS, 1]
    assert answers[-1] == f"{MAX_KEYS} v0"


async def test_a_failure_is_told_to_those_who_asked_and_to_nobody_later(table: Table) -> None:
    table.error = ConnectionResetError()
    failed = await asyncio.gather(
        *(Loader(table.lookup).load((ONE, number)) for number in range(3)), return_exceptions=True
    )
    assert [type(each) for each in failed] == [ConnectionResetError] * 3
    table.error = None
    assert await Loader(table.lookup).load((ONE, 1)) == "1 v0"


async def test_who_goes_away_takes_nothing_from_the_others(table: Table) -> None:
    table.let.clear()

    async def ask(key: int) -> str | None:
        return await Loader(table.lookup).load((ONE, key))

    tasks = [asyncio.create_task(ask(key)) for key in (1, 1, 2)]
    await table.asked.wait()
    unread = asyncio.create_task(ask(3))
    await asyncio.sleep(0)
    for task in (tasks[0], unread):
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    table.let.set()
    assert await asyncio.gather(*tasks[1:]) == ["1 v0", "2 v0"]
    # What nobody waits for any more is not asked for.
    await asyncio.sleep(0.01)
    assert table.read == [(ONE, [1, 2])]


async def test_a_burst_takes_one_connection_of_the_pool(module_database_url: str) -> None:
    async with open_database(module_database_url) as database:
        project_id = await make_project(database)
        taken, connection = 0, database.connection

        @asynccontextmanager
        async def counting() -> AsyncIterator[Any]:
            nonlocal taken
            taken += 1
            async with connection() as found:
                yield found

        database.connection = counting  # type: ignore[method-assign]
        lookups = Lookups(database, Readers(database))
        found = await asyncio.gather(
            *(Loaders(lookups).attempts.load((project_id, uuid4())) for _ in range(200)),
            *(Loaders(lookups).deliveries.load((project_id, uuid4())) for _ in range(200)),
        )
        assert found == [()] * 200 + [None] * 200
        assert taken == 2
