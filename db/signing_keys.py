"""What access tokens are signed with, in the whole deployment: no project's, so nothing here takes one."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("signing_keys")


class SigningKeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One key. `public_jwk` is JSON text; `published_until` is None while no other key follows."""

    key_id: str
    public_jwk: str
    sealed_private_key: bytes
    created_at: datetime
    signs_from: datetime
    published_until: datetime | None

    def __repr__(self) -> str:
        return f"SigningKeyRecord(key_id={self.key_id})"


async def read_signing_keys(connection: asyncpg.Connection, *, now: datetime) -> list[SigningKeyRecord]:
    """The keys that are published, in the order in which they sign."""
    return [SigningKeyRecord(**dict(row.items())) for row in await connection.fetch(_SQL["read_signing_keys"], now)]


async def lock_signing_keys(connection: asyncpg.Connection) -> None:
    """Let nobody else write keys until the transaction ends. The first lock of its transaction."""
    await connection.execute(_SQL["lock_signing_keys"])


async def insert_signing_key(
    connection: asyncpg.Connection,
    *,
    key_id: str,
    public_jwk: str,
    sealed_private_key: bytes,
    created_at: datetime,
    signs_from: datetime,
) -> None:
    """Make a key."""
    await connection.execute(_SQL["insert_signing_key"], key_id, public_jwk, sealed_private_key, created_at, signs_from)


async def end_signing_keys(connection: asyncpg.Connection, *, but: str, at: datetime) -> None:
    """Publish all keys until `at` at the latest, but for one."""
    await connection.execute(_SQL["end_signing_keys"], but, at)


async def delete_signing_keys(connection: asyncpg.Connection, *, ended_by: datetime) -> None:
    """Delete what is published no more."""
    await connection.execute(_SQL["delete_signing_keys"], ended_by)
