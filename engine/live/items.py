"""Items of a stream and their renderings: what turns one into bytes, once for everybody who gets the same.

Guarantees: an item is executed and encoded once per output while that is under way, however many ask. Leaves to others:
who gets it (cohorts), and how long it is kept (rings).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from engine.lanes import LaneKind, LaneRecord
from engine.live.hub import StreamCounters

KEPT_BYTES = 4_096
"""What a rendering that was waited for may always take and yet be kept: rings and pages reckon with the item only."""

R = TypeVar("R")


class StreamItem(msgspec.Struct, Generic[R], frozen=True):
    """What a stream carries: an item of the log and the position after it."""

    record: R
    cursor: str


class Rendering(Protocol):
    """See `transport.application.Rendering`."""

    key: Hashable

    def __call__(self, payload: object, /) -> bytes | Awaitable[bytes]: ...

    def is_whole(self, response: bytes, /) -> bool: ...


class Output:
    """One way of turning items into bytes, shared by every cohort of this (audience, rendering)."""

    __slots__ = ("cohorts", "convert", "counters", "key", "kind", "rendering")

    def __init__(
        self,
        kind: LaneKind[Any, Any],
        key: Hashable,
        rendering: Rendering,
        convert: Callable[[StreamItem[Any]], object],
        counters: StreamCounters,
    ) -> None:
        self.kind = kind
        self.counters = counters
        self.key = key
        self.rendering = rendering
        self.convert = convert
        self.cohorts = 0


class Item:
    """One item of the log for one output: rendered when first asked for, and then only once.

    What was waited for came from elsewhere than the item. It is kept if it is whole, or a database that was away for a
    moment would be seen by all who come later; and if it is no larger than was reckoned with.
    """

    __slots__ = ("_rendering", "cursor", "output", "payload", "record", "seq")

    def __init__(self, record: LaneRecord, cursor: str, output: Output) -> None:
        self.record = record
        self.seq = record.seq
        self.cursor = cursor
        self.output = output
        self.payload: bytes | None = None
        self._rendering: asyncio.Future[bytes] | None = None

    def render(self) -> bytes | asyncio.Future[bytes]:
        """The bytes; where they have to be waited for, one future for all who ask (shield it)."""
        if self.payload is not None:
            return self.payload
        if self._rendering is None:
            result = self.output.rendering(self.output.convert(StreamItem(self.record, self.cursor)))
            if isinstance(result, bytes):
                self.payload = result
                return result
            self._rendering = asyncio.ensure_future(result)
            self._rendering.add_done_callback(self._rendered)
            self.output.counters.rendering += 1
        return self._rendering

    def _rendered(self, done: asyncio.Future[bytes]) -> None:
        self._rendering = None
        self.output.counters.rendering -= 1
        if done.cancelled() or done.exception() is not None:
            return
        payload = done.result()
        room = max(KEPT_BYTES, self.output.kind.rendered_bytes(self.record))
        if len(payload) <= room and self.output.rendering.is_whole(payload):
            self.payload = payload
