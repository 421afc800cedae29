"""The commands, as an operator types them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from uuid import UUID, uuid4

import asyncpg
import pytest

from db.events import append_events
from db.records import NewEvent
from engine.consent import ConsentPurpose, ConsentState, set_consent
from engine.retention import STEP_ITEMS
from launch.ports import free_port
from tests.acceptance.running import PATIENCE, ROOT, clean_environment, run_command, wait_until

SECRET = "0123456789abcdef" * 4


@pytest.fixture
async def empty_database(database_url: str) -> str:
    """A database without a schema."""
    connection = await asyncpg.connect(database_url)
    await connection.execute("DROP SCHEMA public CASCADE")
    await connection.execute("CREATE SCHEMA public")
    await connection.close()
    return database_url


def deployment(database_url: str, redis_url: str) -> dict[str, str]:
    return {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "SENDORA_SECRET_KEY": SECRET}


def start(*arguments: str, inherited: Sequence[int] = (), **settings: str) -> subprocess.Popen[bytes]:
    """A command that runs until it is told to stop."""
    return subprocess.Popen(
        [sys.executable, "cli.py", *arguments],
        cwd=ROOT,
        env=clean_environment(**settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=inherited,
    )


def stop(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Exit code and output after SIGTERM."""
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, output.decode()


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


async def test_migrate_applies_everything_once(empty_database: str) -> None:
    first = await asyncio.to_thread(run_command, "migrate", DATABASE_URL=empty_database)
    second = await asyncio.to_thread(run_command, "migrate", DATABASE_URL=empty_database)

    assert first.stderr + second.stderr == ""
    assert re.fullmatch(r"(applied \d{4}_\w+\n)+", first.stdout)
    assert second.stdout == "nothing to do\n"


async def test_schema_prints_the_committed_sdl() -> None:
    result = await asyncio.to_thread(run_command, "schema")

    assert result.stdout == (ROOT / "schema" / "schema.graphql").read_text()


async def test_create_project_prints_keys_that_the_gateway_takes(database_url: str, redis_url: str) -> None:
    made = await asyncio.to_thread(run_command, "create-project", "My shop", DATABASE_URL=database_url)
    keys = json.loads(made.stdout)
    port = free_port()
    gateway = start("serve", PORT=str(port), **deployment(database_url, redis_url))
    try:
        await asyncio.to_thread(wait_until, lambda: is_ready(port), seconds=PATIENCE, what="gateway")
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/graphql",
            data=b'{"query": "{ viewer { project { name } } }"}',
            headers={"content-type": "application/json", "x-api-key": keys["secretKey"]},
        )
        answer = json.loads(await asyncio.to_thread(lambda: urllib.request.urlopen(request, timeout=5).read()))
    finally:
        code, output = stop(gateway)

    assert set(keys) == {"projectId", "secretKey", "publishableKey"}
    assert answer["data"] == {"viewer": {"project": {"name": "My shop"}}}
    assert (code, output) == (0, "")


async def test_add_member_prints_the_token_of_an_admin_of_the_whole_organization(database_url: str) -> None:
    made = await asyncio.to_thread(run_command, "create-project", "My shop", DATABASE_URL=database_url)
    project = json.loads(made.stdout)["projectId"]

    def add(email: str, *options: str) -> subprocess.CompletedProcess[str]:
        return run_command("add-member", email, "--project", project, *options, DATABASE_URL=database_url)

    first = await asyncio.to_thread(add, "Me@Example.com")
    refused = [
        await asyncio.to_thread(add, *arguments)
        for arguments in (
            ["me@example.com"],
            ["nobody"],
            ["b@example.com", "--role", "INGEST"],
            ["c@example.com", "--role", "x"],
        )
    ]
    connection = await asyncpg.connect(database_url)
    try:
        members = await connection.fetch("SELECT email, role FROM members")
        [entry] = await connection.fetch("SELECT actor, action FROM audit_entries WHERE action LIKE 'member.%'")
    finally:
        await connection.close()

    assert re.fullmatch(r"mt_us_[A-Za-z0-9_-]{43}\n", first.stdout)
    assert [tuple(member) for member in members] == [("me@example.com", "ADMIN")]
    assert tuple(entry) == ("operator", "member.added")
    assert [(each.returncode, each.stdout) for each in refused] == [(2, "")] * 4


