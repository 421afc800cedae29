"""Sends to Firebase Cloud Messaging, API v1.

pyfcm makes the payload and knows the credentials; what it does with the network it does in threads, with a token for
each, sleeping. So a send here goes through the guarded client of engine/channels/http.py, and so does the fetching of
an OAuth token, for which google-auth gets a transport of ours: it runs in a thread because it signs and waits, and in
one of our own because token endpoints are the customers' to name: six that hang would take all threads of the process.

Guarantees: one access token per service account, fetched once however many sends wait for it, kept until 5 minutes
before it expires, and fetched anew once when Google refuses it; a send ends within `SEND_SECONDS`. Leaves to others:
retries, and closing the HTTP client. Stops with `close`.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import msgspec
from google.auth.exceptions import GoogleAuthError, RefreshError, TransportError
from google.auth.transport import Request, Response
from google.oauth2.service_account import Credentials
from pyfcm import FCMNotification

from engine.channels.base import Deferred, Outcome, Unknown
from engine.channels.fcm_reasons import refusal_of
from engine.channels.http import HttpAnswer, HttpClient, HttpFailure
from engine.channels.push_limits import custom_data, http_answer, read_retry_after, too_large
from engine.channels.push_message import (
    MAX_PAYLOAD_BYTES,
    FcmCredentials,
    FcmMessage,
    PushAccepted,
    PushRejected,
    expo_rejection,
    is_expo_token,
)
from engine.dispatch.values import DeliveryError
from engine.tasks import end_tasks

SEND_SECONDS = 14.0
"""For a token and both attempts: less than `SEND_TIMEOUT`."""
TOKEN_MARGIN_SECONDS = 5 * 60
"""So long before it expires, an access token is not used any more."""
TOKEN_SECONDS = 50 * 60
"""For how long a token is used whose answer did not say when it expires: Google's live for an hour."""
MAX_ACCOUNTS = 512
"""Service accounts that are kept; the longest unused is forgotten first."""
MAX_TOKEN_ANSWER_BYTES = 16 * 1024
"""An access token has some hundred bytes; with an identity token beside it, some thousand."""
MAX_TTL_SECONDS = 4 * 7 * 86400
"""Google's limit."""

_SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
_TOKEN = re.compile(r"[\x21-\x7e]{1,8192}")
_PROJECT = re.compile(r"[a-z0-9.:_-]{1,100}")
_CREDENTIALS_HINT = (
    "Create a new key for the service account in the Firebase console, and configure the JSON file as it is."
)


class FcmSender:
    """Use and close it inside one running loop. `http` is shared; whoever made it closes it."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http
        self._accounts: OrderedDict[FcmCredentials, _Account] = OrderedDict()
        # Threads are made as they are needed; one for each account, so that none waits for another's.
        self._threads = ThreadPoolExecutor(MAX_ACCOUNTS, thread_name_prefix="fcm token")

    async def send(self, message: FcmMessage) -> Outcome:
        """One attempt; two, if Google has revoked the access token."""
        if is_expo_token(message.registration_token):
            return expo_rejection()
        size = payload_size(message)
        if size > MAX_PAYLOAD_BYTES:
            return too_large(size)
        return await self._account(message.credentials).send(message)

    async def close(self) -> None:
        """End what is under way."""
        await end_tasks([account.refreshing for account in self._accounts.values()])
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _account(self, credentials: FcmCredentials) -> _Account:
        account = self._accounts.get(credentials)
        if account is None:
            account = self._accounts[credentials] = _Account(credentials, self._http, self._threads)
            if len(self._accounts) > MAX_ACCOUNTS:
                self._forget_one()
        self._accounts.move_to_end(credentials)
        return account

    def _forget_one(self) -> None:
        idle = (credentials for credentials, account in self._accounts.items() if account.refreshing is None)
        with suppress(StopIteration):
            del self._accounts[next(idle)]


class _NoToken(Exception):
    """There is no access token, and why."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class _Fcm(FCMNotification):  # type: ignore[misc]
    """pyfcm's payloads and endpoint, without its network."""

    def __init__(self, credentials: Credentials, endpoint: str) -> None:
        super().__init__(credentials=credentials)
        self.FCM_END_POINT_BASE = f"{endpoint.rstrip('/')}/v1/projects"


