"""Providers: one row per project and kind, with settings as JSON and secrets sealed.

Guarantees: every function is one statement in the caller's transaction. Leaves to others: what settings and secrets
hold (`engine.providers`), sealing, and committing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("providers")


class ProviderRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A provider as it is now. `settings` is JSON text; `updated_at` changes with settings and secrets only."""

    project_id: UUID
    provider_id: UUID
    kind: str
    settings: msgspec.Raw
    sealed_secrets: bytes | None
    last_error: str | None
    created_at: datetime
    updated_at: datetime


async def insert_provider(
    connection: asyncpg.Connection, *, project_id: UUID, provider_id: UUID, kind: str, now: datetime
) -> bool:
    """Make an empty provider of a kind, unless there is one; whether it was made. `lock_provider` then finds it."""
    return await connection.fetchval(_SQL["insert_provider"], project_id, provider_id, kind, now) is not None


async def lock_provider(connection: asyncpg.Connection, *, project_id: UUID, kind: str) -> ProviderRecord | None:
    """The project's provider of a kind, locked until the transaction ends."""
    return _optional(await connection.fetchrow(_SQL["lock_provider"], project_id, kind))


async def update_provider(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    provider_id: UUID,
    settings: str,
    sealed_secrets: bytes | None,
    now: datetime,
) -> ProviderRecord | None:
    """Replace settings (JSON text) and secrets; None when there is no such provider."""
    row = await connection.fetchrow(_SQL["update_provider"], project_id, provider_id, settings, sealed_secrets, now)
    return _optional(row)


async def delete_provider(
    connection: asyncpg.Connection, *, project_id: UUID, provider_id: UUID
) -> ProviderRecord | None:
    """What was deleted, if there was one."""
    return _optional(await connection.fetchrow(_SQL["delete_provider"], project_id, provider_id))


async def list_providers(connection: asyncpg.Connection, *, project_id: UUID) -> list[ProviderRecord]:
    """All of a project's, by kind: no more than there are kinds."""
    return _providers(await connection.fetch(_SQL["list_providers"], project_id))


async def read_providers(
    connection: asyncpg.Connection, *, project_id: UUID, provider_ids: Sequence[UUID]
) -> list[ProviderRecord]:
    """Providers by their ids, in no order; unknown ones are absent."""
    return _providers(await connection.fetch(_SQL["read_providers"], project_id, provider_ids))


async def read_providers_by_kind(
    connection: asyncpg.Connection, *, project_id: UUID, kinds: Sequence[str]
) -> list[ProviderRecord]:
    """A project's providers of some kinds, in no order."""
    return _providers(await connection.fetch(_SQL["read_providers_by_kind"], project_id, kinds))


async def find_provider(connection: asyncpg.Connection, *, provider_id: UUID) -> ProviderRecord | None:
    """Whose provider this is: for callbacks, whose address names nothing else. Their signature is checked after."""
    return _optional(await connection.fetchrow(_SQL["find_provider"], provider_id))


async def set_provider_error(
    connection: asyncpg.Connection, *, project_id: UUID, provider_id: UUID, last_error: str | None
) -> None:
    """Note what is wrong with the account, or with None that nothing is."""
    await connection.execute(_SQL["set_provider_error"], project_id, provider_id, last_error)


def _providers(rows: Iterable[Mapping[str, Any]]) -> list[ProviderRecord]:
    return [_provider(row) for row in rows]


def _optional(row: Mapping[str, Any] | None) -> ProviderRecord | None:
    return None if row is None else _provider(row)


def _provider(row: Mapping[str, Any]) -> ProviderRecord:
    values = dict(row.items())
    values["settings"] = msgspec.Raw(values["settings"].encode())
    return ProviderRecord(**values)
