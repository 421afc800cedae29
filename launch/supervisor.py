"""`cli.py run`: everything on one machine, started in the right order, kept running, and stopped without a trace.

Guarantees: one start per data folder; PostgreSQL, Redis, gateways and worker are back within seconds when they die,
with growing pauses when they keep dying; none of them outlives this process, even when it is killed with -9. Leaves to
others: what the children do (`cli.py serve`, `cli.py worker`), the rows of the first project (`launch/first_start.py`).

How it stops: the first SIGINT, SIGTERM or SIGHUP asks gateways and workers to finish, then the services, all within
`CLIENTS_GRACE_SECONDS` and `SERVICES_GRACE_SECONDS`; a second one kills.

The listening socket belongs to this process and all gateways accept from it. So a taken port is known before anything
starts, and a connection that arrives while a gateway is being replaced waits instead of being refused. The gateways are
launched first and import their modules while the services come up: they are held back (`processes.GO`) until the
database is migrated. The worker comes last: nobody waits for it, and it would take the processor from those who are
waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from launch import processes
from launch.data_folder import DataFolder, Keys, StartError
from launch.embedded import START_TIMEOUT_SECONDS, EmbeddedError, EmbeddedPostgres, EmbeddedValkey
from launch.keeper import Exits, Keeper, Output, Printer
from launch.ports import free_udp_port
from settings import Environment, Settings

CLIENTS_GRACE_SECONDS = 2.5
"""For open requests and streams to end. With the services' grace below the promised five seconds."""
SERVICES_GRACE_SECONDS = 1.5
KILL_SECONDS = 0.3
PORT_PATIENCE_SECONDS = 1.0
"""The gateways of a supervisor that was just killed may hold the port a little longer than it held the lock."""
ANSWER_TIMEOUT_SECONDS = 20.0
ONE_ANSWER_SECONDS = 5.0
LISTEN_BACKLOG = 2048
CLIENT_STOP = ((signal.SIGTERM, CLIENTS_GRACE_SECONDS), (signal.SIGKILL, KILL_SECONDS))
SERVICE_STOP = (
    (signal.SIGINT, SERVICES_GRACE_SECONDS),
    (signal.SIGQUIT, KILL_SECONDS),
    (signal.SIGKILL, KILL_SECONDS),
)
"""SIGQUIT before SIGKILL: PostgreSQL then takes its backends with it."""

_CLI = Path(__file__).parent.parent / "cli.py"
_PEERS = _CLI.parent / "tests" / "peers"


class Service(Protocol):
    """PostgreSQL or Valkey of `launch/embedded.py`."""

    def launch(self) -> subprocess.Popen[bytes]: ...

    def is_ready(self) -> bool: ...

    def failure(self) -> EmbeddedError: ...


def listen(host: str, port: int) -> socket.socket:
    """The socket that all gateways accept from. Raises `StartError` when the address is taken or not ours."""
    deadline = time.monotonic() + PORT_PATIENCE_SECONDS
    while True:
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            return socket.create_server((host, port), family=family, backlog=LISTEN_BACKLOG)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise StartError(_why_not_listening(host, port, error)) from None
        time.sleep(0.05)


def _why_not_listening(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} is taken by another program: stop that one, or choose another port, e.g. PORT={port + 1}."
    if error.errno == errno.EACCES:
        return f"Port {port} may not be used by this user: choose one from 1024 up, e.g. PORT=8000."
    return f"{host}:{port} cannot be listened on ({error.strerror}): correct SENDORA_HOST and PORT."


