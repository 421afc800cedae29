"""`make run`, from outside: what starts, what comes back, what stops, and what it says when it cannot.

One instance with two gateways is started once and used by most tests, in the order in which they stand here.
"""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

import asyncpg
import pytest
import redis

from launch.ports import free_port
from tests.acceptance.running import ROOT, Running, clean_environment, run_command, wait_until

SECOND_START_SECONDS = 5.0
STOP_SECONDS = 5.0
BACK_SECONDS = 10.0
"""Generous: the machine may be busy. It is about one second on an idle one."""
CHILDREN = {"gateway": 2, "worker": 1, "postgres": 1, "redis": 1}
CALLERS = 4
TRACK = 'mutation { track(input: {event: {id: "%s", eventType: "order.placed"}}) { event { seq } duplicate } }'


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Survives every start of this file."""
    return tmp_path_factory.mktemp("run") / "data"


@pytest.fixture(scope="module")
def started(data_dir: Path) -> Iterator[Running]:
    """A first start, with two gateways."""
    running = Running(data_dir, free_port(), SENDORA_GATEWAYS="2")
    try:
        running.until_welcomed()
        yield running
    finally:
        for instance in Running.instances:  # a test that failed may have left its own
            if instance.data_dir == data_dir:
                instance.kill_all()


@pytest.fixture
def folder(started: Running, data_dir: Path) -> Path:
    """The data folder after that instance has stopped."""
    if started.process.poll() is None:
        started.stop()
    return data_dir


def track(running: Running, key: str) -> int:
    """Append one event; its seq."""
    payload = running.query(TRACK % key)["track"]
    assert isinstance(payload, dict)
    return int(payload["event"]["seq"])


def total(running: Running) -> int:
    connection = running.query("{ events(first: 1) { totalCount } }")["events"]
    assert isinstance(connection, dict)
    return int(connection["totalCount"])


def assert_refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """One sentence on standard error, exit code 2, no traceback."""
    assert result.returncode == 2, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("sendora: ")
    assert lines[0].endswith(".")
    for word in words:
        assert word in lines[0]
    assert result.stdout == ""


def test_the_first_start_shows_the_page_the_keys_and_a_command_that_works(started: Running) -> None:
    keys = started.keys
    shown = started.output

    assert f"http://127.0.0.1:{started.port}/graphql#key={keys['secretKey']}" in shown
    assert keys["publishableKey"] in shown
    command = shown[shown.index("  curl ") :].replace("\\\n", " ").strip()
    answer = json.loads(subprocess.run(["bash", "-c", f"{command} -s"], capture_output=True, check=True).stdout)
    assert len(answer["data"]["events"]["edges"]) == 3


def test_keys_json_says_how_to_reach_everything_and_is_private(started: Running, data_dir: Path) -> None:
    keys = started.keys

    assert set(keys) == {"projectId", "secretKey", "publishableKey", "url", "databaseUrl", "redisUrl"}
    assert keys["secretKey"].startswith("sk_us_")
    assert keys["publishableKey"].startswith("pk_us_")
    assert keys["url"] == f"http://127.0.0.1:{started.port}"
    for name in ("keys.json", "secret", "postgres.log", "valkey.log"):
        assert stat.S_IMODE((data_dir / name).stat().st_mode) == 0o600, name


async def test_psql_and_redis_cli_reach_what_runs(started: Running) -> None:
    connection = await asyncpg.connect(started.keys["databaseUrl"])
    events = await connection.fetchval(
        "SELECT count(*) FROM events WHERE project_id = $1::text::uuid", started.keys["projectId"]
    )
    await connection.close()

    assert events >= 250
    assert started.keys["redisUrl"].startswith("redis://")  # redis-cli -u takes no unix socket
    with redis.Redis.from_url(started.keys["redisUrl"]) as client:
        assert client.ping()


def test_the_sample_events_are_those_of_forty_people(started: Running) -> None:
    people = started.query("{ profiles(first: 1) { totalCount } }")["profiles"]

    assert people == {"totalCount": 40}
    assert 250 <= total(started) <= 450


def test_it_starts_one_of_each_and_as_many_gateways_as_asked(started: Running) -> None:
    wait_until(
        lambda: {name: len(pids) for name, pids in started.children().items()} == CHILDREN, seconds=5, what="children"
    )


def test_a_second_start_on_the_same_folder_says_so(started: Running, data_dir: Path) -> None:
    result = run_command("run", SENDORA_DATA_DIR=str(data_dir), PORT=str(free_port()))

    assert_refused(result, str(data_dir), "SENDORA_DATA_DIR")
    assert started.answers()


def test_a_taken_port_is_told_before_anything_starts(started: Running, tmp_path: Path) -> None:
    result = run_command("run", SENDORA_DATA_DIR=str(tmp_path / "other"), PORT=str(started.port))

    assert_refused(result, f"Port {started.port} is taken", "PORT=")
    assert not (tmp_path / "other" / "postgres").exists()


@pytest.mark.parametrize("name", ["gateway", "worker", "postgres", "redis"])
def test_what_is_killed_is_back_within_seconds(started: Running, name: str) -> None:
    wait_until(lambda: len(started.children().get(name, [])) == CHILDREN[name], seconds=15, what="all children")
    before = started.children()[name]
    seq = track(started, f"before-{name}")

    os.kill(before[0], signal.SIGKILL)

    def is_back() -> bool:
        now = started.children().get(name, [])
        return len(now) == CHILDREN[name] and before[0] not in now and started.answers()

    def is_appended() -> bool:
        try:
            return track(started, f"after-{name}") == seq + 1
        except AssertionError as error:  # to be sent again with the same id, as it says
            if "UNAVAILABLE" not in str(error):
                raise
            return False

    wait_until(is_back, seconds=BACK_SECONDS, what=f"{name} back")
    wait_until(is_appended, seconds=BACK_SECONDS, what="append")


def test_queries_go_on_while_one_of_two_gateways_is_killed(started: Running) -> None:
    wait_until(lambda: len(started.children().get("gateway", [])) == 2, seconds=BACK_SECONDS, what="two gateways")
    first = started.children()["gateway"][0]
    enough = threading.Event()
    with ThreadPoolExecutor(CALLERS) as pool:
        callers = [pool.submit(ask_until, started, enough) for _ in range(CALLERS)]
        try:
            time.sleep(0.3)
            os.kill(first, signal.SIGKILL)
            killed_at = time.monotonic()
            wait_until(lambda: is_replaced(started, first), seconds=BACK_SECONDS, what="another gateway")
            time.sleep(0.3)
        finally:
            enough.set()
    answered = [moment for caller in callers for moment in caller.result()[0]]
    failed = [moment for caller in callers for moment in caller.result()[1]]

    assert min(answered) < killed_at < max(answered)
    assert all(caller.result()[0][-1] > killed_at for caller in callers)
    # what the killed one was at work on is lost, one request of each caller at most; whoever asks again is answered
    assert len(failed) <= CALLERS, failed


def test_new_connections_are_answered_while_one_of_two_gateways_hangs(started: Running) -> None:
    wait_until(lambda: len(started.children().get("gateway", [])) == 2, seconds=BACK_SECONDS, what="two gateways")
    wait_until(started.answers, seconds=BACK_SECONDS, what="an answer")
    gateways = sorted(started.children()["gateway"])
    for hanging in gateways:
        os.kill(hanging, signal.SIGSTOP)
        try:
            wait_until(lambda pid=hanging: state_of(pid) == "T", seconds=5, what="a gateway stopped")
            for _ in range(10):
                started.query("{ viewer { __typename } }")
        finally:
            os.kill(hanging, signal.SIGCONT)

    assert sorted(started.children()["gateway"]) == gateways


def ask_until(running: Running, enough: threading.Event) -> tuple[list[float], list[float]]:
    """Ask on a new connection again and again; when there was an answer, and when there was none."""
    answered: list[float] = []
    failed: list[float] = []
    while not enough.is_set():
        try:
            running.query("{ viewer { __typename } }")
        except (OSError, HTTPException):
            failed.append(time.monotonic())
        else:
            answered.append(time.monotonic())
    return answered, failed


def is_replaced(running: Running, gateway: int) -> bool:
    now = running.children().get("gateway", [])
    return len(now) == 2 and gateway not in now


def state_of(pid: int) -> str:
    """The kernel's letter: R or S while it runs, T when it is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_sigterm_stops_everything_within_five_seconds_with_a_stream_open(started: Running) -> None:
    stream = socket.create_connection(("127.0.0.1", started.port))
    document = json.dumps({"query": "subscription { eventStream { cursor } }"})
    stream.sendall(
        f"POST /graphql HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\ncontent-type: application/json\r\n"
        f"x-api-key: {started.keys['secretKey']}\r\ncontent-length: {len(document)}\r\n\r\n{document}".encode()
    )
    assert stream.recv(4096).startswith(b"HTTP/1.1 200")

    seconds = started.stop(signal.SIGTERM)

    stream.close()
    assert seconds < STOP_SECONDS
    assert started.process.returncode == 0
    assert started.left_over() == []


