"""A whole deployment that a test owns and may break: PostgreSQL, Valkey, gateways and workers, each a process.

Every part is killed, stopped and started by itself, and what is broken when is written down (`weather`), so that a
test can tell what a promise covers. Everything ends with the test's process, however that ends. Parts are started on
the main thread: a child is ended with the thread that started it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

import asyncpg

from db.migrate import migrate
from launch import processes
from launch.embedded import EmbeddedPostgres, EmbeddedValkey
from launch.first_start import NewKeys, make_project
from launch.ports import free_port
from tests.acceptance.chaos.weather import Weather
from tests.acceptance.running import clean_environment
from tests.acceptance.running import processes as running_processes

WORKER = ("cli.py", "worker")
START_SECONDS = 40.0
"""A gateway needs two; a busy machine, and a PostgreSQL that is started at the same time, many more."""
POSTGRES_START_SECONDS = 60.0
ONE_TRY_SECONDS = 1.0
LOGGED_ERRORS = re.compile(rb'"level": ?"(?:error|critical)"|Traceback')
HARMLESS_ERRORS = re.compile(rb"in lifespan\\n|Application startup failed|Flush failed, requeuing")
"""What is logged because PostgreSQL is away: a gateway that is started then ends, and is started again; pgqueuer writes
later what it could not write.
"""


class Part:
    """One process of ours: a gateway or a worker. `name` is what the weather calls it."""

    def __init__(self, name: str, command: Sequence[str], directory: Path, environment: dict[str, str]) -> None:
        self.name = name
        self.log = directory / f"{name.replace(' ', '-')}.log"
        self.lock = asyncio.Lock()
        """Held by whoever is breaking it."""
        self.starts = 0
        self._command = command
        self._environment = environment
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def launch(self) -> None:
        self.starts += 1
        with self.log.open("ab") as output:
            self.process = processes.launch(
                [sys.executable, *self._command],
                orphan_signal=signal.SIGKILL,
                output=output,
                environment=self._environment,
            )

    def send(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal that ends it, and wait until it has."""
        if self.process is not None:
            self.send(signal.SIGCONT)
            processes.end(self.process, number, 10)
            self.process = None

    def resident_bytes(self) -> int:
        """What it takes of the machine's memory; 0 when it does not run."""
        if not self.runs or self.process is None:
            return 0
        try:
            return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            return 0

    def logged_errors(self) -> list[str]:
        """Lines that say something went wrong here, rather than with somebody else."""
        if not self.log.exists():
            return []
        lines = self.log.read_bytes().splitlines()
        found = [line for line in lines if LOGGED_ERRORS.search(line) and not HARMLESS_ERRORS.search(line)]
        return [line.decode()[:2000] for line in found]


class Gateway(Part):
    """A gateway on a port of its own."""

    def __init__(self, number: int, directory: Path, environment: dict[str, str]) -> None:
        self.number = number
        self.port = free_port()
        super().__init__(f"gateway {number}", ["cli.py", "serve", "--port", str(self.port)], directory, environment)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/graphql"

    async def until_listening(self, *, ready: bool = False, seconds: float = START_SECONDS) -> None:
        """Start it as often as needed, as a supervisor would: without PostgreSQL it ends at once."""
        deadline = time.monotonic() + seconds
        while not await self._answers("/readyz" if ready else "/healthz"):
            assert time.monotonic() < deadline, f"{self.name} does not start: {self.log.read_text()[-2000:]}"
            if not self.runs:
                self.launch()
            await asyncio.sleep(0.1)

    async def _answers(self, path: str) -> bool:
        try:
            async with asyncio.timeout(ONE_TRY_SECONDS):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
                    return (await reader.readline()).startswith(b"HTTP/1.1 200")
                finally:
                    writer.transport.abort()
        except (OSError, TimeoutError):
            return False


