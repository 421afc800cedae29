"""The project's key pair for Web Push: made once, on first need, and the same for everybody from then on.

Browsers bind their subscriptions to its public half, so that a second pair would lose them all.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from engine.channels.push_message import VapidKeys
from engine.channels.web_push import make_vapid_keys
from engine.providers.credentials import ProviderCredentials, make_secrets_once, read_credentials
from engine.providers.values import ProviderKind
from engine.vault import Vault

if TYPE_CHECKING:
    import asyncpg


async def read_vapid(
    connection: asyncpg.Connection, vault: Vault, *, project_id: UUID, now: datetime
) -> ProviderCredentials:
    """The project's account for Web Push with its key pair, made if need be. Commit before you show the public half."""
    held = await read_credentials(connection, vault, project_id=project_id, kinds=[ProviderKind.WEB_PUSH])
    account = held.get(ProviderKind.WEB_PUSH)
    if account is not None and account.secrets:
        return account
    made = make_vapid_keys()
    secrets = {"privateKey": made.private_key, "publicKey": made.public_key}
    return await make_secrets_once(
        connection, vault, project_id=project_id, kind=ProviderKind.WEB_PUSH, secrets=secrets, now=now
    )


def vapid_keys(account: ProviderCredentials) -> VapidKeys:
    """The pair of an account that has one."""
    return VapidKeys(private_key=account.secrets["privateKey"], public_key=account.secrets["publicKey"])
