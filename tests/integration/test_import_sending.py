"""An import over real sockets against a peer that fails in every way a gateway or what stands before it can fail.

The peer keeps `trackBatch`'s promise (an id is stored once) and otherwise does what each test tells it to: faults
like a connection lost after COMMIT cannot be ordered from a healthy gateway. The gateway itself is imported into in
tests/acceptance.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from importer import sender
from importer.errors import ImportMistakeError
from importer.run import ImportOptions, prepare, send_file
from importer.sender import Endpoint

KEY = "sk_us_prod_secret-of-the-test"
Fault = Callable[["Peer", web.Request, list[dict[str, Any]]], Any]


class Peer:
    """Answers `trackBatch`. `faults` are what happens to the next requests instead, one each."""

    def __init__(self) -> None:
        self.stored: dict[str, dict[str, Any]] = {}
        self.faults: list[Fault] = []
        self.always: Fault | None = None
        self.batches: list[int] = []
        self.busy = self.most_busy = 0
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        assert request.headers["x-api-key"] == KEY
        body = await request.read()
        assert len(body) < 2 * 1024 * 1024
        events = json.loads(body)["variables"]["input"]["events"]
        self.batches.append(len(events))
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        try:
            fault = self.faults.pop(0) if self.faults else self.always
            response = fault(self, request, events) if fault else None
            if isinstance(response, web.StreamResponse):
                return response
            return self.answer(events)
        finally:
            await asyncio.sleep(0.01)
            self.busy -= 1

    def answer(self, events: list[dict[str, Any]]) -> web.Response:
        errors = [
            {"message": "is not allowed", "path": ["input", "events", str(index), "eventType"]}
            for index, event in enumerate(events)
            if event["eventType"] == "forbidden"
        ]
        accepted = self.store([event for event in events if event["eventType"] != "forbidden"])
        duplicates = len(events) - len(errors) - accepted
        return track_batch(accepted=accepted, duplicates=duplicates, rejected=len(errors), errors=errors)

    def store(self, events: list[dict[str, Any]]) -> int:
        before = len(self.stored)
        for event in events:
            self.stored.setdefault(event["id"], event)
        return len(self.stored) - before


def track_batch(*, accepted: int, duplicates: int, rejected: int, errors: list[Any]) -> web.Response:
    counts = {"accepted": accepted, "duplicates": duplicates, "rejected": rejected, "dropped": 0}
    return web.json_response({"data": {"trackBatch": {**counts, "userErrors": errors}}})


def refuse(status: int, code: str | None = None, **extensions: Any) -> Fault:
    def fault(*_: Any) -> web.Response:
        if code is None:
            return web.Response(status=status, text="<html>busy</html>")
        error = {"message": f"No: {code}", "extensions": {"code": code, **extensions}}
        return web.json_response({"errors": [error]}, status=status)

    return fault


def lose_the_answer(peer: Peer, request: web.Request, events: list[dict[str, Any]]) -> None:
    """COMMIT, and then the connection is gone."""
    peer.store(events)
    assert request.transport is not None
    request.transport.abort()


def refuse_poison(peer: Peer, _: web.Request, events: list[dict[str, Any]]) -> web.Response | None:
    """As a whole, as a gateway refuses variables that are not what their type says."""
    poisoned = any(event["properties"].get("poison") for event in events)
    fault = refuse(400, "BAD_USER_INPUT")
    return fault(peer, _, events) if poisoned else None


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    app = web.Application(client_max_size=4 * 1024 * 1024)
    app.router.add_post("/graphql", peer.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    peer.url = f"http://{host}:{port}/graphql"
    yield peer
    await runner.cleanup()


@pytest.fixture(autouse=True)
def quick_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundredth of the real waits."""
    monkeypatch.setattr(sender, "BACKOFF_START_SECONDS", 0.005)


def write_rows(path: Path, count: int, **columns: str) -> Path:
    file = path / "events.csv"
    names = ["user_id", "event", "timestamp", "n", *columns]
    rows = [
        ",".join([f"user_{n % 600}", "home", "2024-03-13 10:21:14", str(n), *columns.values()]) for n in range(count)
    ]
    file.write_text("\n".join([",".join(names), *rows]) + "\n")
    return file


async def load(peer: Peer, file: Path, *, patience: float = 5, in_flight: int = 4, **options: Any) -> Any:
    plan = prepare(ImportOptions(file, **options))
    try:
        return await send_file(plan, Endpoint(peer.url, KEY), in_flight=in_flight, patience=timedelta(seconds=patience))
    finally:
        plan.source.close()


