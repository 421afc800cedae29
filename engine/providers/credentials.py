"""Reading a project's accounts with providers, as channels need them: settings, and secrets opened.

Guarantees: what is given was checked when it was stored (`engine.providers.shapes`); secrets are in memory only, and
not in the `repr`. `version` changes whenever settings or secrets do, so that a client built from one can be kept until
another one comes. Leaves to others: whether everything needed is there (`engine.providers.shapes.missing`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import msgspec

from db.providers import (
    ProviderRecord,
    insert_provider,
    lock_provider,
    read_providers_by_kind,
    update_provider,
)
from engine.vault import Vault

if TYPE_CHECKING:
    import asyncpg


class ProviderCredentials(msgspec.Struct, frozen=True, kw_only=True):
    """One account. The keys of `settings` and `secrets` are those of `configureProvider`."""

    provider_id: UUID
    kind: str
    settings: Mapping[str, Any]
    secrets: Mapping[str, Any]
    version: datetime

    def __repr__(self) -> str:
        return f"ProviderCredentials(provider_id={self.provider_id}, kind={self.kind}, version={self.version})"


async def read_credentials(
    connection: asyncpg.Connection, vault: Vault, *, project_id: UUID, kinds: Iterable[str]
) -> Mapping[str, ProviderCredentials]:
    """The project's accounts of some kinds, by kind; absent where nothing was configured.

    Raises `engine.vault.CannotOpen` when they were sealed under a secret that this process does not know.
    """
    records = await read_providers_by_kind(connection, project_id=project_id, kinds=[str(kind) for kind in kinds])
    return {record.kind: open_credentials(vault, record) for record in records}


def open_credentials(vault: Vault, record: ProviderRecord) -> ProviderCredentials:
    """One account, its secrets opened. Raises `engine.vault.CannotOpen`."""
    return ProviderCredentials(
        provider_id=record.provider_id,
        kind=record.kind,
        settings=msgspec.json.decode(record.settings, type=dict[str, Any]),
        secrets=_open(vault, record),
        version=record.updated_at,
    )


async def lock_account(connection: asyncpg.Connection, *, project_id: UUID, kind: str, now: datetime) -> ProviderRecord:
    """The project's account of a kind, made empty if there is none, and locked until the transaction ends."""
    await insert_provider(connection, project_id=project_id, provider_id=uuid4(), kind=kind, now=now)
    record = await lock_provider(connection, project_id=project_id, kind=kind)
    if record is None:
        raise LookupError("the provider was deleted meanwhile")
    return record


async def lock_credentials(
    connection: asyncpg.Connection, vault: Vault, *, project_id: UUID, kind: str, now: datetime
) -> ProviderCredentials:
    """The same, its secrets opened. Raises `engine.vault.CannotOpen`."""
    return open_credentials(vault, await lock_account(connection, project_id=project_id, kind=kind, now=now))


async def store_credentials(
    connection: asyncpg.Connection,
    vault: Vault,
    changed: ProviderCredentials,
    *,
    project_id: UUID,
    now: datetime,
    keep_sealed: bytes | None = None,
) -> ProviderRecord:
    """Replace the settings and secrets of a locked account; with `keep_sealed` its secrets stay that, unopened."""
    record = await update_provider(
        connection,
        project_id=project_id,
        provider_id=changed.provider_id,
        settings=msgspec.json.encode(changed.settings).decode(),
        sealed_secrets=keep_sealed or _seal(vault, changed.secrets, project_id=project_id, kind=changed.kind),
        now=now,
    )
    if record is None:
        raise LookupError("the provider was not locked")
    return record


async def make_secrets_once(
    connection: asyncpg.Connection,
    vault: Vault,
    *,
    project_id: UUID,
    kind: str,
    secrets: Mapping[str, Any],
    now: datetime,
) -> ProviderCredentials:
    """Give a provider secrets that the server has made, unless it has some; returns those that it has then.

    Whoever comes first wins, and everybody gets the winner's: the provider is locked until the transaction ends.
    Raises `engine.vault.CannotOpen` rather than replace what it cannot read.
    """
    held = await lock_credentials(connection, vault, project_id=project_id, kind=kind, now=now)
    if held.secrets:
        return held
    changed = msgspec.structs.replace(held, secrets=secrets)
    record = await store_credentials(connection, vault, changed, project_id=project_id, now=now)
    return open_credentials(vault, record)


def _seal(vault: Vault, secrets: Mapping[str, Any], *, project_id: UUID, kind: str) -> bytes | None:
    if not secrets:
        return None
    return vault.seal(msgspec.json.encode(secrets), project_id=project_id, purpose=provider_purpose(kind))


def _open(vault: Vault, record: ProviderRecord) -> dict[str, Any]:
    if record.sealed_secrets is None:
        return {}
    opened = vault.open(record.sealed_secrets, project_id=record.project_id, purpose=provider_purpose(record.kind))
    return msgspec.json.decode(opened, type=dict[str, Any])


def provider_purpose(kind: str) -> str:
    """What the vault seals a provider's secrets for."""
    return f"provider:{kind}"