class Deployment:
    """PostgreSQL, Valkey, gateways and workers. `open` and `close` belong to one event loop's life each.

    `worker` is what a worker runs in Python, `settings` are those of every gateway and worker.
    """

    def __init__(
        self,
        directory: Path,
        *,
        gateways: int = 2,
        workers: int = 1,
        worker: Sequence[str] = WORKER,
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.weather = Weather()
        self.postgres = EmbeddedPostgres(directory / "servers")
        self.redis = EmbeddedValkey(directory / "servers")
        self.secret_key = secrets.token_hex(32)
        self.keys: NewKeys
        self.environment = clean_environment(
            DATABASE_URL=self.postgres.url, REDIS_URL=self.redis.url, SENDORA_SECRET_KEY=self.secret_key, **settings
        )
        self.gateways = [Gateway(number, directory, self.environment) for number in range(gateways)]
        self.workers = [Part(f"worker {number}", [*worker], directory, self.environment) for number in range(workers)]
        self.postgres_lock = asyncio.Lock()
        self.redis_lock = asyncio.Lock()

    @property
    def parts(self) -> list[Part]:
        return [*self.gateways, *self.workers]

    def open_servers(self) -> None:
        """PostgreSQL, migrated and with a project, and Valkey."""
        self.postgres.start()
        self.redis.start()

    async def make_project(self) -> None:
        await migrate(self.postgres.url)
        self.keys = await make_project(
            self.postgres.url, region="us", deployment_region="us", name="Chaos", organization="Chaos"
        )

    async def open(self) -> None:
        """Everything, and ready."""
        self.open_servers()
        await self.make_project()
        for part in self.parts:
            part.launch()
        for gateway in self.gateways:
            await gateway.until_listening(ready=True)

    def close(self) -> None:
        for part in self.parts:
            part.end()
        self.redis.stop()
        self.postgres.stop()

    # PostgreSQL

    async def terminate_backends(self) -> int:
        """End every connection of every gateway and worker, as an administrator would. How many there were."""
        connection = await asyncpg.connect(self.postgres.url, timeout=5)
        try:
            with self.weather.spell("postgres"):
                ended = await connection.fetch(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name LIKE 'sendora%' AND pid <> pg_backend_pid()"
                )
            return len(ended)
        finally:
            await connection.close(timeout=5)

    async def cancel_statements(self) -> int:
        """Cancel whatever runs for a gateway or worker. How many there were."""
        connection = await asyncpg.connect(self.postgres.url, timeout=5)
        try:
            with self.weather.spell("postgres"):
                ended = await connection.fetch(
                    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name LIKE 'sendora%' AND state = 'active'"
                )
            return len(ended)
        finally:
            await connection.close(timeout=5)

    async def kill_backend(self) -> int:
        """kill -9 of a connection's process, one at work if there is any: PostgreSQL drops the others and recovers."""
        connection = await asyncpg.connect(self.postgres.url, timeout=5)
        try:
            with self.weather.spell("postgres"):
                pid = await connection.fetchval(
                    "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'sendora%' ORDER BY state LIMIT 1"
                )
                if pid is None:
                    return 0
                _send([pid], signal.SIGKILL)
                await self._until_postgres_answers()
            return 1
        finally:
            connection.terminate()

    async def _until_postgres_answers(self) -> None:
        deadline = time.monotonic() + POSTGRES_START_SECONDS
        while True:
            await asyncio.sleep(0.1)
            try:
                connection = await asyncpg.connect(self.postgres.url, timeout=5)
            except (asyncpg.PostgresError, OSError, TimeoutError):
                assert time.monotonic() < deadline, self.postgres.failure()
            else:
                await connection.close()
                return

    async def pause_postgres(self, seconds: float) -> None:
        """SIGSTOP of all its processes, whatever locks they hold."""
        assert self.postgres.process is not None
        paused = [self.postgres.process.pid]
        paused += [pid for pid, parent, _ in running_processes() if parent == self.postgres.process.pid]
        with self.weather.spell("postgres"):
            _send(paused, signal.SIGSTOP)
            try:
                await asyncio.sleep(seconds)
            finally:
                _send(paused, signal.SIGCONT)

    async def crash_postgres(self, *, away: float) -> None:
        """kill -9 of the postmaster, and a start that has to recover."""
        with self.weather.spell("postgres"):
            assert self.postgres.process is not None
            self.postgres.process.kill()
            self.postgres.process.wait()
            await asyncio.sleep(away)
            await self._start_postgres()

    async def _start_postgres(self) -> None:
        deadline = time.monotonic() + POSTGRES_START_SECONDS
        self.postgres.prepare()
        while not self.postgres.is_ready():
            assert time.monotonic() < deadline, self.postgres.failure()
            if self.postgres.process is None or self.postgres.process.poll() is not None:
                self.postgres.launch()
            await asyncio.sleep(0.05)

    # Redis

    async def crash_redis(self, *, away: float) -> None:
        """kill -9, and a start without anything it knew."""
        with self.weather.spell("redis"):
            self.kill_redis()
            await asyncio.sleep(away)
            await self.start_redis()

    def kill_redis(self) -> None:
        assert self.redis.process is not None
        self.redis.process.kill()
        self.redis.process.wait()

    async def start_redis(self) -> None:
        self.redis.launch()
        while not self.redis.is_ready():  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def pause_redis(self, seconds: float) -> None:
        """SIGSTOP: it takes connections and bytes, and answers nothing."""
        assert self.redis.process is not None
        with self.weather.spell("redis"):
            self.redis.process.send_signal(signal.SIGSTOP)
            try:
                await asyncio.sleep(seconds)
            finally:
                self.redis.process.send_signal(signal.SIGCONT)

    async def tell_redis(self, *words: str) -> None:
        reader, writer = await asyncio.open_unix_connection(self.redis.url.removeprefix("unix://"))
        try:
            writer.write(" ".join(words).encode() + b"\r\n")
            await reader.readline()
        finally:
            writer.close()

    # Workers

    async def crash_worker(self, worker: Part, *, away: float) -> None:
        """kill -9, and a start."""
        with self.weather.spell(worker.name):
            await asyncio.to_thread(worker.end)
            await asyncio.sleep(away)
            worker.launch()

    async def keep_workers(self) -> None:
        """As a supervisor does: who ended by itself, because PostgreSQL was away when it started, is started again."""
        while True:
            for worker in self.workers:
                if not worker.runs and not worker.lock.locked():
                    worker.launch()
            await asyncio.sleep(0.2)

    async def pause_part(self, part: Part, seconds: float) -> None:
        """SIGSTOP: its sockets stay open, and nothing comes."""
        with self.weather.spell(part.name):
            part.send(signal.SIGSTOP)
            try:
                await asyncio.sleep(seconds)
            finally:
                part.send(signal.SIGCONT)

    # Gateways

    async def crash_gateway(self, gateway: Gateway, *, away: float, number: signal.Signals = signal.SIGKILL) -> None:
        """End it and start it again."""
        with self.weather.spell(gateway.name):
            gateway.send(number)
            await asyncio.sleep(away)
            await asyncio.to_thread(gateway.end)
            await gateway.until_listening()


def _send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def read_errors(body: bytes) -> list[str]:
    """The codes of the errors of a GraphQL response; `["no JSON"]` for what is none."""
    try:
        return [str(error.get("extensions", {}).get("code")) for error in json.loads(body).get("errors", [])]
    except (ValueError, AttributeError):
        return ["no JSON"]
