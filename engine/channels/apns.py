"""Sends to Apple's push service.

Guarantees: one client per credential and environment, one provider token per credential, renewed after 50 minutes or
when Apple refuses it; a token that is bad in its environment is tried once in the other, and the outcome says which one
took it; what is put on the wire and not answered is `Unknown`, and only that. Leaves to others: retries, storing what
was learnt of a token, closing (`close`). What a request looks like is `request_of`, which is pure.

`apns-id` is the delivery's id at every attempt. Apple does not deduplicate by it.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from base64 import urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import msgspec
from aioapns.common import PushType
from aioapns.exceptions import ConnectionError as CannotConnect

from engine.channels.apns_exchange import ApnsAnswer, ApnsRequest, Lost, NotSent, UnusableKey
from engine.channels.apns_pool import ApnsPool
from engine.channels.apns_reasons import ENVIRONMENT_MISMATCHES, REASONS, REFUSED_TOKENS, Blame, meaning_of, word_of
from engine.channels.apns_token import ProviderToken
from engine.channels.base import Answer, Deferred, Outcome, Rejected, Unknown
from engine.channels.push_limits import custom_data, read_retry_after, too_large
from engine.channels.push_message import (
    MAX_PAYLOAD_BYTES,
    ApnsCredentials,
    ApnsMessage,
    PushAccepted,
    PushEnvironment,
    PushRejected,
    expo_rejection,
    is_expo_token,
)
from engine.dispatch.values import DeliveryError, LiveActivity, PushNotification
from engine.egress import Egress

SEND_SECONDS = 14.0
"""For all attempts of one send: less than `SEND_TIMEOUT`."""
MAX_CLIENTS = 512
"""Credentials in use at once by a worker; of those that are idle, the longest unused is closed first."""
MAX_COLLAPSE_BYTES = 64
"""Apple's limit on apns-collapse-id."""

_DEVICE_TOKEN = re.compile(r"(?:[0-9A-Fa-f]{2}){8,512}")
_PLAIN = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_PRIORITIES = {None: 10, "HIGH": 10, "NORMAL": 5}
_ACTIONS = {"START": "start", "UPDATE": "update", "END": "end"}


def trusting(ca_certificate: str | None) -> ssl.SSLContext:
    """TLS that trusts the public authorities, and besides them one given as PEM. Raises `ssl.SSLError` for none."""
    context = ssl.create_default_context()
    if ca_certificate is not None:
        context.load_verify_locations(cadata=ca_certificate)
    context.set_alpn_protocols(["h2"])
    return context


