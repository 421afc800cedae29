"""Boards: insights beside one another, under a name, one name once per project. The caller commits."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("boards")


class BoardRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A board. `insight_ids` are in the order in which they are shown."""

    project_id: UUID
    board_id: UUID
    name: str
    insight_ids: list[UUID]
    updated_at: datetime


async def insert_board(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    board_id: UUID,
    name: str,
    insight_ids: Sequence[UUID],
    now: datetime,
) -> BoardRecord:
    """Make a board. Raises `asyncpg.UniqueViolationError` for a taken name."""
    row = await connection.fetchrow(_SQL["insert_board"], project_id, board_id, name, insight_ids, now)
    return BoardRecord(**dict(row.items()))


async def lock_board(connection: asyncpg.Connection, *, project_id: UUID, board_id: UUID) -> BoardRecord | None:
    """A board, locked until the transaction ends."""
    row = await connection.fetchrow(_SQL["lock_board"], project_id, board_id)
    return None if row is None else BoardRecord(**dict(row.items()))


async def update_board(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    board_id: UUID,
    name: str,
    insight_ids: Sequence[UUID],
    now: datetime,
) -> BoardRecord:
    """Replace a board that the transaction has locked. Raises `asyncpg.UniqueViolationError` for a taken name."""
    row = await connection.fetchrow(_SQL["update_board"], project_id, board_id, name, insight_ids, now)
    return BoardRecord(**dict(row.items()))


async def delete_board(connection: asyncpg.Connection, *, project_id: UUID, board_id: UUID) -> bool:
    """Whether there was one."""
    return await connection.fetchval(_SQL["delete_board"], project_id, board_id) is not None


async def drop_insight(connection: asyncpg.Connection, *, project_id: UUID, insight_id: UUID) -> None:
    """Take an insight that the transaction has locked off every board."""
    await connection.execute(_SQL["drop_insight"], project_id, insight_id)


async def find_board_name(connection: asyncpg.Connection, *, project_id: UUID, name: str) -> UUID | None:
    """Whose a name is."""
    found: UUID | None = await connection.fetchval(_SQL["find_board_name"], project_id, name)
    return found


async def count_boards(connection: asyncpg.Connection, *, project_id: UUID) -> int:
    """How many boards a project has."""
    counted: int = await connection.fetchval(_SQL["count_boards"], project_id)
    return counted


async def read_boards(
    connection: asyncpg.Connection, *, project_id: UUID, board_ids: Sequence[UUID]
) -> list[BoardRecord]:
    """Boards by id, in any order; unknown ones are absent."""
    rows = await connection.fetch(_SQL["read_boards"], project_id, board_ids)
    return [BoardRecord(**dict(row.items())) for row in rows]


async def list_boards(connection: asyncpg.Connection, *, project_id: UUID) -> list[BoardRecord]:
    """Every board of a project, by name: as many as a project may have."""
    return [BoardRecord(**dict(row.items())) for row in await connection.fetch(_SQL["list_boards"], project_id)]
