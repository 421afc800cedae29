"""Where an answer ends: its status counts whatever follows, and what follows is no part of another answer.

aiohttp hands over nothing of an answer when bytes that cannot belong to it come in the same packet, such as the body of
a 204 that many frameworks send: it takes an accepted request for a failed one. Guarantees: a head is handed over once
it is there; what comes after a whole answer is dropped and its connection closed; a connection whose answer says that
it has a body which its status forbids is not used again. Leaves to others: everything before an answer's head.
"""

from __future__ import annotations

import asyncio
import re
from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import RawResponseMessage
from aiohttp.streams import StreamReader

_END_OF_HEAD = re.compile(rb"\n\r?\n")
"""With or without carriage returns, as aiohttp's parser takes it."""
_KEPT = 2
"""Bytes of a packet by which an end that began there is found in the next."""
_SWITCHING = 101
_BODILESS = frozenset({204, 304})


class AnswerConnector(aiohttp.TCPConnector):
    """A connector whose connections read answers in this way."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # There is no public way to choose the protocol of connections.
        protocol: type[ResponseHandler] = AnswerProtocol
        self._factory = partial(protocol, loop=self._loop)


class AnswerProtocol(ResponseHandler):
    """One connection. The parser is given each head by itself, so that nothing behind it can undo it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._body: StreamReader | None = None
        self._kept = b""

    def set_response_params(self, **options: Any) -> None:
        """A request begins: its answer's head is awaited."""
        self._body, self._kept = None, b""
        super().set_response_params(**options)

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """A head, from the parser. Those of 1xx come before the answer's own."""
        message, body = data
        if message.code >= 200 or message.code == _SWITCHING:
            self._body = body
        if message.code in _BODILESS and _announces_body(message):
            self.force_close()
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        """What came, or nothing, with which aiohttp goes on after a pause."""
        while self._body is None and self._exception is None and (end := self._end_of_head(data)):
            super().data_received(data[:end])
            data = data[end:]
            if not data:
                return
        if data and self._body is not None and self._body.is_eof():
            self._drop_connection()
            return
        super().data_received(data)
        self._end_broken_body()

    def _end_of_head(self, data: bytes) -> int:
        """How many bytes of the packet belong to the head that ends in it; 0 when none does."""
        kept, seen = len(self._kept), self._kept + data
        found = _END_OF_HEAD.search(seen)
        self._kept = seen[-_KEPT:] if found is None else b""
        return 0 if found is None else found.end() - kept

    def _drop_connection(self) -> None:
        self.force_close()
        if self.transport is not None:
            self.transport.close()

    def _end_broken_body(self) -> None:
        """Else its reader would wait for the rest of what the parser has given up."""
        if self._exception is not None and self._body is not None and not self._body.is_eof():
            self._body.set_exception(aiohttp.ClientPayloadError("The body is malformed."))


def _announces_body(message: RawResponseMessage) -> bool:
    return "Transfer-Encoding" in message.headers or message.headers.get("Content-Length", "0") != "0"
