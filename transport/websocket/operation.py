"""An operation on a WebSocket. An item of a live source costs one concatenation and one push here: the prefix with the
operation's id is made once, the payload is shared with every other subscriber."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from transport.execution.service import GraphQLService
from transport.operation import Operation
from transport.request_ids import RequestTrace
from transport.websocket.messages import complete_message, error_message, next_prefix, ping_message


class Connection(Protocol):
    """The socket, as `transport/websocket/server.py` gives it."""

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


class SocketOperation(Operation):
    """From the subscribe message to the end."""

    __slots__ = ("_connection", "_prefix", "_push")

    def __init__(
        self,
        identifier: str,
        service: GraphQLService,
        ended: Callable[[Operation], None],
        connection: Connection,
        trace: RequestTrace | None = None,
    ) -> None:
        super().__init__(identifier, service, ended, trace)
        self._connection = connection
        self._push = connection.push
        self._prefix = next_prefix(identifier)

    def deliver(self, payload: bytes, cursor: str) -> bool:
        if not self.is_open:
            return True
        self._position = cursor
        return self._push(b"%b%b}" % (self._prefix, payload))

    async def drained(self) -> None:
        await self._connection.drained()

    def _write_response(self, response: bytes) -> bool:
        return self._push(b"%b%b}" % (self._prefix, response))

    def _write_errors(self, errors: bytes) -> None:
        self._push(error_message(self.id, errors))

    def _write_complete(self) -> None:
        self._push(complete_message(self.id))

    def _write_position(self, cursor: str) -> None:
        self._push(ping_message({self.id: cursor}))
