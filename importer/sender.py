"""Sends batches to `trackBatch` over HTTP: several in flight, each tried again until the gateway has answered for it.

Guarantees: every event handed in is stored, was there already, or is reported with its line; an answer that got lost is
asked for again with the same ids, which stores nothing twice. Waits as long as the gateway asks to (`retryAfterMs`,
`Retry-After`), else longer each time. Gives up with `ImportMistakeError` when the gateway refuses the key or the
operation, or has answered nothing for `patience`; what was in flight may or may not be stored then.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import aiohttp
import msgspec

from importer.errors import ImportMistakeError

MAX_BATCH_EVENTS = 1000
"""What trackBatch takes."""

MAX_BATCH_BYTES = 1024 * 1024
"""Half of what the gateway takes in one request."""

DEFAULT_IN_FLIGHT = 4
"""Requests at a time. The log of a project is written by one transaction at a time, so more of them only wait."""

FIRST_CONTACT_PATIENCE = timedelta(seconds=3)
"""How long to knock when nobody has ever answered: then the address is wrong, or nothing runs there."""

DEFAULT_PATIENCE = timedelta(minutes=5)
"""How long to go on without any answer after the first."""

REQUEST_TIMEOUT = timedelta(seconds=60)
BACKOFF_START_SECONDS, BACKOFF_LIMIT_SECONDS = 0.5, 15.0

_MUTATION = (
    "mutation Import($input: TrackBatchInput!) { trackBatch(input: $input)"
    " { accepted duplicates rejected dropped userErrors { message path } } }"
)
_BODY_START = (
    msgspec.json.encode({"operationName": "Import", "query": _MUTATION})[:-1] + b',"variables":{"input":{"events":['
)
_BODY_END = b"]}}}"
_TRY_LATER_CODES = frozenset({"RATE_LIMITED", "UNAVAILABLE", "INTERNAL", "TIMEOUT"})
_TRY_LATER_STATUSES = frozenset({408, 425, 429, 502, 503, 504})
_SPLIT_CODES = frozenset({"BAD_USER_INPUT", "COST_EXCEEDED"})


@dataclass(frozen=True, slots=True)
class Batch:
    """Encoded events with their lines. `position` is how far into the file the last one reaches, in bytes."""

    events: tuple[bytes, ...]
    lines: tuple[int, ...]
    position: int

    def halves(self) -> tuple[Batch, Batch]:
        middle = len(self.events) // 2
        return (
            Batch(self.events[:middle], self.lines[:middle], self.position),
            Batch(self.events[middle:], self.lines[middle:], self.position),
        )


@dataclass(frozen=True, slots=True)
class Rejection:
    """An event that the gateway would not take. `reason` is its sentence."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The gateway's answer to a batch. `rejections` may name fewer events than were `rejected`."""

    accepted: int = 0
    duplicates: int = 0
    dropped: int = 0
    rejected: int = 0
    rejections: tuple[Rejection, ...] = ()


@dataclass(frozen=True, slots=True)
class TryLater:
    """No answer yet. `seconds` is how long the gateway asks to wait; None where it does not say."""

    reason: str
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The request as a whole was refused on account of something in it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Hopeless:
    """No request like this will ever be answered."""

    reason: str


Verdict = Answered | TryLater | Refused | Hopeless


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to send. The key never appears in a message."""

    url: str
    key: str = field(repr=False)


@dataclass(slots=True)
class _Contact:
    """When the gateway last answered anything at all, in loop time."""

    since: float
    ever: bool = False


class Sender:
    """One import's connection to the gateway."""

    def __init__(self, session: aiohttp.ClientSession, endpoint: Endpoint, *, patience: timedelta) -> None:
        self._session = session
        self._endpoint = endpoint
        self._patience = patience
        self._contact = _Contact(asyncio.get_running_loop().time())

    async def send(self, batch: Batch) -> Answered:
        """Deliver one batch. Where the gateway refuses it as a whole, halves it until the culprit stands alone."""
        verdict = await self._ask(batch)
        if isinstance(verdict, Answered):
            return verdict
        if len(batch.events) == 1:
            return Answered(rejected=1, rejections=(Rejection(batch.lines[0], verdict.reason),))
        first, second = batch.halves()
        return _add(await self.send(first), await self.send(second))

    async def _ask(self, batch: Batch) -> Answered | Refused:
        attempt = 0
        while True:
            match await self._post(batch):
                case Answered() | Refused() as verdict:
                    self._contact = _Contact(asyncio.get_running_loop().time(), ever=True)
                    return verdict
                case Hopeless(reason):
                    raise ImportMistakeError(reason)
                case TryLater(reason, seconds):
                    self._check_patience(reason, seconds)
                    await asyncio.sleep(backoff(attempt) if seconds is None else seconds)
                    attempt += 1

    def _check_patience(self, reason: str, asked: float | None) -> None:
        now = asyncio.get_running_loop().time()
        if asked is not None:
            self._contact = _Contact(now, ever=True)  # whoever asks us to wait is there
        patience = self._patience if self._contact.ever else min(self._patience, FIRST_CONTACT_PATIENCE)
        if now - self._contact.since > patience.total_seconds():
            raise ImportMistakeError(f"{self._endpoint.url} does not answer ({reason}): is the gateway running there?")

    async def _post(self, batch: Batch) -> Verdict:
        body = _BODY_START + b",".join(batch.events) + _BODY_END
        try:
            async with self._session.post(self._endpoint.url, data=body, headers=_headers(self._endpoint)) as response:
                return judge(response.status, response.headers, await response.read(), batch.lines)
        except aiohttp.InvalidURL:
            return Hopeless(f"{self._endpoint.url!r} is not an address: give --url http://host:port.")
        except TimeoutError:
            return TryLater(f"no answer within {REQUEST_TIMEOUT.seconds} s")
        except aiohttp.ClientError as error:
            return TryLater(type(error).__name__)


