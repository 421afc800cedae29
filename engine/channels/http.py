"""HTTP to the outside: one guarded session, and one exchange with its failures told apart.

Guarantees of a session: every connection is made to an address that the guard has checked in that moment, literal
addresses included; every URL passes `Egress.refusal`, those of redirects too; nothing is taken from the environment
(proxies, .netrc), no cookies are kept, nothing is decompressed. Guarantees of an exchange: it follows no redirect, ends
within `SEND_TIMEOUT`, reads no more of an answer than it was asked to, and says whether anything can have reached the
receiver. Stops with `close`.
"""

from __future__ import annotations

import asyncio
import errno
import re
import socket
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult

from engine.channels.base import SEND_TIMEOUT
from engine.channels.http_answers import AnswerConnector
from engine.channels.http_exchange import Destination, Exchange, exchange, request_bytes
from engine.egress import Blocked, Egress

MAX_BODY_BYTES = 4096
"""Of an answer, for the delivery's log. What comes after is not read, and its connection is closed."""

CONNECT_SECONDS = 8.0
"""For the name, the connection and TLS together: less than the whole, so that what takes too long here was not sent."""

BODY_SECONDS = 5.0
"""For an answer's body once its head is there: the status is what counts, and a place in a lane is not for waiting."""

KEEP_ALIVE_SECONDS = 4.0
"""Less than the 5 s after which many servers close: a request that meets a closing connection may or may not arrive."""

CONNECTIONS_PER_HOST = 64
"""What one lane sends at once."""
CONNECTIONS = 1024
"""In all: well under the usual limit of open files."""

NAMES_KEPT_SECONDS = 10
"""For how long an answer of DNS is used again; the addresses in it have been checked."""

MAX_RETRY_AFTER = timedelta(days=1)
"""Whoever asks for more means never."""
_SECONDS = re.compile(r"[0-9]{1,9}")

DESTINATIONS_KEPT = 1024
"""URLs whose text is not looked at again."""

USER_AGENT = "Sendora/1.0"
_DEFAULT_HEADERS = (("User-Agent", USER_AGENT), ("Accept", "*/*"), ("Accept-Encoding", "identity"))

_DISCONNECTED = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED})


class HttpAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A status with its headers (their names in any case) and the beginning of its body as text."""

    status: int
    headers: Mapping[str, str]
    body: str


class HttpFailure(msgspec.Struct, frozen=True, kw_only=True):
    """No answer. `code` is one of BLOCKED_URL, DNS, CONNECTION_REFUSED, UNREACHABLE, CONNECT_TIMEOUT, TLS, TIMEOUT,
    DISCONNECTED, INVALID_RESPONSE; `message` names neither addresses nor what was sent.

    `was_sent`: the receiver may have got it. BLOCKED_URL is for good, all others may pass.
    """

    code: str
    message: str
    was_sent: bool


def retry_after_of(headers: Mapping[str, str], now: datetime) -> timedelta | None:
    """For how long the answer asks to wait, in seconds or until a date (RFC 9110 section 10.2.3); None when it does not
    say, or says it in no known way. From nothing to a day. `now` is real time.
    """
    text = headers.get("Retry-After", "").strip()
    if _SECONDS.fullmatch(text):
        return min(timedelta(seconds=int(text)), MAX_RETRY_AFTER)
    try:
        until = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    # A date in "-0000" comes without a zone, and means UTC.
    waiting = until.replace(tzinfo=until.tzinfo or UTC) - now
    return max(timedelta(), min(waiting, MAX_RETRY_AFTER))


class HttpClient:
    """Exchanges through one guarded session, which is opened at the first of them."""

    def __init__(self, egress: Egress, *, ssl_context: ssl.SSLContext | None = None) -> None:
        self._egress = egress
        self._ssl_context = ssl_context
        self._session: aiohttp.ClientSession | None = None
        # Whether text may be called, and where that is, does not change.
        self._destination_of = lru_cache(DESTINATIONS_KEPT)(self._find_destination)

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        plain_http: bool = False,
        max_body: int = MAX_BODY_BYTES,
        within: timedelta | None = None,
    ) -> HttpAnswer | HttpFailure:
        """One exchange. Never raises for what the network or the receiver does.

        With `within` it may take that long, its body included, instead of `SEND_TIMEOUT` and `BODY_SECONDS`.
        """
        clock = asyncio.get_running_loop().time
        ends_at = clock() + (within or SEND_TIMEOUT).total_seconds()
        try:
            to = self._destination_of(url, plain_http)
            request = request_bytes(method, to, _with_defaults(headers), body)
            async with asyncio.timeout_at(ends_at):
                answered = await exchange(self._connector, to, request, self.session.timeout)
        except (aiohttp.ClientError, OSError) as error:
            return failure_of(error)
        text = await _read_text(answered, max_body, ends_at if within else min(ends_at, clock() + BODY_SECONDS))
        return HttpAnswer(status=answered.status, headers=answered.headers, body=text)

    @property
    def session(self) -> aiohttp.ClientSession:
        """For libraries that want a session of aiohttp's. Pass them `allow_redirects=False` where they let you."""
        if self._session is None:
            self._session = guarded_session(self._egress, ssl_context=self._ssl_context)
        return self._session

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    @property
    def _connector(self) -> aiohttp.BaseConnector:
        connector = self.session.connector
        if connector is None:
            raise aiohttp.ClientConnectionError("The session is closed.")
        return connector

    def _find_destination(self, url: str, plain_http: bool) -> Destination:
        refusal = self._egress.refusal(url, plain_http=plain_http)
        if refusal is not None:
            raise Blocked(refusal)
        return Destination(url)


