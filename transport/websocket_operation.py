"""One operation on a WebSocket: the way out for its results, and what has to be stopped when it ends.

It is the `Sink` of a live source. On that path an item costs one concatenation and one push, and no task: the prefix
with the operation's id is made once, the payload is shared with every other subscriber.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import orjson

from transport.application import LiveSource, Membership, Rendering
from transport.messages import complete_message, error_message, next_prefix, ping_message


class Connection(Protocol):
    """The socket, as `transport/server_websocket.py` gives it."""

    def push(self, text: bytes) -> bool:
        """Write one text message; False when the buffer is past its bound."""

    @property
    def buffered(self) -> int:
        """Bytes written and not yet sent."""

    @property
    def drains(self) -> int:
        """How often the buffer has fallen from its bound to its low-water mark."""

    @property
    def is_full(self) -> bool:
        """Whether the buffer is past its bound."""

    async def drained(self) -> None:
        """Returns once there is room again."""

    def close(self, code: int, reason: str = "") -> None:
        """Close frame, and nothing after it."""


class SocketOperation:
    """From the subscribe message to the end: by result, by error, by the client's complete, or with the socket."""

    __slots__ = (
        "_connection",
        "_ended",
        "_errors_of",
        "_prefix",
        "_push",
        "_position",
        "id",
        "is_open",
        "keeps_running",
        "membership",
        "task",
    )

    def __init__(
        self,
        identifier: str,
        connection: Connection,
        *,
        errors_of: Callable[[BaseException], list[dict[str, Any]]],
        ended: Callable[[SocketOperation], None],
    ) -> None:
        self.id = identifier
        self.is_open = True
        self.keeps_running = False
        self.membership: Membership | None = None
        self.task: asyncio.Task[None] | None = None
        self._connection = connection
        self._push = connection.push
        self._prefix = next_prefix(identifier)
        self._errors_of = errors_of
        self._ended = ended
        self._position: str | None = None

    @property
    def position(self) -> str | None:
        """The cursor of a live stream; None for every other operation."""
        return self._position if self.membership is None else self.membership.cursor

    # The sink of a live source

    def deliver(self, payload: bytes, cursor: str) -> bool:
        """See `Sink.deliver`."""
        if not self.is_open:
            return True
        self._position = cursor
        return self._push(b"%b%b}" % (self._prefix, payload))

    async def drained(self) -> None:
        """See `Sink.drained`."""
        await self._connection.drained()

    def announce(self, cursor: str) -> None:
        """Say the position in a ping of its own, at once: a drop before the first item then loses nothing."""
        if self.is_open:
            self._position = cursor
            self._push(ping_message({self.id: cursor}))

    def fail(self, error: BaseException) -> None:
        """End with an error message for this id; the socket and its other operations go on."""
        self.refuse(orjson.dumps(self._errors_of(error)))

    def complete(self) -> None:
        """End with a complete message."""
        if self.is_open:
            self._push(complete_message(self.id))
            self.stop()

    # What else ends it

    def send(self, response: bytes) -> bool:
        """Write one result. False when the buffer is past its bound."""
        return not self.is_open or self._push(b"%b%b}" % (self._prefix, response))

    def refuse(self, errors: bytes) -> None:
        """End with an error message; `errors` is a JSON array."""
        if self.is_open:
            self._push(error_message(self.id, errors))
            self.stop()

    def stop(self) -> None:
        """End without a word. A mutation that has begun is let finish: half of it must not be all that happened."""
        if not self.is_open:
            return
        self.is_open = False
        if self.membership is not None:
            self.membership.leave()
        if self.task is not None and not self.keeps_running and self.task is not asyncio.current_task():
            self.task.cancel()
        self._ended(self)

    async def join(self, source: LiveSource, rendering: Rendering) -> None:
        """Follow a live source. Returns once it is followed; from then on this operation has no task."""
        membership = await source.join(rendering, self)
        if self.is_open:
            self.membership = membership
        else:
            membership.leave()
