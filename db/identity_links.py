"""Whom ids stand for. `append_events` links anonymous ids by itself; here users are linked to users.

Guarantees: one hop is always enough, and nobody stands for themselves: what stood for the user that is taken over
stands for the new one from then on. Leaves to others: locking the project's events head first, and committing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("identity_links")


async def take_over_user(
    connection: asyncpg.Connection, *, project_id: UUID, alias: str, user_id: str, seq: int
) -> None:
    """Let everything that `alias` did be `user_id`'s, as the event `seq` says. Who was taken over stays so."""
    await connection.execute(_SQL["take_over_user"], project_id, alias, user_id, seq)


async def is_retired(connection: asyncpg.Connection, *, project_id: UUID, user_id: str) -> bool:
    """Whether a user was taken over. With the user's profile locked before, that stays so until the caller commits."""
    retired: bool = await connection.fetchval(_SQL["is_retired"], project_id, user_id)
    return retired