def test_a_second_start_keeps_keys_and_data_and_answers_within_five_seconds(started: Running, folder: Path) -> None:
    keys = started.keys
    again = Running(folder, started.port)
    try:
        wait_until(again.answers, seconds=30, what="first answer")
        seconds = time.monotonic() - again.started_at
        again.until_welcomed()

        assert seconds < SECOND_START_SECONDS
        assert {name: again.keys[name] for name in keys if name != "redisUrl"} == {
            name: keys[name] for name in keys if name != "redisUrl"
        }
        assert again.query(TRACK % "after-redis")["track"] == {"event": {"seq": total(again)}, "duplicate": True}
    finally:
        again.stop()
    assert again.left_over() == []


def test_kill_9_leaves_no_process_and_the_next_start_has_all_data(started: Running, folder: Path) -> None:
    killed = Running(folder, started.port)
    killed.until_welcomed()
    seq = track(killed, "before the kill")

    killed.process.kill()
    killed.process.wait()
    again = Running(folder, started.port)

    try:
        again.until_welcomed()
        assert total(again) == seq
        assert track(again, "after the kill") == seq + 1
        assert {pid for pid, _ in killed.left_over()} <= {pid for pid, _ in again.left_over()}
        postmaster = (folder / "postgres" / "postmaster.pid").read_text().splitlines()[0]
        assert [int(postmaster)] == again.children()["postgres"]
    finally:
        again.stop()