class _Account:
    """One service account: its access token, and the sends with it."""

    def __init__(self, credentials: FcmCredentials, http: HttpClient, threads: Executor) -> None:
        self._credentials = credentials
        self._http = http
        self._threads = threads
        self._fcm: _Fcm | None = None
        self._held: _Access | None = None
        self.refreshing: asyncio.Task[_Access] | None = None

    async def send(self, message: FcmMessage) -> Outcome:
        attempt = _Attempt()
        try:
            async with asyncio.timeout(SEND_SECONDS):
                return await self._send(message, attempt)
        except TimeoutError:
            return _unanswered("TIMEOUT", "No answer in time.", was_sent=attempt.is_under_way)
        except _NoToken as error:
            return _deferred(error.code, str(error), _CREDENTIALS_HINT)

    async def _send(self, message: FcmMessage, attempt: _Attempt) -> Outcome:
        access = await self._access()
        answer = await self._post(message, access, attempt)
        if isinstance(answer, HttpAnswer) and _refuses_token(answer):
            answer = await self._post(message, await self._access(refused=access), attempt)
        if isinstance(answer, HttpFailure):
            return _unanswered(answer.code, answer.message, was_sent=answer.was_sent)
        return outcome_of(answer)

    async def _post(self, message: FcmMessage, access: _Access, attempt: _Attempt) -> HttpAnswer | HttpFailure:
        attempt.is_under_way = True
        answer = await self._http.request(
            "POST",
            access.fcm.fcm_end_point,
            headers={"Authorization": f"Bearer {access.token}", "Content-Type": "application/json"},
            body=body_of(access.fcm, message),
        )
        attempt.is_under_way = False
        return answer

    async def _access(self, refused: _Access | None = None) -> _Access:
        """A token that is good, and another one than was refused. Whoever waits may go away: the others get it."""
        held = self._held
        if held is not None and held is not refused and asyncio.get_running_loop().time() < held.good_until:
            return held
        if self.refreshing is None:
            self.refreshing = asyncio.create_task(self._refresh(), name="fcm access token")
            self.refreshing.add_done_callback(self._refreshed)
        return await asyncio.shield(self.refreshing)

    def _refreshed(self, task: asyncio.Task[_Access]) -> None:
        self.refreshing = None
        if not task.cancelled():
            task.exception()  # whoever waited has had it; nobody may be left

    async def _refresh(self) -> _Access:
        loop = asyncio.get_running_loop()
        if self._fcm is None:
            self._fcm = await loop.run_in_executor(self._threads, _open, self._credentials)
        transport = _GuardedTransport(self._http, loop)
        await loop.run_in_executor(self._threads, _fetch_token, self._fcm.credentials, transport)
        good_until = loop.time() + _seconds_good(self._fcm.credentials.expiry)
        self._held = _Access(self._fcm, self._fcm.credentials.token, good_until)
        return self._held


class _Access(msgspec.Struct, frozen=True):
    """An access token, and until when it is used in the loop's time."""

    fcm: _Fcm
    token: str
    good_until: float

    def __repr__(self) -> str:
        return "_Access(…)"


class _Attempt:
    """Whether a request is on its way, so that Google may have got it."""

    is_under_way = False


def _open(credentials: FcmCredentials) -> _Fcm:
    """Reads the key, which takes some 50 ms."""
    try:
        info = msgspec.json.decode(credentials.service_account, type=dict[str, Any])
        opened = Credentials.from_service_account_info(info, scopes=[_SCOPE])  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, KeyError, GoogleAuthError):
        raise _NoToken("InvalidCredentials", "The service account is not the JSON file that Google gives.") from None
    if not _PROJECT.fullmatch(str(opened.project_id)):
        raise _NoToken("InvalidCredentials", "The service account has no valid project_id.")
    return _Fcm(opened, credentials.endpoint)


