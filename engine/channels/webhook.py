"""Webhooks: one attempt is one request, signed for that moment, with the stored body byte for byte.

Guarantees: the event id stays the same at every attempt, so a receiver can drop what it has; redirects are never
followed; nothing is sent where the guard refuses. Leaves to others: which secrets are active, and when to try again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from uuid import UUID

import msgspec

from engine.channels.base import Accepted, Answer, Deferred, Outcome, Rejected
from engine.channels.http import HttpAnswer, HttpClient, HttpFailure, retry_after_of
from engine.dispatch.values import DeliveryError
from engine.webhooks.signing import SignatureScheme, sign_webhook

SIGNATURE_HEADER = "X-Sendora-Signature"
"""The line that is kept of each attempt."""

_GONE = 410
_RETRIED = frozenset({408, 425, 429})
_HOST_IS_UNWELL = frozenset({502, 503, 504})
"""Said by what stands before the receiver: true for everybody who sends there. A 429 is about one sender."""

_HINTS: Mapping[int, str] = {
    400: "The receiver refused the signature, or did not like the body: its log knows which.",
    401: "The receiver did not accept the signature: compare its secret, and sign the body's bytes as they came.",
    403: "The receiver did not accept the signature, or a firewall before it refused us.",
    404: "The receiver has nothing at this path: check the endpoint's url.",
    405: "The receiver does not take POST at this path: check the endpoint's url.",
    410: "The receiver wants nothing more. Save the endpoint with enabled: true once it does.",
    413: "The receiver's limit for bodies is too small.",
    429: "The receiver wants less at a time: it may say when with Retry-After.",
}
_REDIRECT_HINT = "Redirects are not followed: save the endpoint with the URL that it leads to."
_FAILURE_HINTS: Mapping[str, str] = {
    "BLOCKED_URL": "Use a public https address.",
    "DNS": "Check the name in the endpoint's url, and that it is published.",
    "CONNECTION_REFUSED": "Nothing listens there: check the port, and that the receiver runs.",
    "CONNECT_TIMEOUT": "A firewall may drop connections from us.",
    "TLS": "Renew the certificate, and send its whole chain.",
    "TIMEOUT": "Answer first with 2xx, then work on the event.",
    "DISCONNECTED": "The receiver closed the connection: its log knows why.",
}


METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE", "GET"})
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\xa0-\xff]{0,4096}")
MAX_HEADERS = 50
_NOT_SETTABLE = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "expect", "keep-alive"}
)
"""They say how the request travels, which is not the customer's to say."""


def request_refusal(method: str, headers: Mapping[str, str]) -> str | None:
    """Why a request cannot be sent with this method and these headers of the customer's, in a sentence."""
    if method not in METHODS:
        return f"A webhook's method is one of {', '.join(sorted(METHODS))}."
    if len(headers) > MAX_HEADERS:
        return f"A webhook has at most {MAX_HEADERS} headers of your own."
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or name.lower() in _NOT_SETTABLE:
            return "A header's name is malformed, or one that HTTP itself sets."
        if not _HEADER_VALUE.fullmatch(value):
            return "A header's value holds control characters, or more than 4096 characters."
    return None


class WebhookMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A webhook with everything one attempt needs. `active` are the secrets, the oldest first."""

    url: str
    body: bytes
    event_id: str
    active: tuple[str, ...]
    scheme: SignatureScheme = SignatureScheme.HEX
    method: str = "POST"
    headers: Mapping[str, str] = {}
    plain_http: bool = False
    endpoint_id: UUID | None = None

    @property
    def repeatable(self) -> bool:
        """The receiver knows what it has by `webhook-id`."""
        return True


class WebhookSender:
    """Sends webhooks through an `HttpClient`. `now` is real time in Unix seconds, as receivers keep it."""

    def __init__(self, client: HttpClient, *, now: Callable[[], float] = time.time) -> None:
        self._client = client
        self._now = now

    async def send(self, message: WebhookMessage) -> Outcome:
        """One attempt."""
        at = self._now()
        signed = sign_webhook(
            message.body, event_id=message.event_id, active=message.active, scheme=message.scheme, at=int(at)
        )
        result = await self._client.request(
            message.method,
            message.url,
            headers=_merged(message.headers, signed) if message.headers else signed,
            body=message.body,
            plain_http=message.plain_http,
        )
        if isinstance(result, HttpFailure):
            return _outcome_of_failure(result, signed[SIGNATURE_HEADER])
        return _outcome_of_answer(result, signed[SIGNATURE_HEADER], datetime.fromtimestamp(at, UTC))


def _merged(own: Mapping[str, str], signed: Mapping[str, str]) -> dict[str, str]:
    """The customer's headers may say what the body is, and never who signed it."""
    fixed = {name.lower() for name in signed} - {"content-type", "user-agent"}
    kept = {name: value for name, value in own.items() if name.lower() not in fixed}
    given = {name.lower() for name in kept}
    return kept | {name: value for name, value in signed.items() if name.lower() not in given}


def _outcome_of_answer(result: HttpAnswer, signature: str, now: datetime) -> Outcome:
    status = result.status
    answer = Answer(status_code=status, response_body=result.body, signature_header=signature)
    if 200 <= status < 300:
        return Accepted(answer=answer, is_final=True)
    if 300 <= status < 400:
        return Rejected(
            error=DeliveryError("REDIRECT", f"The receiver answered {status}.", True, _REDIRECT_HINT), answer=answer
        )
    is_passing = status in _RETRIED or status >= 500
    error = DeliveryError(
        f"HTTP_{status}", f"The receiver answered {status}.", permanent=not is_passing, hint=_HINTS.get(status)
    )
    if not is_passing:
        return Rejected(error=error, answer=answer, address_is_dead=status == _GONE)
    return Deferred(
        error=error,
        answer=answer,
        retry_after=retry_after_of(result.headers, now),
        is_account=status in _HOST_IS_UNWELL,
    )


def _outcome_of_failure(failure: HttpFailure, signature: str) -> Outcome:
    is_blocked = failure.code == "BLOCKED_URL"
    answer = Answer(signature_header=signature if failure.was_sent else None)
    error = DeliveryError(failure.code, failure.message, permanent=is_blocked, hint=_FAILURE_HINTS.get(failure.code))
    if is_blocked:
        return Rejected(error=error, answer=answer)
    return Deferred(error=error, answer=answer, is_account=True)
