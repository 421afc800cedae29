"""Work that keeps the event loop busy is done by one request at a time, and as long again by none.

Checking a document, reading a large body and answering introspection take up to some tenths of a second each, in one
go. Guarantees: however many of them come at once, whoever asks for something else waits for one or two of them, and
they take half of the process at most; those that wait are bounded, and `TooManyWaitingError` says so to the rest.
Leaves to others: what counts as such work. Nothing that waits for anything else may be done in a turn. Never stops.
"""

from __future__ import annotations

import asyncio
from time import perf_counter

from graphql import GraphQLError

from transport.errors import RATE_LIMITED, RETRY_AFTER_MS, RequestError

LARGE_BODY_BYTES = 64 * 1024
"""From which on a request is read in a turn: smaller ones take some milliseconds at most."""
TRY_AGAIN_MS = 1_000
"""A hundred of them take some seconds; most that wait take far less."""


class TooManyWaitingError(RequestError):
    """Nothing of the request was looked at."""

    def __init__(self, maximum: int) -> None:
        super().__init__(
            f"{maximum} new documents and large requests are waiting to be looked at already; try again.", RATE_LIMITED
        )

    def as_graphql_error(self) -> GraphQLError:
        return GraphQLError(self.message, extensions={"code": self.code, RETRY_AFTER_MS: TRY_AGAIN_MS})


class Turns:
    """`async with` one. Belongs to one event loop."""

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._lock = asyncio.Lock()
        self._waiting = 0
        self._began = 0.0

    async def __aenter__(self) -> None:
        if self._waiting >= self._max_waiting:
            raise TooManyWaitingError(self._max_waiting)
        self._waiting += 1
        try:
            await self._lock.acquire()
        finally:
            self._waiting -= 1
        self._began = perf_counter()

    async def __aexit__(self, *_: object) -> None:
        """Who had the turn goes on at once; the next one begins when the others have had as long."""
        asyncio.get_running_loop().call_later(perf_counter() - self._began, self._lock.release)
