"""One request to Apple, what comes back of it, and the ways in which it ends."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from aioapns.common import NotificationRequest, NotificationResult

MAX_ANSWER_BYTES = 4096
"""Apple's answers have some 50 bytes."""


class NotSent(Exception):
    """Apple has certainly not processed it."""


class Lost(Exception):
    """It was sent, and no answer will come: whether Apple has processed it cannot be known."""


class UnusableKey(Exception):
    """The credential's key signs no token: it is no P-256 private key."""


class ApnsRequest(NotificationRequest):
    """A request with its body encoded. `expiration` is Unix seconds; 0 means: deliver at once or not at all."""

    __slots__ = ("body", "expiration", "headers_sent")

    def __init__(self, *, body: bytes, expiration: int | None, **fields: Any) -> None:
        super().__init__(message={}, **fields)
        self.body = body
        self.expiration = expiration
        self.headers_sent = False
        """Whether Apple may have seen it. Never goes back to false for a request that is not proven unprocessed."""


class ApnsAnswer(NotificationResult):
    """Apple's answer. `authorization` is the header that it was given to."""

    __slots__ = ("authorization", "body", "retry_after")

    def __init__(self, *, body: str, authorization: str, retry_after: str | None, **fields: Any) -> None:
        super().__init__(**fields)
        self.body = body
        self.authorization = authorization
        self.retry_after = retry_after


class Exchange:
    """One request and what has come back of it."""

    __slots__ = ("answer", "authorization", "body", "headers", "request", "stream_id")

    def __init__(self, request: ApnsRequest, answer: asyncio.Future[ApnsAnswer]) -> None:
        self.request = request
        self.answer = answer
        self.authorization = ""
        self.stream_id: int | None = None
        self.headers: dict[str, str] = {}
        self.body = bytearray()

    def fail(self, error: Exception) -> None:
        """Nothing more will come. A status that came counts, whatever is missing of its body."""
        if self.answer.done():
            return
        if ":status" in self.headers:
            self.finish()
            return
        if isinstance(error, NotSent):
            self.request.headers_sent = False
        self.answer.set_exception(error)

    def finish(self) -> None:
        """With Apple's answer."""
        if self.answer.done():
            return
        said = _read_body(bytes(self.body))
        self.answer.set_result(
            ApnsAnswer(
                notification_id=self.headers.get("apns-id") or self.request.notification_id,
                status=self.headers[":status"],
                description=said.reason,
                timestamp=said.timestamp,
                body=self.body.decode(errors="replace"),
                authorization=self.authorization,
                retry_after=self.headers.get("retry-after"),
            )
        )


class _Said(msgspec.Struct, frozen=True):
    """The JSON of an answer. `timestamp` is in milliseconds."""

    reason: str | None = None
    timestamp: int | None = None


def _read_body(body: bytes) -> _Said:
    try:
        return msgspec.json.decode(body, type=_Said)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Said()


def request_headers(request: ApnsRequest, host: str, authorization: str) -> list[tuple[str, str]]:
    headers = [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", f"/3/device/{request.device_token}"),
        (":authority", host),
        ("authorization", authorization),
        ("apns-id", request.notification_id),
        ("apns-topic", request.apns_topic or ""),
        ("apns-push-type", request.push_type.value if request.push_type else ""),
        ("apns-priority", str(request.priority)),
    ]
    if request.expiration is not None:
        headers.append(("apns-expiration", str(request.expiration)))
    if request.collapse_key is not None:
        headers.append(("apns-collapse-id", request.collapse_key))
    return headers
