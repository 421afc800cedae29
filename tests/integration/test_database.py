"""The pool: slots always return, nobody waits for ever, URLs are read as libpq reads them."""

from __future__ import annotations

import asyncio
import random
import socket
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from db.database import Database
from launch.embedded import EmbeddedPostgres
from tests.integration.log_support import open_database


async def test_a_socket_url_with_a_port_in_its_query_is_followed(database_url: str, tmp_path: Path) -> None:
    # Given a socket under another port than 5432
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / ".s.PGSQL.7654"))
        listener.listen()
        listener.setblocking(False)
        database = Database(f"postgresql://postgres@/app?host={tmp_path}&port=7654")

        # When the pool opens, then it is that socket that is called
        connecting = asyncio.create_task(database.connect())
        accepted, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(listener), 5)
        accepted.close()
        with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
            await connecting


async def test_a_transaction_commits_at_its_end_and_rolls_back_on_an_error(database_url: str) -> None:
    async with open_database(database_url) as database:
        async with database.transaction() as connection:
            await connection.execute("CREATE TABLE kept (n int)")
        with pytest.raises(ZeroDivisionError):
            await _insert_and_fail(database)
        async with database.connection() as connection:
            assert await connection.fetchval("SELECT count(*) FROM kept") == 0


async def test_statements_run_in_read_committed_under_a_time_limit(database_url: str) -> None:
    limit = timedelta(milliseconds=200)
    async with open_database(database_url, statement_timeout=limit) as database, database.connection() as connection:
        assert await connection.fetchval("SHOW transaction_isolation") == "read committed"
        assert await connection.fetchval("SHOW timezone") == "UTC"
        with pytest.raises(asyncpg.QueryCanceledError):
            await connection.execute("SELECT pg_sleep(5)")


async def test_who_finds_no_free_connection_is_told_in_time(database_url: str) -> None:
    options = {"min_size": 1, "max_size": 1, "acquire_timeout": timedelta(milliseconds=100)}
    async with open_database(database_url, **options) as database:
        async with database.connection():
            with pytest.raises(TimeoutError):
                await asyncio.create_task(_select_one(database))
        assert await _select_one(database) == 1


async def test_every_slot_returns_after_a_storm_of_cancellations(database_url: str) -> None:
    async with open_database(database_url, min_size=1, max_size=3) as database:
        chance = random.Random(11)
        for _ in range(30):
            tasks = [asyncio.create_task(_work(database)) for _ in range(8)]
            await asyncio.sleep(chance.uniform(0, 0.01))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        assert await _free_slots(database, 3) == 3


async def test_every_slot_returns_when_backends_are_terminated(
    database_url: str, postgres_server: EmbeddedPostgres
) -> None:
    admin = await asyncpg.connect(postgres_server.url_of("postgres"))
    async with open_database(database_url, min_size=1, max_size=3) as database:
        async with database.connection() as connection:
            name = await connection.fetchval("SELECT current_database()")
        for _ in range(10):
            tasks = [asyncio.create_task(_work(database)) for _ in range(8)]
            await asyncio.sleep(0.005)
            await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
            await asyncio.gather(*tasks, return_exceptions=True)

        assert await _free_slots(database, 3) == 3
    await admin.close()


async def test_a_task_whose_release_was_cancelled_can_use_the_pool_again(database_url: str) -> None:
    async with open_database(database_url, min_size=1, max_size=1) as database:

        async def cancelled_then_again() -> int:
            try:
                async with asyncio.timeout(0.05):
                    async with database.transaction() as connection:
                        await connection.execute("SELECT pg_sleep(5)")
            except TimeoutError:
                pass
            return await _select_one(database)

        assert await asyncio.create_task(cancelled_then_again()) == 1


async def _insert_and_fail(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute("INSERT INTO kept VALUES (1)")
        raise ZeroDivisionError


async def _select_one(database: Database) -> int:
    async with database.connection() as connection:
        return await connection.fetchval("SELECT 1")


async def _work(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.fetchval("SELECT 1")
        await connection.execute("SELECT pg_sleep(0.01)")


async def _free_slots(database: Database, size: int) -> int:
    """How many connections can be held at once."""
    everyone_holds = asyncio.Barrier(size)

    async def hold() -> int:
        async with database.connection() as connection:
            async with asyncio.timeout(5):
                await everyone_holds.wait()
            return await connection.fetchval("SELECT 1")

    return sum(await asyncio.gather(*(hold() for _ in range(size))))


async def test_only_what_says_so_does_not_wait_for_the_disk(database_url: str) -> None:
    for options, expected in (({}, "on"), ({"waits_for_disk": False}, "off")):
        async with open_database(database_url, **options) as database, database.connection() as connection:
            assert await connection.fetchval("SHOW synchronous_commit") == expected