async def test_every_row_is_stored_once_however_often_it_is_imported(peer: Peer, tmp_path: Path) -> None:
    file = write_rows(tmp_path, 4321)

    first = await load(peer, file)
    second = await load(peer, file)

    assert (first.accepted, first.duplicates, first.is_complete) == (4321, 0, True)
    assert (second.accepted, second.duplicates, second.is_complete) == (0, 4321, True)
    assert sorted(event["properties"]["n"] for event in peer.stored.values()) == list(range(4321))
    assert max(peer.batches) == 1000
    assert len(peer.batches) == 10
    assert 1 < peer.most_busy <= 4


async def test_identical_rows_are_all_stored_and_still_only_once(peer: Peer, tmp_path: Path) -> None:
    file = tmp_path / "twins.csv"
    file.write_text("event,user_id\n" + "buy,ada\n" * 2500 + "buy,bob\n")

    assert (await load(peer, file)).accepted == 2501
    assert (await load(peer, file)).duplicates == 2501
    assert len(peer.stored) == 2501


async def test_one_request_at_a_time_keeps_the_order_of_the_file(peer: Peer, tmp_path: Path) -> None:
    await load(peer, write_rows(tmp_path, 3000), in_flight=1)

    assert [event["properties"]["n"] for event in peer.stored.values()] == list(range(3000))
    assert peer.most_busy == 1


async def test_large_events_make_small_batches(peer: Peer, tmp_path: Path) -> None:
    tally = await load(peer, write_rows(tmp_path, 100, note="x" * 60_000))

    assert tally.accepted == 100
    assert max(peer.batches) == 17


@pytest.mark.parametrize(
    "fault",
    [
        lose_the_answer,
        refuse(503),
        refuse(502),
        refuse(429, "RATE_LIMITED", retryAfterMs=5),
        refuse(503, "UNAVAILABLE", retryAfterMs=5),
        refuse(200, "RATE_LIMITED"),
        refuse(500, "INTERNAL", id="x"),
    ],
)
async def test_a_passing_fault_costs_nothing_but_time(peer: Peer, tmp_path: Path, fault: Fault) -> None:
    peer.faults = [fault] * 7

    tally = await load(peer, write_rows(tmp_path, 2500))

    assert tally.answered == 2500
    assert tally.is_complete
    assert sorted(event["properties"]["n"] for event in peer.stored.values()) == list(range(2500))


async def test_random_faults_lose_and_repeat_nothing(peer: Peer, tmp_path: Path) -> None:
    chance = random.Random(7)
    faults: list[Fault] = [lose_the_answer, refuse(503), refuse(429, "RATE_LIMITED", retryAfterMs=1)]
    peer.always = lambda *request: chance.choice(faults)(*request) if chance.random() < 0.6 else None

    tally = await load(peer, write_rows(tmp_path, 12_000))

    assert tally.answered == 12_000
    assert sorted(event["properties"]["n"] for event in peer.stored.values()) == list(range(12_000))


