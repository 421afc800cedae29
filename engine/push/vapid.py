"""The project's key pair for Web Push: made once, on first need, and the same for everybody from then on.

Browsers bind their subscriptions to its public half, so that a second pair would lose them all.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from engine.channels.push_message import VapidKeys
from engine.providers.credentials import ProviderCredentials, make_secrets_once, read_credentials
from engine.providers.values import ProviderKind
from engine.vault import Vault

if TYPE_CHECKING:
    import asyncpg

PRIVATE_KEY_BYTES = 32


async def read_vapid(
    connection: asyncpg.Connection, vault: Vault, *, project_id: UUID, now: datetime
) -> ProviderCredentials:
    """The project's account for Web Push with its key pair, made if need be. Commit before you show the public half."""
    held = await read_credentials(connection, vault, project_id=project_id, kinds=[ProviderKind.WEB_PUSH])
    account = held.get(ProviderKind.WEB_PUSH)
    if account is not None and account.secrets:
        return account
    return await make_secrets_once(
        connection, vault, project_id=project_id, kind=ProviderKind.WEB_PUSH, secrets=_new_pair(), now=now
    )


def vapid_keys(account: ProviderCredentials) -> VapidKeys:
    """The pair of an account that has one."""
    return VapidKeys(private_key=account.secrets["privateKey"], public_key=account.secrets["publicKey"])


def _new_pair() -> dict[str, str]:
    key = generate_private_key(SECP256R1())
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    number = key.private_numbers().private_value.to_bytes(PRIVATE_KEY_BYTES)
    return {"privateKey": _base64url(number), "publicKey": _base64url(point)}


def _base64url(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()
