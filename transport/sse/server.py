"""What a response without an end needs of its HTTP connection: a synchronous way out, and an end when the server stops.

The connection is in the ASGI scope under `scope["extensions"]["sendora.connection"]`. Once the head of a response has
been sent through ASGI, `push_chunk` writes pieces of its body as chunks of their own (RFC 9112 §7.1), in one
`transport.write` each and with no task; the last piece goes through ASGI again. Nothing may change the body in between,
so no compression may be wrapped around an application that does this.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from transport.websocket.server import EXTENSION, HIGH_WATER_BYTES, LOW_WATER_BYTES, SHUTDOWN_TIMEOUT

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState


class StreamingProtocol(HttpToolsProtocol):
    """One HTTP connection whose responses may be streams."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._is_endless = False
        self._drains = 0

    def declare_endless(self) -> None:
        """The response in progress has no end of its own: the server does not wait for it when it stops."""
        self._is_endless = True
        if not self.transport.is_closing():  # uvloop refuses to set them once the client has gone
            self.transport.set_write_buffer_limits(high=HIGH_WATER_BYTES, low=LOW_WATER_BYTES)

    def push_chunk(self, data: bytes) -> bool:
        """Write a piece of the body. False: it was taken, but the buffer is past its bound, so await `drained` first.

        A connection that is closing takes everything and writes nothing.
        """
        if self.transport.is_closing():
            return True
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        return not self.flow.write_paused

    @property
    def buffered(self) -> int:
        """Bytes that have been written and not yet been taken by the operating system."""
        return 0 if self.transport.is_closing() else self.transport.get_write_buffer_size()

    @property
    def drains(self) -> int:
        """How often the buffer has fallen from its bound to its low-water mark."""
        return self._drains

    async def drained(self) -> None:
        """Returns once there is room again, or the client has gone."""
        await self.flow.drain()

    def abort(self) -> None:
        """Break the connection off, with whatever has not been sent."""
        self.transport.abort()

    # What uvicorn and the event loop call

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: self}  # type: ignore[dict-item]

    def resume_writing(self) -> None:
        self._drains += 1
        super().resume_writing()

    def shutdown(self) -> None:
        if self._is_endless:
            self.transport.close()
            self.loop.call_later(SHUTDOWN_TIMEOUT, self.transport.abort)
        else:
            super().shutdown()