async def test_the_wait_that_the_gateway_asks_for_is_kept(peer: Peer, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    asked: list[float] = []

    def note(*_: Any) -> None:
        asked.append(loop.time())

    def wait(*request: Any) -> web.Response:
        note()
        return refuse(429, "RATE_LIMITED", retryAfterMs=400)(*request)

    def wait_by_header(*_: Any) -> web.Response:
        note()
        return web.Response(status=503, headers={"Retry-After": "1"})

    peer.faults = [wait, wait_by_header, note]
    await load(peer, write_rows(tmp_path, 5), in_flight=1, patience=0.1)  # being asked to wait is an answer

    assert asked[1] - asked[0] >= 0.4
    assert asked[2] - asked[1] >= 1.0


async def test_rejected_events_are_named_by_their_line_and_the_others_stored(peer: Peer, tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    rows = ["forbidden" if n in (3, 1500) else "home" for n in range(2, 2002)]  # n is the line
    file.write_text("event\n" + "\n".join(rows) + "\n")

    tally = await load(peer, file)

    assert (tally.accepted, tally.rejected, tally.is_complete) == (1998, 2, False)
    assert tally.summary().splitlines()[:2] == [
        "line 3: eventType: is not allowed",
        "line 1500: eventType: is not allowed",
    ]
    assert "1,998 events stored, 0 were already there, 2 rejected by the gateway" in tally.summary()


async def test_many_problems_are_counted_and_not_listed(peer: Peer, tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    file.write_text("event\n" + "forbidden\n" * 100 + "too,many,cells\n" * 50 + "home\n")

    tally = await load(peer, file)

    lines = tally.summary().splitlines()
    assert (tally.accepted, tally.rejected, tally.unreadable) == (1, 100, 50)
    assert len(lines) == 22
    assert lines[20] == "… and 130 more like these."


async def test_a_batch_refused_as_a_whole_is_halved_until_the_culprit_stands_alone(peer: Peer, tmp_path: Path) -> None:
    peer.always = refuse_poison
    file = tmp_path / "events.jsonl"
    file.write_text("".join(json.dumps({"event": "e", "n": n, "poison": n == 700}) + "\n" for n in range(1000)))

    tally = await load(peer, file)

    assert (tally.accepted, tally.rejected) == (999, 1)
    assert [(problem.line, problem.reason) for problem in tally.problems] == [(701, "No: BAD_USER_INPUT")]
    assert len(peer.batches) < 30


async def test_a_request_too_large_for_a_proxy_is_halved(peer: Peer, tmp_path: Path) -> None:
    peer.always = lambda _peer, _request, events: web.Response(status=413) if len(events) > 300 else None

    tally = await load(peer, write_rows(tmp_path, 1000))

    assert tally.accepted == 1000
    assert sorted(peer.batches) == [250, 250, 250, 250, 500, 500, 1000]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (refuse(401, "UNAUTHENTICATED"), "The gateway refuses the key (No: UNAUTHENTICATED): give one that may track"),
        (refuse(200, "FORBIDDEN"), "The gateway refuses the key (No: FORBIDDEN): give one that may track events"),
        (refuse(403), "The gateway refuses the key (HTTP 403): give one that may track events with --key."),
        (refuse(404), "What answers is no Sendora gateway (HTTP 404): give its address with --url http://host:port."),
        (refuse(200), "What answers is no Sendora gateway (HTTP 200): give its address with --url http://host:port."),
        (refuse(400, "GRAPHQL_VALIDATION_FAILED"), "The gateway refuses the import: No: GRAPHQL_VALIDATION_FAILED"),
    ],
)
async def test_what_no_repetition_mends_ends_the_import_at_once(
    peer: Peer, tmp_path: Path, fault: Fault, message: str
) -> None:
    peer.always = fault

    with pytest.raises(ImportMistakeError) as caught:
        await load(peer, write_rows(tmp_path, 50_000))

    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith("Nothing was stored; running it again stores nothing twice.")
    assert KEY not in str(caught.value)
    assert len(peer.batches) <= 4


async def test_a_gateway_that_is_not_there_is_named_within_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "FIRST_CONTACT_PATIENCE", timedelta(milliseconds=200))
    nobody = Peer()
    nobody.url = "http://127.0.0.1:9/graphql"

    with pytest.raises(ImportMistakeError, match=r"http://127.0.0.1:9/graphql does not answer \(.*\): is the gateway"):
        await load(nobody, write_rows(tmp_path, 10))


async def test_a_gateway_that_goes_away_is_waited_for_and_then_given_up(peer: Peer, tmp_path: Path) -> None:
    peer.faults = [lambda *_: None]
    peer.always = refuse(503)

    with pytest.raises(ImportMistakeError, match=r"does not answer \(HTTP 503\).* 1,000 events are stored; running it"):
        await load(peer, write_rows(tmp_path, 5000), in_flight=1, patience=0.3)


async def test_what_comes_before_a_break_in_the_file_is_stored(peer: Peer, tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    file.write_text("event,note\n" + "home,x\n" * 3000 + 'cart,"never closed\n' + "home,x\n" * 10)

    tally = await load(peer, file)

    assert tally.accepted == 3000
    assert not tally.is_complete
    assert tally.summary().startswith(
        "Line 3002: a quote is opened and not closed, so nothing after it can be read. What comes before is imported;"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("event\n", "has no rows that can be read"),
        ("event,a\nx\n", "has no rows that can be read (line 2: it has 1 cells and the header has 2)"),
        ("what,who\nx,y\n", "names the event (it has what, who): say which does with --map COLUMN=eventType"),
    ],
)
def test_a_file_without_events_is_refused_before_anything_is_sent(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "events.csv"
    file.write_text(content)

    with pytest.raises(ImportMistakeError) as caught:
        prepare(ImportOptions(file))

    assert message in str(caught.value)


def test_an_unknown_time_zone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImportMistakeError, match="There is no time zone 'Mars/Olympus': give one such as"):
        prepare(ImportOptions(write_rows(tmp_path, 1), timezone="Mars/Olympus"))
