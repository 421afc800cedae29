"""Who sent a request: the signatures of other services, each by its own rules. Pure.

Guarantees: signatures are over the raw bytes and are compared in constant time; all of several are looked at; a
timestamp counts only as part of what is signed. A redelivery has the same id as the first: `Genuine.event_id` is the
provider's where it has one and what was signed otherwise, so that whoever repeats a captured request gains nothing.
Leaves to others: reading the request, bounded, and forgetting what was seen before.

    STRIPE             Stripe-Signature: t=…,v1=…      HMAC of t.body      not older than 300 s      `id` in the body
    GITHUB             X-Hub-Signature-256: sha256=…   HMAC of body        no time                   X-GitHub-Delivery
    SLACK              X-Slack-Signature: v0=…         HMAC of v0:t:body   300 s, either way         `event_id` in it
    STANDARD_WEBHOOKS  webhook-signature: v1,…         HMAC of id.t.body   300 s, either way         webhook-id
    HMAC_SHA256        X-Signature[-256]: [sha256=]…   HMAC of body        no time                   the body itself

All are HMAC-SHA256; hexadecimal, but for Standard Webhooks, which are base64 under a base64 secret (whsec_…).
GitHub's delivery id is not signed: a captured request with another id counts as another one, as it does for GitHub.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeAlias

import msgspec

from engine.providers.checks import signing_key

TOLERANCE_SECONDS = 300
"""How far a signed time may be from now: what Stripe, Slack and Standard Webhooks all say."""
MAX_HEADER_CHARACTERS = 4096
MAX_SIGNATURES = 16
"""In one header: a sender that rotates its secret gives two."""
MAX_EVENT_ID_CHARACTERS = 64
"""Longer ids stand as their digest, so that an event's key has room for them."""

_UNIX = re.compile(r"[0-9]{1,12}")
_EVENT_ID = re.compile(r"[\x21-\x7e]+")
_decode_members = msgspec.json.Decoder(dict[str, Any]).decode


class InboundVerifier(StrEnum):
    """Whose rules a request is checked by."""

    STRIPE = "STRIPE"
    GITHUB = "GITHUB"
    SLACK = "SLACK"
    STANDARD_WEBHOOKS = "STANDARD_WEBHOOKS"
    HMAC_SHA256 = "HMAC_SHA256"


class Refusal(StrEnum):
    """Why a request is not believed. For our own log: the sender is told nothing."""

    UNSIGNED = "unsigned"
    MALFORMED = "malformed"
    STALE = "stale"
    FORGED = "forged"


class Genuine(msgspec.Struct, frozen=True):
    """It is from who holds the secret. `event_id` is the same for a redelivery."""

    event_id: str


class Challenge(msgspec.Struct, frozen=True):
    """It is from who holds the secret, asks for this text back, and says nothing else."""

    text: str


Verdict: TypeAlias = Genuine | Challenge | Refusal


def secret_problem(verifier: InboundVerifier, secret: str) -> str | None:
    """Why this can be no secret of such a sender, in a sentence that does not repeat it."""
    if not 1 <= len(secret) <= 512 or "\0" in secret:
        return "A secret has 1 to 512 characters."
    if verifier is InboundVerifier.STANDARD_WEBHOOKS and signing_key(secret) is None:
        return "A secret of Standard Webhooks is whsec_ and base64 after it, as the sender shows it."
    return None


def verify(
    verifier: InboundVerifier, *, secret: str, headers: Mapping[str, str], body: bytes, now: datetime
) -> Verdict:
    """Judge a request. The names of `headers` are in lower case."""
    match verifier:
        case InboundVerifier.STRIPE:
            return _verify_stripe(secret, headers, body, now)
        case InboundVerifier.GITHUB:
            return _verify_github(secret, headers, body)
        case InboundVerifier.SLACK:
            return _verify_slack(secret, headers, body, now)
        case InboundVerifier.STANDARD_WEBHOOKS:
            return verify_standard(secret, headers, body, now)
        case InboundVerifier.HMAC_SHA256:
            return _verify_hmac(secret, headers, body)


def verify_standard(
    secret: str, headers: Mapping[str, str], body: bytes, now: datetime, *, prefix: str = "webhook"
) -> Verdict:
    """Standard Webhooks 1.0. Svix, and so Resend, writes the same under the `prefix` svix."""
    message_id, time, signature = (_header(headers, f"{prefix}-{name}") for name in ("id", "timestamp", "signature"))
    if message_id is None or time is None or signature is None:
        return Refusal.UNSIGNED
    key = signing_key(secret)
    if key is None or _UNIX.fullmatch(time) is None:
        return Refusal.MALFORMED
    if abs(int(time) - now.timestamp()) > TOLERANCE_SECONDS:
        return Refusal.STALE
    expected = base64.b64encode(hmac.digest(key, f"{message_id}.{time}.".encode() + body, "sha256"))
    given = (each.removeprefix("v1,") for each in signature.split(" ") if each.startswith("v1,"))
    return Genuine(_event_id(message_id, body)) if _is_among(expected, given) else Refusal.FORGED


