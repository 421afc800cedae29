"""A project's accounts with push services, and from what is to be sent to the message that its sender takes.

Secrets are opened here and held in memory only, inside messages.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from uuid import UUID

import msgspec

from db.delivery_records import DeliveryRecord
from db.live_activities import LiveActivityRecord
from db.push_tokens import PushTokenRecord
from engine.channels.push_message import (
    APNS_PRODUCTION_URL,
    APNS_SANDBOX_URL,
    FCM_URL,
    ApnsCredentials,
    ApnsMessage,
    FcmCredentials,
    FcmMessage,
    PushEnvironment,
    WebPushMessage,
    expo_rejection,
    is_expo_token,
)
from engine.dispatch.values import DeliveryError, LiveActivity, PushNotification
from engine.providers.credentials import ProviderCredentials, read_credentials
from engine.providers.shapes import missing
from engine.providers.values import ProviderKind
from engine.push.vapid import read_vapid, vapid_keys
from engine.vault import CannotOpen, Vault

if TYPE_CHECKING:
    import asyncpg

KINDS: Mapping[str, ProviderKind] = {
    "IOS": ProviderKind.APNS,
    "ANDROID": ProviderKind.FCM,
    "WEB": ProviderKind.WEB_PUSH,
}
"""Who delivers to each platform."""

PushMessage: TypeAlias = ApnsMessage | FcmMessage | WebPushMessage
Account: TypeAlias = ProviderCredentials | DeliveryError
"""An account that can be used, or why there is none."""
A = TypeVar("A")


async def read_accounts(
    connection: asyncpg.Connection, vault: Vault, *, project_id: UUID, platforms: Iterable[str], now: datetime
) -> Mapping[str, Account]:
    """By platform. The key pair of Web Push is made if need be."""
    wanted = set(platforms)
    accounts = dict(await find_accounts(connection, vault, project_id=project_id, platforms=wanted))
    for platform in sorted(wanted - accounts.keys()):
        making = read_vapid(connection, vault, project_id=project_id, now=now)
        accounts[platform] = await _or_unreadable(KINDS[platform], making)
    return accounts


async def find_accounts(
    connection: asyncpg.Connection, vault: Vault, *, project_id: UUID, platforms: Iterable[str]
) -> Mapping[str, Account]:
    """The same, and nothing is written: a platform whose key pair is yet to be made is absent."""
    accounts = {}
    for platform in sorted(set(platforms)):
        account = await _or_unreadable(KINDS[platform], _find_account(connection, vault, project_id, KINDS[platform]))
        if account is not None:
            accounts[platform] = account
    return accounts


def account_for(token: PushTokenRecord, account: A) -> A | DeliveryError:
    """With what a device is sent to, given its platform's account, or why it cannot be: for sends and dry runs."""
    return expo_rejection().error if is_expo_token(token.token) else account


def notification_message(
    delivery: DeliveryRecord,
    token: PushTokenRecord,
    account: ProviderCredentials,
    notification: PushNotification,
    *,
    contact: str,
) -> PushMessage:
    """A notification to a device. `contact` is where push services reach whoever set none."""
    if token.platform == "IOS":
        return ApnsMessage(
            delivery_id=delivery.delivery_id,
            device_token=token.token,
            environment=PushEnvironment(token.environment),
            made_at=delivery.created_at,
            credentials=_apns(account),
            notification=notification,
        )
    if token.platform == "ANDROID":
        return FcmMessage(
            delivery_id=delivery.delivery_id,
            registration_token=token.token,
            credentials=_fcm(account),
            notification=notification,
        )
    keys: dict[str, str] = msgspec.json.decode(token.web_push_keys or b"{}")
    return WebPushMessage(
        delivery_id=delivery.delivery_id,
        endpoint=token.token,
        p256dh=keys.get("p256dh", ""),
        auth=keys.get("auth", ""),
        vapid=vapid_keys(account),
        subject=account.settings.get("subject", contact),
        notification=notification,
    )


def activity_message(
    delivery: DeliveryRecord,
    token: PushTokenRecord,
    account: ProviderCredentials,
    change: LiveActivity,
    activity: LiveActivityRecord,
) -> ApnsMessage:
    """A change of a Live Activity, to its own token."""
    return ApnsMessage(
        delivery_id=delivery.delivery_id,
        device_token=activity.token or "",
        environment=PushEnvironment(token.environment),
        made_at=delivery.created_at,
        credentials=_apns(account),
        live_activity=change,
    )


async def _or_unreadable(kind: ProviderKind, reading: Awaitable[A]) -> A | DeliveryError:
    try:
        return await reading
    except CannotOpen:
        return DeliveryError(
            "CREDENTIALS_UNREADABLE",
            f"The secrets of {kind} cannot be opened here.",
            permanent=True,
            hint="Set SENDORA_PREVIOUS_SECRET_KEYS to the secret that they were sealed under, or configure the"
            " provider anew; then replay.",
        )


async def _find_account(
    connection: asyncpg.Connection, vault: Vault, project_id: UUID, kind: ProviderKind
) -> Account | None:
    """None for Web Push without a key pair."""
    account = (await read_credentials(connection, vault, project_id=project_id, kinds=[kind])).get(kind)
    if kind is ProviderKind.WEB_PUSH:
        return account if account is not None and account.secrets else None
    if account is None:
        return _not_configured(kind, "")
    lacks = missing(kind, account.settings, account.secrets)
    return _not_configured(kind, f" It lacks {', '.join(lacks)}.") if lacks else account


def _not_configured(kind: ProviderKind, what: str) -> DeliveryError:
    return DeliveryError(
        "NOT_CONFIGURED",
        f"The project has no {kind} provider that can be used.{what}",
        permanent=True,
        hint=f"Call configureProvider with kind {kind}; then replay this delivery.",
    )


def _apns(account: ProviderCredentials) -> ApnsCredentials:
    settings = account.settings
    return ApnsCredentials(
        key=account.secrets["privateKey"],
        key_id=settings["keyId"],
        team_id=settings["teamId"],
        bundle_id=settings["bundleId"],
        production_url=settings.get("productionUrl", APNS_PRODUCTION_URL),
        sandbox_url=settings.get("sandboxUrl", APNS_SANDBOX_URL),
        ca_certificate=settings.get("caCertificate"),
    )


def _fcm(account: ProviderCredentials) -> FcmCredentials:
    return FcmCredentials(
        service_account=_text(account.secrets["serviceAccount"]), endpoint=account.settings.get("endpoint", FCM_URL)
    )


def _text(service_account: Any) -> str:
    """The same text for the same account: senders tell accounts apart by it."""
    return msgspec.json.encode(service_account, order="deterministic").decode()
