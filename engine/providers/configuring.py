"""Setting up a project's accounts with providers, and taking them away.

Guarantees: a call takes effect as a whole or not at all; two at once for one kind take turns, so that neither's parts
are lost; what is given out holds no secret, and neither does what is noted in the audit log. Leaves to others: who may
do it, and trying the account out.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from db.database import Database
from db.providers import ProviderRecord
from db.providers import delete_provider as remove_provider
from engine.audit import Audit
from engine.egress import Egress
from engine.errors import UserError
from engine.masking import MASKED
from engine.node_ids import NodeKind, write_node_id
from engine.providers.credentials import (
    ProviderCredentials,
    lock_account,
    note_credentials,
    open_credentials,
    shown_account,
    store_credentials,
)
from engine.providers.shapes import Given, merge, missing
from engine.providers.values import ProviderKind
from engine.vault import CannotOpen, Vault

UNREADABLE = (
    "The stored secrets were sealed under another SENDORA_SECRET_KEY: set SENDORA_PREVIOUS_SECRET_KEYS, or give all of "
    "them again."
)
_WITH_CALLBACKS = frozenset({ProviderKind.RESEND, ProviderKind.TWILIO})


class ShownProvider(msgspec.Struct, frozen=True):
    """What may be known of a provider. `settings` is JSON text; `is_configured`: everything needed is there."""

    provider_id: UUID
    kind: ProviderKind
    settings: msgspec.Raw
    is_configured: bool
    updated_at: datetime
    last_error: str | None
    callback_url: str | None


class _Refused(Exception):
    """Ends the transaction without effect."""

    def __init__(self, errors: tuple[UserError, ...]) -> None:
        super().__init__("refused")
        self.errors = errors


async def configure_provider(
    database: Database,
    vault: Vault,
    egress: Egress,
    *,
    project_id: UUID,
    kind: ProviderKind,
    settings: object,
    secrets: object,
    audit: Audit,
) -> tuple[ProviderRecord | None, tuple[UserError, ...]]:
    """Put what is given over what is stored: absent parts stay, None clears. Paths of errors begin with `input`."""
    now = audit.now
    try:
        async with database.transaction() as connection:
            record, is_new = await lock_account(connection, project_id=project_id, kind=kind, now=now)
            held, is_readable = _open(vault, record)
            stored = Given(held.settings, held.secrets, holds_others=not is_readable)
            after, errors = merge(kind, stored=stored, settings=settings, secrets=secrets, egress=egress)
            if errors:
                raise _Refused(errors)
            changed = msgspec.structs.replace(held, settings=after.settings, secrets=after.secrets)
            sealed = None if is_readable or secrets else record.sealed_secrets
            stored_record = await store_credentials(
                connection, vault, changed, project_id=project_id, now=now, keep_sealed=sealed
            )
            before = None if is_new else held
            await note_credentials(connection, audit, project_id=project_id, before=before, after=changed)
            return stored_record, ()
    except _Refused as refused:
        return None, refused.errors


async def delete_provider(
    database: Database, vault: Vault, *, project_id: UUID, provider_id: UUID, audit: Audit
) -> bool:
    """Forget an account and its secrets; whether there was one."""
    async with database.transaction() as connection:
        record = await remove_provider(connection, project_id=project_id, provider_id=provider_id)
        if record is None:
            return False
        held, _ = _open(vault, record)
        shown = shown_account(record.kind, held.settings, dict.fromkeys(held.secrets, MASKED))
        await audit.note_node(
            connection, NodeKind.PROVIDER, provider_id, project_id=project_id, before=shown, after=None
        )
    return True


def _open(vault: Vault, record: ProviderRecord) -> tuple[ProviderCredentials, bool]:
    """What is stored, and whether its secrets could be opened: those that cannot stay sealed until others are given,
    since the operator may only have lost a setting."""
    try:
        return open_credentials(vault, record), True
    except CannotOpen:
        return open_credentials(vault, msgspec.structs.replace(record, sealed_secrets=None)), False


def show_provider(vault: Vault, record: ProviderRecord, *, public_url: str) -> ShownProvider:
    """What may be known of it. `public_url` is where callbacks reach this deployment."""
    kind = ProviderKind(record.kind)
    held, is_readable = _open(vault, record)
    return ShownProvider(
        record.provider_id,
        kind,
        record.settings,
        is_readable and not missing(kind, held.settings, held.secrets),
        record.updated_at,
        record.last_error if is_readable else UNREADABLE,
        callback_url(public_url, record.provider_id) if kind in _WITH_CALLBACKS else None,
    )


def callback_url(public_url: str, provider_id: UUID) -> str:
    """Where a provider reports what became of messages; written as it is here, because Twilio signs it too."""
    return f"{public_url}/callbacks/{write_node_id(NodeKind.PROVIDER, provider_id)}"


def delivery_callback_url(public_url: str, provider_id: UUID, delivery_id: UUID) -> str:
    """The same, for one message: names the delivery even where the answer that named the message was lost."""
    return f"{callback_url(public_url, provider_id)}?delivery={write_node_id(NodeKind.DELIVERY, delivery_id)}"
