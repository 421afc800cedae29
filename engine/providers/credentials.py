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
from engine.audit import SYSTEM, Audit
from engine.masking import mask_changed
from engine.node_ids import NodeKind
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


async def lock_account(
    connection: asyncpg.Connection, *, project_id: UUID, kind: str, now: datetime
) -> tuple[ProviderRecord, bool]:
    """The project's account of a kind, locked until the transaction ends; and whether it was made now, empty."""
    is_new = await insert_provider(connection, project_id=project_id, provider_id=uuid4(), kind=kind, now=now)
    record = await lock_provider(connection, project_id=project_id, kind=kind)
    if record is None:
        raise LookupError("the provider was deleted meanwhile")
    return record, is_new


async def lock_credentials(
    connection: asyncpg.Connection, vault: Vault, *, project_id: UUID, kind: str, now: datetime
) -> ProviderCredentials:
    """The same, its secrets opened. Raises `engine.vault.CannotOpen`."""
    record, _ = await lock_account(connection, project_id=project_id, kind=kind, now=now)
    return open_credentials(vault, record)


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

    Whoever comes first wins, and everybody gets the winner's: the provider is locked until the transaction ends. It is
    noted in the audit log as nobody's doing.
    Raises `engine.vault.CannotOpen` rather than replace what it cannot read.
    """
    account, is_new = await lock_account(connection, project_id=project_id, kind=kind, now=now)
    held = open_credentials(vault, account)
    if held.secrets:
        return held
    changed = msgspec.structs.replace(held, secrets=secrets)
    record = await store_credentials(connection, vault, changed, project_id=project_id, now=now)
    before = None if is_new else held
    await note_credentials(connection, Audit(SYSTEM, now), project_id=project_id, before=before, after=changed)
    return open_credentials(vault, record)


async def note_credentials(
    connection: asyncpg.Connection,
    audit: Audit,
    *,
    project_id: UUID,
    before: ProviderCredentials | None,
    after: ProviderCredentials,
) -> None:
    """Note that an account was made or changed, in the transaction that does it: which secrets, and none of them."""
    masked_before, masked_after = mask_changed({} if before is None else before.secrets, after.secrets)
    await audit.note_node(
        connection,
        NodeKind.PROVIDER,
        after.provider_id,
        project_id=project_id,
        before=None if before is None else shown_account(before.kind, before.settings, masked_before),
        after=shown_account(after.kind, after.settings, masked_after),
    )


def shown_account(kind: str, settings: Mapping[str, Any], masked_secrets: Mapping[str, str]) -> dict[str, Any]:
    """An account as the audit log has it."""
    return {"kind": kind, "settings": settings, "secrets": masked_secrets}


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
