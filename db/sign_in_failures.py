"""Sign-ins that failed, by subject: a keyed hash of an account or of an address. Nobody can be read from it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("sign_in_failures")


class CountedFailures(msgspec.Struct, frozen=True):
    """How many there were without a long pause, until when no sign-in was to be looked at before this one, and when a
    storm of them was last told of."""

    failures: int
    storm_at: datetime | None
    blocked_until: datetime | None


async def read_blocked_until(
    connection: asyncpg.Connection, *, project_id: UUID, subjects: Sequence[bytes]
) -> datetime | None:
    """The latest of the subjects'."""
    blocked_until: datetime | None = await connection.fetchval(_SQL["read_blocked_until"], project_id, subjects)
    return blocked_until


async def note_failure(
    connection: asyncpg.Connection, *, project_id: UUID, subject: bytes, now: datetime, since: datetime
) -> CountedFailures:
    """Count a failure; the count begins anew where the last one was before `since`. Locks the subject."""
    row = await connection.fetchrow(_SQL["note_failure"], project_id, subject, now, since)
    return CountedFailures(row["failures"], row["storm_at"], row["blocked_until"])


async def block_subject(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    subject: bytes,
    blocked_until: datetime | None,
    storm_at: datetime | None,
) -> None:
    """Say until when its sign-ins are not looked at."""
    await connection.execute(_SQL["block_subject"], project_id, subject, blocked_until, storm_at)


async def forget_failures(connection: asyncpg.Connection, *, project_id: UUID, subject: bytes) -> None:
    """Forget a subject's failures: it has signed in."""
    await connection.execute(_SQL["forget_failures"], project_id, subject)


async def delete_old_failures(connection: asyncpg.Connection, *, before: datetime, limit: int) -> int:
    """Delete up to `limit` subjects without a failure since then, of all projects; how many there were."""
    status: str = await connection.execute(_SQL["delete_old_failures"], before, limit)
    return int(status.rpartition(" ")[2])
