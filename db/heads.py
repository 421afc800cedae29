"""Where the lanes of projects stand. Nothing here locks: appends take the head's lock themselves, last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from db.records import HeadRecord, Lane
from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("heads")


async def read_head(connection: asyncpg.Connection, *, project_id: UUID, lane: Lane) -> HeadRecord:
    """The head of one lane. Raises `LookupError` for an unknown project."""
    row = await connection.fetchrow(_SQL["read_head"], project_id, lane)
    if row is None:
        raise LookupError("unknown project")
    return _record(row)


async def read_heads(connection: asyncpg.Connection, *, project_ids: Sequence[UUID]) -> list[HeadRecord]:
    """The heads of all lanes of some projects, sorted by project and lane. Unknown projects are absent."""
    return _records(await connection.fetch(_SQL["read_heads"], project_ids))


async def read_changed_heads(connection: asyncpg.Connection, *, changed_after: datetime) -> list[HeadRecord]:
    """The heads that moved after an instant of the database's clock.

    `changed_at` is written before its transaction commits, so ask again for some seconds already asked for: what was
    still open then is in none of the earlier answers.
    """
    return _records(await connection.fetch(_SQL["read_changed_heads"], changed_after))


async def read_clock(connection: asyncpg.Connection) -> datetime:
    """The database's clock, for `read_changed_heads`."""
    now: datetime = await connection.fetchval(_SQL["read_clock"])
    return now


async def advance_epoch(connection: asyncpg.Connection, *, project_id: UUID) -> int:
    """Make every cursor given out so far expire: after a restore or a failover that lost a tail of the log."""
    epoch: int = await connection.fetchval(_SQL["advance_epoch"], project_id)
    return epoch


def _records(rows: Iterable[Mapping[str, Any]]) -> list[HeadRecord]:
    return [_record(row) for row in rows]


def _record(row: Mapping[str, Any]) -> HeadRecord:
    return HeadRecord(row["project_id"], Lane(row["lane"]), row["head"], row["first_seq"], row["epoch"])
