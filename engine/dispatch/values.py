"""The words of deliveries: channels, statuses, reasons, errors, and what a delivery asks for.

`content` of a delivery is one of the `…Content` structs below, as JSON. Pure values; no I/O.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import msgspec

DEFAULT_PROVIDER_SCHEDULE = (2, 8, 30, 90, 1670)
"""Seconds before attempt 2, 3, … of whatever has no schedule of its own."""


class Channel(StrEnum):
    """How a message leaves."""

    PUSH = "PUSH"
    EMAIL = "EMAIL"
    SMS = "SMS"
    WEBHOOK = "WEBHOOK"


class DeliveryStatus(StrEnum):
    """Where a delivery stands."""

    QUEUED = "QUEUED"
    SCHEDULED = "SCHEDULED"
    SENDING = "SENDING"
    RETRYING = "RETRYING"
    SENT = "SENT"
    DELIVERED = "DELIVERED"
    FAILED = "FAILED"
    SUPPRESSED = "SUPPRESSED"
    CANCELLED = "CANCELLED"
    DEAD_LETTERED = "DEAD_LETTERED"
    UNCERTAIN = "UNCERTAIN"


class SuppressedReason(StrEnum):
    """Why nothing was sent."""

    QUIET_HOURS = "QUIET_HOURS"
    FREQUENCY_CAP = "FREQUENCY_CAP"
    CONSENT = "CONSENT"
    NO_TOKENS = "NO_TOKENS"
    UNSUBSCRIBED = "UNSUBSCRIBED"
    BOUNCED = "BOUNCED"
    RATE_LIMITED = "RATE_LIMITED"
    BLOCKED_CONTENT = "BLOCKED_CONTENT"
    ERASED = "ERASED"


class DeliveryError(msgspec.Struct, frozen=True):
    """Why an attempt failed. `code` is the provider's own word where it has one. Holds no secret and no address."""

    code: str
    message: str
    permanent: bool
    hint: str | None = None


class PushNotification(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One text of a push. `ttl_seconds` as in RFC 8030 section 5.2; `priority` is NORMAL or HIGH.

    None is what nobody gave: a text that is laid over another leaves it as it is. Without a `priority` it is HIGH.
    """

    title: str
    body: str
    data: Any = None
    image_url: str | None = None
    sound: str | None = None
    badge: int | None = None
    collapse_id: str | None = None
    ttl_seconds: int | None = None
    priority: str | None = None
    category: str | None = None
    thread_id: str | None = None
    url: str | None = None


class PushVariant(msgspec.Struct, frozen=True, rename="camel"):
    """One of several texts, chosen by weight."""

    name: str
    weight: int
    push: PushNotification


class LocalizedPush(msgspec.Struct, frozen=True, rename="camel"):
    """A text for one locale (BCP 47)."""

    locale: str
    push: PushNotification


class LiveActivity(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A change of a Live Activity: `action` is START, UPDATE or END. Dates are Unix seconds, as APNs takes them."""

    action: str
    attributes_type: str
    activity_id: str | None = None
    attributes: Any = None
    content_state: Any = None
    stale_date: int | None = None
    dismissal_date: int | None = None
    alert: PushNotification | None = None


class PushContent(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What a push asks for: a default text, variants and locales; or a Live Activity.

    `message_id` groups the deliveries of one message to one person's devices: caps and variants go by it.
    """

    message_id: UUID
    push: PushNotification | None = None
    variants: tuple[PushVariant, ...] = ()
    localized: tuple[LocalizedPush, ...] = ()
    ignore_quiet_hours: bool = False
    is_test: bool = False
    live_activity: LiveActivity | None = None


class EmailContent(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What an email asks for: a template, or subject and bodies; Liquid in all of them. `from_address` as in RFC 5322.

    `is_system`: mail of the platform itself, sent from its own pool.
    """

    template_id: UUID | None = None
    subject: str | None = None
    body_html: str | None = None
    body_text: str | None = None
    from_address: str | None = None
    reply_to: str | None = None
    vars: Any = None
    is_system: bool = False


class SmsContent(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What a text message asks for; Liquid in `body`."""

    body: str
    vars: Any = None


class WebhookContent(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What a webhook carries. `body` is sent as it is, byte for byte, at every attempt; `event_id` stays.

    To an endpoint, `url` and `sealed_secret` are None: both are the endpoint's at the time of the attempt. To a bare
    URL, `sealed_secret` is base64 of what `Vault.seal` gave; of a workflow's step it is None, because that is signed
    with the project's secrets for steps at the time of the attempt (`engine.workflows.signing`).
    """

    event_id: str
    body: str
    url: str | None = None
    method: str = "POST"
    headers: dict[str, str] = {}
    sealed_secret: str | None = None


def host_key(url: str) -> str:
    """The dispatch key of what goes to a URL: its origin, shared by all projects that send there."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    return f"{parts.scheme}://{parts.hostname}:{port}"


def lane_key(project_id: UUID, dispatch_key: str) -> str:
    """What has one concurrency limit and one circuit breaker: a host, or a project's account with a provider."""
    return dispatch_key if "://" in dispatch_key else f"{project_id}:{dispatch_key}"