class Supervisor:
    """One run. `run()` returns after a stop that was asked for, and raises `StartError` or `EmbeddedError`."""

    def __init__(self, settings: Settings, folder: DataFolder, listener: socket.socket) -> None:
        self._settings = settings
        self._folder = folder
        self._listener = listener
        self._postgres = None if settings.database_url else EmbeddedPostgres(folder.path)
        self._valkey = None if settings.redis_url else EmbeddedValkey(folder.path, tcp=True)
        self._exits = Exits()
        self._printer = Printer()
        self._stop = asyncio.Event()
        self._may_go = False
        # Known before anything starts: the gateways are told of it, and the name server takes it later.
        self._dns_port = free_udp_port() if settings.fake_providers else 0
        self._clients: list[Keeper] = []
        self._services: list[Keeper] = []
        self._keeping: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Start everything, keep it running until a signal, stop everything."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._exits.notify)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._ask_to_stop)
        try:
            keys = await self._unless_stopped(self._start())
            if keys is not None:
                _print_welcome(keys, fake_providers=self._settings.fake_providers)
                await self._stop.wait()
        finally:
            await self._end_everything()

    @property
    def _database_url(self) -> str:
        if self._postgres is not None:
            return self._postgres.url
        assert self._settings.database_url is not None  # noqa: S101, the same condition as in __init__
        return self._settings.database_url.get_secret_value().replace("postgres://", "postgresql://", 1)

    @property
    def _redis_url(self) -> str:
        if self._valkey is not None:
            return self._valkey.url
        assert self._settings.redis_url is not None  # noqa: S101, the same condition as in __init__
        return self._settings.redis_url.get_secret_value()

    def _ask_to_stop(self) -> None:
        if self._stop.is_set():
            self._kill_everything()
        self._stop.set()

    async def _unless_stopped(self, start: Coroutine[object, object, Keys]) -> Keys | None:
        starting = asyncio.create_task(start)
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return starting.result() if starting.done() else None
        finally:
            stopping.cancel()
            starting.cancel()
            await asyncio.gather(starting, stopping, return_exceptions=True)

    async def _start(self) -> Keys:
        secret = self._settings.secret_key.get_secret_value() if self._settings.secret_key else self._folder.secret()
        await self._check_servers()
        self._launch_gateways(secret)
        await self._start_services()
        keys = await self._prepare_database()
        self._let_clients_go()
        await self._first_answer()
        self._keep_client("worker", ["worker", "--supervised"], secret)
        if self._settings.fake_providers:
            self._keep_fake_providers(keys)
        return keys

    async def _check_servers(self) -> None:
        """Those of others, before anything is started on them."""
        if self._settings.fake_providers and not _PEERS.is_dir():
            raise StartError(
                "SENDORA_FAKE_PROVIDERS needs the repository: the providers are in its folder tests/peers."
            )
        from launch.servers import check_postgres, check_redis

        if self._postgres is None:
            await check_postgres(self._database_url)
        if self._valkey is None:
            await check_redis(self._redis_url)

    def _launch_gateways(self, secret: str) -> None:
        count = self._settings.gateways
        descriptor = self._listener.fileno()
        for number in range(1, count + 1):
            name = "gateway" if count == 1 else f"gateway {number}"
            self._keep_client(name, ["serve", "--supervised", "--fd", str(descriptor)], secret)

    def _client_environment(self, secret: str) -> Mapping[str, str]:
        given = {
            "DATABASE_URL": self._database_url,
            "REDIS_URL": self._redis_url,
            "SENDORA_SECRET_KEY": secret,
            "SENDORA_ENVIRONMENT": (self._settings.environment or Environment.DEVELOPMENT).value,
        }
        if self._settings.fake_providers:
            given["SENDORA_EGRESS_ALLOW"] = ",".join(filter(None, (self._settings.egress_allow, "127.0.0.0/8")))
            given["SENDORA_DNS_SERVER"] = f"127.0.0.1:{self._dns_port}"
        inherited = {name: value for name, value in os.environ.items() if name not in _ALIASES}
        return {**inherited, "PYTHONUNBUFFERED": "1", **given}

    def _keep_client(self, name: str, arguments: list[str], secret: str) -> None:
        self._keep_process(name, [sys.executable, _CLI, *arguments], self._client_environment(secret))

    def _keep_fake_providers(self, keys: Keys) -> None:
        """They are clients of the gateway as any other, and set the project up through its API."""
        host, port = self._listener.getsockname()[:2]
        command = [
            sys.executable,
            "-m",
            "tests.peers",
            "--url",
            f"http://{host}:{port}",
            "--dns-port",
            str(self._dns_port),
        ]
        self._keep_process(
            "providers", command, {**os.environ, "PYTHONUNBUFFERED": "1", "SENDORA_API_KEY": keys.secret_key}
        )

    def _keep_process(self, name: str, command: Sequence[str | Path], environment: Mapping[str, str]) -> None:

        def launch() -> subprocess.Popen[bytes]:
            process = processes.launch(
                command,
                orphan_signal=signal.SIGKILL,
                output=subprocess.PIPE,
                stdin=subprocess.PIPE,
                environment=environment,
                inherited=(self._listener.fileno(),),
            )
            Output(name, process, self._printer)
            if self._may_go:
                _say_go(process)
            return process

        self._clients.append(self._keep(name, launch))

    def _keep(self, name: str, launch: Callable[[], subprocess.Popen[bytes]]) -> Keeper:
        keeper = Keeper(name, launch, self._exits, self._printer)
        task = asyncio.create_task(keeper.keep())
        task.add_done_callback(self._keeper_ended)
        self._keeping.add(task)
        return keeper

    def _keeper_ended(self, task: asyncio.Task[None]) -> None:
        self._keeping.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._printer.line("supervisor", f"cannot start a process ({task.exception()}); stopping.")
            self._stop.set()

    async def _start_services(self) -> None:
        if self._postgres is not None:
            await asyncio.to_thread(self._postgres.prepare)
            self._services.append(self._keep("postgres", self._postgres.launch))
        if self._valkey is not None:
            self._services.append(self._keep("redis", self._valkey.launch))
        for service in (self._postgres, self._valkey):
            if service is not None:
                await self._until_ready(service)
        if self._postgres is not None:
            await asyncio.to_thread(self._postgres.make_database)

    async def _until_ready(self, service: Service) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not service.is_ready():
            if time.monotonic() > deadline:
                raise service.failure()
            await asyncio.sleep(0.01)

    async def _prepare_database(self) -> Keys:
        from launch.first_start import prepare_database

        return await prepare_database(
            self._settings, self._folder, database_url=self._database_url, redis_url=self._redis_url
        )

    def _let_clients_go(self) -> None:
        self._may_go = True
        for keeper in self._clients:
            if keeper.process is not None:
                _say_go(keeper.process)

    async def _first_answer(self) -> None:
        """Until a gateway answers. When that takes long its own words are on the terminal, and it is tried again."""
        patience = time.monotonic() + ANSWER_TIMEOUT_SECONDS
        while not await _answers(*self._listener.getsockname()[:2]):
            await asyncio.sleep(0.05)
            if time.monotonic() > patience:
                patience = float("inf")
                self._printer.line("supervisor", "no gateway answers yet; still trying.")

    async def _end_everything(self) -> None:
        for task in tuple(self._keeping):
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        await _end(self._clients, CLIENT_STOP)
        await _end(self._services, SERVICE_STOP)

    def _kill_everything(self) -> None:
        for keeper in self._clients:
            keeper.signal(signal.SIGKILL)
        for keeper in self._services:
            keeper.signal(signal.SIGQUIT)


