"""The runner: each file once, all or nothing, several processes at once."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
from collections.abc import AsyncIterator

import asyncpg
import pytest

from db.migrate import LOCK_KEY, MigrationError, make_migration, migrate, read_migrations, split_statements
from launch.embedded import EmbeddedPostgres

_numbers = itertools.count(1)

FIRST = make_migration(1, "0001_first", "CREATE TABLE first (id int); INSERT INTO first VALUES (1);")
SECOND = make_migration(2, "0002_second", "CREATE TABLE second (id int);")


@pytest.fixture
async def empty_url(postgres_server: EmbeddedPostgres) -> AsyncIterator[str]:
    name = f"migrate_{next(_numbers)}"
    admin = await asyncpg.connect(postgres_server.url_of("postgres"))
    await admin.execute(f"CREATE DATABASE {name}")
    yield postgres_server.url_of(name)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


async def test_missing_files_are_applied_in_order_and_only_once(empty_url: str) -> None:
    assert await migrate(empty_url, [FIRST]) == ["0001_first"]
    assert await migrate(empty_url, [FIRST, SECOND]) == ["0002_second"]
    assert await migrate(empty_url, [FIRST, SECOND]) == []

    assert await _value(empty_url, "SELECT count(*) FROM first") == 1
    assert await _value(empty_url, "SELECT sha256 FROM schema_migrations WHERE version = 2") == SECOND.sha256


async def test_a_file_that_fails_leaves_nothing_behind(empty_url: str) -> None:
    broken = make_migration(2, "0002_broken", "CREATE TABLE half (id int); SELECT 1 / 0;")

    with pytest.raises(MigrationError, match="0002_broken failed: division by zero"):
        await migrate(empty_url, [FIRST, broken])

    assert await _value(empty_url, "SELECT to_regclass('half')") is None
    assert await _value(empty_url, "SELECT array_agg(name) FROM schema_migrations") == ["0001_first"]


async def test_a_file_that_changed_after_it_was_applied_is_refused(empty_url: str) -> None:
    await migrate(empty_url, [FIRST])
    changed = make_migration(1, "0001_first", FIRST.sql + "-- later thought")

    with pytest.raises(MigrationError, match="0001_first was applied with another content"):
        await migrate(empty_url, [changed, SECOND])

    assert await _value(empty_url, "SELECT to_regclass('second')") is None


async def test_a_file_without_transaction_can_create_an_index_concurrently(empty_url: str) -> None:
    concurrent = make_migration(
        2,
        "0002_index",
        "-- no-transaction\n-- an index; beside the traffic\nDROP INDEX IF EXISTS first_id;\n"
        "CREATE INDEX CONCURRENTLY first_id\n    ON first (id);\n",
    )

    assert await migrate(empty_url, [FIRST, concurrent]) == ["0001_first", "0002_index"]

    assert await _value(empty_url, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'first_id'::regclass") is True


def test_statements_are_parted_at_line_ends_and_comments_alone_are_none() -> None:
    assert split_statements("-- no-transaction\nSELECT ';' ;\n\nSELECT 2\n;\n-- the end\n") == [
        "-- no-transaction\nSELECT ';'",
        "SELECT 2",
    ]


async def test_of_several_processes_that_start_at_once_one_applies_and_none_fails(empty_url: str) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(4) as pool:
        applied = await asyncio.to_thread(pool.map, _migrate_in_process, [empty_url] * 4)

    every_name = [migration.name for migration in read_migrations()]
    assert sorted(applied) == [[], [], [], every_name]


async def test_concurrent_index_and_waiting_processes_do_not_deadlock(empty_url: str) -> None:
    concurrent = make_migration(
        2, "0002_index", "-- no-transaction\nCREATE INDEX CONCURRENTLY first_id ON first (id);\n"
    )

    applied = await asyncio.gather(*(migrate(empty_url, [FIRST, concurrent]) for _ in range(5)))

    assert sorted(applied) == [[], [], [], [], ["0001_first", "0002_index"]]


async def test_a_table_that_is_locked_for_long_fails_the_migration_instead_of_the_traffic(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.migrate.LOCK_TIMEOUT_SECONDS", 0.2)
    await migrate(empty_url, [FIRST])
    alter = make_migration(2, "0002_alter", "ALTER TABLE first ADD COLUMN more int;")
    reader = await asyncpg.connect(empty_url)
    async with reader.transaction():
        await reader.fetch("SELECT * FROM first")

        with pytest.raises(MigrationError, match="0002_alter failed: canceling statement due to lock timeout"):
            await migrate(empty_url, [FIRST, alter])

    assert await migrate(empty_url, [FIRST, alter]) == ["0002_alter"]
    await reader.close()


async def test_the_lock_is_free_again_after_a_failure(empty_url: str) -> None:
    with pytest.raises(MigrationError):
        await migrate(empty_url, [make_migration(1, "0001_broken", "SELECT nonsense;")])

    assert await _value(empty_url, f"SELECT pg_try_advisory_lock({LOCK_KEY})") is True


def test_the_packages_files_are_numbered_without_gaps() -> None:
    assert [migration.version for migration in read_migrations()] == list(range(1, len(read_migrations()) + 1))


def _migrate_in_process(url: str) -> list[str]:
    return asyncio.run(migrate(url))


async def _value(url: str, query: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()