async def test_serve_takes_an_inherited_socket(database_url: str, redis_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        number = listener.fileno()
        gateway = start("serve", "--fd", str(number), inherited=(number,), **deployment(database_url, redis_url))
        try:
            await asyncio.to_thread(wait_until, lambda: is_ready(port), seconds=PATIENCE, what="gateway")
        finally:
            code, output = stop(gateway)

    assert (code, output) == (0, "")


async def test_a_worker_ends_quietly_when_told(database_url: str, redis_url: str) -> None:
    worker = start("worker", **deployment(database_url, redis_url))
    connection = await asyncpg.connect(database_url)
    # its pool, not the checks before
    others = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'sendora%'"
    )
    try:
        for _ in range(400):
            if await connection.fetchval(others):
                break
            await asyncio.sleep(0.05)
        assert await connection.fetchval(others)
    finally:
        await connection.close()
        code, output = stop(worker)

    assert (code, output) == (0, "")


async def test_bump_epoch_moves_every_project_on(database_url: str) -> None:
    await asyncio.to_thread(run_command, "create-project", "One", DATABASE_URL=database_url)
    await asyncio.to_thread(run_command, "create-project", "Two", DATABASE_URL=database_url)
    connection = await asyncpg.connect(database_url)
    before = dict(await connection.fetch("SELECT (project_id, lane)::text, epoch FROM heads"))

    result = await asyncio.to_thread(run_command, "bump-epoch", DATABASE_URL=database_url)

    after = dict(await connection.fetch("SELECT (project_id, lane)::text, epoch FROM heads"))
    await connection.close()
    assert (result.stdout, result.stderr) == ("2 projects\n", "")
    assert len(before) == 3 * 4  # the system's own too: that is how running gateways learn of it
    assert after == {lane: epoch + 1 for lane, epoch in before.items()}


async def test_trim_removes_what_is_old_in_steps_and_says_how_many(database_url: str) -> None:
    ids = []
    for name in ("One", "Two"):
        made = await asyncio.to_thread(run_command, "create-project", name, DATABASE_URL=database_url)
        ids.append(UUID(json.loads(made.stdout)["projectId"]))
    one, two = ids
    connection = await asyncpg.connect(database_url)
    for project_id, old, new in ((one, 2 * STEP_ITEMS + 100, 3), (two, 5, 0)):
        events = [NewEvent(str(n), "m", "t", None, None, None, "{}", "{}", None) for n in range(old + new)]
        await append_events(connection, project_id=project_id, batch_token=1, events=events)
        await connection.execute(
            "UPDATE events SET received_at = received_at - interval '31 days' WHERE project_id = $1 AND seq <= $2",
            project_id,
            old,
        )

    of_one = await asyncio.to_thread(
        run_command, "trim", "--older-than-days", "30", "--project", str(one), DATABASE_URL=database_url
    )
    left_of_two = await connection.fetchval("SELECT count(*) FROM events WHERE project_id = $1", two)
    of_all = await asyncio.to_thread(run_command, "trim", "--older-than-days", "30", DATABASE_URL=database_url)
    unknown = await asyncio.to_thread(
        run_command, "trim", "--older-than-days", "30", "--project", str(uuid4()), DATABASE_URL=database_url
    )

    left = await connection.fetch("SELECT project_id, seq FROM events ORDER BY seq")
    floors = dict(await connection.fetch("SELECT project_id, first_seq FROM heads WHERE lane = 1"))
    await connection.close()
    assert (of_one.stdout, of_one.stderr) == (f"{2 * STEP_ITEMS + 100} events of 1 projects removed\n", "")
    assert left_of_two == 5
    assert (of_all.stdout, of_all.stderr) == ("5 events of 2 projects removed\n", "")
    assert [tuple(row) for row in left] == [(one, 2 * STEP_ITEMS + number) for number in (101, 102, 103)]
    assert (floors[one], floors[two]) == (2 * STEP_ITEMS + 101, 6)
    assert (unknown.returncode, unknown.stderr.count("\n")) == (2, 1)


