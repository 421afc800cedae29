"""What Google's words mean, and what they are called here: https://firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode

The names are those of FCM's older API, which people search for; Google's own code stays in the message. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

MAX_FIELDS = 5
"""Of the refused fields, so many are named."""

_LATER = "It is tried again by itself."


class Meaning(msgspec.Struct, frozen=True, kw_only=True):
    """Of one code. `is_dead`: the token will never be good again. `hint` says what to do."""

    name: str
    hint: str
    permanent: bool = False
    is_dead: bool = False
    is_account: bool = False


UNREGISTERED = Meaning(
    name="Unregistered",
    permanent=True,
    is_dead=True,
    hint="The app was removed or its data cleared: it registers a new token if it comes back.",
)
INVALID_REGISTRATION = Meaning(
    name="InvalidRegistration",
    permanent=True,
    is_dead=True,
    hint="This is no FCM registration token: register what FirebaseMessaging.getToken() gives, uncut.",
)
TOO_LARGE = Meaning(
    name="PayloadTooLarge", permanent=True, hint="Shorten the text or data: Google takes 4,096 bytes in all."
)

CODES: Mapping[str, Meaning] = {
    "UNREGISTERED": UNREGISTERED,
    "SENDER_ID_MISMATCH": Meaning(
        name="MismatchSenderId",
        permanent=True,
        hint="The token belongs to another Firebase project: configure the service account of the project whose "
        "google-services.json is in the app.",
    ),
    "INVALID_ARGUMENT": Meaning(
        name="InvalidArgument",
        permanent=True,
        hint="Look at the fields named: keys of data must not be `from` or begin with `google` or `gcm`, and imageUrl "
        "must be an https URL.",
    ),
    "QUOTA_EXCEEDED": Meaning(
        name="QuotaExceeded",
        is_account=True,
        hint="Google limits the messages of a project per minute and those to a device: send less at once, or ask for "
        "a higher quota in the Google Cloud console.",
    ),
    "THIRD_PARTY_AUTH_ERROR": Meaning(
        name="ThirdPartyAuthError",
        hint="The token is of an Apple device or a browser, and Firebase has no valid key for it: upload one in the "
        "Firebase console, or register the device's own token here.",
    ),
    "UNAVAILABLE": Meaning(name="Unavailable", is_account=True, hint=_LATER),
    "INTERNAL": Meaning(name="Internal", is_account=True, hint=_LATER),
    "UNSPECIFIED_ERROR": Meaning(name="Unspecified", hint=_LATER),
    # of Google's APIs in general, where the error has no code of FCM
    "UNAUTHENTICATED": Meaning(
        name="Unauthenticated",
        is_account=True,
        hint="Google refuses the service account's tokens: check that its key was not deleted.",
    ),
    "PERMISSION_DENIED": Meaning(
        name="PermissionDenied",
        is_account=True,
        hint="Enable the Firebase Cloud Messaging API in the Google Cloud project, and give the service account the "
        "role Firebase Cloud Messaging API Admin.",
    ),
    "NOT_FOUND": Meaning(
        name="NotFound", is_account=True, hint="Google does not know the service account's project: check project_id."
    ),
    "RESOURCE_EXHAUSTED": Meaning(name="QuotaExceeded", is_account=True, hint=_LATER),
}

_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "QUOTA_EXCEEDED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}
_BAD_TOKEN = re.compile(r"registration token", re.IGNORECASE)
_TOO_LARGE = re.compile(r"too (?:big|large|long)", re.IGNORECASE)


class Refusal(msgspec.Struct, frozen=True):
    """An error answer of FCM: Google's code, and the names of the fields that it refuses. Never their values."""

    status: int
    code: str
    meaning: Meaning
    fields: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """For people."""
        fields = f", refusing {', '.join(self.fields)}" if self.fields else ""
        return f"FCM answered {self.status} {self.code}{fields}."


def refusal_of(status: int, body: str) -> Refusal:
    """What an error answer says. Google's code is in `error.details[].errorCode`; the status line says much less."""
    error = _error_in(body)
    details = [detail for detail in _list(error.get("details")) if isinstance(detail, dict)]
    code = next((detail["errorCode"] for detail in details if isinstance(detail.get("errorCode"), str)), None)
    fields = tuple(_fields(details))
    message = error.get("message")
    text = message if isinstance(message, str) else ""
    word = code or _word(error.get("status")) or _STATUSES.get(status, f"HTTP{status}")
    if word == "INVALID_ARGUMENT" and _BAD_TOKEN.search(text) and (code or fields == ("message.token",)):
        return Refusal(status, word, INVALID_REGISTRATION)
    if word == "INVALID_ARGUMENT" and _TOO_LARGE.search(text):
        return Refusal(status, word, TOO_LARGE)
    return Refusal(status, word, CODES.get(word) or _unknown(status, word), fields)


def _unknown(status: int, word: str) -> Meaning:
    return Meaning(
        name=word,
        permanent=400 <= status < 500 and status != 429,
        is_account=not 400 <= status < 500,
        hint=f"Look up {word} in Google's documentation of FCM's HTTP v1 API.",
    )


def _error_in(body: str) -> dict[str, Any]:
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError):
        return {}
    error = decoded.get("error") if isinstance(decoded, dict) else None
    return error if isinstance(error, dict) else {}


def _fields(details: list[dict[str, Any]]) -> list[str]:
    violations = [violation for detail in details for violation in _list(detail.get("fieldViolations"))]
    names = [violation.get("field") for violation in violations if isinstance(violation, dict)]
    return [name[:100] for name in names if isinstance(name, str)][:MAX_FIELDS]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) and re.fullmatch(r"[A-Z_]{3,40}", value) else None
