"""An operation whose results are server-sent events: alone in its response, or named by its id among others.

    alone                                  among others
    id: <cursor>                           id: <cursor>
    event: next                            event: next
    data: {"data":…}                       data: {"id":"<operation id>","payload":{"data":…}}

`id:` is there on items of live streams. It is the position of the operation that the frame is for, so a client that
goes on with `Last-Event-ID` misses nothing and gets nothing twice. A position without an item is a frame of `id:` alone
in a response that one operation has to itself; among others it is a comment that maps operation ids to cursors, because
an `id:` there could not say whose it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import orjson

from transport.execution.service import GraphQLService
from transport.operation import Operation
from transport.request_ids import RequestTrace
from transport.sse.event_stream import COMMENT, EventStream

COMPLETE = b"event: complete\ndata: \n\n"
"""`data:` although it is empty: without it EventSource does not dispatch the event."""


def single_line(json: bytes) -> bytes:
    """JSON text as one `data:` line. A line break in JSON text is never inside a string, so a blank does as well."""
    if b"\n" in json or b"\r" in json:
        return json.replace(b"\r", b" ").replace(b"\n", b" ")
    return json


def positions_comment(positions: Mapping[str, str]) -> bytes:
    """The cursor of every live operation of a shared response, for clients that read comments."""
    return b": " + orjson.dumps(positions) + b"\n\n" if positions else COMMENT


class DistinctOperation(Operation):
    """The only operation of its response, which ends with it."""

    __slots__ = ("_stream",)

    def __init__(
        self,
        service: GraphQLService,
        ended: Callable[[Operation], None],
        stream: EventStream,
        trace: RequestTrace | None = None,
    ) -> None:
        super().__init__("", service, ended, trace)
        self._stream = stream

    def deliver(self, payload: bytes, cursor: str) -> bool:
        if not self.is_open:
            return True
        self._position = cursor
        return self._stream.push(b"id: %b\nevent: next\ndata: %b\n\n" % (cursor.encode(), single_line(payload)))

    async def drained(self) -> None:
        await self._stream.drained()

    def keep_alive(self) -> bytes:
        """What to send when there has been nothing to send."""
        position = self.position
        return COMMENT if position is None else b"id: %b\n\n" % position.encode()

    def _write_response(self, response: bytes) -> bool:
        return self._stream.push(b"event: next\ndata: %b\n\n" % single_line(response))

    def _write_errors(self, errors: bytes) -> None:
        self._write_response(b'{"errors":%b}' % errors)
        self._write_complete()

    def _write_complete(self) -> None:
        self._stream.push(COMPLETE)

    def _write_position(self, cursor: str) -> None:
        self._stream.push(b"id: %b\n\n" % cursor.encode())


class SharedOperation(Operation):
    """One of several in a response."""

    __slots__ = ("_prefix", "_stream")

    def __init__(
        self,
        identifier: str,
        service: GraphQLService,
        ended: Callable[[Operation], None],
        stream: EventStream,
        trace: RequestTrace | None = None,
    ) -> None:
        super().__init__(identifier, service, ended, trace)
        self._stream = stream
        self._prefix = b'event: next\ndata: {"id":%b,"payload":' % orjson.dumps(identifier)

    def deliver(self, payload: bytes, cursor: str) -> bool:
        if not self.is_open:
            return True
        self._position = cursor
        return self._stream.push(b"id: %b\n%b%b}\n\n" % (cursor.encode(), self._prefix, single_line(payload)))

    async def drained(self) -> None:
        await self._stream.drained()

    def _write_response(self, response: bytes) -> bool:
        return self._stream.push(b"%b%b}\n\n" % (self._prefix, single_line(response)))

    def _write_errors(self, errors: bytes) -> None:
        self._write_response(b'{"errors":%b}' % errors)
        self._write_complete()

    def _write_complete(self) -> None:
        self._stream.push(b'event: complete\ndata: {"id":%b}\n\n' % orjson.dumps(self.id))

    def _write_position(self, cursor: str) -> None:
        self._stream.push(positions_comment({self.id: cursor}))