def test_everything_killed_with_9_at_once_recovers(started: Running, folder: Path) -> None:
    killed = Running(folder, started.port)
    killed.until_welcomed()
    seq = track(killed, "before everything was killed")

    for pid, _ in killed.left_over():
        with suppress(ProcessLookupError):  # one may take others with it
            os.kill(pid, signal.SIGKILL)
    killed.process.wait()
    again = Running(folder, started.port)

    try:
        again.until_welcomed()
        assert total(again) == seq
    finally:
        again.stop()


def test_ctrl_c_in_make_is_quiet_and_leaves_no_process(started: Running, folder: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed here")
    makefile = folder.parent / "Makefile"  # the recipe itself, without the installation before it
    recipe = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.endswith("cli.py run"))
    makefile.write_text(f"run:\n{recipe}\n")
    environment = clean_environment(SENDORA_DATA_DIR=str(folder), PORT=str(started.port), SENDORA_TEST_MARK="make")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execvpe("make", ["make", "-f", str(makefile), "run", "BIN=.venv/bin"], environment)
    shown = read_until(terminal, b"Ctrl-C stops it", seconds=20)

    os.write(terminal, b"\x03")

    began = time.monotonic()
    shown += read_until(terminal, None, seconds=10)
    os.waitpid(pid, 0)
    os.close(terminal)
    after = shown.partition(b"^C")[2]
    assert time.monotonic() - began < STOP_SECONDS
    assert b"Error" not in after
    assert b"Traceback" not in after
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", started.port)) != 0


