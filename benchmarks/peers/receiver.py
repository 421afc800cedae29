"""A webhook receiver that costs next to nothing: answers 200 to every POST and remembers when which id came.

`GET /seen` gives the ids (header `webhook-id`) in order with their times of arrival, on the clock that all processes of
a machine share, and forgets them; `GET /seen/singles` does without those of a backlog (`backlog_…`), of which there are
so many that telling them would be what is measured. Command: `python receiver.py PORT`.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_ID = re.compile(rb"\r\nwebhook-id: *([^\r]+)", re.IGNORECASE)
_OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

seen: list[tuple[str, float]] = []


class Receiver(asyncio.Protocol):
    """One connection, kept alive."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end]
            length = _LENGTH.search(head)
            total = end + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < total:
                return
            self._buffer = self._buffer[total:]
            self._transport.write(self._answer(head))

    def _answer(self, head: bytes) -> bytes:
        if head.startswith(b"GET /seen"):
            is_all = not head.startswith(b"GET /seen/singles")
            body = json.dumps([each for each in seen if is_all or not each[0].startswith("backlog_")]).encode()
            seen.clear()
            return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
        found = _ID.search(head)
        if found:
            seen.append((found[1].decode(), time.perf_counter()))
        return _OK


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Receiver, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
