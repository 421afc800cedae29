"""What the tests of the log share: a pool, a project, events with defaults, and a look at the whole log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from db.database import Database
from db.events import read_event_page
from db.projects import insert_organization, insert_project
from db.records import EventRecord, NewEvent

SALT = bytes(range(32))


@asynccontextmanager
async def open_database(url: str, **options: Any) -> AsyncIterator[Database]:
    database = Database(url, **options)
    await database.connect()
    try:
        yield database
    finally:
        await database.disconnect()


async def make_project(database: Database, *, name: str = "shop") -> UUID:
    project_id, organization_id = uuid4(), uuid4()
    async with database.transaction() as connection:
        await insert_organization(connection, organization_id=organization_id, name="Acme", region="us")
        await insert_project(
            connection, project_id=project_id, organization_id=organization_id, name=name, region="us", salt=SALT
        )
    return project_id


async def move_to_europe(connection: asyncpg.Connection, project_id: UUID) -> None:
    """Have a project, the only one of its organization, be in the other region."""
    await connection.execute(
        """WITH moved AS (UPDATE projects SET region = 'eu' WHERE project_id = $1 RETURNING organization_id)
           UPDATE organizations SET region = 'eu' WHERE organization_id = (SELECT organization_id FROM moved)""",
        project_id,
    )


def new_event(
    key: str,
    *,
    event_type: str = "order.placed",
    module: str = "analytics",
    timestamp: datetime | None = None,
    user_id: str | None = None,
    anonymous_id: str | None = None,
    properties: str = "{}",
    context: str = "{}",
    traits: str | None = None,
) -> NewEvent:
    return NewEvent(key, module, event_type, timestamp, user_id, anonymous_id, properties, context, traits)


async def whole_log(connection: asyncpg.Connection, project_id: UUID) -> list[EventRecord]:
    page = await read_event_page(connection, project_id=project_id, after=0, limit=100_000)
    assert page.reached == page.head.head
    return list(page.events)


async def keys_by_seq(connection: asyncpg.Connection, project_id: UUID) -> dict[int, str]:
    return {event.seq: event.key for event in await whole_log(connection, project_id)}


async def wait_until_blocked(connection: asyncpg.Connection, pid: int) -> None:
    """Return once the backend `pid` waits for a lock."""
    while not await connection.fetchval("SELECT cardinality(pg_blocking_pids($1)) > 0", pid):
        pass
