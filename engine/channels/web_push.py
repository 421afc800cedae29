"""Sends to the push services of browsers (RFC 8030), encrypted (RFC 8291) and signed with VAPID (RFC 8292).

pywebpush encrypts and py_vapid signs; the request goes through the guarded client of engine/channels/http.py, because
the endpoint comes from whoever registered it. Guarantees: what the push service sees of a message is its size, `TTL`,
`Urgency` and `Topic`; a VAPID header is signed once per key pair, subject and origin, and used for at most 11 of its
12 hours. Leaves to others: retries, and closing the HTTP client. Holds nothing to stop.

The service worker's `push` event gets JSON with these keys, absent where nothing was given: `title`, `body`,
`deliveryId` (for `trackPush`), `data` (as it was given), `url`, `image`, `tag` (the collapse id), `badge`.
"""

from __future__ import annotations

import re
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import OrderedDict
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from http_ece import ECEException
from py_vapid import Vapid02, VapidException
from pywebpush import WebPusher, WebPushException

from engine.channels.base import Deferred, Outcome, Rejected, Unknown
from engine.channels.http import HttpAnswer, HttpClient, HttpFailure
from engine.channels.push_limits import http_answer, read_retry_after, too_large
from engine.channels.push_message import PushAccepted, PushRejected, VapidKeys, WebPushMessage
from engine.dispatch.values import DeliveryError, PushNotification
from engine.node_ids import NodeKind, write_node_id

MAX_TEXT_BYTES = 3993
"""What is left of 4,096 bytes, which every push service takes, for the text: 86 are the header, 17 padding and tag."""
DEFAULT_TTL_SECONDS = 28 * 86400
"""RFC 8030 wants a TTL; this is what the services keep a message at most."""
VAPID_SECONDS = 12 * 3600
"""RFC 8292 allows 24 hours; some services count them by their own clock."""
VAPID_MARGIN_SECONDS = 3600
"""So long before it expires, a header is not used any more."""
MAX_VAPID_HEADERS = 4096
"""A browser maker has one origin: this is for as many projects."""
MAX_TOPIC_CHARACTERS = 32
"""RFC 8030 section 5.4."""

_TOPIC = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_TOPIC_CHARACTERS}}}")
_POINT_BYTES, _AUTH_BYTES = 65, 16


class _Meaning(msgspec.Struct, frozen=True):
    """Of one status. `hint` says what to do."""

    code: str
    hint: str
    permanent: bool = True
    is_dead: bool = False


_GONE = "The browser has ended the subscription: it registers a new one if the person allows notifications again."
_CREDENTIALS = (
    "The subscription was made with another key: pass pushSettings.vapidPublicKey as applicationServerKey, and "
    "subscribe again."
)
_LATER = "It is tried again by itself."
_MEANINGS = {
    400: _Meaning("BadRequest", "The push service takes no such message: report it with the delivery's id."),
    401: _Meaning("Unauthorized", _CREDENTIALS),
    403: _Meaning("Forbidden", _CREDENTIALS),
    404: _Meaning("NotFound", _GONE, is_dead=True),
    408: _Meaning("RequestTimeout", _LATER, permanent=False),
    410: _Meaning("Gone", _GONE, is_dead=True),
    413: _Meaning("PayloadTooLarge", "Shorten the text or data: the push service takes no more."),
    429: _Meaning("TooManyRequests", "Send less often to this browser: its push service limits it.", permanent=False),
    500: _Meaning("InternalServerError", _LATER, permanent=False),
    502: _Meaning("BadGateway", _LATER, permanent=False),
    503: _Meaning("ServiceUnavailable", _LATER, permanent=False),
    504: _Meaning("GatewayTimeout", _LATER, permanent=False),
}


def make_vapid_keys() -> VapidKeys:
    """A new key pair."""
    vapid = Vapid02()
    vapid.generate_keys()
    point = vapid.public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    private = vapid.private_key.private_numbers().private_value.to_bytes(32, "big")
    return VapidKeys(private_key=_write_base64(private), public_key=_write_base64(point))


class WebPushSender:
    """`http` is shared; whoever made it closes it."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http
        self._headers: OrderedDict[tuple[VapidKeys, str, str], tuple[str, float]] = OrderedDict()

    async def send(self, message: WebPushMessage) -> Outcome:
        """One attempt."""
        text = text_of(message)
        if len(text) > MAX_TEXT_BYTES:
            return too_large(len(text), MAX_TEXT_BYTES)
        try:
            body = encrypt(text, p256dh=message.p256dh, auth=message.auth)
        except ValueError:
            return _UNUSABLE_KEYS
        try:
            origin = origin_of(message.endpoint)
        except ValueError:
            return _NO_ENDPOINT
        try:
            authorization = self._authorization(message, origin)
        except (VapidException, ValueError):
            return _UNUSABLE_VAPID
        answer = await self._http.request(
            "POST", message.endpoint, headers=headers_of(message.notification, authorization), body=body
        )
        return _unanswered(answer) if isinstance(answer, HttpFailure) else outcome_of(answer)

    def _authorization(self, message: WebPushMessage, origin: str) -> str:
        """Raises `VapidException` or `ValueError` for a key, a subject or an origin that is none."""
        now = time.time()
        key = (message.vapid, message.subject, origin)
        header, good_until = self._headers.get(key, ("", 0.0))
        if now >= good_until:
            header = _sign(message.vapid, message.subject, origin, int(now) + VAPID_SECONDS)
            self._headers[key] = header, now + VAPID_SECONDS - VAPID_MARGIN_SECONDS
            if len(self._headers) > MAX_VAPID_HEADERS:
                self._headers.popitem(last=False)
        self._headers.move_to_end(key)
        return header


def _sign(keys: VapidKeys, subject: str, origin: str, expires: int) -> str:
    vapid = Vapid02.from_raw(keys.private_key.encode())
    header: str = vapid.sign({"sub": subject, "aud": origin, "exp": expires})["Authorization"]
    return header


def origin_of(endpoint: str) -> str:
    """For the `aud` claim, as RFC 6454 section 6.2 writes an origin. Raises `ValueError` when there is none."""
    parts = urlsplit(endpoint)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    if default is None or not parts.hostname:
        raise ValueError("no http URL")
    port = "" if parts.port in (None, default) else f":{parts.port}"
    return f"{parts.scheme}://{parts.hostname}{port}"


def encrypt(text: bytes, *, p256dh: str, auth: str) -> bytes:
    """A request's body: one record, encrypted for the browser. Raises `ValueError` when its keys are none."""
    if len(_read_base64(p256dh)) != _POINT_BYTES or len(_read_base64(auth)) != _AUTH_BYTES:
        raise ValueError("the keys have another length")
    try:
        pusher = WebPusher({"endpoint": "", "keys": {"p256dh": p256dh, "auth": auth}})
        body: bytes = pusher.encode(text)["body"]
    except (WebPushException, ECEException) as error:
        raise ValueError("the keys are none") from error
    return body


