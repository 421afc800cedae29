"""What hangs on a user who is another one from now on: devices, runs, consents, audiences.

Guarantees: every function is one statement in the caller's transaction; what changes something needs the follower
`audiences` and both profiles locked; rows are locked in the order of their ids. What is over stays with whom it
happened to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("takeovers")


async def move_push_tokens(connection: asyncpg.Connection, *, project_id: UUID, retired: str, heir: str) -> list[UUID]:
    """Give `heir` the devices of `retired`; which they are."""
    rows = await connection.fetch(_SQL["move_push_tokens"], project_id, retired, heir)
    return [row["push_token_id"] for row in rows]


async def is_push_in_flight(
    connection: asyncpg.Connection, *, project_id: UUID, user_id: str, push_token_ids: Sequence[UUID]
) -> bool:
    """Whether a worker is sending something to one of a user's devices."""
    is_in_flight: bool = await connection.fetchval(_SQL["is_push_in_flight"], project_id, user_id, push_token_ids)
    return is_in_flight


async def move_runs(connection: asyncpg.Connection, *, project_id: UUID, retired: str, heir: str) -> None:
    """Let the runs of `retired` that go on be `heir`'s."""
    await connection.execute(_SQL["move_runs"], project_id, retired, heir)


async def take_consents(connection: asyncpg.Connection, *, project_id: UUID, user_id: str) -> dict[str, str]:
    """Take away what a user has said; gives the states by purpose."""
    rows = await connection.fetch(_SQL["take_consents"], project_id, user_id)
    return {row["purpose"]: row["state"] for row in rows}


async def leave_audiences(connection: asyncpg.Connection, *, project_id: UUID, user_id: str) -> list[UUID]:
    """Take a user out of all audiences; gives those, sorted."""
    rows = await connection.fetch(_SQL["leave_audiences"], project_id, user_id)
    return sorted(row["audience_id"] for row in rows)


async def find_sent_before(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    user_ids: Sequence[str],
    batch_ids: Sequence[UUID],
    push_token_ids: Sequence[UUID],
) -> set[tuple[UUID, UUID]]:
    """Which devices got which send while they were those of somebody whom one of `user_ids` took over."""
    rows = await connection.fetch(_SQL["find_sent_before"], project_id, user_ids, batch_ids, push_token_ids)
    return {(row["batch_id"], row["push_token_id"]) for row in rows}
