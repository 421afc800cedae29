"""Applies `db/migrations/NNNN_*.sql` in order, each once.

Guarantees: a file and its row in `schema_migrations` commit together; several processes may start at once (one applies,
the others wait and find nothing to do); an applied file that has changed since is refused; a lock that is not granted
within `LOCK_TIMEOUT_SECONDS` fails the migration instead of queueing every request behind it.

A file that begins with the line `-- no-transaction` is run statement by statement in autocommit, for CREATE INDEX
CONCURRENTLY. It may be applied again after a crash in its middle, so its statements must bear repeating. Such a
statement waits for every older snapshot: that is why the lock is polled, for a process blocked in `pg_advisory_lock`
would hold one, and the two would deadlock.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files

import asyncpg
import msgspec

LOCK_KEY = 0x53454E444F5241
"""Any constant: the word SENDORA. Advisory locks are per database."""
LOCK_POLL_SECONDS = 0.1
LOCK_TIMEOUT_SECONDS = 5
STATEMENT_TIMEOUT_SECONDS = 300
NO_TRANSACTION = "-- no-transaction"

_FILE_NAME = re.compile(r"(\d{4})_\w+\.sql")
_CREATE_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version integer PRIMARY KEY,
    name text NOT NULL,
    sha256 text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""


class MigrationError(Exception):
    """A sentence for the operator: which file cannot be applied, and why."""


class Migration(msgspec.Struct, frozen=True):
    """One file. `sha256` is the hexadecimal digest of its bytes."""

    version: int
    name: str
    sql: str
    sha256: str


async def migrate(url: str, migrations: Sequence[Migration] | None = None) -> list[str]:
    """Bring the database up to date and return the names applied. Raises `MigrationError`, `OSError`, `PostgresError`.

    `migrations` stands for the files of the package.
    """
    wanted = read_migrations() if migrations is None else migrations
    connection = await asyncpg.connect(url, timeout=10, server_settings={"application_name": "sendora-migrate"})
    try:
        async with _only_one(connection):
            return await _apply_missing(connection, wanted)
    finally:
        await connection.close()


async def read_missing(url: str) -> list[str]:
    """The names of the migrations that `migrate` would apply. Changes nothing. Raises what `migrate` raises."""
    connection = await asyncpg.connect(url, timeout=10)
    try:
        if await connection.fetchval("SELECT to_regclass('schema_migrations')") is None:
            return [migration.name for migration in read_migrations()]
        applied = await _read_applied(connection)
    finally:
        await connection.close()
    return [migration.name for migration in read_migrations() if not _is_applied(migration, applied)]


def read_migrations() -> tuple[Migration, ...]:
    """The package's files in order. Raises `MigrationError` when the numbers are not 1, 2, 3 …"""
    names = sorted(e.name for e in files("db").joinpath("migrations").iterdir() if _FILE_NAME.fullmatch(e.name))
    found = tuple(_read(name) for name in names)
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise MigrationError(f"The migration files are not numbered 0001, 0002 … without gaps: {', '.join(names)}.")
    return found


def split_statements(sql: str) -> list[str]:
    """The statements of a `-- no-transaction` file: parted by `;` at the end of a line."""
    parts = re.split(r";[ \t]*(?:\n|$)", sql)
    return [part.strip() for part in parts if re.sub(r"--.*", "", part).strip()]


def make_migration(version: int, name: str, sql: str) -> Migration:
    """A migration with its digest."""
    return Migration(version, name, sql, hashlib.sha256(sql.encode()).hexdigest())


def _read(name: str) -> Migration:
    text = files("db").joinpath("migrations", name).read_text(encoding="utf-8")
    return make_migration(int(name[:4]), name.removesuffix(".sql"), text)


@asynccontextmanager
async def _only_one(connection: asyncpg.Connection) -> AsyncIterator[None]:
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK_KEY):  # noqa: ASYNC110 (see above)
        await asyncio.sleep(LOCK_POLL_SECONDS)
    try:
        yield
    finally:
        if not connection.is_closed():
            await connection.execute("SELECT pg_advisory_unlock($1)", LOCK_KEY)


async def _apply_missing(connection: asyncpg.Connection, wanted: Iterable[Migration]) -> list[str]:
    await connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'")
    await connection.execute(f"SET statement_timeout = '{STATEMENT_TIMEOUT_SECONDS}s'")
    await connection.execute("SET client_min_messages = warning")
    await connection.execute(_CREATE_TABLE)
    applied = await _read_applied(connection)
    missing = [migration for migration in wanted if not _is_applied(migration, applied)]
    for migration in missing:
        await _apply(connection, migration)
    return [migration.name for migration in missing]


async def _read_applied(connection: asyncpg.Connection) -> dict[int, str]:
    rows = await connection.fetch("SELECT version, sha256 FROM schema_migrations")
    return {row["version"]: row["sha256"] for row in rows}


def _is_applied(migration: Migration, applied: dict[int, str]) -> bool:
    digest = applied.get(migration.version)
    if digest is not None and digest != migration.sha256:
        raise MigrationError(
            f"{migration.name} was applied with another content: write a new migration instead of editing this one."
        )
    return digest is not None


async def _apply(connection: asyncpg.Connection, migration: Migration) -> None:
    try:
        if migration.sql.startswith(NO_TRANSACTION):
            for statement in split_statements(migration.sql):
                await connection.execute(statement)
            await _record(connection, migration)
        else:
            async with connection.transaction():
                await connection.execute(migration.sql)
                await _record(connection, migration)
    except asyncpg.PostgresError as error:
        raise MigrationError(f"{migration.name} failed: {error}") from error


async def _record(connection: asyncpg.Connection, migration: Migration) -> None:
    await connection.execute(
        "INSERT INTO schema_migrations (version, name, sha256) VALUES ($1, $2, $3)",
        migration.version,
        migration.name,
        migration.sha256,
    )
