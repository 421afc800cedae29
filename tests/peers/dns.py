"""A name server on loopback, over UDP: TXT records by name. Started by itself it prints its port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

TTL_SECONDS = 60
MAX_STRING_BYTES = 255


class DnsPeer:
    """`txt` holds the records by name, without a dot at its end; `asked` what was asked for. With `silent` it answers
    nothing, with `broken` SERVFAIL."""

    def __init__(self) -> None:
        self.txt: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self.silent = False
        self.broken = False
        self.address = ("127.0.0.1", 0)

    def answer(self, wire: bytes) -> bytes | None:
        query = dns.message.from_wire(wire)
        [question] = query.question
        name = question.name.to_text(omit_final_dot=True).lower()
        self.asked.append(name)
        if self.silent:
            return None
        response = dns.message.make_response(query, recursion_available=True)
        if self.broken:
            response.set_rcode(dns.rcode.SERVFAIL)
        elif name not in self.txt:
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif question.rdtype == dns.rdatatype.TXT and self.txt[name]:
            strings = [_quoted(text) for text in self.txt[name]]
            response.answer.append(dns.rrset.from_text(question.name, TTL_SECONDS, "IN", "TXT", *strings))
        return response.to_wire()


class _Server(asyncio.DatagramProtocol):
    def __init__(self, peer: DnsPeer) -> None:
        self._peer = peer
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = self._peer.answer(data)
        if answer is not None and self._transport is not None:
            self._transport.sendto(answer, addr)


def _quoted(text: str) -> str:
    """In strings of 255 bytes, as long keys are published."""
    pieces = [text[start : start + MAX_STRING_BYTES] for start in range(0, len(text), MAX_STRING_BYTES)]
    return " ".join('"' + piece.replace("\\", "\\\\").replace('"', '\\"') + '"' for piece in pieces)


@asynccontextmanager
async def dns_peer(*, port: int = 0) -> AsyncIterator[DnsPeer]:
    """Listens on 127.0.0.1."""
    peer = DnsPeer()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Server(peer), local_addr=("127.0.0.1", port))
    peer.address = transport.get_extra_info("sockname")
    try:
        yield peer
    finally:
        transport.close()


async def _serve() -> None:
    async with dns_peer(port=5353) as peer:
        print(f"dns://{peer.address[0]}:{peer.address[1]}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve())
