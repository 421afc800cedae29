"""What the three push senders send: resolved, addressed and credentialled; and what they say of what was taken.

None of it is repeatable: APNs, FCM and push services show a message twice when they get it twice. Whatever holds a
secret shows none when it is printed. Credentials are hashable: senders keep their connections and tokens by them.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from uuid import UUID

import msgspec

from engine.channels.base import Accepted, Rejected
from engine.dispatch.values import DeliveryError, LiveActivity, PushNotification

APNS_PRODUCTION_URL = "https://api.push.apple.com"
APNS_SANDBOX_URL = "https://api.sandbox.push.apple.com"
FCM_URL = "https://fcm.googleapis.com"
MAX_PAYLOAD_BYTES = 4096
"""Apple's, Google's and the push services' common limit."""

_EXPO_PREFIXES = ("ExponentPushToken[", "ExpoPushToken[")


class PushEnvironment(StrEnum):
    """Which of Apple's two services a token belongs to."""

    PRODUCTION = "PRODUCTION"
    SANDBOX = "SANDBOX"

    @property
    def other(self) -> PushEnvironment:
        """Where a token belongs that is bad here."""
        return PushEnvironment.SANDBOX if self is PushEnvironment.PRODUCTION else PushEnvironment.PRODUCTION


class _Secret(msgspec.Struct, frozen=True, kw_only=True):
    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"


class ApnsCredentials(_Secret, frozen=True, kw_only=True):
    """A provider's settings and secret. `key` is the text of the .p8 file, `ca_certificate` PEM text.

    `ca_certificate` is trusted besides the public authorities, and only on the connections of these credentials.
    """

    key: str
    key_id: str
    team_id: str
    bundle_id: str
    production_url: str = APNS_PRODUCTION_URL
    sandbox_url: str = APNS_SANDBOX_URL
    ca_certificate: str | None = None


class FcmCredentials(_Secret, frozen=True, kw_only=True):
    """`service_account` is the JSON text that Google gives; `endpoint` has no path."""

    service_account: str
    endpoint: str = FCM_URL


class VapidKeys(_Secret, frozen=True, kw_only=True):
    """A project's P-256 pair, both base64url without padding: 32 bytes, and the uncompressed point of 65."""

    private_key: str
    public_key: str


class ApnsMessage(_Secret, frozen=True, kw_only=True):
    """Exactly one of `notification` and `live_activity` is given. `device_token` is hex: the device's, the activity's
    own, or the one that starts activities.

    `made_at` is when the delivery was made: a device ignores a Live Activity's update that is older than its last.
    """

    delivery_id: UUID
    device_token: str
    environment: PushEnvironment
    made_at: datetime
    credentials: ApnsCredentials
    notification: PushNotification | None = None
    live_activity: LiveActivity | None = None

    @property
    def repeatable(self) -> bool:
        """See `Message`."""
        return False


class FcmMessage(_Secret, frozen=True, kw_only=True):
    """`registration_token` is what the FCM SDK gave the app."""

    delivery_id: UUID
    registration_token: str
    credentials: FcmCredentials
    notification: PushNotification

    @property
    def repeatable(self) -> bool:
        """See `Message`."""
        return False


class WebPushMessage(_Secret, frozen=True, kw_only=True):
    """`endpoint`, `p256dh` and `auth` are the browser's subscription, the latter two base64url as it gave them.

    `subject` is a `mailto:` or `https:` URL at which a push service can reach the sender (RFC 8292 section 2.1).
    """

    delivery_id: UUID
    endpoint: str
    p256dh: str
    auth: str
    vapid: VapidKeys
    subject: str
    notification: PushNotification

    @property
    def repeatable(self) -> bool:
        """See `Message`."""
        return False


class PushAccepted(Accepted, frozen=True, kw_only=True):
    """`environment` is Apple's service that took it: store it when it is not the token's. None for FCM and Web Push."""

    environment: PushEnvironment | None = None


def is_expo_token(token: str) -> bool:
    """Whether this is a token of Expo's push service, which neither Apple nor Google knows."""
    return token.startswith(_EXPO_PREFIXES)


EXPO_HINT = (
    "Register the native token that getDevicePushTokenAsync() gives instead of the one of getExpoPushTokenAsync(), or "
    "keep sending to Expo tokens through Expo's own push service."
)


def expo_rejection() -> Rejected:
    """The outcome of any send to an Expo token. The address is not called dead: Expo can still reach it."""
    return Rejected(
        error=DeliveryError(
            code="ExpoPushToken",
            message="This is a token of Expo's push service; Apple and Google do not know it.",
            permanent=True,
            hint=EXPO_HINT,
        )
    )


class PushRejected(Rejected, frozen=True, kw_only=True):
    """`dead_since` is when the token stopped being valid, as Apple says: one that was registered again later is not."""

    dead_since: datetime | None = None
