"""Signing secrets at rest: sealed for one endpoint, or for one delivery to a bare URL."""

from __future__ import annotations

from base64 import b64decode, b64encode
from uuid import UUID

from engine.vault import Vault


def seal_endpoint_secret(vault: Vault, secret: str, *, project_id: UUID, endpoint_id: UUID) -> bytes:
    """For `webhook_secrets`."""
    return vault.seal(secret.encode(), project_id=project_id, purpose=endpoint_purpose(endpoint_id))


def open_endpoint_secret(vault: Vault, sealed: bytes, *, project_id: UUID, endpoint_id: UUID) -> str:
    """Raises `CannotOpen`."""
    return vault.open(sealed, project_id=project_id, purpose=endpoint_purpose(endpoint_id)).decode()


def seal_delivery_secret(vault: Vault, secret: str, *, project_id: UUID, delivery_id: UUID) -> str:
    """For `WebhookContent.sealed_secret`."""
    sealed = vault.seal(secret.encode(), project_id=project_id, purpose=_delivery_purpose(delivery_id))
    return b64encode(sealed).decode()


def open_delivery_secret(vault: Vault, sealed: str, *, project_id: UUID, delivery_id: UUID) -> str:
    """Raises `CannotOpen`."""
    return vault.open(b64decode(sealed), project_id=project_id, purpose=_delivery_purpose(delivery_id)).decode()


def endpoint_purpose(endpoint_id: UUID) -> str:
    """What the vault seals an endpoint's secrets for."""
    return f"webhook_secret:{endpoint_id.hex}"


def _delivery_purpose(delivery_id: UUID) -> str:
    return f"webhook_delivery:{delivery_id.hex}"
