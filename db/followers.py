"""How far each reader of a lane has come, and who may move it on.

Guarantees: a position moves only from where it was, and only for who holds the lease, so whatever is written in the
transaction that moves it takes effect once. Leases are real time of the database.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.records import Lane
from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("followers")


class FollowedProject(msgspec.Struct, frozen=True):
    """A project that a follower follows. `is_behind`: its lane holds items past the position."""

    project_id: UUID
    is_behind: bool


async def ensure_follower(connection: asyncpg.Connection, *, project_id: UUID, follower: str, lane: Lane) -> None:
    """Begin at the head as it is now, unless the follower has begun already.

    In the transaction that makes what it follows for: then everything after that transaction's snapshot is followed.
    """
    await connection.execute(_SQL["ensure_follower"], project_id, follower, lane)


async def lease_follower(
    connection: asyncpg.Connection, *, project_id: UUID, follower: str, lane: Lane, token: UUID, lease: timedelta
) -> int | None:
    """Take or renew the lease; the position, or None where another worker holds it or nothing is followed.

    Alone in its transaction, which does not wait for the disk.
    """
    position: int | None = await connection.fetchval(_SQL["lease_follower"], project_id, follower, lane, token, lease)
    return position


async def advance_follower(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    follower: str,
    lane: Lane,
    token: UUID,
    position: int,
    reached: int,
) -> bool:
    """Move on, and lock the row. False: the lease is another worker's by now, so roll back.

    First in its transaction: the order of locks begins here.
    """
    moved = await connection.fetchval(_SQL["advance_follower"], project_id, follower, lane, token, position, reached)
    return moved is not None


async def spare_disk(connection: asyncpg.Connection) -> None:
    """Have the commit of this transaction not wait for the disk: all that it wrote may be lost with the server."""
    await connection.execute(_SQL["spare_disk"])


async def release_follower(
    connection: asyncpg.Connection, *, project_id: UUID, follower: str, lane: Lane, token: UUID
) -> None:
    """Give the lease back, so that another worker need not wait for its end. Alone in its transaction."""
    await connection.execute(_SQL["release_follower"], project_id, follower, lane, token)


async def read_followed_projects(connection: asyncpg.Connection, *, follower: str, lane: Lane) -> list[FollowedProject]:
    """Every project that the follower follows, by id."""
    rows = await connection.fetch(_SQL["read_followed_projects"], follower, lane)
    return [FollowedProject(row["project_id"], row["is_behind"]) for row in rows]


async def read_slowest_position(connection: asyncpg.Connection, *, project_id: UUID, lane: Lane) -> int | None:
    """How far the slowest follower has come; None when nobody follows."""
    position: int | None = await connection.fetchval(_SQL["read_slowest_position"], project_id, lane)
    return position
