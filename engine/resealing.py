"""Sealing everything that is sealed anew under the current secret, so that an older one can be forgotten.

Guarantees: a value is replaced only by itself, and only if nobody changed it meanwhile; running it again does what is
left. Reads and writes of others go on: whoever knows both secrets opens either. What no known secret opens is counted
and left. Leaves to others: when (`cli.py reseal`), and taking the older secret out of the settings afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from uuid import UUID

import msgspec

from db.database import Database
from db.sealed_values import SealedValue, list_sealed_values, replace_sealed_value
from engine.accounts.second_factor import totp_purpose
from engine.accounts.signing_keys import signing_purpose
from engine.email.domains import dkim_purpose
from engine.inbound.endpoints import PURPOSE as INBOUND_PURPOSE
from engine.providers.credentials import provider_purpose
from engine.signatures import identity_secret_purpose
from engine.vault import CannotOpen, Vault
from engine.webhooks.secrets import endpoint_purpose
from engine.workflows.signing import PURPOSE as WORKFLOW_PURPOSE


def _identity_secret_purpose(value: SealedValue) -> str:
    if value.id is None:
        raise ValueError("an identity secret has an id")
    return identity_secret_purpose(value.id)


_PURPOSES: Mapping[str, Callable[[SealedValue], str]] = {
    "provider": lambda value: provider_purpose(value.name),
    "webhook_secret": lambda value: endpoint_purpose(UUID(value.name)),
    "workflow_secret": lambda _value: WORKFLOW_PURPOSE,
    "inbound_endpoint": lambda _value: INBOUND_PURPOSE,
    "sender_domain": lambda value: dkim_purpose(value.name),
    "identity_secret": _identity_secret_purpose,
    "signing_key": lambda value: signing_purpose(value.name),
    "totp_secret": lambda value: totp_purpose(value.name),
}


class Resealed(msgspec.Struct, frozen=True):
    """How many were sealed anew, were under the current secret already, and can be opened by no known secret."""

    resealed: int
    current: int
    lost: int


async def reseal_everything(database: Database, vault: Vault) -> Resealed:
    """Of all projects. Raises what the database raises; what was done stays done."""
    async with database.connection() as connection:
        values = await list_sealed_values(connection)
        resealed = current = lost = 0
        for value in values:
            if vault.is_current(value.sealed):
                current += 1
                continue
            sealed = _seal_anew(vault, value)
            if sealed is None:
                lost += 1
            elif await replace_sealed_value(connection, value=value, sealed=sealed):
                resealed += 1
    return Resealed(resealed, current, lost)


def _seal_anew(vault: Vault, value: SealedValue) -> bytes | None:
    purpose = _PURPOSES[value.place](value)
    try:
        opened = vault.open(value.sealed, project_id=value.project_id, purpose=purpose)
    except CannotOpen:
        return None
    return vault.seal(opened, project_id=value.project_id, purpose=purpose)
