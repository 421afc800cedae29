"""What a device may register: its token in the form of its platform, its owner, its time zone and language. Pure."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from enum import StrEnum
from uuid import UUID

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey

from db.push_tokens import NewPushToken
from engine.channels.push_message import EXPO_HINT, PushEnvironment, is_expo_token
from engine.egress import Egress
from engine.errors import UserError
from engine.events import MAX_ID_CHARACTERS
from engine.push.locales import is_locale
from engine.push.quiet_hours import find_zone
from engine.push.texts import check_text

MAX_TOKEN_BYTES = 2048
"""Of any token; the longest are endpoints of push services, with some hundred characters."""
MIN_APNS_DIGITS, MAX_APNS_DIGITS = 8, 400
"""Apple: 64 today, of variable length, at most 100 bytes for devices; Live Activities' are longer."""
MAX_VERSION_CHARACTERS = 64
MAX_NAME_CHARACTERS = 200
"""Of a Live Activity and of its type."""
AUTH_BYTES = 16
"""RFC 8291 section 3.2."""
MAX_KEY_CHARACTERS = 128
"""An uncompressed point of P-256 has 87 as base64url."""

_APNS_TOKEN = re.compile(r"(?:[0-9A-Fa-f]{2})+")
_OPAQUE_TOKEN = re.compile(r"[\x21-\x7e]+")


class Platform(StrEnum):
    """What a device runs."""

    IOS = "IOS"
    ANDROID = "ANDROID"
    WEB = "WEB"


class WebPushKeys(msgspec.Struct, frozen=True):
    """Of a browser's subscription, base64url as it gave them."""

    p256dh: str
    auth: str


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """What a device says of itself."""

    platform: Platform
    token: str
    web_push_keys: WebPushKeys | None = None
    environment: PushEnvironment = PushEnvironment.PRODUCTION
    user_id: str | None = None
    signature: str | None = None
    timezone: str | None = None
    locale: str | None = None
    app_version: str | None = None

    def __repr__(self) -> str:
        return f"Registration(platform={self.platform})"


class ActivityRegistration(msgspec.Struct, frozen=True, kw_only=True):
    """A token of Live Activities. Without `activity_id` it starts those of a type."""

    device_token: str
    attributes_type: str
    token: str
    activity_id: str | None = None

    def __repr__(self) -> str:
        return f"ActivityRegistration(attributes_type={self.attributes_type})"


def check_registration(registration: Registration, egress: Egress) -> tuple[UserError, ...]:
    """Everything that is wrong with it."""
    return (
        *_check_token(registration, egress),
        *_check_keys(registration),
        *check_text(registration.user_id, "userId", path=("input", "userId"), most=MAX_ID_CHARACTERS),
        *_check_timezone(registration.timezone),
        *_check_locale(registration.locale),
        *check_text(registration.app_version, "appVersion", path=("input", "appVersion"), most=MAX_VERSION_CHARACTERS),
    )


def check_activity_registration(registration: ActivityRegistration) -> tuple[UserError, ...]:
    """Everything that is wrong with it."""
    return (
        *_check_apns_token(registration.token, ("input", "token")),
        *check_text(
            registration.attributes_type, "attributesType", path=("input", "attributesType"), most=MAX_NAME_CHARACTERS
        ),
        *check_text(registration.activity_id, "activityId", path=("input", "activityId"), most=MAX_NAME_CHARACTERS),
    )


def warnings_of(registration: Registration) -> tuple[str, ...]:
    """What is accepted and will not work."""
    if not is_expo_token(registration.token):
        return ()
    return (f"This is a token of Expo's push service, which this server does not send to. {EXPO_HINT}",)


def new_push_token(registration: Registration, push_token_id: UUID) -> NewPushToken:
    """The row of a registration that was checked. `push_token_id` is for a device that is not known yet."""
    keys = registration.web_push_keys
    return NewPushToken(
        push_token_id=push_token_id,
        platform=registration.platform,
        environment=registration.environment,
        token=stored_form(registration.token),
        web_push_keys=None if keys is None else msgspec.json.encode(keys).decode(),
        user_id=registration.user_id,
        timezone=registration.timezone,
        locale=registration.locale,
        app_version=registration.app_version,
    )


