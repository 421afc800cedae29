"""The headers of a webhook: one request that every receiver's verifier accepts. Pure.

Guarantees: each attempt passes Stripe's libraries, Standard Webhooks' (and so Svix's), and whoever compares the hex of
HMAC-SHA256 over the body, with every secret that is active. The hex and Stripe forms use the whole text of the secret
as key, Standard Webhooks the bytes that its base64 stands for.

A header with one bare signature is made with the oldest active secret: during a rotation receivers go on knowing that
one until it is retired. It binds no time, so it cannot tell a replay from a first delivery: `Sendora-Signature` and
`webhook-signature` can.
"""

from __future__ import annotations

import hmac
import secrets
from base64 import b64decode, b64encode
from collections.abc import Sequence
from enum import StrEnum

SECRET_PREFIX = "whsec_"  # noqa: S105
SECRET_BYTES = 24
"""Their base64 needs no padding, so no reader of it can go wrong."""
HINT_CHARACTERS = 4
"""Of a secret's end: enough to tell two apart, 168 bits are left to guess."""

USER_AGENT = "Sendora-Webhooks/1.0"
CONTENT_TYPE = "application/json"


class SignatureScheme(StrEnum):
    """The format of X-Sendora-Signature; all other headers are always there."""

    HEX = "HEX"
    SHA256_PREFIXED = "SHA256_PREFIXED"
    STRIPE = "STRIPE"


_HEX, _SHA256_PREFIXED = SignatureScheme.HEX, SignatureScheme.SHA256_PREFIXED


def make_secret() -> str:
    """A new one."""
    return SECRET_PREFIX + b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def hint_of(secret: str) -> str:
    """What may be shown of a secret."""
    return f"{SECRET_PREFIX}…{secret[-HINT_CHARACTERS:]}"


def sign_webhook(
    body: bytes, *, event_id: str, active: Sequence[str], scheme: SignatureScheme, at: int
) -> dict[str, str]:
    """All headers of one attempt but those that HTTP itself needs.

    `active` are the secrets, at least one, the oldest first; `at` is when the attempt is made, in Unix seconds of real
    time: receivers refuse what is five minutes off.
    """
    timed = b"%d.%b" % (at, body)
    named = b"%b.%b" % (event_id.encode(), timed)
    bare = _hex(active[0].encode(), body)
    prefixed = f"sha256={bare}"
    stripe = f"t={at}," + ",".join(f"v1={_hex(secret.encode(), timed)}" for secret in active)
    return {
        "User-Agent": USER_AGENT,
        "Content-Type": CONTENT_TYPE,
        "X-Sendora-Signature": bare if scheme is _HEX else prefixed if scheme is _SHA256_PREFIXED else stripe,
        "X-Sendora-Signature-256": prefixed,
        "X-Sendora-Timestamp": str(at),
        "X-Sendora-Event-Id": event_id,
        "Sendora-Signature": stripe,
        "webhook-id": event_id,
        "webhook-timestamp": str(at),
        "webhook-signature": " ".join(f"v1,{_base64(_key_bytes(secret), named)}" for secret in active),
    }


def _hex(key: bytes, message: bytes) -> str:
    return hmac.digest(key, message, "sha256").hex()


def _base64(key: bytes, message: bytes) -> str:
    return b64encode(hmac.digest(key, message, "sha256")).decode()


def _key_bytes(secret: str) -> bytes:
    return b64decode(secret.removeprefix(SECRET_PREFIX))
