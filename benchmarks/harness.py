"""What every benchmark here shares: servers as processes, their CPU and memory, and subscribers that check each frame.

CPU is user plus system time of the server process alone, from /proc, so what the client costs on the other core does
not count. A run counts only when every subscriber received exactly what was published, in order.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 60.0
_TICKS = os.sysconf("SC_CLK_TCK")
_SEQ = re.compile(rb'"seq":(\d+)')
_USER = re.compile(rb'"userId":"([^"]*)"')
_SHORT = Struct(">H")
_LONG = Struct(">Q")


class BenchmarkError(Exception):
    """The run does not count: something was lost, repeated, reordered or refused."""


@dataclass(frozen=True)
class Server:
    """A server under measurement."""

    name: str
    pid: int
    port: int
    headers: dict[str, str] = field(default_factory=dict)

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def resident_kib(self) -> int:
        """Resident memory."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1])  # type: ignore[index]


@dataclass(frozen=True)
class Gateway(Server):
    """Our whole stack as `make run` starts it; `pid` is the (only) gateway process."""

    key: str = ""
    project_id: str = ""
    database_url: str = ""
    redis_url: str = ""


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def gateway(**environment: str) -> Iterator[Gateway]:
    """`cli.py run` on a fresh data folder."""
    folder = Path(tempfile.mkdtemp(prefix="sendora-bench-"))
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, ROOT / "cli.py", "run"],
        env={**os.environ, "PORT": str(port), "SENDORA_DATA_DIR": str(folder), **environment},
        stdout=subprocess.DEVNULL,
        stderr=(folder / "stderr.log").open("wb"),
    )
    try:
        keys = _wait_for(lambda: _keys(folder, port), process)
        pid = _wait_for(lambda: _child_running(process.pid, "serve"), process)
        yield Gateway(
            "sendora",
            pid,
            port,
            {"x-api-key": keys["secretKey"]},
            key=keys["secretKey"],
            project_id=keys["projectId"],
            database_url=keys["databaseUrl"],
            redis_url=keys["redisUrl"],
        )
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def peer(name: str, command: Sequence[str | Path]) -> Iterator[Server]:
    """One of the small servers in `peers/`, given its port as last argument."""
    port = free_port()
    process = subprocess.Popen([*command, str(port)], stdout=subprocess.PIPE, cwd=ROOT)
    try:
        _wait_for(lambda: _accepts(port), process)
        yield Server(name, process.pid, port)
    finally:
        process.terminate()
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()


def peers() -> dict[str, list[str | Path]]:
    """Name → command of every peer; installs the Node ones where they are missing."""
    node = ROOT / "benchmarks" / "peers" / "node"
    if not (node / "node_modules").exists():
        subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=node, check=True)
    return {
        "graphql-ws": ["node", node / "graphql_ws_server.js"],
        "mercurius (jit)": ["node", node / "mercurius_server.js"],
        "strawberry (stock)": [sys.executable, ROOT / "benchmarks" / "peers" / "strawberry_stock.py"],
    }


class Subscriber(asyncio.Protocol):
    """One graphql-transport-ws subscription on a raw socket; cheap enough for thousands in one client process.

    Keeps the `seq` of each item, whose it was, and its arrival time when `timed`.
    """

    def __init__(self, server: Server, query: str, variables: dict[str, object], *, timed: bool = False) -> None:
        self._server = server
        self._subscribe = {"id": "1", "type": "subscribe", "payload": {"query": query, "variables": variables}}
        self._buffer = bytearray()
        self._upgraded = False
        self._timed = timed
        self.seqs: list[int] = []
        self.users: set[str] = set()
        self.arrivals: list[float] = []
        self.acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        key = b64encode(os.urandom(16)).decode()
        lines = [
            "GET /graphql HTTP/1.1",
            f"Host: 127.0.0.1:{self._server.port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Protocol: graphql-transport-ws",
            *(f"{name}: {value}" for name, value in self._server.headers.items()),
        ]
        self._write("\r\n".join(lines).encode() + b"\r\n\r\n")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._upgraded:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            if not self._buffer.startswith(b"HTTP/1.1 101"):
                self._fail(f"not upgraded: {bytes(self._buffer[:200])!r}")
                return
            del self._buffer[: end + 4]
            self._upgraded = True
            self._send({"type": "connection_init", "payload": self._server.headers})
        self._read_frames()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"connection lost: {exc}")

    def close(self) -> None:
        """Drop the socket."""
        if self.transport is not None:
            self.transport.abort()

    def _read_frames(self) -> None:
        start, buffer = 0, self._buffer
        while (frame := _frame_at(buffer, start)) is not None:
            opcode, body, end = frame
            self._on_frame(opcode, bytes(buffer[body:end]))
            start = end
        del buffer[:start]

    def _on_frame(self, opcode: int, payload: bytes) -> None:
        if opcode == 9:
            self._write(_masked(0x8A, payload))
        elif opcode == 8:
            self._fail(f"closed by the server: {payload!r}")
        elif (seq := _SEQ.search(payload)) is not None:
            self.seqs.append(int(seq[1]))
            if (user := _USER.search(payload)) is not None:
                self.users.add(user[1].decode())
            if self._timed:
                self.arrivals.append(time.perf_counter())
        else:
            self._on_control(json.loads(payload))

    def _on_control(self, message: dict[str, object]) -> None:
        if message["type"] == "connection_ack":
            self._send(self._subscribe)
            if not self.acknowledged.done():
                self.acknowledged.set_result(None)
        elif message["type"] == "ping":
            self._send({"type": "pong"})
        elif message["type"] in ("error", "complete"):
            self._fail(f"subscription ended: {message}")

    def _send(self, message: dict[str, object]) -> None:
        self._write(_masked(0x81, json.dumps(message).encode()))

    def _write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def _fail(self, reason: str) -> None:
        if not self.acknowledged.done():
            self.acknowledged.set_exception(BenchmarkError(f"{self._server.name}: {reason}"))


