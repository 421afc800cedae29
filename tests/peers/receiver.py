"""A webhook receiver of a customer's on loopback: plain HTTP/1.1 or TLS, every byte under control.

It verifies each request with the libraries that customers use, where it was told the path's secret, and answers 200.
What a path shall do instead is put in `WebhookReceiver.scripts`: a list of actions, used up one by one; then it answers
200 again. `python -m tests.peers.receiver` runs one for development and prints what arrives.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import ssl
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal

import msgspec

from engine.tasks import end_tasks

DEFAULT_PORT = 9100
MAX_BODY_BYTES = 1 << 20
CHUNK = b"400\r\n" + b"x" * 1024 + b"\r\n"


class Reply(msgspec.Struct, frozen=True):
    """An answer, given `after` so many seconds."""

    status: int = 200
    body: bytes = b"ok"
    headers: tuple[tuple[str, str], ...] = ()
    after: float = 0.0


class HangUp(msgspec.Struct, frozen=True):
    """The connection ends: when the request was read, half-way through it, or half-way through the answer's head or
    body."""

    when: Literal["read", "reading", "head", "body"] = "read"


class Stall(msgspec.Struct, frozen=True):
    """No answer ever comes; or its head, and never its body; or its head a byte at a time."""

    where: Literal["answer", "body", "head"] = "answer"


class StreamForever(msgspec.Struct, frozen=True):
    """200, and a body without end."""


class NotHttp(msgspec.Struct, frozen=True):
    """Something that is no answer."""


class Raw(msgspec.Struct, frozen=True):
    """These bytes, in one packet or in two; the receiver takes further requests on the connection."""

    first: bytes
    second: bytes = b""


Action = Reply | HangUp | Stall | StreamForever | NotHttp | Raw


class Received(msgspec.Struct, frozen=True):
    """One request, and what is done about it. `verified` is None where the path's secret is not known."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    verified: bool | None
    action: Action

    @property
    def event_id(self) -> str:
        return self.headers["webhook-id"]


class WebhookReceiver:
    """Use `running`. `connections` counts those that were accepted, requests or not."""

    def __init__(self) -> None:
        self.url = ""
        self.port = 0
        self.connections = 0
        self.requests: list[Received] = []
        self.scripts: defaultdict[str, list[Action]] = defaultdict(list)
        self.secrets: dict[str, str] = {}
        self.on_request: Callable[[Received], None] = self.requests.append
        self._serving: set[asyncio.Task[None] | None] = set()

    @classmethod
    @asynccontextmanager
    async def running(
        cls, *, port: int = 0, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
    ) -> AsyncIterator[WebhookReceiver]:
        """Whatever is under way when the block ends is cut off."""
        receiver = cls()
        server = await asyncio.start_server(receiver._serve, host, port, ssl=tls)
        receiver.port = server.sockets[0].getsockname()[1]
        receiver.url = f"{'http' if tls is None else 'https'}://{host}:{receiver.port}"
        try:
            yield receiver
        finally:
            server.close()
            await end_tasks(receiver._serving)
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        self._serving.add(task)
        try:
            while await self._exchange(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            # Cancelled: the receiver stops. asyncio reports handlers that end in any other way than this.
            pass
        finally:
            self._serving.discard(task)
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether the connection goes on."""
        request_line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = request_line.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        script = self.scripts[path]
        action = script.pop(0) if script else Reply()
        if action == HangUp("reading"):
            return False
        length = int(headers.get("content-length", 0))
        body = await reader.readexactly(min(length, MAX_BODY_BYTES))
        secret = self.secrets.get(path)
        verified = None if secret is None else verify(body, headers, secret)
        self.on_request(Received(method, path, headers, body, verified, action))
        return await _act(writer, action)


async def _act(writer: asyncio.StreamWriter, action: Action) -> bool:
    match action:
        case Reply(status=status, body=body, headers=headers, after=after):
            await asyncio.sleep(after)
            head = "".join(f"{name}: {value}\r\n" for name, value in headers)
            writer.write(f"HTTP/1.1 {status} Word\r\ncontent-length: {len(body)}\r\n{head}\r\n".encode() + body)
            await writer.drain()
            return True
        case Raw(first=first, second=second):
            writer.write(first)
            await asyncio.sleep(0.01 if second else 0)
            writer.write(second)
            await writer.drain()
            return True
        case HangUp(when="head"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-le")
        case HangUp(when="body"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf a bo")
        case Stall(where="answer"):
            await asyncio.Event().wait()
        case Stall(where="body"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nthe beginn")
            await asyncio.Event().wait()
        case Stall(where="head"):
            for byte in b"HTTP/1.1 200 OK\r\nx-" + b"a" * 4096:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.01)
        case StreamForever():
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            while True:
                writer.write(CHUNK)
                await writer.drain()
        case NotHttp():
            writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
    await writer.drain()
    return False


def verify(body: bytes, headers: dict[str, str], secret: str) -> bool:
    """Whether every verifier that a customer may use accepts a request."""
    # They are there where tests run; a receiver that is only to show requests needs neither.
    import standardwebhooks
    import stripe

    bare = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    try:
        stripe.WebhookSignature.verify_header(body.decode(), headers["sendora-signature"], secret, tolerance=300)
        # It parses what it has verified, and a body of the customer's own need not be JSON.
        with contextlib.suppress(json.JSONDecodeError):
            standardwebhooks.Webhook(secret).verify(body, headers)
    except (stripe.SignatureVerificationError, standardwebhooks.WebhookVerificationError, KeyError):
        return False
    return hmac.compare_digest(headers["x-sendora-signature-256"], f"sha256={bare}")


async def _show(port: int) -> None:
    async with WebhookReceiver.running(port=port) as receiver:
        receiver.on_request = lambda request: print(request.path, request.event_id, request.body.decode(), flush=True)
        print(f"A webhook receiver listens on {receiver.url}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_show(int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_PORT))
