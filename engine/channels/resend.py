"""Mail through Resend's HTTP API.

Guarantees: an attempt that is made again carries the same `Idempotency-Key`, under which Resend sends once within 24
hours; so an answer that never came is no reason to give up. What Resend refuses keeps its own word (`validation_error`,
`rate_limit_exceeded`, …). Leaves to others: what is in the mail, whether the sender may send it, and DKIM: Resend signs
with keys of its own, for domains that the customer has verified there as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import msgspec

from engine.channels.base import Accepted, Answer, Deferred, Outcome, Rejected, Unknown
from engine.channels.http import HttpAnswer, HttpClient, HttpFailure
from engine.dispatch.values import DeliveryError

BASE_URL = "https://api.resend.com"
MAX_BODY_BYTES = 4096
MAX_MESSAGE_CHARACTERS = 500

CREDENTIALS_REFUSED = frozenset({"missing_api_key", "invalid_api_key", "restricted_api_key"})
_ADDRESS = re.compile(r"<?[^\s<>@,;:`'\"]+@[^\s<>,;:`'\"]+>?")
_HINTS = {
    "restricted_api_key": "Make a key with sending access in Resend, and give it with configureProvider.",
    "invalid_api_key": "Give the API key again with configureProvider.",
    "missing_api_key": "Give the API key with configureProvider.",
    "daily_quota_exceeded": "The account's quota for today is used up: it is tried again, or upgrade the plan.",
    "monthly_quota_exceeded": "The account's quota for this month is used up: upgrade the plan.",
    "invalid_from_address": "Verify the sender's domain in Resend, too.",
    "validation_error": "Look at the message; a domain has to be verified in Resend, too.",
    "invalid_idempotent_request": "It was accepted before, in other words: see whether it has arrived.",
}


class ResendMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One mail. `idempotency_key` stays the same at every attempt, and so does `body`."""

    base_url: str = BASE_URL
    api_key: str
    idempotency_key: str
    body: Mapping[str, Any]
    repeatable: bool = True

    def __repr__(self) -> str:
        return f"ResendMessage(idempotency_key={self.idempotency_key})"


class ResendSender:
    """Sends for one process, through its guarded client, which others close."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http

    async def send(self, message: ResendMessage) -> Outcome:
        """One attempt."""
        answer = await self._http.request(
            "POST",
            f"{message.base_url.rstrip('/')}/emails",
            headers={
                "Authorization": f"Bearer {message.api_key}",
                "Content-Type": "application/json",
                "Idempotency-Key": message.idempotency_key,
            },
            body=msgspec.json.encode(message.body),
            max_body=MAX_BODY_BYTES,
        )
        return _failed(answer) if isinstance(answer, HttpFailure) else outcome_of(answer)


def outcome_of(answer: HttpAnswer) -> Outcome:
    """What an answer means. Pure."""
    said = _read(answer.body)
    logged = Answer(status_code=answer.status, response_body=_without_addresses(answer.body))
    if 200 <= answer.status < 300:
        found = said.get("id")
        return Accepted(provider_message_id=found if isinstance(found, str) else None, answer=logged)
    name = said.get("name")
    code = name if isinstance(name, str) and name.isidentifier() else f"HTTP_{answer.status}"
    is_account = answer.status == 429 or code in CREDENTIALS_REFUSED or answer.status == 401
    passes = is_account or answer.status in (408, 425) or answer.status >= 500 or code.startswith("concurrent_")
    error = DeliveryError(code, _sentence(said, answer.status), permanent=not passes, hint=_HINTS.get(code))
    if not passes:
        return Rejected(error=error, answer=logged)
    return Deferred(error=error, answer=logged, retry_after=_retry_after(answer.headers), is_account=is_account)


def _failed(failure: HttpFailure) -> Outcome:
    error = DeliveryError(failure.code, failure.message, permanent=failure.code == "BLOCKED_URL")
    if error.permanent:
        return Rejected(error=error)
    return Unknown(error=error) if failure.was_sent else Deferred(error=error, is_account=True)


def _retry_after(headers: Mapping[str, str]) -> timedelta | None:
    """`Retry-After`, or when the limit is reset; both in seconds."""
    for name in ("Retry-After", "RateLimit-Reset"):
        value = headers.get(name, "").strip()
        if value.isascii() and value.isdigit() and len(value) < 7:
            return timedelta(seconds=int(value))
    return None


def _read(body: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeEncodeError):
        return {}


def _sentence(said: Mapping[str, Any], status: int) -> str:
    message = said.get("message")
    if not isinstance(message, str) or not message:
        return f"Resend answered with status {status}."
    return f"Resend refused the mail: {_without_addresses(message)}"[:MAX_MESSAGE_CHARACTERS]


def _without_addresses(text: str) -> str:
    return _ADDRESS.sub("<address>", text)