def stored_form(token: str) -> str:
    """Hex digits in lower case, so that one device is one row; other tokens as they are."""
    return token.lower() if _APNS_TOKEN.fullmatch(token) else token


def _check_token(registration: Registration, egress: Egress) -> Iterator[UserError]:
    path, token = ("input", "token"), registration.token
    if registration.platform is Platform.WEB:
        yield from _check_endpoint(token, egress, path)
    elif is_expo_token(token) or registration.platform is Platform.ANDROID:
        yield from _check_opaque(token, path)
    else:
        yield from _check_apns_token(token, path)


def _check_apns_token(token: str, path: tuple[str, ...]) -> Iterator[UserError]:
    if not MIN_APNS_DIGITS <= len(token) <= MAX_APNS_DIGITS or not _APNS_TOKEN.fullmatch(token):
        yield UserError(
            f"A token of Apple's is {MIN_APNS_DIGITS} to {MAX_APNS_DIGITS} hexadecimal digits, two for each byte:"
            " the bytes that didRegisterForRemoteNotificationsWithDeviceToken gives.",
            "INVALID",
            path,
        )


def _check_opaque(token: str, path: tuple[str, ...]) -> Iterator[UserError]:
    if len(token) > MAX_TOKEN_BYTES or not _OPAQUE_TOKEN.fullmatch(token):
        message = f"A token is 1 to {MAX_TOKEN_BYTES} visible ASCII characters, as the push service's SDK gives it."
        yield UserError(message, "INVALID", path)


def _check_endpoint(url: str, egress: Egress, path: tuple[str, ...]) -> Iterator[UserError]:
    if len(url) > MAX_TOKEN_BYTES or not _OPAQUE_TOKEN.fullmatch(url):
        message = (
            f"The endpoint is a URL of at most {MAX_TOKEN_BYTES} characters, as PushSubscription.endpoint gives it."
        )
        yield UserError(message, "INVALID", path)
        return
    refusal = egress.refusal(url)
    if refusal is not None:
        yield UserError(refusal, "BLOCKED_URL", path)


def _check_keys(registration: Registration) -> Iterator[UserError]:
    keys, path = registration.web_push_keys, ("input", "webPushKeys")
    if registration.platform is not Platform.WEB:
        if keys is not None:
            yield UserError("Only browsers have webPushKeys: leave them out.", "INVALID", path)
        return
    if keys is None:
        yield UserError("A browser's subscription needs webPushKeys: PushSubscription.toJSON().keys.", "INVALID", path)
        return
    if not _is_point(_decode(keys.p256dh)):
        message = "p256dh is a point of P-256 as base64url: 65 bytes, uncompressed."
        yield UserError(message, "INVALID", (*path, "p256dh"))
    if len(_decode(keys.auth)) != AUTH_BYTES:
        yield UserError(f"auth is {AUTH_BYTES} bytes as base64url.", "INVALID", (*path, "auth"))


def _decode(text: str) -> bytes:
    """Of base64url, or base64, with padding or without; nothing for anything else."""
    if len(text) > MAX_KEY_CHARACTERS or not text.isascii():
        return b""
    bare = text.rstrip("=").replace("+", "-").replace("/", "_")
    if not re.fullmatch(r"[A-Za-z0-9_-]*", bare) or len(bare) % 4 == 1:
        return b""
    return urlsafe_b64decode(bare + "=" * (-len(bare) % 4))


def _is_point(raw: bytes) -> bool:
    if raw[:1] != b"\x04":
        return False
    try:
        EllipticCurvePublicKey.from_encoded_point(SECP256R1(), raw)
    except ValueError:
        return False
    return True


def _check_timezone(name: str | None) -> Iterator[UserError]:
    if name is not None and find_zone(name) is None:
        message = "timezone is a name of the IANA's, e.g. Europe/Berlin."
        yield UserError(message, "INVALID", ("input", "timezone"))


def _check_locale(tag: str | None) -> Iterator[UserError]:
    if tag is not None and not is_locale(tag):
        yield UserError("locale is a BCP 47 tag, e.g. de or pt-BR.", "INVALID", ("input", "locale"))