def _fetch_token(credentials: Credentials, transport: _GuardedTransport) -> None:
    """Ask Google for a token, and check that it is one. Whatever comes back, what is raised is `_NoToken`."""
    try:
        credentials.refresh(transport)  # type: ignore[no-untyped-call]
    except RefreshError as error:
        code = "Unavailable" if error.retryable else "InvalidCredentials"
        raise _NoToken(code, f"Google gave no access token: {_error_word(error)}.") from None
    except TransportError as error:
        raise _NoToken("Unreachable", f"Google's token endpoint could not be reached: {error}") from None
    except (GoogleAuthError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
        raise _NoToken("InvalidCredentials", "Google's token endpoint gave an answer that is none.") from None
    if not _TOKEN.fullmatch(str(credentials.token)):
        raise _NoToken("InvalidCredentials", "Google's token endpoint gave a token that is none.")


def _seconds_good(expiry: datetime | None) -> float:
    """google-auth's times are UTC without saying so."""
    if expiry is None:
        return TOKEN_SECONDS
    return (expiry.replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds() - TOKEN_MARGIN_SECONDS


def _error_word(error: RefreshError) -> str:
    """OAuth's error code, e.g. `invalid_grant`; what is said besides may name the account."""
    said = error.args[1] if len(error.args) > 1 else None
    word = said.get("error") if isinstance(said, dict) else None
    return word[:60] if isinstance(word, str) else "the answer was not understood"


class _GuardedTransport(Request):
    """google-auth's network, called in a thread: the guarded client does it in the loop. Nothing is retried here."""

    def __init__(self, http: HttpClient, loop: asyncio.AbstractEventLoop) -> None:
        self._http = http
        self._loop = loop

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **_: Any,
    ) -> Response:
        del timeout  # the client's own is shorter
        exchange = self._http.request(method, url, headers=headers or {}, body=body, max_body=MAX_TOKEN_ANSWER_BYTES)
        answer = asyncio.run_coroutine_threadsafe(exchange, self._loop).result()
        if isinstance(answer, HttpFailure):
            raise TransportError(answer.message)  # type: ignore[no-untyped-call]
        if answer.status >= 500 or answer.status in (408, 429):
            said = {"error": f"HTTP {answer.status}"}
            raise RefreshError("refused", said, retryable=True)  # type: ignore[no-untyped-call]
        return _GuardedResponse(answer)


class _GuardedResponse(Response):
    """As google-auth wants an answer."""

    def __init__(self, answer: HttpAnswer) -> None:
        self._answer = answer

    @property
    def status(self) -> int:
        return self._answer.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._answer.headers

    @property
    def data(self) -> bytes:
        return self._answer.body.encode()


def body_of(fcm: FCMNotification, message: FcmMessage) -> bytes:
    """The request's JSON."""
    push = message.notification
    body: bytes = fcm.parse_payload(
        fcm_token=message.registration_token,
        notification_title=push.title,
        notification_body=push.body,
        notification_image=push.image_url,
        data_payload=data_of(message),
        android_config=android_of(message),
    )
    return body


def data_of(message: FcmMessage) -> dict[str, str]:
    """Strings only, as Google wants: whatever is none is sent as JSON."""
    custom = custom_data(message.delivery_id, message.notification)
    return {
        key: value if isinstance(value, str) else msgspec.json.encode(value).decode() for key, value in custom.items()
    }


def android_of(message: FcmMessage) -> dict[str, Any]:
    """What Android alone has. The category is the notification channel; what has the same collapse id is replaced in
    the tray too."""
    push = message.notification
    optional = {
        "sound": push.sound,
        "tag": push.collapse_id,
        "channel_id": push.category,
        "notification_count": push.badge,
    }
    shown = {key: value for key, value in optional.items() if value is not None}
    config: dict[str, Any] = {"priority": "NORMAL" if push.priority == "NORMAL" else "HIGH"}
    if push.ttl_seconds is not None:
        config["ttl"] = f"{min(push.ttl_seconds, MAX_TTL_SECONDS)}s"
    if push.collapse_id is not None:
        config["collapse_key"] = push.collapse_id
    if shown and (push.title or push.body):
        config["notification"] = shown
    return config


def payload_size(message: FcmMessage) -> int:
    """As Google counts: keys and values of data and notification, in bytes."""
    push = message.notification
    texts = {"title": push.title, "body": push.body, "image": push.image_url or ""}
    counted = [*data_of(message).items(), *((key, value) for key, value in texts.items() if value)]
    return sum(len(key.encode()) + len(value.encode()) for key, value in counted)


def _refuses_token(answer: HttpAnswer) -> bool:
    return answer.status == 401 and refusal_of(answer.status, answer.body).code != "THIRD_PARTY_AUTH_ERROR"


def outcome_of(answer: HttpAnswer) -> Outcome:
    """What FCM's answer means."""
    logged = http_answer(answer.status, answer.body)
    if answer.status == 200:
        return PushAccepted(answer=logged, provider_message_id=_name_in(answer.body))
    refusal = refusal_of(answer.status, answer.body)
    meaning = refusal.meaning
    error = DeliveryError(code=meaning.name, message=refusal.sentence, permanent=meaning.permanent, hint=meaning.hint)
    if meaning.permanent:
        return PushRejected(error=error, answer=logged, address_is_dead=meaning.is_dead)
    return Deferred(
        error=error,
        answer=logged,
        retry_after=read_retry_after(answer.headers.get("Retry-After")),
        is_account=meaning.is_account,
    )


class _Sent(msgspec.Struct):
    name: str | None = None


def _name_in(body: str) -> str | None:
    """`projects/…/messages/…`."""
    try:
        return msgspec.json.decode(body, type=_Sent).name
    except (msgspec.DecodeError, UnicodeError):
        return None


def _unanswered(code: str, sentence: str, *, was_sent: bool) -> Unknown | Deferred:
    if was_sent:
        error = DeliveryError(
            code="NoAnswer",
            message=f"The push was sent to FCM, but: {sentence}",
            permanent=False,
            hint="It may have been shown: Google does not deduplicate, so it is not repeated by itself.",
        )
        return Unknown(error=error)
    return _deferred(code, sentence, "Check the FCM provider's endpoint and the network's way out.")


def _deferred(code: str, sentence: str, hint: str) -> Deferred:
    return Deferred(error=DeliveryError(code=code, message=sentence, permanent=False, hint=hint), is_account=True)