async def test_the_log_of_consent_is_walked_and_says_where_it_breaks(database_url: str) -> None:
    made = await asyncio.to_thread(run_command, "create-project", "One", DATABASE_URL=database_url)
    project_id = UUID(json.loads(made.stdout)["projectId"])
    verify = partial(asyncio.to_thread, run_command, "verify-consent-log", DATABASE_URL=database_url)
    empty = await verify()
    connection = await asyncpg.connect(database_url)
    for state in (ConsentState.GRANTED, ConsentState.REVOKED):
        await set_consent(
            connection,
            project_id=project_id,
            user_id="ann",
            purpose=ConsentPurpose.EMAIL,
            state=state,
            source="settings page",
            actor="user:ann",
            now=datetime(2026, 5, 1, tzinfo=UTC),
        )

    sound = await verify()
    end = sound.stdout.rpartition(" ")[2].strip()
    noted = await verify("--project", str(project_id), "--noted", end)
    wrong = await verify("--project", str(project_id), "--noted", end[:-1])
    await connection.execute("ALTER TABLE consent_changes DISABLE TRIGGER USER")
    await connection.execute("UPDATE consent_changes SET to_state = 'DENIED' WHERE seq = 2")
    broken = await verify()
    await connection.close()

    assert (empty.returncode, empty.stdout) == (0, "no project has a log of consent yet\n")
    assert (sound.returncode, sound.stderr) == (0, "")
    assert sound.stdout.startswith(f"{project_id}: sound, 2 changes, 0 of them erased; ends with 2:")
    assert (noted.returncode, noted.stdout) == (0, sound.stdout)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert broken.returncode == 1
    assert f"{project_id}: broken at change 2: its hash is not that of" in broken.stdout


@pytest.mark.parametrize(
    ("command", "settings", "words"),
    [
        (["serve"], {}, "DATABASE_URL is not set"),
        (["serve"], {"DATABASE_URL": "postgresql://x/y"}, "REDIS_URL is not set"),
        (["worker"], {"DATABASE_URL": "postgresql://x/y", "REDIS_URL": "redis://x"}, "SENDORA_SECRET_KEY is not set"),
        (["migrate"], {}, "DATABASE_URL is not set"),
        (["migrate"], {"DATABASE_URL": "postgresql://me:hunter2@127.0.0.1:1/x"}, "cannot be reached"),
        (["create-project", "x"], {"DATABASE_URL": "postgresql://me:hunter2@127.0.0.1:1/x"}, "cannot be reached"),
        (["bump-epoch"], {"DATABASE_URL": "postgresql://me:hunter2@127.0.0.1:1/x"}, "cannot be reached"),
        (["run"], {"PORT": "eight thousand"}, "PORT is malformed"),
    ],
)
def test_what_is_missing_or_wrong_is_one_sentence(command: list[str], settings: dict[str, str], words: str) -> None:
    result = run_command(*command, **settings)

    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("sendora: ")
    assert words in line
    assert "hunter2" not in line


async def test_a_database_that_was_never_migrated_is_one_sentence(empty_database: str, redis_url: str) -> None:
    for command in (["create-project", "x"], ["bump-epoch"], ["serve"], ["worker"]):
        settings = deployment(empty_database, redis_url) | {"PORT": str(free_port())}

        result = await asyncio.to_thread(run_command, *command, **settings)

        assert result.returncode == 2, result.stderr
        (line,) = result.stderr.splitlines()
        assert "`migrate`" in line


def test_a_port_out_of_range_is_refused() -> None:
    assert run_command("serve", "--port", "70000").returncode == 2


def test_without_a_command_it_lists_them() -> None:
    shown = run_command()

    for command in ("run", "serve", "worker", "migrate", "create-project", "bump-epoch", "trim", "schema", "import"):
        assert f" {command} " in shown.stdout + shown.stderr


def test_a_supervised_child_ends_when_its_parent_has_gone(database_url: str, redis_url: str) -> None:
    reading, writing = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "cli.py", "worker", "--supervised"],
        cwd=ROOT,
        env=clean_environment(**deployment(database_url, redis_url)),
        stdin=reading,
    )
    os.close(reading)
    os.write(writing, b"g")

    os.close(writing)

    assert child.wait(10) in (0, 1)