def guarded_session(egress: Egress, *, ssl_context: ssl.SSLContext | None = None) -> aiohttp.ClientSession:
    """A session that connects to nothing that `egress` refuses. To be closed by whoever asked for it."""

    async def check_url(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        refusal = egress.refusal(str(request.url))
        if refusal is not None:
            raise Blocked(refusal)
        return await handler(request)

    def checked_socket(address_info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, address = address_info
        refusal = egress.address_refusal(address[0], address[1])
        if refusal is not None:
            raise Blocked(refusal)
        return socket.socket(family, kind, protocol)

    connector = AnswerConnector(
        resolver=_GuardedResolver(egress),
        socket_factory=checked_socket,
        ttl_dns_cache=NAMES_KEPT_SECONDS,
        limit=CONNECTIONS,
        limit_per_host=CONNECTIONS_PER_HOST,
        keepalive_timeout=KEEP_ALIVE_SECONDS,
        ssl=ssl_context or True,
    )
    return aiohttp.ClientSession(
        connector=connector,
        middlewares=(check_url,),
        timeout=aiohttp.ClientTimeout(total=SEND_TIMEOUT.total_seconds(), connect=CONNECT_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        headers=dict(_DEFAULT_HEADERS),
    )


class _GuardedResolver(AbstractResolver):
    """Names through the guard, which checks every answer."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in await self._egress.resolve(host, port)
        ]

    async def close(self) -> None:
        return


def failure_of(error: aiohttp.ClientError | OSError) -> HttpFailure:
    """What an exception of a guarded session means. Time-outs are `OSError`s."""
    blocked = _blocked(error)
    if blocked is not None:
        return HttpFailure(code="BLOCKED_URL", message=str(blocked), was_sent=False)
    if isinstance(error, aiohttp.InvalidURL):
        return HttpFailure(code="BLOCKED_URL", message="The URL is malformed.", was_sent=False)
    code, message = _connect_failure(error) or ("", "")
    if code:
        return HttpFailure(code=code, message=message, was_sent=False)
    code, message = _exchange_failure(error)
    return HttpFailure(code=code, message=message, was_sent=True)


def _blocked(error: BaseException) -> Blocked | None:
    """By the socket or the resolver, which aiohttp wraps, or by the session's look at the URL, which it replaces."""
    inner = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error.__cause__
    return next((each for each in (error, inner) if isinstance(each, Blocked)), None)


def _connect_failure(error: Exception) -> tuple[str, str] | None:
    """Before anything was sent; None for what came later."""
    match error:
        case aiohttp.ConnectionTimeoutError():
            return "CONNECT_TIMEOUT", f"No connection within {CONNECT_SECONDS:g} s."
        case aiohttp.ClientConnectorDNSError():
            return "DNS", "The host's name could not be resolved."
        case aiohttp.ClientConnectorCertificateError():
            return "TLS", "The host's certificate is not valid for it."
        case aiohttp.ClientConnectorSSLError():
            return "TLS", "The host does not speak TLS as it should."
        case aiohttp.ClientConnectorError(os_error=ConnectionRefusedError()):
            return "CONNECTION_REFUSED", "The host refused the connection."
        case aiohttp.ClientConnectorError():
            return "UNREACHABLE", "The host could not be reached."
    return None


def _exchange_failure(error: Exception) -> tuple[str, str]:
    match error:
        case TimeoutError():
            return "TIMEOUT", f"No answer within {SEND_TIMEOUT.total_seconds():g} s."
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return "DISCONNECTED", "The connection ended before an answer came."
        case OSError(errno=number) if number in _DISCONNECTED:
            return "DISCONNECTED", "The connection ended before an answer came."
    return "INVALID_RESPONSE", "What came back is not an HTTP answer."


async def _read_text(answered: Exchange, limit: int, ends_at: float) -> str:
    """The beginning of the body, as far as it comes in time."""
    content = answered.body
    if content.is_eof() and content.total_bytes <= limit:
        # All of it came with the head, as with most receivers.
        return _storable(content.read_nowait(), limit)
    body = bytearray()
    try:
        async with asyncio.timeout_at(ends_at):
            while len(body) < limit:
                chunk = await content.read(limit - len(body))
                if not chunk:
                    break
                body += chunk
    except (aiohttp.ClientError, OSError):
        pass
    finally:
        # What was read to its end has given its connection back already; the rest of anything else is not waited for.
        answered.close()
    return _storable(body, limit)


def _with_defaults(headers: Mapping[str, str]) -> Mapping[str, str]:
    """What is said where nobody says otherwise."""
    given = {name.lower() for name in headers}
    return {**headers, **{name: value for name, value in _DEFAULT_HEADERS if name.lower() not in given}}


def _storable(body: bytes | bytearray, limit: int) -> str:
    """At most `limit` bytes of UTF-8. What is none and NUL, which no stored text can hold, is replaced, by more bytes
    than it had."""
    text = body.decode("utf-8", "replace").replace("\0", "\ufffd")
    return text if text.isascii() else text.encode()[:limit].decode("utf-8", "ignore")
