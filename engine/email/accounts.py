"""With whose account a project's mail leaves: Resend where it is set up, since it sends once whatever happens to an
answer; otherwise the project's relay. Mail of the platform itself leaves through the system pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

import msgspec

from engine.channels.resend import BASE_URL
from engine.channels.smtp import SmtpAccount
from engine.providers.credentials import ProviderCredentials, read_credentials
from engine.providers.shapes import missing
from engine.providers.values import ProviderKind
from engine.vault import CannotOpen, Vault

if TYPE_CHECKING:
    import asyncpg


class ResendAccount(msgspec.Struct, frozen=True, kw_only=True):
    """An account with Resend."""

    base_url: str
    api_key: str

    def __repr__(self) -> str:
        return f"ResendAccount(base_url={self.base_url})"


Account: TypeAlias = SmtpAccount | ResendAccount


class MailAccount(msgspec.Struct, frozen=True, kw_only=True):
    """An account and its default sender. `provider_id` is None for the system pool."""

    account: Account
    default_from: str | None
    provider_id: UUID | None = None


async def read_mail_account(connection: asyncpg.Connection, vault: Vault, *, project_id: UUID) -> MailAccount | None:
    """None unless everything that sending needs is there and can be read."""
    kinds = (ProviderKind.RESEND, ProviderKind.SMTP)
    try:
        found = await read_credentials(connection, vault, project_id=project_id, kinds=kinds)
    except CannotOpen:
        return None
    for kind in kinds:
        held = found.get(kind)
        if held is not None and not missing(held.kind, held.settings, held.secrets):
            return _account_of(held)
    return None


def system_account(pool: SmtpAccount) -> MailAccount:
    """The platform's own."""
    return MailAccount(account=pool, default_from=pool.from_address)


def _account_of(held: ProviderCredentials) -> MailAccount:
    settings: Mapping[str, Any] = held.settings
    account: Account = (
        ResendAccount(base_url=settings.get("baseUrl", BASE_URL), api_key=held.secrets["apiKey"])
        if held.kind == ProviderKind.RESEND
        else SmtpAccount(
            host=settings["host"],
            port=settings["port"],
            security=settings["security"],
            username=settings.get("username"),
            password=held.secrets.get("password"),
        )
    )
    return MailAccount(account=account, default_from=settings.get("from"), provider_id=held.provider_id)
