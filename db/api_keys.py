"""API keys. Only the hash of a token is here; who holds the token is decided above."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from db.records import ApiKeyRecord
from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("api_keys")


async def insert_api_key(
    connection: asyncpg.Connection,
    *,
    api_key_id: UUID,
    project_id: UUID,
    name: str,
    kind: str,
    environment: str,
    role: str,
    prefix: str,
    token_hash: bytes,
) -> ApiKeyRecord:
    """Make a key. `token_hash` is SHA-256 of the whole token; a publishable key is never ADMIN."""
    row = await connection.fetchrow(
        _SQL["insert_api_key"], api_key_id, project_id, name, kind, environment, role, prefix, token_hash
    )
    return _record(row)


async def find_api_key(connection: asyncpg.Connection, *, token_hash: bytes) -> ApiKeyRecord | None:
    """The key with this token, revoked or not; None when there never was one."""
    row = await connection.fetchrow(_SQL["find_api_key"], token_hash)
    return None if row is None else _record(row)


async def read_api_keys(
    connection: asyncpg.Connection, *, project_id: UUID, api_key_ids: Sequence[UUID]
) -> list[ApiKeyRecord]:
    """Keys of a project by id, revoked ones included; unknown ones and other projects' are absent."""
    return [_record(row) for row in await connection.fetch(_SQL["read_api_keys"], project_id, api_key_ids)]


async def list_api_keys(connection: asyncpg.Connection, *, project_id: UUID) -> list[ApiKeyRecord]:
    """All keys of a project, revoked ones included, oldest first."""
    return [_record(row) for row in await connection.fetch(_SQL["list_api_keys"], project_id)]


async def revoke_api_key(connection: asyncpg.Connection, *, project_id: UUID, api_key_id: UUID) -> bool:
    """Revoke a key of a project. False when it is unknown there or was revoked before."""
    return await connection.fetchval(_SQL["revoke_api_key"], project_id, api_key_id) is not None


async def touch_api_keys(connection: asyncpg.Connection, *, api_key_ids: Sequence[UUID]) -> None:
    """Note that keys are in use; written at most once a minute per key."""
    await connection.execute(_SQL["touch_api_keys"], api_key_ids)


def _record(row: Mapping[str, Any]) -> ApiKeyRecord:
    return ApiKeyRecord(**row)
