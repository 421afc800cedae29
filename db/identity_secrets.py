"""What apps' servers sign user ids with: at most one secret without an end, and earlier ones until theirs."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("identity_secrets")


class IdentitySecretRecord(msgspec.Struct, frozen=True):
    """A secret, sealed. `expires_at` is None for the newest."""

    project_id: UUID
    identity_secret_id: UUID
    sealed_secret: bytes
    created_at: datetime
    expires_at: datetime | None


async def read_identity_secrets(
    connection: asyncpg.Connection, *, project_id: UUID, now: datetime
) -> list[IdentitySecretRecord]:
    """Those that are valid, the newest first."""
    rows = await connection.fetch(_SQL["read_identity_secrets"], project_id, now)
    return [IdentitySecretRecord(**dict(row.items())) for row in rows]


async def expire_identity_secrets(connection: asyncpg.Connection, *, project_id: UUID, at: datetime) -> None:
    """End all of them then; none lasts longer than it would have."""
    await connection.execute(_SQL["expire_identity_secrets"], project_id, at)


async def delete_expired_identity_secrets(connection: asyncpg.Connection, *, project_id: UUID, now: datetime) -> None:
    """Forget those that have ended."""
    await connection.execute(_SQL["delete_expired_identity_secrets"], project_id, now)


async def insert_identity_secret(
    connection: asyncpg.Connection, *, project_id: UUID, identity_secret_id: UUID, sealed_secret: bytes, now: datetime
) -> None:
    """Add the newest. Raises `asyncpg.UniqueViolationError` unless all others have an end."""
    await connection.execute(_SQL["insert_identity_secret"], project_id, identity_secret_id, sealed_secret, now)
