"""`db/schema.sql` is what the migrations make."""

from __future__ import annotations

from importlib.resources import files

import asyncpg
import pytest

from db.migrate import migrate
from launch.embedded import EmbeddedPostgres

CATALOGS = {
    "columns": """
        SELECT c.relname, a.attname, a.attnum, format_type(a.atttypid, a.atttypmod), a.attnotnull, l.collname,
            pg_get_expr(d.adbin, d.adrelid)
        FROM pg_class AS c
        JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
        LEFT JOIN pg_collation AS l ON l.oid = a.attcollation
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v')
        ORDER BY 1, 3""",
    "tables": """
        SELECT relname, relkind::text, relpersistence::text, reloptions, pg_get_partkeydef(oid),
            pg_get_expr(relpartbound, oid)
        FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2, 3""",
    "indexes": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1",
    "functions": """
        SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1""",
    "triggers": "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1",
    "types": """
        SELECT typname, typtype::text FROM pg_type
        WHERE typnamespace = 'public'::regnamespace AND typtype <> 'b' ORDER BY 1""",
    "organizations": "SELECT organization_id, name FROM organizations",
    "projects": "SELECT project_id, organization_id, name, region, octet_length(salt) FROM projects",
    "heads": "SELECT project_id, lane, epoch, head, first_seq FROM heads ORDER BY 1, 2",
}


@pytest.fixture
async def two_empty_databases(postgres_server: EmbeddedPostgres) -> tuple[str, str]:
    connection = await asyncpg.connect(postgres_server.url_of("postgres"))
    for name in ("schema_migrated", "schema_written"):
        await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    return postgres_server.url_of("schema_migrated"), postgres_server.url_of("schema_written")


async def test_the_migrations_make_exactly_the_written_schema(two_empty_databases: tuple[str, str]) -> None:
    migrated, written = two_empty_databases
    await migrate(migrated)
    await _execute(written, files("db").joinpath("schema.sql").read_text())

    for name, query in CATALOGS.items():
        assert await _rows(migrated, query) == await _rows(written, query), name


async def test_no_extension_is_needed(database_url: str) -> None:
    assert await _rows(database_url, "SELECT extname FROM pg_extension") == [("plpgsql",)]


async def _execute(url: str, script: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(script)
    await connection.close()


async def _rows(url: str, query: str) -> list[tuple[object, ...]]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()
