"""Insights: questions about people under a name, one name once per project. The caller commits."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from db.statements import statements

if TYPE_CHECKING:
    from collections.abc import Mapping

    import asyncpg

_SQL = statements("insights")


class InsightRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A saved question. `input` is the JSON of a FunnelInput, RetentionInput or TrendInput, whichever `kind` says."""

    project_id: UUID
    insight_id: UUID
    name: str
    kind: str
    input: msgspec.Raw
    updated_at: datetime


async def insert_insight(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    insight_id: UUID,
    name: str,
    kind: str,
    question: str,
    now: datetime,
) -> InsightRecord:
    """Make an insight. Raises `asyncpg.UniqueViolationError` for a taken name."""
    values = (project_id, insight_id, name, kind, question, now)
    return _insight_of(await connection.fetchrow(_SQL["insert_insight"], *values))


async def lock_insight(connection: asyncpg.Connection, *, project_id: UUID, insight_id: UUID) -> InsightRecord | None:
    """An insight, locked until the transaction ends."""
    row = await connection.fetchrow(_SQL["lock_insight"], project_id, insight_id)
    return None if row is None else _insight_of(row)


async def update_insight(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    insight_id: UUID,
    name: str,
    kind: str,
    question: str,
    now: datetime,
) -> InsightRecord:
    """Replace an insight that the transaction has locked. Raises `asyncpg.UniqueViolationError` for a taken name."""
    values = (project_id, insight_id, name, kind, question, now)
    return _insight_of(await connection.fetchrow(_SQL["update_insight"], *values))


async def delete_insight(connection: asyncpg.Connection, *, project_id: UUID, insight_id: UUID) -> None:
    """Delete an insight that the transaction has locked."""
    await connection.execute(_SQL["delete_insight"], project_id, insight_id)


async def find_insight_name(connection: asyncpg.Connection, *, project_id: UUID, name: str) -> UUID | None:
    """Whose a name is."""
    found: UUID | None = await connection.fetchval(_SQL["find_insight_name"], project_id, name)
    return found


async def hold_insights(connection: asyncpg.Connection, *, project_id: UUID) -> None:
    """Let nobody else make or rename an insight or a board of a project until the transaction ends."""
    await connection.execute(_SQL["hold_insights"], project_id)


async def count_insights(connection: asyncpg.Connection, *, project_id: UUID) -> int:
    """How many insights a project has."""
    counted: int = await connection.fetchval(_SQL["count_insights"], project_id)
    return counted


async def read_insights(
    connection: asyncpg.Connection, *, project_id: UUID, insight_ids: Sequence[UUID]
) -> list[InsightRecord]:
    """Insights by id, in any order; unknown ones are absent."""
    rows = await connection.fetch(_SQL["read_insights"], project_id, insight_ids)
    return [_insight_of(row) for row in rows]


async def share_insights(connection: asyncpg.Connection, *, project_id: UUID, insight_ids: Sequence[UUID]) -> set[UUID]:
    """Those of some insights that are there; until the transaction ends they cannot be deleted."""
    rows = await connection.fetch(_SQL["share_insights"], project_id, insight_ids)
    return {row["insight_id"] for row in rows}


async def list_insights(
    connection: asyncpg.Connection, *, project_id: UUID, after: str | None, search: str | None, limit: int
) -> list[InsightRecord]:
    """Up to `limit` insights by name, byte by byte. `search` is any part of the name, in any case."""
    rows = await connection.fetch(_SQL["list_insights"], project_id, after, search, limit)
    return [_insight_of(row) for row in rows]


def _insight_of(row: Mapping[str, Any]) -> InsightRecord:
    values = {name: row[name] for name in InsightRecord.__struct_fields__}
    return InsightRecord(**{**values, "input": msgspec.Raw(row["input"].encode())})