class ApnsSender:
    """Use and close it inside one running loop. `tls` makes the TLS settings for a CA certificate, or for none."""

    def __init__(self, egress: Egress, *, tls: Callable[[str | None], ssl.SSLContext] = trusting) -> None:
        self._egress = egress
        self._tls = tls
        self._public_tls: ssl.SSLContext | None = None
        self._clients: OrderedDict[ApnsCredentials, _Client] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()

    async def send(self, message: ApnsMessage) -> Outcome:
        """One attempt; two, if the token turns out to belong to the other environment."""
        if is_expo_token(message.device_token):
            return expo_rejection()
        if not _DEVICE_TOKEN.fullmatch(message.device_token):
            return _rejected("BadDeviceToken", "This is no hex device token.")
        try:
            client = self._client(message.credentials)
        except (ssl.SSLError, ValueError):
            return _unreachable("The provider's caCertificate is not PEM text of a certificate.")
        return await client.send(message)

    async def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            self._retire(client)
        self._clients.clear()
        await asyncio.gather(*self._closing)

    def _client(self, credentials: ApnsCredentials) -> _Client:
        client = self._clients.get(credentials)
        if client is None:
            client = _Client(credentials, self._egress, self._tls_for(credentials.ca_certificate))
            self._clients[credentials] = client
            self._make_room()
        self._clients.move_to_end(credentials)
        return client

    def _tls_for(self, ca_certificate: str | None) -> ssl.SSLContext:
        """Reading the public authorities takes some 20 ms: once is enough."""
        if ca_certificate is not None:
            return self._tls(ca_certificate)
        if self._public_tls is None:
            self._public_tls = self._tls(None)
        return self._public_tls

    def _make_room(self) -> None:
        excess = len(self._clients) - MAX_CLIENTS
        idle = [credentials for credentials, client in self._clients.items() if not client.in_flight]
        for credentials in idle[: max(excess, 0)]:
            self._retire(self._clients.pop(credentials))

    def _retire(self, client: _Client) -> None:
        task = asyncio.create_task(client.close(), name="apns client closing")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class _Client:
    """One credential: its provider token, and connections to both environments."""

    def __init__(self, credentials: ApnsCredentials, egress: Egress, tls: ssl.SSLContext) -> None:
        self._token = ProviderToken(key=credentials.key, key_id=credentials.key_id, team_id=credentials.team_id)
        self._egress = egress
        self._urls = {
            PushEnvironment.PRODUCTION: credentials.production_url,
            PushEnvironment.SANDBOX: credentials.sandbox_url,
        }
        self._pools = {
            environment: ApnsPool(
                url=url, topic=credentials.bundle_id, token=self._token, resolve=egress.resolve, tls=tls
            )
            for environment, url in self._urls.items()
        }

    @property
    def in_flight(self) -> int:
        return sum(pool.in_flight for pool in self._pools.values())

    async def close(self) -> None:
        for pool in self._pools.values():
            await pool.aclose()

    async def send(self, message: ApnsMessage) -> Outcome:
        """In the token's environment; then in the other one, if it is that which is wrong. What the other one says of
        the account is not held against it: it is not in use there."""
        deadline = asyncio.get_running_loop().time() + SEND_SECONDS
        outcome = await self._send_to(message.environment, message, deadline)
        if not isinstance(outcome, Rejected) or outcome.error.code not in ENVIRONMENT_MISMATCHES:
            return outcome
        other = await self._send_to(message.environment.other, message, deadline)
        if isinstance(other, Deferred):
            other = msgspec.structs.replace(other, is_account=False)
        return outcome if _says_nothing(other) else other

    async def _send_to(self, environment: PushEnvironment, message: ApnsMessage, deadline: float) -> Outcome:
        refusal = self._egress.refusal(self._urls[environment])
        if refusal is not None:
            return _unreachable(refusal)
        request = request_of(message, time.time())
        if len(request.body) > MAX_PAYLOAD_BYTES:
            return too_large(len(request.body))
        try:
            async with asyncio.timeout_at(deadline):
                return outcome_of(await self._exchange(environment, request), environment)
        except TimeoutError:
            return _lost("no answer came in time") if request.headers_sent else _unreachable("No free stream in time.")
        except NotSent as error:
            return _unreachable(f"APNs did not take the request: {error}.")
        except Lost as error:
            return _lost(str(error))
        except CannotConnect as error:
            return _unreachable(f"APNs could not be reached: {error}.")
        except UnusableKey:
            return _unreachable("The provider's key is not the text of a .p8 file.", code="InvalidProviderToken")

    async def _exchange(self, environment: PushEnvironment, request: ApnsRequest) -> ApnsAnswer:
        """Again, once, when Apple refuses the provider token and there is another one: it processed nothing then."""
        pool = self._pools[environment]
        answer = await pool.send_notification(request)
        if answer.description in REFUSED_TOKENS and self._token.refuse(answer.authorization):
            request.headers_sent = False
            return await pool.send_notification(request)
        return answer


def _says_nothing(outcome: Outcome) -> bool:
    """Whether the other environment knows the token no better, or refuses the credentials: then the first one's word
    stands."""
    if isinstance(outcome, Rejected):
        return outcome.error.code in ENVIRONMENT_MISMATCHES
    meaning = REASONS.get(outcome.error.code) if isinstance(outcome, Deferred) else None
    return meaning is not None and meaning.blame is Blame.ACCOUNT


def request_of(message: ApnsMessage, now: float) -> ApnsRequest:
    """What is sent to Apple; `now` in Unix seconds. A push without title and body is a background push."""
    topic = message.credentials.bundle_id
    if message.live_activity is not None:
        push, kind = message.live_activity.alert, PushType.LIVEACTIVITY
        topic = f"{topic}.push-type.liveactivity"
        payload: dict[str, Any] = {"aps": _activity_aps(message.live_activity, message.made_at)}
    elif message.notification is not None:
        push = message.notification
        kind = PushType.ALERT if push.title or push.body else PushType.BACKGROUND
        payload = custom_data(message.delivery_id, push)
        payload["aps"] = _alert_aps(push) if kind is PushType.ALERT else {"content-available": 1}
    else:
        raise ValueError("neither a notification nor a Live Activity")
    ttl = None if push is None else push.ttl_seconds
    return ApnsRequest(
        device_token=message.device_token,
        notification_id=str(message.delivery_id),
        body=msgspec.json.encode(payload),
        expiration=None if ttl is None else int(now) + ttl if ttl else 0,
        priority=5 if kind is PushType.BACKGROUND else 10 if push is None else _PRIORITIES.get(push.priority, 10),
        collapse_key=None if push is None else collapse_id_of(push.collapse_id),
        push_type=kind,
        apns_topic=topic,
    )