_FAKE_PROVIDERS_HINT = """
  Every provider runs on this machine. Follow this, then send:

  subscription { deliveryUpdates { node { from to delivery { channel userId } } } }

  mutation {
    sendPush(input: { userIds: ["user_001", "user_002", "user_003"], push: { title: "Hello", body: "From here" } }) {
      queued userErrors { message }
    }
  }
"""

_ALIASES = frozenset({"SENDORA_DATABASE_URL", "SENDORA_REDIS_URL"})
"""Other names of settings that the children are given."""


def run(settings: Settings) -> None:
    """Run everything until a signal. Raises `StartError` or `EmbeddedError`, with nothing left running."""
    folder = DataFolder(settings.data_dir)
    folder.lock()
    with listen(settings.host, settings.port) as listener:
        asyncio.run(_run(settings, folder, listener))


async def _run(settings: Settings, folder: DataFolder, listener: socket.socket) -> None:
    await Supervisor(settings, folder, listener).run()


async def _end(keepers: Sequence[Keeper], steps: Iterable[tuple[signal.Signals, float]]) -> None:
    """Send each signal in turn to those that are left, and give them its number of seconds."""
    for number, grace in steps:
        deadline = time.monotonic() + grace
        for keeper in keepers:
            keeper.signal(number)
        for keeper in keepers:
            await keeper.ended(deadline - time.monotonic())


def _say_go(process: subprocess.Popen[bytes]) -> None:
    """The pipe stays open: its end is how a child learns that this process has gone."""
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            os.write(process.stdin.fileno(), processes.GO)


async def _answers(host: str, port: int) -> bool:
    """Whether `GET /readyz` gives 200."""
    try:
        async with asyncio.timeout(ONE_ANSWER_SECONDS):
            return await _ask(host, port)
    except (OSError, TimeoutError):
        return False


async def _ask(host: str, port: int) -> bool:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET /readyz HTTP/1.1\r\nhost: {host}:{port}\r\nconnection: close\r\n\r\n".encode())
        status = await reader.readline()
        await reader.read()
        return status.startswith(b"HTTP/1.1 200")
    finally:
        writer.close()


def _print_welcome(keys: Keys, *, fake_providers: bool) -> None:
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    query = '{"query": "{ events(first: 3) { edges { node { seq eventType userId timestamp } } } }"}'
    print(
        f"""
{bold}Sendora Gateway is running.{plain} Ctrl-C stops it.

  GraphiQL         {bold}{keys.url}/graphql#key={keys.secret_key}{plain}
  Secret key       {keys.secret_key}
  Publishable key  {keys.publishable_key}

  curl {keys.url}/graphql -H 'content-type: application/json' \\
    -H 'x-api-key: {keys.secret_key}' \\
    -d '{query}'
{_FAKE_PROVIDERS_HINT if fake_providers else ""}""",
        flush=True,
    )