def read_until(terminal: int, wanted: bytes | None, *, seconds: float) -> bytes:
    """What a terminal shows until it shows `wanted`, or until nobody writes to it any more."""
    shown = b""
    deadline = time.monotonic() + seconds
    while wanted is None or wanted not in shown:
        assert time.monotonic() < deadline, shown
        if not select.select([terminal], [], [], 0.1)[0]:
            continue
        try:
            data = os.read(terminal, 65_536)
        except OSError:
            break
        if not data:
            break
        shown += data
    return shown


def test_a_second_ctrl_c_kills_while_a_child_hangs(started: Running, folder: Path) -> None:
    running = Running(folder, started.port)
    running.until_welcomed()
    for pid in running.children()["gateway"]:
        os.kill(pid, signal.SIGSTOP)

    running.send(signal.SIGINT)
    time.sleep(0.3)
    seconds = running.stop(signal.SIGINT)

    assert seconds < 1.5
    assert running.left_over() == []


def test_a_gateway_that_hangs_does_not_hold_up_the_stop(started: Running, folder: Path) -> None:
    running = Running(folder, started.port)
    running.until_welcomed()
    for pid in running.children()["gateway"]:
        os.kill(pid, signal.SIGSTOP)

    seconds = running.stop(signal.SIGTERM)

    assert seconds < STOP_SECONDS
    assert running.left_over() == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"PORT": "abc"}, ["PORT", "malformed"]),
        ({"PORT": "0"}, ["PORT", "malformed"]),
        ({"PORT": "70000"}, ["PORT", "malformed"]),
        ({"SENDORA_GATEWAYS": "0"}, ["SENDORA_GATEWAYS", "malformed"]),
        ({"SENDORA_REGION": "mars"}, ["SENDORA_REGION", "malformed"]),
        ({"SENDORA_SECRET_KEY": "short"}, ["SENDORA_SECRET_KEY", "32 characters"]),
        ({"DATABASE_URL": "mysql://me:hunter2@localhost/x"}, ["DATABASE_URL", "postgresql://"]),
        ({"DATABASE_URL": "postgresql://me:hunter2@127.0.0.1:1/x"}, ["127.0.0.1:1", "refused", "DATABASE_URL"]),
        ({"REDIS_URL": "http://localhost"}, ["REDIS_URL", "redis://"]),
        ({"REDIS_URL": "redis://:hunter2@127.0.0.1:1/0"}, ["127.0.0.1:1", "refused", "REDIS_URL"]),
        ({"SENDORA_DATA_DIR": "/proc/nowhere"}, ["/proc/nowhere", "SENDORA_DATA_DIR"]),
    ],
)
def test_a_wrong_setting_is_one_sentence(tmp_path: Path, settings: dict[str, str], words: list[str]) -> None:
    given = {"SENDORA_DATA_DIR": str(tmp_path / "data"), "PORT": str(free_port()), **settings}

    result = run_command("run", **given)

    assert_refused(result, *words)
    assert "hunter2" not in result.stderr


def test_servers_of_others_are_used_when_they_are_named(
    postgres_server: object, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    running = Running(tmp_path / "data", free_port(), DATABASE_URL=database_url, REDIS_URL=redis_url)
    try:
        running.until_welcomed()

        assert running.keys["databaseUrl"] == database_url
        assert running.keys["redisUrl"] == redis_url
        assert total(running) >= 250
        assert set(running.children()) == {"gateway", "worker"}
    finally:
        running.stop()
    assert not (tmp_path / "data" / "postgres").exists()