def text_of(message: WebPushMessage) -> bytes:
    """What the service worker gets."""
    push = message.notification
    text: dict[str, Any] = {
        "title": push.title,
        "body": push.body,
        "deliveryId": write_node_id(NodeKind.DELIVERY, message.delivery_id),
    }
    optional = {
        "data": push.data,
        "url": push.url,
        "image": push.image_url,
        "tag": push.collapse_id,
        "badge": push.badge,
    }
    return msgspec.json.encode(text | {key: value for key, value in optional.items() if value is not None})


def headers_of(push: PushNotification, authorization: str) -> dict[str, str]:
    """Of the request (RFC 8030 sections 5.2 to 5.4)."""
    headers = {
        "Authorization": authorization,
        "Content-Encoding": "aes128gcm",
        "Content-Type": "application/octet-stream",
        "TTL": str(DEFAULT_TTL_SECONDS if push.ttl_seconds is None else push.ttl_seconds),
        "Urgency": "normal" if push.priority == "NORMAL" else "high",
    }
    if push.collapse_id:
        headers["Topic"] = topic_of(push.collapse_id)
    return headers


def topic_of(collapse_id: str) -> str:
    """As it is where it may be a topic; else the beginning of its digest: equal ids stay equal."""
    if _TOPIC.fullmatch(collapse_id):
        return collapse_id
    return _write_base64(sha256(collapse_id.encode()).digest())[:MAX_TOPIC_CHARACTERS]


def outcome_of(answer: HttpAnswer) -> Outcome:
    """What a push service's answer means."""
    logged = http_answer(answer.status, answer.body)
    if 200 <= answer.status < 300:
        return PushAccepted(answer=logged)
    meaning = _MEANINGS.get(answer.status) or _unknown(answer.status)
    error = DeliveryError(
        code=meaning.code,
        message=f"The push service answered {answer.status}.",
        permanent=meaning.permanent,
        hint=meaning.hint,
    )
    if meaning.permanent:
        return PushRejected(error=error, answer=logged, address_is_dead=meaning.is_dead)
    return Deferred(
        error=error,
        answer=logged,
        retry_after=read_retry_after(answer.headers.get("Retry-After")),
        # a limit is one browser's or one project's; the lane is everybody's who sends to this service
        is_account=answer.status >= 500,
    )


def _unknown(status: int) -> _Meaning:
    if status >= 500:
        return _Meaning(f"HTTP{status}", _LATER, permanent=False)
    return _Meaning(f"HTTP{status}", "The endpoint is not a push service's: register what the browser gives.")


def _unanswered(failure: HttpFailure) -> Outcome:
    error = DeliveryError(code=failure.code, message=failure.message, permanent=False, hint=_LATER)
    if failure.was_sent:
        hint = "It may have been shown: push services do not deduplicate, so it is not repeated by itself."
        return Unknown(error=msgspec.structs.replace(error, code="NoAnswer", hint=hint))
    if failure.code == "BLOCKED_URL":
        hint = "Register the endpoint that the browser gives, as it is."
        return Rejected(error=msgspec.structs.replace(error, permanent=True, hint=hint))
    return Deferred(error=error, is_account=True)


_UNUSABLE_KEYS = PushRejected(
    error=DeliveryError(
        code="InvalidSubscription",
        message="The subscription's keys are none that can be encrypted for.",
        permanent=True,
        hint="Register keys.p256dh and keys.auth of PushSubscription.toJSON(), as they are.",
    ),
    address_is_dead=True,
)
_NO_ENDPOINT = PushRejected(
    error=DeliveryError(
        code="InvalidSubscription",
        message="The subscription's endpoint is no URL.",
        permanent=True,
        hint="Register the endpoint of PushSubscription.toJSON(), as it is.",
    ),
    address_is_dead=True,
)
_UNUSABLE_VAPID = Deferred(
    error=DeliveryError(
        code="InvalidVapid",
        message="No VAPID header can be signed for this push service.",
        permanent=False,
        hint="Set the provider's subject to mailto: and an address, or to an https URL, at which you can be reached.",
    )
)


def _read_base64(text: str) -> bytes:
    """base64url, padded or not. Raises `ValueError`."""
    return urlsafe_b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4))


def _write_base64(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")
