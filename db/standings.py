"""How a person and addresses stand, read without locks: to show what would happen, in a transaction that only reads.

Whoever sends reads the same under locks instead (`db.consents`, `db.suppressions`): here it may change at any moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("standings")


async def read_said(connection: asyncpg.Connection, *, project_id: UUID, user_id: str) -> Mapping[str, str]:
    """What a person said, by purpose; absent where nothing was said."""
    return {row["purpose"]: row["state"] for row in await connection.fetch(_SQL["read_said"], project_id, user_id)}


async def read_held(
    connection: asyncpg.Connection, *, project_id: UUID, channel: str, addresses: Sequence[str]
) -> Mapping[str, str]:
    """Why addresses are suppressed, by address; absent where they are not."""
    rows = await connection.fetch(_SQL["read_held"], project_id, channel, addresses)
    return {row["address"]: row["reason"] for row in rows}


async def read_as_stored(connection: asyncpg.Connection, *, texts: Sequence[str]) -> list[msgspec.Raw]:
    """JSON texts as they read once they are stored: members in their order, each once, numbers written out."""
    rows = await connection.fetch(_SQL["read_as_stored"], texts)
    return [msgspec.Raw(row["stored"].encode()) for row in rows]