async def open_subscribers(
    server: Server, query: str, variables: Sequence[dict[str, object]], *, timed: bool = False
) -> list[Subscriber]:
    """One subscriber per set of variables, each acknowledged; connected fifty at a time."""
    loop = asyncio.get_running_loop()
    opened: list[Subscriber] = []
    for start in range(0, len(variables), 50):
        made = [
            loop.create_connection(lambda v=v: Subscriber(server, query, v, timed=timed), "127.0.0.1", server.port)
            for v in variables[start : start + 50]
        ]
        batch = [subscriber for _, subscriber in await asyncio.gather(*made)]
        await asyncio.gather(*(subscriber.acknowledged for subscriber in batch))
        opened += batch
    await asyncio.sleep(1.0)
    return opened


async def wait_until_received(subscribers: Sequence[Subscriber], expected: int, *, seconds: float = 120) -> None:
    """Until all of them together hold `expected` items, and none more arrives. Raises `BenchmarkError`."""
    deadline = time.monotonic() + seconds
    while sum(len(s.seqs) for s in subscribers) < expected:
        if time.monotonic() > deadline:
            got = sum(len(s.seqs) for s in subscribers)
            raise BenchmarkError(f"{got} of {expected} items arrived within {seconds:.0f} s")
        await asyncio.sleep(0.01)


def _frame_at(buffer: bytearray, start: int) -> tuple[int, int, int] | None:
    if len(buffer) < start + 2:
        return None
    length, body = buffer[start + 1] & 0x7F, start + 2
    if length == 126:
        if len(buffer) < body + 2:
            return None
        length, body = _SHORT.unpack_from(buffer, body)[0], body + 2
    elif length == 127:
        if len(buffer) < body + 8:
            return None
        length, body = _LONG.unpack_from(buffer, body)[0], body + 8
    end = body + length
    return (buffer[start] & 0x0F, body, end) if len(buffer) >= end else None


def _masked(first: int, payload: bytes) -> bytes:
    """A client's frame; the mask is zero, which masks nothing and is legal."""
    length = len(payload)
    if length < 126:
        head = bytes((first, 0x80 | length))
    elif length < 65536:
        head = bytes((first, 0x80 | 126)) + _SHORT.pack(length)
    else:
        head = bytes((first, 0x80 | 127)) + _LONG.pack(length)
    return head + b"\0\0\0\0" + payload


def _wait_for(probe, process: subprocess.Popen[bytes]):  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if (found := probe()) is not None:
            return found
        if process.poll() is not None:
            raise BenchmarkError(f"{process.args!r} ended with {process.returncode}")
        time.sleep(0.05)
    raise BenchmarkError(f"{process.args!r} did not start within {START_SECONDS:.0f} s")


def _accepts(port: int) -> bool | None:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=0.2).close()
    except OSError:
        return None
    return True


def _keys(folder: Path, port: int) -> dict[str, str] | None:
    import urllib.error
    import urllib.request

    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1).close()
        return json.loads((folder / "keys.json").read_text())  # type: ignore[no-any-return]
    except (OSError, urllib.error.URLError, ValueError):
        return None


def _child_running(parent: int, word: str) -> int | None:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if int(stat[1]) == parent and word.encode() in command:
            return int(entry.name)
    return None
