"""`cli.py import` as its user types it, into a gateway as `make run` starts it."""

from __future__ import annotations

import gzip
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.ports import free_port
from tests.acceptance.running import ROOT, Running, clean_environment, run_command

ROWS = 6000
TWINS = 30
SHOP = ROOT.parent / "shared" / "data" / "ecom.csv.gz"
"""A real shop's events, which stay beside the checkout."""
SHOP_ROWS = 31_106
TURN_SECONDS = 0.2
"""A tenth of what an import of the larger files takes."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("import") / "data", free_port())
    try:
        running.until_welcomed()
        yield running
        running.stop()
    finally:
        running.kill_all()


def write_shop(path: Path, module: str, rows: int = ROWS) -> Path:
    """A shop's page events, some of them identical twins: two views in one second. `module` tells the runs apart."""
    chance = random.Random(7)
    lines = []
    for number in range(rows):
        user, page = chance.randrange(600), chance.choice(["home", "cart", "purchase"])
        lines.append(f"shopper_{user:04},sess_{number:06},{page},2024-03-13 10:{number % 60:02}:14,{module}")
    lines[TWINS : 2 * TWINS] = lines[:TWINS]
    path.write_bytes(gzip.compress("\n".join(["user_id,session_id,event,timestamp,module", *lines, ""]).encode()))
    return path


def stored(running: Running, module: str) -> int:
    data = running.query(f'{{ events(first: 1, filter: {{ modules: ["{module}"] }}) {{ totalCount }} }}')
    events = data["events"]
    assert isinstance(events, dict)
    return int(events["totalCount"])


def stop_in_the_middle(importing: subprocess.Popen[str], running: Running, module: str) -> None:
    """Let it run in turns, or on a busy machine it would be done before anybody looks; leave it stopped."""
    while stored(running, module) == 0:
        importing.send_signal(signal.SIGCONT)
        time.sleep(TURN_SECONDS)
        importing.send_signal(signal.SIGSTOP)
        assert importing.poll() is None


