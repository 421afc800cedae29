"""Twilio: one text message per request of its HTTP API.

Twilio does not deduplicate: a request that went out without an answer is `Unknown`, and the status callback, whose URL
names the delivery, tells later what became of it. Leaves to others: the session and its guard (`engine.channels.http`),
retries, rows, and the callbacks.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from datetime import timedelta
from urllib.parse import urlencode
from uuid import UUID

import msgspec

from engine.channels.base import Accepted, Answer, Deferred, Outcome, Rejected, Unknown
from engine.channels.http import HttpAnswer, HttpClient, HttpFailure
from engine.channels.twilio_errors import Scope, error_of, meaning_of
from engine.dispatch.values import DeliveryError

DEFAULT_BASE_URL = "https://api.twilio.com"
MAX_ANSWER_BYTES = 16 * 1024
"""Twilio repeats the text, which is up to 1600 characters, in what it answers."""
UNREACHABLE_HINT = "Check baseUrl in configureProvider and the network's way out."
UNKNOWN_HINT = "It may have been sent: Twilio does not deduplicate, so it is not repeated by itself."

_SID = re.compile(r"[A-Za-z0-9]{1,64}")
_SECONDS = re.compile(r"[0-9]{1,6}")


class TwilioMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One text to one number. `sender` is From, `service_sid` the messaging service: at least one of them is there."""

    provider_id: UUID
    base_url: str
    account_sid: str
    auth_token: str
    to: str
    body: str
    callback_url: str
    sender: str | None = None
    service_sid: str | None = None

    @property
    def repeatable(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"TwilioMessage(provider_id={self.provider_id})"


class _Reply(msgspec.Struct, frozen=True):
    """What of Twilio's answer counts."""

    sid: str | None = None
    status: str | int | None = None
    num_segments: str | int | None = None
    code: int | None = None


_decoder = msgspec.json.Decoder(_Reply)


async def send_sms(http: HttpClient, message: TwilioMessage) -> Outcome:
    """One attempt. Never raises for what Twilio or the network does."""
    url = f"{message.base_url}/2010-04-01/Accounts/{message.account_sid}/Messages.json"
    answer = await http.request("POST", url, headers=_headers(message), body=_form(message), max_body=MAX_ANSWER_BYTES)
    return _failed(answer) if isinstance(answer, HttpFailure) else _outcome(answer)


def _headers(message: TwilioMessage) -> Mapping[str, str]:
    credentials = b64encode(f"{message.account_sid}:{message.auth_token}".encode()).decode()
    return {
        "Authorization": f"Basic {credentials}",
        "Content-Type": "application/x-www-form-urlencoded",
        "Accept": "application/json",
    }


def _form(message: TwilioMessage) -> bytes:
    fields = {
        "To": message.to,
        "From": message.sender,
        "MessagingServiceSid": message.service_sid,
        "Body": message.body,
        "StatusCallback": message.callback_url,
    }
    return urlencode({name: value for name, value in fields.items() if value is not None}).encode()


def _failed(failure: HttpFailure) -> Outcome:
    if failure.was_sent:
        error = DeliveryError(code=failure.code, message=failure.message, permanent=False, hint=UNKNOWN_HINT)
        return Unknown(error=error)
    error = DeliveryError(code=failure.code, message=failure.message, permanent=False, hint=UNREACHABLE_HINT)
    if failure.code == "BLOCKED_URL":
        return Rejected(error=msgspec.structs.replace(error, permanent=True))
    return Deferred(error=error, is_account=True)


def _outcome(answer: HttpAnswer) -> Outcome:
    reply = _read(answer.body)
    shown = _shown(answer, reply)
    if 200 <= answer.status < 300:
        sid = reply.sid if reply is not None and reply.sid and _SID.fullmatch(reply.sid) else None
        return Accepted(answer=shown, provider_message_id=sid)
    if answer.status >= 500 and answer.status != 503 and (reply is None or reply.code is None):
        # A proxy in between: whether Twilio has got it cannot be known.
        error = DeliveryError(
            code=f"HTTP_{answer.status}", message="Not Twilio answered.", permanent=False, hint=UNKNOWN_HINT
        )
        return Unknown(error=error, answer=shown)
    return _refusal(answer, reply, shown)


def _refusal(answer: HttpAnswer, reply: _Reply | None, shown: Answer) -> Outcome:
    """Twilio said that it has not taken it."""
    code = _code(answer.status, reply)
    scope = meaning_of(code).scope
    if scope in (Scope.ACCOUNT, Scope.THROTTLE) or answer.status >= 500:
        return Deferred(
            error=error_of(code, permanent=False), answer=shown, retry_after=_retry_after(answer), is_account=True
        )
    dead = scope in (Scope.NUMBER, Scope.UNSUBSCRIBED)
    return Rejected(error=error_of(code), answer=shown, address_is_dead=dead)


def _code(status: int, reply: _Reply | None) -> int | None:
    """Twilio's own, or the one that the HTTP status stands for."""
    if reply is not None and reply.code is not None:
        return reply.code
    return {401: 20003, 403: 20003, 404: 20404, 429: 20429}.get(status)


def _read(body: str) -> _Reply | None:
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeError):
        return None


def _shown(answer: HttpAnswer, reply: _Reply | None) -> Answer:
    """For the delivery's log, without the number and the text that Twilio repeats."""
    if reply is None:
        return Answer(status_code=answer.status)
    known = {name: value for name, value in msgspec.structs.asdict(reply).items() if value is not None}
    return Answer(status_code=answer.status, response_body=msgspec.json.encode(known).decode())


def _retry_after(answer: HttpAnswer) -> timedelta | None:
    seconds = answer.headers.get("Retry-After", "")
    return timedelta(seconds=int(seconds)) if _SECONDS.fullmatch(seconds) else None
