"""Sessions of end users, and their refresh tokens, of which only hashes are here.

Guarantees: every function is one statement in the caller's transaction; whoever changes a session locks it first, after
profiles and users.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("sessions")


class FoundSession(msgspec.Struct, frozen=True):
    """A session as found by one of its refresh tokens, which was used at `used_at`.

    `taken_over_by` is who took over its anonymous user, `retired_profile_id` that user's profile.
    """

    session_id: UUID
    user_id: str
    anonymous: bool
    device_id: str | None
    expires_at: datetime
    ended_at: datetime | None
    ended_reason: str | None
    taken_over_by: str | None
    retired_profile_id: UUID | None
    used_at: datetime | None


async def insert_session(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    session_id: UUID,
    user_id: str,
    anonymous: bool,
    device_id: str | None,
    now: datetime,
    expires_at: datetime,
    token_hash: bytes,
) -> None:
    """Make a session with its first refresh token."""
    await connection.execute(
        _SQL["insert_session"], project_id, session_id, user_id, anonymous, device_id, now, expires_at, token_hash
    )


async def find_session(connection: asyncpg.Connection, *, project_id: UUID, token_hash: bytes) -> FoundSession | None:
    """The session of a refresh token, whatever became of either; None for a token that is not known."""
    row = await connection.fetchrow(_SQL["find_session"], project_id, token_hash)
    return None if row is None else FoundSession(**dict(row.items()))


async def lock_sessions(connection: asyncpg.Connection, *, project_id: UUID, user_id: str) -> list[UUID]:
    """Lock all sessions of a user; gives those that have not ended."""
    rows = await connection.fetch(_SQL["lock_sessions"], project_id, user_id)
    return [row["session_id"] for row in rows if row["is_open"]]


async def lock_session(connection: asyncpg.Connection, *, project_id: UUID, session_id: UUID) -> None:
    """Lock one session."""
    await connection.execute(_SQL["lock_session"], project_id, session_id)


async def rotate_refresh_token(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    session_id: UUID,
    before: bytes,
    after: bytes,
    now: datetime,
    expires_at: datetime,
) -> None:
    """Replace a refresh token, both as hashes."""
    await connection.execute(_SQL["rotate_refresh_token"], project_id, session_id, before, after, now, expires_at)


async def end_sessions(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    session_ids: Sequence[UUID],
    reason: str,
    now: datetime,
    taken_over_by: str | None = None,
    retired_profile_id: UUID | None = None,
) -> list[UUID]:
    """End sessions; gives those that had not ended, sorted."""
    rows = await connection.fetch(
        _SQL["end_sessions"], project_id, session_ids, now, reason, taken_over_by, retired_profile_id
    )
    return sorted(row["session_id"] for row in rows)


async def delete_old_sessions(connection: asyncpg.Connection, *, before: datetime, limit: int) -> int:
    """Delete up to `limit` sessions that nobody can go on with, of all projects; how many there were."""
    status: str = await connection.execute(_SQL["delete_old_sessions"], before, limit)
    return int(status.rpartition(" ")[2])


async def delete_spent_tokens(connection: asyncpg.Connection, *, before: datetime, limit: int) -> int:
    """Delete up to `limit` refresh tokens that were used before then, of all projects; how many there were."""
    status: str = await connection.execute(_SQL["delete_spent_tokens"], before, limit)
    return int(status.rpartition(" ")[2])
