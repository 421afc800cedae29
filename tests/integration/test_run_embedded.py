"""The embedded PostgreSQL and Valkey: what they survive, what they refuse, and that they leave nothing behind."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
import redis

from launch import processes
from launch.embedded import EmbeddedPostgres, EmbeddedValkey

HOLDER = """\
import sys, time
from pathlib import Path
from launch.embedded import EmbeddedPostgres, EmbeddedValkey
postgres, valkey = EmbeddedPostgres(Path(sys.argv[1])), EmbeddedValkey(Path(sys.argv[1]))
postgres.start(); valkey.start()
print(postgres.process.pid, valkey.process.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a stopped cluster."""
    folder = tmp_path_factory.mktemp("cluster")
    postgres = EmbeddedPostgres(folder)
    postgres.start()
    postgres.stop()
    return folder


@pytest.fixture
def postgres(cluster: Path) -> Iterator[EmbeddedPostgres]:
    """That cluster, not started yet."""
    server = EmbeddedPostgres(cluster)
    yield server
    server.stop()


async def count(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("CREATE TABLE IF NOT EXISTS things (thing int)")
        await connection.execute("INSERT INTO things VALUES (1)")
        found: int = await connection.fetchval("SELECT count(*) FROM things")
        return found
    finally:
        await connection.close()


def sleeper(seconds: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", str(seconds)])


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_what_was_committed_is_there_after_kill_9(postgres: EmbeddedPostgres) -> None:
    postgres.start()
    before = await count(postgres.url)
    assert postgres.process is not None
    postgres.process.kill()
    postgres.process.wait()

    postgres.start()

    assert await count(postgres.url) == before + 1


async def test_a_stale_pid_that_now_belongs_to_another_program_does_not_keep_it_down(
    postgres: EmbeddedPostgres, cluster: Path
) -> None:
    postgres.start()
    assert postgres.process is not None
    postgres.process.kill()
    postgres.process.wait()
    other = sleeper(60)
    try:
        for lock in (cluster / "postgres" / "postmaster.pid", cluster / "run" / ".s.PGSQL.5432.lock"):
            _, *rest = lock.read_text().splitlines(keepends=True)
            lock.write_text("".join([f"{other.pid}\n", *rest]))

        postgres.start()

        assert await count(postgres.url) >= 1
    finally:
        other.kill()
        other.wait()


def test_a_cluster_that_was_never_finished_is_made_anew(tmp_path: Path) -> None:
    unfinished = tmp_path / "postgres.unfinished"
    unfinished.mkdir()
    (unfinished / "PG_VERSION").write_text("18\n")
    (tmp_path / "postgres").mkdir()
    postgres = EmbeddedPostgres(tmp_path)

    postgres.start()

    postgres.stop()
    assert not unfinished.exists()


def test_settings_meant_for_other_servers_are_not_taken(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "PGHOST": "192.0.2.1",
        "PGPORT": "1",
        "PGOPTIONS": "-c nonsense=1",
        "PGDATA": "/nowhere",
    }.items():
        monkeypatch.setenv(name, value)

    postgres.start()

    assert postgres.is_ready()


def test_a_folder_with_a_very_long_path_works(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30) / "data"
    valkey = EmbeddedValkey(folder)

    valkey.start()

    assert redis.Redis.from_url(valkey.url).ping()
    assert EmbeddedValkey(folder).url == valkey.url
    valkey.stop()


def test_logs_are_for_their_owner_only(postgres: EmbeddedPostgres) -> None:
    postgres.start()

    assert stat.S_IMODE(postgres.log.stat().st_mode) == 0o600


def test_a_password_guards_the_port_and_is_on_no_command_line(tmp_path: Path) -> None:
    valkey = EmbeddedValkey(tmp_path, tcp=True)
    valkey.start()
    assert valkey.process is not None
    password, address = valkey.url.removeprefix("redis://:").removesuffix("/0").split("@")
    try:
        with redis.Redis.from_url(valkey.url) as client:
            assert client.ping()
        with redis.Redis.from_url(f"redis://{address}/0") as client, pytest.raises(redis.AuthenticationError):
            client.ping()
        assert password.encode() not in Path(f"/proc/{valkey.process.pid}/cmdline").read_bytes()
    finally:
        valkey.stop()


def test_both_end_when_the_process_that_started_them_is_killed(cluster: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(cluster)], stdout=subprocess.PIPE, cwd=Path(processes.__file__).parent
    )
    assert holder.stdout is not None
    pids = [int(word) for word in holder.stdout.readline().split()]
    assert all(is_alive(pid) for pid in pids)

    holder.kill()
    holder.wait()
    holder.stdout.close()

    deadline = time.monotonic() + 5
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "still running"
        time.sleep(0.02)


def test_a_watchdog_ends_a_child_where_the_kernel_does_not() -> None:
    """What other systems than Linux rely on; the mechanism is the same here."""
    child = sleeper(60)
    watchdog = processes.watch(child, signal.SIGTERM)
    assert watchdog.stdin is not None

    watchdog.stdin.close()

    assert child.wait(5) == -signal.SIGTERM
    assert watchdog.wait(5) == 0


def test_a_watchdog_ends_with_its_child() -> None:
    child = sleeper(0)
    watchdog = processes.watch(child, signal.SIGTERM)
    child.wait(5)

    assert watchdog.wait(5) == 0
    assert watchdog.stdin is not None
    watchdog.stdin.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
def test_root_becomes_nobody_where_a_container_forbids_user_namespaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("launch.unprivileged._user_namespace_entry", lambda: refuse)
    for folder in (tmp_path, *list(tmp_path.parents)[:3]):
        folder.chmod(0o755)
    postgres = EmbeddedPostgres(tmp_path / "data")

    postgres.start()

    assert postgres.process is not None
    assert Path(f"/proc/{postgres.process.pid}").stat().st_uid == 65534
    postgres.stop()
    assert (tmp_path / "data" / "postgres").stat().st_uid == 65534
