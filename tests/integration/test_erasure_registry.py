"""Whoever adds a table or a column says whom it may hold, and what erasure does about it."""

from __future__ import annotations

import asyncpg

from db.personal_records import SOURCES, personal_records_sql
from engine.erasure.registry import PERSONAL, TABLES

CATALOGUE = """
    SELECT c.relname AS name, array_agg(CAST(a.attname AS text)) AS columns
    FROM pg_class AS c
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relnamespace = CAST('public' AS regnamespace) AND c.relkind IN ('r', 'p', 'm') AND NOT c.relispartition
    GROUP BY c.relname"""


async def test_every_table_and_column_is_declared(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    catalogue = {row["name"]: set(row["columns"]) for row in await connection.fetch(CATALOGUE)}
    await connection.close()

    for name, columns in catalogue.items():
        assert name in TABLES, (
            f"The table {name} is new: say in engine/erasure/registry.py whom it may hold. If it holds people, "
            "remove them in engine/erasure/sweeping.py, give them out in db/personal_records.py, and say so in "
            "docs/privacy.md."
        )
        undeclared = columns - TABLES[name].columns
        assert not undeclared, (
            f"The table {name} has new columns, {', '.join(sorted(undeclared))}: if they may hold somebody, see that "
            "erasure takes it and the export shows it; then name them in engine/erasure/registry.py."
        )
        gone = TABLES[name].columns - columns
        assert not gone, f"{name} has no {', '.join(sorted(gone))} any more: take them out of the registry."
    assert TABLES.keys() == catalogue.keys(), "The registry names tables that are not there."


def test_the_export_names_every_table_that_holds_people() -> None:
    assert {source.table for source in SOURCES} == PERSONAL
    assert len({source.kind for source in SOURCES}) == len(SOURCES)


async def test_every_statement_of_the_export_can_be_prepared(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    for source in SOURCES:
        await connection.prepare(personal_records_sql(source))
    await connection.close()
    assert all(set(source.withheld) <= TABLES[source.table].columns for source in SOURCES)