def is_from_twilio(auth_token: str, *, url: str, form: Sequence[tuple[str, str]], signature: str | None) -> bool:
    """Whether Twilio signed this callback: base64 of HMAC-SHA1 over the URL as it was given, query included, and the
    form's names and values, sorted and each once."""
    if signature is None or len(signature) > MAX_HEADER_CHARACTERS:
        return False
    signed = url + "".join(name + value for name, value in sorted(set(form)))
    expected = base64.b64encode(hmac.digest(auth_token.encode(), signed.encode(), "sha1"))
    return hmac.compare_digest(expected, signature.encode())


def _verify_stripe(secret: str, headers: Mapping[str, str], body: bytes, now: datetime) -> Verdict:
    header = _header(headers, "stripe-signature")
    if header is None:
        return Refusal.UNSIGNED
    pairs = [part.strip().partition("=") for part in header.split(",")]
    time = next((value for name, _, value in pairs if name == "t"), "")
    if _UNIX.fullmatch(time) is None:
        return Refusal.MALFORMED
    if now.timestamp() - int(time) > TOLERANCE_SECONDS:
        return Refusal.STALE
    expected = _hex(secret, f"{time}.".encode() + body)
    if not _is_among(expected, (value for name, _, value in pairs if name == "v1")):
        return Refusal.FORGED
    return Genuine(_event_id(_member(body, "id"), body))


def _verify_github(secret: str, headers: Mapping[str, str], body: bytes) -> Verdict:
    header = _header(headers, "x-hub-signature-256")
    if header is None:
        return Refusal.UNSIGNED
    if not header.startswith("sha256="):
        return Refusal.MALFORMED
    if not _is_among(_hex(secret, body), [header.removeprefix("sha256=")]):
        return Refusal.FORGED
    return Genuine(_event_id(_header(headers, "x-github-delivery"), body))


def _verify_slack(secret: str, headers: Mapping[str, str], body: bytes, now: datetime) -> Verdict:
    header, time = _header(headers, "x-slack-signature"), _header(headers, "x-slack-request-timestamp")
    if header is None or time is None:
        return Refusal.UNSIGNED
    if _UNIX.fullmatch(time) is None or not header.startswith("v0="):
        return Refusal.MALFORMED
    if abs(int(time) - now.timestamp()) > TOLERANCE_SECONDS:
        return Refusal.STALE
    if not _is_among(_hex(secret, f"v0:{time}:".encode() + body), [header.removeprefix("v0=")]):
        return Refusal.FORGED
    challenge = _member(body, "challenge")
    if challenge is not None and _member(body, "type") == "url_verification":
        return Challenge(challenge)
    return Genuine(_event_id(_member(body, "event_id"), body))


def _verify_hmac(secret: str, headers: Mapping[str, str], body: bytes) -> Verdict:
    header = _header(headers, "x-signature-256") or _header(headers, "x-signature")
    if header is None:
        return Refusal.UNSIGNED
    if not _is_among(_hex(secret, body), [header.removeprefix("sha256=").lower()]):
        return Refusal.FORGED
    return Genuine(_event_id(None, body))


def _header(headers: Mapping[str, str], name: str) -> str | None:
    """None for one that is absent, empty or too long to be meant."""
    value = headers.get(name)
    return value if value and len(value) <= MAX_HEADER_CHARACTERS else None


def _hex(secret: str, signed: bytes) -> bytes:
    return hmac.digest(secret.encode(), signed, "sha256").hex().encode()


def _is_among(expected: bytes, given: Iterable[str]) -> bool:
    """Looks at all of them, so that the time tells nothing of which."""
    matches = [
        hmac.compare_digest(expected, each.encode()) for each, _ in zip(given, range(MAX_SIGNATURES), strict=False)
    ]
    return any(matches)


def _member(body: bytes, name: str) -> str | None:
    """A member of a JSON object, where it is a text."""
    try:
        value = _decode_members(body).get(name)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return value if isinstance(value, str) else None


def _event_id(given: str | None, body: bytes) -> str:
    if given and len(given) <= MAX_EVENT_ID_CHARACTERS and _EVENT_ID.fullmatch(given):
        return given
    return hashlib.sha256(given.encode() if given else body).hexdigest()
