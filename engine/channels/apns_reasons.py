"""What Apple's words mean: https://developer.apple.com/documentation/usernotifications/handling-notification-responses-from-apns

A word that is not in the table is judged by its status code. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import msgspec


class Blame(Enum):
    """What is wrong, and so whether another attempt, or another message, can do better."""

    ADDRESS = "the token"
    MESSAGE = "this message"
    ACCOUNT = "the credentials or the account"
    MOMENT = "only now"


class Meaning(msgspec.Struct, frozen=True):
    """Of one reason. `hint` says what to do."""

    blame: Blame
    hint: str


_OURS = "Nothing can be done about it in the request: report it with the delivery's id."
_LATER = "It is tried again by itself."

REASONS: Mapping[str, Meaning] = {
    # 400
    "BadCollapseId": Meaning(Blame.MESSAGE, "Use a collapseId of at most 64 bytes."),
    "BadDeviceToken": Meaning(
        Blame.ADDRESS,
        "Both of Apple's environments refuse this token: register the hex token that "
        "didRegisterForRemoteNotificationsWithDeviceToken gives, at each start of the app.",
    ),
    "BadExpirationDate": Meaning(Blame.MESSAGE, "Use a ttlSeconds of 0 or more, and less than some years."),
    "BadMessageId": Meaning(Blame.MESSAGE, _OURS),
    "BadPriority": Meaning(Blame.MESSAGE, "Use priority NORMAL for a push without title and body."),
    "BadTopic": Meaning(Blame.ACCOUNT, "Set the provider's bundleId to the app's bundle identifier, letter by letter."),
    # not the token's fault alone: one wrong bundleId would give up every token of a project
    "DeviceTokenNotForTopic": Meaning(
        Blame.MESSAGE,
        "The token belongs to another app: register it in that app's project, or correct the provider's bundleId.",
    ),
    "DuplicateHeaders": Meaning(Blame.MESSAGE, _OURS),
    "IdleTimeout": Meaning(Blame.MOMENT, _LATER),
    "InvalidPushType": Meaning(Blame.MESSAGE, "The app does not take this type of push: check its capabilities."),
    "MissingDeviceToken": Meaning(Blame.ADDRESS, "Register the device's token: this one is empty."),
    "MissingPushType": Meaning(Blame.MESSAGE, _OURS),
    "MissingTopic": Meaning(Blame.ACCOUNT, "Set the provider's bundleId."),
    "PayloadEmpty": Meaning(Blame.MESSAGE, "Give the push a title, a body or data."),
    "TopicDisallowed": Meaning(
        Blame.ACCOUNT,
        "The key may not send to this bundleId: check the key's restrictions in Apple's developer account.",
    ),
    # 403
    "BadCertificate": Meaning(Blame.ACCOUNT, "Configure a .p8 key that Apple's developer account lists as active."),
    "BadCertificateEnvironment": Meaning(
        Blame.ACCOUNT, "Configure a .p8 key that is valid for the sandbox and for production."
    ),
    "BadEnvironmentKeyIdInToken": Meaning(
        Blame.ACCOUNT, "The key is for one environment only: configure one for the sandbox and production."
    ),
    "ExpiredProviderToken": Meaning(Blame.ACCOUNT, "Check this machine's clock: the token was made moments ago."),
    "Forbidden": Meaning(Blame.ACCOUNT, "Check in Apple's developer account that the key may send push notifications."),
    "InvalidProviderToken": Meaning(
        Blame.ACCOUNT,
        "Check keyId, teamId and the .p8 key: they must belong together, and the key must not be revoked.",
    ),
    "MissingProviderToken": Meaning(Blame.ACCOUNT, "Configure the APNs provider with keyId, teamId and the .p8 key."),
    "UnrelatedKeyIdInToken": Meaning(Blame.ACCOUNT, "keyId is not a key of this team: check keyId and teamId."),
    # 404, 405
    "BadPath": Meaning(Blame.MESSAGE, "Register the token as hex digits, nothing else."),
    "MethodNotAllowed": Meaning(Blame.MESSAGE, _OURS),
    # 410
    "ExpiredToken": Meaning(Blame.ADDRESS, "The token has expired: the app registers a new one when it starts."),
    "Unregistered": Meaning(
        Blame.ADDRESS, "The app was removed or no longer takes pushes: it registers a new token if it comes back."
    ),
    # 413
    "PayloadTooLarge": Meaning(Blame.MESSAGE, "Shorten the text or data: Apple takes 4,096 bytes in all."),
    # 429
    "TooManyProviderTokenUpdates": Meaning(
        Blame.ACCOUNT, "Another program renews tokens of this key too often: give this deployment a key of its own."
    ),
    "TooManyRequests": Meaning(Blame.MOMENT, "Send less often to this device: Apple limits pushes per token."),
    # 500, 503
    "InternalServerError": Meaning(Blame.MOMENT, _LATER),
    "ServiceUnavailable": Meaning(Blame.MOMENT, _LATER),
    "Shutdown": Meaning(Blame.MOMENT, _LATER),
}

ENVIRONMENT_MISMATCHES = frozenset({"BadDeviceToken"})
"""What a token of the other environment is answered with."""
REFUSED_TOKENS = frozenset({"ExpiredProviderToken", "InvalidProviderToken"})
"""What a new provider token may cure."""

_WORDS = {
    403: "Forbidden",
    404: "BadPath",
    405: "MethodNotAllowed",
    410: "Unregistered",
    413: "PayloadTooLarge",
    429: "TooManyRequests",
    500: "InternalServerError",
    503: "ServiceUnavailable",
}


def word_of(status: int, reason: str | None) -> str:
    """Apple's reason, or where the answer had no body, the word that goes with the status."""
    return reason or _WORDS.get(status, f"HTTP{status}")


def meaning_of(status: int, word: str) -> Meaning:
    """Of a word, known or not."""
    if meaning := REASONS.get(word):
        return meaning
    return Meaning(_blame_of(status), f"Look up {word} in Apple's documentation of APNs.")


def _blame_of(status: int) -> Blame:
    if status == 403:
        return Blame.ACCOUNT
    if status == 410:
        return Blame.ADDRESS
    if 400 <= status < 500 and status != 429:
        return Blame.MESSAGE
    return Blame.MOMENT
