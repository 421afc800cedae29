"""The types of events that projects have seen. The append counts them; here they are only read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from db.records import EventTypeList, EventTypeRecord
from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("event_types")


async def list_event_types(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    limit: int,
    after: tuple[str, str] | None = None,
    module: str | None = None,
    search: str | None = None,
) -> EventTypeList:
    """Up to `limit` types by name and module, past `after` (name, module). `search` is any part of the name."""
    name, in_module = after if after is not None else (None, None)
    rows = await connection.fetch(_SQL["list_event_types"], project_id, name, in_module, module, search, limit + 1)
    found = tuple(EventTypeRecord(**row) for row in rows)
    return EventTypeList(found[:limit], has_more=len(found) > limit)


async def read_event_types(
    connection: asyncpg.Connection, *, project_id: UUID, event_types: Sequence[str]
) -> list[EventTypeRecord]:
    """What a project has seen of some types, one record per type and module."""
    return [EventTypeRecord(**row) for row in await connection.fetch(_SQL["read_event_types"], project_id, event_types)]
