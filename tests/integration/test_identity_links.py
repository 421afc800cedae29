"""Whom ids stand for: written by the append itself, one hop to the end, the first event deciding."""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib.resources import files
from uuid import UUID

import pytest

from db.database import Database
from db.events import append_events
from db.identity_links import take_over_user
from db.records import NewEvent
from tests.integration.log_support import make_project, new_event, open_database


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with open_database(database_url) as database:
        yield database


async def append(database: Database, project: UUID, *events: NewEvent) -> None:
    async with database.transaction() as connection:
        await append_events(connection, project_id=project, batch_token=1, events=events)


async def take_over(database: Database, project: UUID, alias: str, user_id: str) -> None:
    async with database.transaction() as connection:
        await take_over_user(connection, project_id=project, alias=alias, user_id=user_id, seq=9)


async def links(database: Database, project: UUID) -> dict[tuple[str, str], tuple[str, int]]:
    async with database.connection() as connection:
        rows = await connection.fetch("SELECT * FROM identity_links WHERE project_id = $1", project)
    return {(row["kind"], row["alias"]): (row["user_id"], row["linked_seq"]) for row in rows}


async def test_the_first_event_with_both_ids_makes_the_link(database: Database) -> None:
    project = await make_project(database)

    await append(
        database,
        project,
        new_event("1", anonymous_id="phone"),
        new_event("2", user_id="ada"),
        new_event("3", anonymous_id="phone", user_id="ada"),
        new_event("4", anonymous_id="phone", user_id="eve"),
        new_event("5", anonymous_id="laptop", user_id="ada"),
    )
    await append(database, project, new_event("6", anonymous_id="phone", user_id="eve"))
    # A duplicate says nothing.
    await append(database, project, new_event("1", anonymous_id="tablet", user_id="eve"))

    assert await links(database, project) == {
        ("ANONYMOUS_ID", "phone"): ("ada", 3),
        ("ANONYMOUS_ID", "laptop"): ("ada", 5),
    }


async def test_whoever_is_taken_over_takes_all_their_ids_along(database: Database) -> None:
    project, other = await make_project(database), await make_project(database, name="other")
    await append(database, project, new_event("1", anonymous_id="phone", user_id="guest"))
    await append(database, other, new_event("1", anonymous_id="phone", user_id="guest"))

    await take_over(database, project, "guest", "ada")
    await take_over(database, project, "ada", "ada-2")
    # No way back, no second way, and nobody stands for themselves.
    await take_over(database, project, "ada-2", "guest")
    await take_over(database, project, "guest", "eve")
    await append(database, project, new_event("2", anonymous_id="laptop", user_id="guest"))

    assert {alias: user for alias, (user, _) in (await links(database, project)).items()} == {
        ("ANONYMOUS_ID", "phone"): "ada-2",
        ("ANONYMOUS_ID", "laptop"): "ada-2",
        ("USER_ID", "guest"): "ada-2",
        ("USER_ID", "ada"): "ada-2",
    }
    assert await links(database, other) == {("ANONYMOUS_ID", "phone"): ("guest", 1)}


async def test_what_the_log_held_before_is_linked_by_the_migration(database: Database) -> None:
    project = await make_project(database)
    await append(
        database,
        project,
        new_event("1", anonymous_id="phone", user_id="ada"),
        new_event("2", anonymous_id="phone", user_id="eve"),
        new_event("3", anonymous_id="laptop"),
    )
    written = await links(database, project)
    migration = files("db").joinpath("migrations", "0008_create_identity_links.sql").read_text()
    fill = migration[migration.rindex("INSERT INTO identity_links") :]

    async with database.transaction() as connection:
        await connection.execute("DELETE FROM identity_links")
        await connection.execute(fill)

    assert await links(database, project) == written == {("ANONYMOUS_ID", "phone"): ("ada", 1)}
