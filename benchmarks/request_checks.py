"""What do the checks of a request cost?

Data: `{ viewer { role } }` over HTTP with an API key, `--connections` (default 4) connections that each ask again as
soon as they are answered, `--requests` (default 200) of each gateway in each of `--rounds` (default 200) rounds, after
some that do not count. Every answer must be the expected one.

Two gateways on one PostgreSQL and one Redis, asked in turns of some tens of milliseconds, so that whatever else the
machine does meets both: the product, and the same without the checks of a request:
its session is made once and is ADMIN's (no key is read or looked up, no revocation asked about), no role is looked at,
nothing is reckoned up, and no points are taken, given back or shown, the bounds on JSON are not checked, and no
document has to be trusted. That variant is made here and exists nowhere else.

Shows: CPU of each gateway's main thread per request (nanoseconds from /proc, so what the client costs does not count),
the median of each, and the ratio of these (goal: at most 1.15); beside it the same for each fifth of the run.

Command: `python -m benchmarks.request_checks [--rounds 200] [--requests 200] [--connections 4]`
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import orjson

from benchmarks.harness import ROOT, BenchmarkError, Gateway, free_port, gateway

BODY = orjson.dumps({"query": "{ viewer { role } }"})
EXPECTED = b'{"data":{"viewer":{"role":"ADMIN"}}'
START_SECONDS = 60.0
VARIANTS = ("with", "without")
WARM_UP_ROUNDS = 10
PARTS = 5
"""Of a run, each with a ratio of its own: how far they lie apart is how far to trust the whole."""


class Variant:
    """One of the two gateways, with connections that stay open."""

    def __init__(self, name: str, pid: int, port: int, key: str) -> None:
        self.name = name
        self._opened: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._pid = pid
        self._port = port
        self._request = (
            f"POST /graphql HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nx-api-key: {key}\r\n"
            f"Content-Length: {len(BODY)}\r\n\r\n"
        ).encode() + BODY

    async def connect(self, connections: int) -> None:
        """Open the connections that all requests go over."""
        self._opened = [await asyncio.open_connection("127.0.0.1", self._port) for _ in range(connections)]

    async def cpu_per_request(self, requests: int) -> float:
        """Microseconds of the main thread for each request. Raises `BenchmarkError` for an answer that is wrong."""
        each = requests // len(self._opened)
        before = self._cpu_nanoseconds()
        await asyncio.gather(*(self._ask(reader, writer, each) for reader, writer in self._opened))
        return (self._cpu_nanoseconds() - before) / 1000 / (each * len(self._opened))

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, requests: int) -> None:
        for _ in range(requests):
            writer.write(self._request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(length)
            if not body.startswith(EXPECTED) or (b'"cost"' in body) != (self.name == "with"):
                raise BenchmarkError(f"{self.name} answered {body!r}")

    def _cpu_nanoseconds(self) -> int:
        return int(Path(f"/proc/{self._pid}/schedstat").read_text().split()[0])


async def compare(variants: list[Variant], rounds: int, requests: int, connections: int) -> list[dict[str, float]]:
    """Both in each round; who is first changes."""
    for each in variants:
        await each.connect(connections)
    found = []
    for number in range(WARM_UP_ROUNDS + rounds):
        order = variants if number % 2 else variants[::-1]
        found.append({each.name: await each.cpu_per_request(requests) for each in order})
    return found[WARM_UP_ROUNDS:]


def medians(found: list[dict[str, float]]) -> list[float]:
    """Of each variant."""
    return [statistics.median(each[name] for each in found) for name in VARIANTS]


@contextmanager
def served(name: str, beside: Gateway) -> Iterator[Variant]:
    """One variant in a process of its own, on the servers of a gateway that runs."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.request_checks", "--serve", name, "--port", str(port)],
        cwd=ROOT,
        env={
            **os.environ,
            "DATABASE_URL": beside.database_url,
            "REDIS_URL": beside.redis_url,
            "SENDORA_SECRET_KEY": "of a benchmark, and of thirty-two characters",
        },
    )
    try:
        asyncio.run(_until_it_answers(port, process))
        yield Variant(name, process.pid, port, beside.key)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


async def _until_it_answers(port: int, process: subprocess.Popen[bytes]) -> None:
    async with asyncio.timeout(START_SECONDS):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                if process.poll() is not None:
                    raise BenchmarkError(f"{process.args!r} ended with {process.returncode}") from None
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


def serve(name: str, port: int) -> None:
    """Be one variant until SIGTERM."""
    import uvicorn

    import app
    from settings import read_settings
    from transport.http.server import serve_config

    if name == "without":
        leave_out_checks()
    signal.signal(signal.SIGTERM, lambda *_: None)
    uvicorn.Server(serve_config(app.create_app(read_settings()), port=port)).run()


def leave_out_checks() -> None:
    """Make this process's gateway trust whoever asks with whatever they ask."""
    import app
    import transport.execution.cost
    import transport.execution.requests
    from resolvers import projects
    from resolvers.context import Context

    class Session:
        """Opened once, for everybody."""

        holder = None
        account = None
        may_inspect = True

        def __init__(self, services: Any, viewer: Any) -> None:
            self._services = services
            self._viewer = viewer

        async def trusted_document(self, _digest: str) -> str | None:
            return None

        async def may_run(self, _document: str) -> bool:
            return True

        def context(self, cost: int = 0) -> Context:
            return Context(self._services, self._viewer, cost=cost)

        def on_revoked(self, _callback: Callable[[str], None]) -> Callable[[], None]:
            return lambda: None

    class Application(app.GatewayApplication):
        _opened: Session | None = None

        async def open_session(  # type: ignore[override]
            self, headers: Mapping[str, str], payload: Mapping[str, Any] | None, *, client: str | None
        ) -> Session:
            if self._opened is None:
                checked = await super().open_session(headers, payload, client=client)
                self._opened = Session(self._services, checked._viewer)
            return self._opened

    def admit(ctx: Context, _role: object) -> Any:
        return ctx._viewer

    def pass_over(_text: bytes) -> None:
        """JSON without bounds."""

    def cost_nothing(_cost: object, _values: object, _maximum: int) -> int:
        return 0

    for place, name, replacement in (
        (app, "GatewayApplication", Application),
        (projects, "require", admit),
        (transport.execution.requests, "check_json", pass_over),
        (transport.execution.cost.Cost, "check", cost_nothing),
    ):
        if not hasattr(place, name):
            raise BenchmarkError(f"{name} has moved, and would not be left out.")
        setattr(place, name, replacement)


def main() -> None:
    """One run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--serve", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.port)
        return
    with gateway() as beside, ExitStack() as stack:
        variants = [stack.enter_context(served(name, beside)) for name in VARIANTS]
        found = asyncio.run(compare(variants, arguments.rounds, arguments.requests, arguments.connections))
    checked, unchecked = medians(found)
    size = len(found) // PARTS
    parts = sorted(a / b for a, b in (medians(found[size * part : size * (part + 1)]) for part in range(PARTS)))
    print(
        f"CPU of a request: {checked:.1f} µs with its checks, {unchecked:.1f} µs without: {checked / unchecked:.3f}",
        end=" ",
    )
    print(f"(fifths of the run {parts[0]:.3f} to {parts[-1]:.3f}; goal: at most 1.15)")


if __name__ == "__main__":
    main()