def collapse_id_of(collapse_id: str | None) -> str | None:
    """As it is where Apple takes it: printable ASCII of at most 64 bytes. Else its digest: equal ids stay equal."""
    if not collapse_id:
        return None
    if len(collapse_id) <= MAX_COLLAPSE_BYTES and _PLAIN.fullmatch(collapse_id):
        return collapse_id
    return urlsafe_b64encode(sha256(collapse_id.encode()).digest()).decode().rstrip("=")


def _alert_aps(push: PushNotification) -> dict[str, Any]:
    aps: dict[str, Any] = {"alert": _alert(push)}
    optional = {"badge": push.badge, "sound": push.sound, "category": push.category, "thread-id": push.thread_id}
    aps |= {key: value for key, value in optional.items() if value is not None}
    if push.image_url is not None:
        aps["mutable-content"] = 1
    return aps


def _alert(push: PushNotification) -> dict[str, str]:
    return {key: value for key, value in (("title", push.title), ("body", push.body)) if value}


def _activity_aps(activity: LiveActivity, made_at: datetime) -> dict[str, Any]:
    aps: dict[str, Any] = {
        "timestamp": int(made_at.timestamp()),
        "event": _ACTIONS[activity.action],
        "content-state": {} if activity.content_state is None else activity.content_state,
    }
    if activity.action == "START":
        aps["attributes-type"] = activity.attributes_type
        aps["attributes"] = {} if activity.attributes is None else activity.attributes
        aps["input-push-token"] = 1
    if activity.stale_date is not None:
        aps["stale-date"] = activity.stale_date
    if activity.dismissal_date is not None:
        aps["dismissal-date"] = activity.dismissal_date
    if activity.alert is not None:
        aps["alert"] = _alert(activity.alert)
        if activity.alert.sound is not None:
            aps["alert"]["sound"] = activity.alert.sound
    return aps


def outcome_of(answer: ApnsAnswer, environment: PushEnvironment) -> Outcome:
    """What Apple's answer means."""
    status = int(answer.status) if answer.status.isdigit() else 0
    logged = Answer(status_code=status, response_body=answer.body or None)
    if status == 200:
        return PushAccepted(answer=logged, provider_message_id=answer.notification_id.lower(), environment=environment)
    word = word_of(status, answer.description)
    meaning = meaning_of(status, word)
    error = DeliveryError(
        code=word,
        message=f"APNs ({environment.lower()}) answered {status} {word}.",
        permanent=meaning.blame in (Blame.ADDRESS, Blame.MESSAGE),
        hint=meaning.hint,
    )
    if error.permanent:
        is_dead = meaning.blame is Blame.ADDRESS
        return PushRejected(
            error=error,
            answer=logged,
            address_is_dead=is_dead,
            dead_since=_time_of(answer.timestamp) if is_dead else None,
        )
    return Deferred(
        error=error,
        answer=logged,
        retry_after=read_retry_after(answer.retry_after),
        is_account=meaning.blame is Blame.ACCOUNT or status >= 500,
    )


def _time_of(milliseconds: int | None) -> datetime | None:
    if milliseconds is None or not 0 < milliseconds < 10**14:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _rejected(code: str, message: str) -> PushRejected:
    meaning = REASONS[code]
    error = DeliveryError(code=code, message=message, permanent=True, hint=meaning.hint)
    return PushRejected(error=error, address_is_dead=meaning.blame is Blame.ADDRESS)


def _lost(reason: str) -> Unknown:
    return Unknown(
        error=DeliveryError(
            code="NoAnswer",
            message=f"The push was sent to APNs, but {reason}.",
            permanent=False,
            hint="It may have been shown: Apple does not deduplicate, so it is not repeated by itself.",
        )
    )


def _unreachable(message: str, code: str = "Unreachable") -> Deferred:
    hint = REASONS[code].hint if code in REASONS else "Check the APNs provider's URLs and the network's way out."
    return Deferred(error=DeliveryError(code=code, message=message, permanent=False, hint=hint), is_account=True)