def load(running: Running, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command("import", *arguments, timeout=60, SENDORA_DATA_DIR=str(running.data_dir))


def test_one_command_loads_a_file_and_a_second_run_stores_nothing(running: Running, tmp_path: Path) -> None:
    file = write_shop(tmp_path / "shop.csv.gz", "shop")

    first = load(running, str(file))
    second = load(running, str(file))

    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("6,000 events stored, 0 were already there; ")
    assert second.returncode == 0, second.stderr
    assert second.stdout.startswith("0 events stored, 6,000 were already there; ")
    assert stored(running, "shop") == ROWS
    people = running.query(
        '{ profiles(first: 1, where: [{ path: "profile.userId", op: STARTS_WITH, value: "shopper_" }]) { totalCount } }'
    )
    assert people == {"profiles": {"totalCount": 600}}
    event = running.query(
        '{ events(first: 1, filter: { modules: ["shop"], where: ['
        ' { path: "event.properties.session_id", op: EQ, value: "sess_000100" }] })'
        " { edges { node { eventType timestamp properties } } } }"
    )
    (edge,) = event["events"]["edges"]  # type: ignore[index]
    assert edge["node"]["timestamp"] == "2024-03-13T10:40:14Z"
    assert edge["node"]["properties"] == {"session_id": "sess_000100"}


if SHOP.is_file():  # not a skip: where it is not, there is nothing to be installed

    def test_a_real_shop_is_loaded_whole_and_once(running: Running) -> None:
        first = load(running, str(SHOP), "--module", "real")
        second = load(running, str(SHOP), "--module", "real")

        assert first.returncode == 0, first.stderr
        assert first.stdout.startswith("31,106 events stored, 0 were already there; ")
        assert second.returncode == 0, second.stderr
        assert second.stdout.startswith("0 events stored, 31,106 were already there; ")
        assert stored_exactly(running, "real") == SHOP_ROWS


def test_a_gateway_killed_in_the_middle_costs_nothing(running: Running, tmp_path: Path) -> None:
    file = write_shop(tmp_path / "shop.csv.gz", "killed", rows=30_000)
    importing = subprocess.Popen(
        [sys.executable, "cli.py", "import", str(file)],
        cwd=ROOT,
        env=clean_environment(SENDORA_DATA_DIR=str(running.data_dir)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    stop_in_the_middle(importing, running, "killed")
    os.kill(running.children()["gateway"][0], signal.SIGKILL)
    importing.send_signal(signal.SIGCONT)

    output, _ = importing.communicate(timeout=60)

    assert importing.returncode == 0, output
    assert stored_exactly(running, "killed") == 30_000
    again = load(running, str(file))
    assert again.stdout.startswith("0 events stored, 30,000 were already there; ")


def stored_exactly(running: Running, module: str) -> int:
    """`totalCount` is capped; the counts of types are not."""
    types = running.query("{ eventTypes(first: 100) { edges { node { module count } } } }")
    edges = types["eventTypes"]["edges"]  # type: ignore[index]
    return sum(int(edge["node"]["count"]) for edge in edges if edge["node"]["module"] == module)


def test_an_interrupted_import_is_finished_by_the_next(running: Running, tmp_path: Path) -> None:
    file = write_shop(tmp_path / "shop.csv.gz", "interrupted", rows=30_000)
    importing = subprocess.Popen(
        [sys.executable, "cli.py", "import", str(file)],
        cwd=ROOT,
        env=clean_environment(SENDORA_DATA_DIR=str(running.data_dir)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    stop_in_the_middle(importing, running, "interrupted")
    importing.send_signal(signal.SIGINT)
    importing.send_signal(signal.SIGCONT)
    _, errors = importing.communicate(timeout=20)
    assert importing.returncode == 130
    assert errors.endswith("sendora: interrupted. Run it again to go on: what is stored is not stored twice.\n")

    finished = load(running, str(file))

    assert finished.returncode == 0
    assert stored_exactly(running, "interrupted") == 30_000


def test_rows_that_the_gateway_rejects_are_named_and_the_others_stored(running: Running, tmp_path: Path) -> None:
    file = tmp_path / "mixed.jsonl"
    file.write_text(
        '{"event":"fine","module":"mixed"}\n'
        + '{"event":"large","module":"mixed","note":"'
        + "x" * 70_000
        + '"}\n'
        + '{"event":"nul","module":"mixed","note":"\\u0000"}\n'
        + '{"event":"number","module":"mixed","n":123456789012345678901234567890}\n'
        + "not JSON\n"
        + '{"event":"fine.too","module":"mixed"}\n'
    )

    loaded = load(running, str(file))

    assert loaded.returncode == 1, loaded.stderr
    named = [line.split(":")[0] for line in loaded.stdout.splitlines()[:-1]]
    assert named == ["line 2", "line 3", "line 4", "line 5"]
    assert loaded.stdout.splitlines()[-1].startswith(
        "2 events stored, 0 were already there, 3 rejected by the gateway, 1 not sent; "
    )
    assert stored(running, "mixed") == 2


def test_a_dry_run_shows_the_mapping_and_sends_nothing(running: Running, tmp_path: Path) -> None:
    file = write_shop(tmp_path / "shop.csv.gz", "dry")

    shown = load(running, str(file), "--dry-run", "--map", "session_id=properties.session", "--event-prefix", "shop.")

    assert shown.returncode == 0
    assert shown.stdout.splitlines()[:5] == [
        "user_id     →  userId",
        "session_id  →  properties.session",
        "event       →  eventType",
        "timestamp   →  timestamp",
        "module      →  module",
    ]
    assert '"eventType": "shop.' in shown.stdout
    assert '"session": "sess_000000"' in shown.stdout
    assert stored(running, "dry") == 0


def test_a_wrong_key_is_one_sentence(running: Running, tmp_path: Path) -> None:
    file = write_shop(tmp_path / "shop.csv.gz", "refused")

    refused = load(running, str(file), "--key", "sk_us_prod_wrong")

    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("sendora: The gateway refuses the key (")
    assert "sk_us_prod_wrong" not in refused.stderr + refused.stdout
    assert stored(running, "refused") == 0


def test_the_key_of_this_machine_is_not_sent_to_another_address(running: Running, tmp_path: Path) -> None:
    file = write_shop(tmp_path / "shop.csv.gz", "elsewhere")

    refused = load(running, str(file), "--url", "http://127.0.0.1:9")

    assert refused.returncode == 2
    assert "is not the gateway of `make run`, so its key is not sent there: give --key, too." in refused.stderr


def test_where_nothing_runs_a_sentence_says_what_to_do(tmp_path: Path) -> None:
    file = write_shop(tmp_path / "shop.csv.gz", "nowhere")

    refused = run_command("import", str(file), SENDORA_DATA_DIR=str(tmp_path / "empty"))

    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].endswith(
        "keys.json, where `make run` leaves its address and key: start it, or give --url and --key."
    )
    assert not (tmp_path / "empty").exists()
