"""One PostgreSQL and one Valkey for the whole run; a fresh database per test, cloned from a migrated template."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg
import pytest

from launch.embedded import EmbeddedPostgres, EmbeddedValkey

TEMPLATE = "template_migrated"
MEMORY = Path("/dev/shm")
MEMORY_ROOM = 8 * 1024**3
"""Bytes that must be free in memory for a cluster to be kept there: it takes a tenth, and others may want some too."""
_numbers = itertools.count(1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI nothing is skipped: what a test needs has been installed, or the run has failed."""
    report = yield
    if report.skipped and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not accept: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A private PostgreSQL cluster. Tests that kill it start one of their own."""
    with _quick_directory(tmp_path_factory) as directory:
        server = EmbeddedPostgres(directory)
        server.start()
        # What fsync guards against is a crash of the machine, which ends the tests too.
        asyncio.run(_execute(server, "ALTER SYSTEM SET fsync = off"))
        asyncio.run(_execute(server, "SELECT pg_reload_conf()"))
        yield server
        server.stop()


@pytest.fixture(scope="session")
def migrated_template(postgres_server: EmbeddedPostgres) -> str:
    """The name of a migrated database that nobody is connected to."""
    from db.migrate import migrate

    async def prepare() -> None:
        await _execute(postgres_server, f"CREATE DATABASE {TEMPLATE}")
        await migrate(postgres_server.url_of(TEMPLATE))

    asyncio.run(prepare())
    return TEMPLATE


@pytest.fixture
async def database_url(postgres_server: EmbeddedPostgres, migrated_template: str) -> AsyncIterator[str]:
    """The URL of a fresh, migrated database."""
    async with _fresh_database(postgres_server, migrated_template) as url:
        yield url


@pytest.fixture(scope="module")
def module_database_url(postgres_server: EmbeddedPostgres, migrated_template: str) -> Iterator[str]:
    """The URL of a fresh, migrated database that all tests of a module share."""
    with asyncio.Runner() as runner:
        fresh = _fresh_database(postgres_server, migrated_template)
        yield runner.run(fresh.__aenter__())
        runner.run(fresh.__aexit__(None, None, None))


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """A shared Valkey. Tests that restart it start one of their own."""
    server = EmbeddedValkey(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server: EmbeddedValkey) -> str:
    """The URL of the shared Valkey."""
    return redis_server.url


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    """A Valkey that the test may stop, pause and start again."""
    server = EmbeddedValkey(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


@contextmanager
def _quick_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """In memory where there is room: on a busy disk, making a database costs ten times as much of the processor."""
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= MEMORY_ROOM:
        with TemporaryDirectory(prefix="sendora-pg-", dir=MEMORY) as directory:
            yield Path(directory) / "pg"
    else:
        yield tmp_path_factory.mktemp("pg")


@asynccontextmanager
async def _fresh_database(server: EmbeddedPostgres, template: str) -> AsyncIterator[str]:
    name = f"test_{next(_numbers)}"
    await _execute(server, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
    yield server.url_of(name)
    await _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


async def _execute(server: EmbeddedPostgres, statement: str) -> None:
    connection = await asyncpg.connect(server.url_of("postgres"))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