def judge(status: int, headers: Mapping[str, str], body: bytes, lines: tuple[int, ...]) -> Verdict:
    """What an HTTP response says about a batch of events that came from `lines`."""
    answer = _read_answer(body)
    if answer is None:
        return _judge_status(status, headers)
    payload = (answer.get("data") or {}).get("trackBatch")
    if payload is not None:
        return _read_payload(payload, lines)
    errors = answer.get("errors") or [{}]
    return _judge_error(status, headers, errors[0])


def backoff(attempt: int) -> float:
    """Seconds before the next try: doubling, bounded, spread so that batches do not come back together."""
    ceiling = min(BACKOFF_START_SECONDS * 2.0 ** min(attempt, 10), BACKOFF_LIMIT_SECONDS)
    return ceiling * random.uniform(0.5, 1.0)  # noqa: S311


def make_batches(events: Iterable[tuple[int, bytes]], position: Callable[[], int]) -> Iterator[Batch]:
    """Group (line, encoded event) pairs, in order, within what one request may hold."""
    chosen: list[tuple[int, bytes]] = []
    size = 0
    for line, event in events:
        if chosen and (len(chosen) == MAX_BATCH_EVENTS or size + len(event) + 1 > MAX_BATCH_BYTES):
            yield _batch(chosen, position())
            chosen, size = [], 0
        chosen.append((line, event))
        size += len(event) + 1
    if chosen:
        yield _batch(chosen, position())


def open_session(in_flight: int) -> aiohttp.ClientSession:
    """An HTTP session for that many requests at a time."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=in_flight),
        timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT.total_seconds()),
    )


def _batch(chosen: list[tuple[int, bytes]], position: int) -> Batch:
    return Batch(tuple(event for _, event in chosen), tuple(line for line, _ in chosen), position)


def _headers(endpoint: Endpoint) -> dict[str, str]:
    return {
        "content-type": "application/json",
        "accept": "application/graphql-response+json, application/json;q=0.9",
        "x-api-key": endpoint.key,
    }


def _read_answer(body: bytes) -> dict[str, Any] | None:
    try:
        answer = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return None
    return answer if isinstance(answer, dict) and ("data" in answer or "errors" in answer) else None


def _read_payload(payload: Mapping[str, Any], lines: tuple[int, ...]) -> Answered:
    return Answered(
        accepted=payload["accepted"],
        duplicates=payload["duplicates"],
        dropped=payload["dropped"],
        rejected=payload["rejected"],
        rejections=tuple(_read_user_error(error, lines) for error in payload["userErrors"]),
    )


def _read_user_error(error: Mapping[str, Any], lines: tuple[int, ...]) -> Rejection:
    """`path` is ["input", "events", "17", …]."""
    path = [str(part) for part in error["path"]]
    index = next((int(part) for part in path if part.isdecimal()), 0)
    where = ".".join(path[path.index(str(index)) + 1 :]) if str(index) in path else ""
    return Rejection(lines[min(index, len(lines) - 1)], f"{where}: {error['message']}" if where else error["message"])


def _judge_error(status: int, headers: Mapping[str, str], error: Mapping[str, Any]) -> Verdict:
    extensions = error.get("extensions") or {}
    code, message = extensions.get("code"), str(error.get("message", f"HTTP {status}"))
    if code in _TRY_LATER_CODES or status in _TRY_LATER_STATUSES:
        milliseconds = extensions.get("retryAfterMs")
        return TryLater(message, _retry_after(headers) if milliseconds is None else milliseconds / 1000)
    if code in _SPLIT_CODES or status == 413:
        return Refused(message)
    if code in ("UNAUTHENTICATED", "FORBIDDEN"):
        return Hopeless(f"The gateway refuses the key ({message}): give one that may track events with --key.")
    if code is None:
        return _judge_status(status, headers)
    return Hopeless(f"The gateway refuses the import: {message}")


def _judge_status(status: int, headers: Mapping[str, str]) -> Verdict:
    if status in _TRY_LATER_STATUSES or status >= 500:
        return TryLater(f"HTTP {status}", _retry_after(headers))
    if status == 413:
        return Refused("it is too large")
    if status in (401, 403):
        return Hopeless(f"The gateway refuses the key (HTTP {status}): give one that may track events with --key.")
    return Hopeless(
        f"What answers is no Sendora gateway (HTTP {status}): give its address with --url http://host:port."
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """`Retry-After` in seconds; its form with a date is not used by the gateway and read as nothing."""
    text = headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else None


def _add(one: Answered, other: Answered) -> Answered:
    return Answered(
        accepted=one.accepted + other.accepted,
        duplicates=one.duplicates + other.duplicates,
        dropped=one.dropped + other.dropped,
        rejected=one.rejected + other.rejected,
        rejections=one.rejections + other.rejections,
    )
