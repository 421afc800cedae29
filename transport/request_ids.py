"""The id of each request: in the header of its response, in each of its errors, in each of its log lines.

A request keeps the id that its client or a proxy gave it in `X-Request-Id`, if that is well-formed, and otherwise gets
one of 128 random bits, made when it is first asked for. An operation on a WebSocket is a request too: its id is that of
the socket, a full stop and its number. A W3C `traceparent` that comes with a request gives the `trace_id` of its log
lines.

The current request is a context variable, so whatever a request starts knows it, tasks included. Some of those live on
and work for others (a commit that many share, a look-up that many wait for): what is logged after the request is over
does not name it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "x-request-id"
TRACEPARENT = "traceparent"
RANDOM_BYTES = 16

_WELL_FORMED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=@-]{0,127}\Z")
"""What proxies and tracing tools make, and nothing that a log or a header could be broken with."""
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-|\Z)")
"""W3C Trace Context, level 1. Versions to come may add to the end (section 4.3)."""


class RequestTrace:
    """One request, as far as it is told apart from others."""

    __slots__ = ("_id", "_traceparent", "is_over")

    def __init__(self, given: str | None = None, traceparent: str | None = None) -> None:
        self._id = given if given is not None and _WELL_FORMED.match(given) else None
        self._traceparent = traceparent
        self.is_over = False

    @staticmethod
    def of(headers: Mapping[str, str]) -> RequestTrace:
        """The request with these headers, whose names are in lower case."""
        return RequestTrace(headers.get(HEADER), headers.get(TRACEPARENT))

    @property
    def id(self) -> str:
        """The same for as long as the request lives."""
        if self._id is None:
            self._id = os.urandom(RANDOM_BYTES).hex()
        return self._id

    @property
    def trace_id(self) -> str | None:
        """Of the trace that the request is part of."""
        found = _TRACEPARENT.match(self._traceparent) if self._traceparent else None
        return None if found is None else found[1]

    @property
    def header(self) -> tuple[bytes, bytes]:
        """Of the response."""
        return b"x-request-id", self.id.encode()

    def part(self, number: int | None = None) -> RequestTrace:
        """A piece of it that may outlive it: with the same id, or with a number after it."""
        part = RequestTrace(None, self._traceparent)
        part._id = self.id if number is None else f"{self.id}.{number}"
        return part


_current: ContextVar[RequestTrace | None] = ContextVar("request", default=None)


def enter(trace: RequestTrace) -> None:
    """From here on, in this task and those that it starts, this is the current request."""
    _current.set(trace)


@contextmanager
def entered(trace: RequestTrace) -> Iterator[None]:
    """The current request inside of this is the given one."""
    token = _current.set(trace)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> RequestTrace | None:
    """The request that this is done for; None where it is nobody's, or of one that is over."""
    trace = _current.get()
    return None if trace is None or trace.is_over else trace


def add_request(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor of log lines: of whose request they are."""
    trace = current()
    if trace is not None:
        event["request_id"] = trace.id
        if trace.trace_id is not None:
            event["trace_id"] = trace.trace_id
    return event


class WithRequestId:
    """An ASGI application around another: its HTTP responses carry the request's id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        trace = RequestTrace.of({name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]})
        enter(trace)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), trace.header]}
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            trace.is_over = True
