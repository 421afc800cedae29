"""How soon does an event have its first step done, and how many steps and matches a second does one worker make?

Data: journeys of a branch and an update of the profile, which `--journeys` (default 5,000) events start, tracked in
batches of 1,000, one a person; then 1,000 active workflows of four kinds of triggers (`peers/python/journeys.py`) and
`--events` (default 20,000) events, one in ten of which matches one of them, whose runs then wait. Each `--rounds`
(default 3) times, beside the same on DBOS and on Procrastinate in databases of their own on the same server, with
`--peer-journeys` and `--peer-events` (default 400 each) and handlers in a list. Then 1,000,000 runs that wait
(`waiting_runs`), and one round of journeys more beside them.

Shows: `track` to the frame of `workflowRunUpdates` with the first step, p50 and p99 in ms of `--singles` (default 200)
one after the other (goal: p50 under 50), and of some after pauses so long that the worker has let go of the project;
steps, and events matched, a second from the first event sent to the last run that is over, or that waits, so with
tracking, beside the peers' from the first event in hand to the last (goals: ten times the better of them), medians; and
what each costs worker or peer, and PostgreSQL, in µs of CPU. All processes share the machine's cores.
Counts only when every event started what it had to, once, every step is OK, and every profile says so.

Command: `python -m benchmarks.workflows [--rounds 3] [--singles 200] [--journeys 5000] [--events 20000]
[--peer-journeys 400] [--peer-events 400] [--waiting 1000000]`
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import aiohttp
import asyncpg
import orjson

from benchmarks.harness import ROOT, BenchmarkError, Gateway, Subscriber, gateway
from benchmarks.peers.python.journeys import (
    HANDLERS,
    LARGE,
    ONE_MATCHES_IN,
    STEPS_TYPE,
    WAIT_MINUTES,
    Handler,
    chunks,
    events_to_match,
    events_to_step,
    handlers,
    person,
    tiers,
)
from benchmarks.waiting_runs import measure_waiting
from benchmarks.webhooks import BATCH, Api, cpu_seconds
from benchmarks.webhooks import TRACK as TRACK_BATCH
from db.database import Database
from engine.workflows.names import TRIGGERS_FOLLOWER

PEERS = ROOT / "benchmarks" / "peers" / "python"
GAP_SECONDS = 0.05
LONG_GAP_SECONDS = 1.7
"""A worker lets go of a project for which nothing came for a second."""
LONG_GAPS = 20
PROBE_TYPE = "bench.probe.sent"
FEW = 1_000
TRACK = "mutation ($input: TrackInput!) { track(input: $input) { event { seq } userErrors { message } } }"
SAVE = """mutation ($input: SaveWorkflowInput!) {
  saveWorkflow(input: $input) { workflow { id } userErrors { message } } }"""
SAVES_AT_ONCE = 8
UPDATES = """subscription ($workflow: ID!) {
  workflowRunUpdates(filter: {workflowId: $workflow}) { node { status step { label outcome } } } }"""
FIRST_STEP = b'"label":"size"'
BRANCH = {"condition": {"event": "amount", "op": "GTE", "value": LARGE}, "ifTrue": "large", "ifFalse": "small"}
STEPS = [
    {"label": "size", "type": "BRANCH", "config": BRANCH},
    {"label": "large", "type": "UPDATE_PROFILE", "config": {"traits": {"tier": "large"}}, "next": "end"},
    {"label": "small", "type": "UPDATE_PROFILE", "config": {"traits": {"tier": "small"}}, "next": "end"},
]
HEAD = "SELECT head FROM heads WHERE project_id = $1 AND lane = 1"
FOLLOWED = "SELECT position >= $2 FROM log_followers WHERE project_id = $1 AND follower = $3"
ENDED = """
    SELECT count(*) FILTER (WHERE status = 'COMPLETED'), count(*) FILTER (WHERE status = 'FAILED')
    FROM workflow_runs WHERE project_id = $1 AND workflow_id = $2"""
STARTED = "SELECT workflow_id, count(*) FROM workflow_runs WHERE project_id = $1 AND workflow_id = ANY($2) GROUP BY 1"
OUTCOMES = """
    SELECT label, outcome, count(*) FROM workflow_run_steps WHERE project_id = $1 AND workflow_id = $2 GROUP BY 1, 2"""
TIERS = "SELECT traits->>'tier', count(*) FROM profiles WHERE project_id = $1 AND user_id = ANY($2) GROUP BY 1"


@dataclass(frozen=True)
class Taken:
    """Seconds that something took: of time, of the worker's or the peer's CPU, and of PostgreSQL's."""

    time: float
    worker: float
    postgres: float


class Stopwatch:
    """Runs from the moment it is made."""

    def __init__(self, server: Gateway) -> None:
        self._server = server
        self._before = (time.perf_counter(), *cpu_seconds(server))

    def taken(self) -> Taken:
        """So far."""
        after = (time.perf_counter(), *cpu_seconds(self._server))
        return Taken(*(now - then for now, then in zip(after, self._before, strict=True)))


@dataclass
class Figures:
    """Of one thing that is measured, round by round."""

    rates: list[float] = field(default_factory=list)
    worker: list[float] = field(default_factory=list)
    postgres: list[float] = field(default_factory=list)

    def add(self, count: int, taken: Taken) -> None:
        """One round."""
        self.rates.append(count / taken.time)
        self.worker.append(taken.worker / count * 1e6)
        self.postgres.append(taken.postgres / count * 1e6)

    def __str__(self) -> str:
        each = ", ".join(f"{rate:,.0f}" for rate in self.rates)
        costs = f"{median(self.worker):,.0f} µs and PostgreSQL's {median(self.postgres):,.0f} µs of CPU each"
        return f"{median(self.rates):,.0f}/s ({each}), {costs}"


class StepWatcher(Subscriber):
    """Keeps when a first step was over."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.first_steps: asyncio.Queue[float] = asyncio.Queue()

    def _on_frame(self, opcode: int, payload: bytes) -> None:
        if FIRST_STEP in payload.replace(b" ", b""):
            self.first_steps.put_nowait(time.perf_counter())
        super()._on_frame(opcode, payload)


class Bench:
    """One stack under measurement."""

    def __init__(self, server: Gateway, session: aiohttp.ClientSession, connection: asyncpg.Connection) -> None:
        self._server = server
        self._api = Api(server, session, server.key)
        self._connection = connection
        self._project_id = UUID(server.project_id)
        self._saved = 0

    async def save(self, trigger: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> str:
        """A workflow that is on; its node id."""
        self._saved += 1
        given = {"name": f"Journey {self._saved}", "isActive": True, "trigger": trigger, "steps": steps}
        saved: str = (await self._api.run(SAVE, input=given))["workflow"]["id"]
        return saved

    async def track(self, events: Sequence[Mapping[str, Any]]) -> None:
        """In batches, one after the other."""
        for some in chunks(list(events), BATCH):
            answer = await self._api.run(TRACK_BATCH, input={"events": some})
            if answer["accepted"] != len(some):
                raise BenchmarkError(f"{answer['accepted']} of {len(some)} events were accepted")

    async def measure_latency(self, singles: int) -> None:
        """From `track` to the first step, as a subscriber sees it."""
        workflow = await self.save({"eventType": PROBE_TYPE}, STEPS)
        subscriber = StepWatcher(self._server, UPDATES, {"workflow": workflow})
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: subscriber, "127.0.0.1", self._server.port)
        await subscriber.acknowledged
        await asyncio.sleep(LONG_GAP_SECONDS)
        await self._singles(subscriber, 10, GAP_SECONDS)
        for name, count, gap in (
            ("idle", singles, GAP_SECONDS),
            (f"idle, {LONG_GAP_SECONDS} s after the one before", LONG_GAPS, LONG_GAP_SECONDS),
        ):
            delays = sorted(await self._singles(subscriber, count, gap))
            p50, p99 = delays[count // 2], delays[count * 99 // 100]
            print(f"track to first step done, {name} ({count}): p50 {p50:.1f} ms, p99 {p99:.1f} ms")
        await self._expect_completed(UUID(workflow.partition("_")[2]), 10 + singles + LONG_GAPS)
        subscriber.close()

    async def _singles(self, subscriber: StepWatcher, count: int, gap: float) -> list[float]:
        delays = []
        for number in range(count):
            started = time.perf_counter()
            event = {"eventType": PROBE_TYPE, "userId": person(number), "properties": {"amount": number}}
            await self._api.run(TRACK, input={"event": event})
            async with asyncio.timeout(30):
                delays.append((await subscriber.first_steps.get() - started) * 1000)
            await asyncio.sleep(gap)
        return delays

    async def step(self, workflow: str, count: int, done: int) -> Taken:
        """What so many journeys take; so many are `done` already."""
        workflow_id = UUID(workflow.partition("_")[2])
        watch = Stopwatch(self._server)
        await self.track(events_to_step(count))
        await self._expect_completed(workflow_id, done + count)
        taken = watch.taken()
        await self._check_steps(workflow_id, count, done)
        return taken

    async def _expect_completed(self, workflow_id: UUID, count: int) -> None:
        async with asyncio.timeout(300):
            while True:
                completed, failed = await self._connection.fetchrow(ENDED, self._project_id, workflow_id)
                if failed or completed > count:
                    raise BenchmarkError(f"{failed} runs failed, {completed} of {count} were completed")
                if completed == count:
                    return
                await asyncio.sleep(0.05)

    async def _check_steps(self, workflow_id: UUID, count: int, done: int) -> None:
        outcomes = await self._connection.fetch(OUTCOMES, self._project_id, workflow_id)
        made = {label: made for label, _, made in outcomes}
        people = [person(number) for number in range(count)]
        found = dict(await self._connection.fetch(TIERS, self._project_id, people))
        if len(made) != len(outcomes) or made["size"] != done + count or made["large"] + made["small"] != done + count:
            raise BenchmarkError(f"not every run has its two steps: {outcomes}")
        if found != tiers(count):
            raise BenchmarkError(f"people are {found}, not {tiers(count)}")

    async def save_handlers(self) -> dict[UUID, int]:
        """A workflow for each handler, by its id."""
        found: dict[UUID, int] = {}
        left = iter(handlers())

        async def go_on() -> None:
            for handler in left:
                saved = await self.save(trigger_of(handler), [{**STEPS[0], "delayMinutes": WAIT_MINUTES}, *STEPS[1:]])
                found[UUID(saved.partition("_")[2])] = handler.number

        await asyncio.gather(*(go_on() for _ in range(SAVES_AT_ONCE)))
        return found

    async def match(self, workflows: Mapping[UUID, int], count: int, done: int) -> Taken:
        """What so many events take until they were matched; `done` rounds were made before."""
        watch = Stopwatch(self._server)
        await self.track(events_to_match(count))
        head = await self._connection.fetchval(HEAD, self._project_id)
        await self._expect_followed(head)
        taken = watch.taken()
        rows = await self._connection.fetch(STARTED, self._project_id, list(workflows))
        if {workflows[row[0]]: row[1] for row in rows} != runs_of(count, done + 1):
            raise BenchmarkError("not every event started what it matches, once")
        return taken

    async def _expect_followed(self, head: int) -> None:
        async with asyncio.timeout(300):
            while True:
                if await self._connection.fetchval(FOLLOWED, self._project_id, head, TRIGGERS_FOLLOWER):
                    return
                await asyncio.sleep(0.02)


def trigger_of(handler: Handler) -> dict[str, Any]:
    """The same as `Handler.matches`."""
    filters = []
    if handler.above is not None:
        filters.append({"path": "event.properties.amount", "op": "GT", "value": handler.above})
    if handler.shop is not None:
        filters.append({"path": "event.properties.shop", "op": "EQ", "value": handler.shop})
    return {"eventType": handler.pattern, "filters": filters}


def runs_of(count: int, rounds: int) -> dict[int, int]:
    """How many runs so many events start, by handler."""
    runs: dict[int, int] = {}
    for match in range(count // ONE_MATCHES_IN):
        runs[match % HANDLERS] = runs.get(match % HANDLERS, 0) + rounds
    return runs


def peer_python() -> Path:
    """The interpreter of the peers, in an environment of their own; made where it is missing."""
    folder = PEERS / ".venv"
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-qq", "-r", PEERS / "requirements.txt"], check=True)
        (folder / "installed").touch()
    return python


async def run_peer(python: Path, server: Gateway, name: str, question: str, count: int) -> Taken:
    """What so many events take a peer, in a fresh database. PostgreSQL's CPU is that of its start too."""
    url = await make_database(server.database_url, name, count)
    watch = Stopwatch(server)
    command = [python, PEERS / f"{name}_journeys.py", url, question, str(count)]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(300):
        out, err = await process.communicate()
    if process.returncode:
        raise BenchmarkError(f"{name}: {err.decode()[-2000:]}")
    postgres = watch.taken().postgres
    await check_peer(url, name, question, count)
    answer = orjson.loads(out)
    return Taken(answer["seconds"], answer["cpu"], postgres)


async def make_database(server_url: str, name: str, people: int) -> str:
    """An empty one with profiles of everybody; its URL."""
    connection = await asyncpg.connect(server_url)
    await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    url = urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE profiles (user_id text PRIMARY KEY, traits jsonb NOT NULL DEFAULT '{}')")
    await connection.executemany(
        "INSERT INTO profiles (user_id) VALUES ($1)", [(person(number),) for number in range(people)]
    )
    await connection.close()
    return url


WAITING = {
    "dbos": "SELECT count(*) FROM dbos.workflow_status WHERE status = 'DELAYED'",
    "procrastinate": "SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo'",
}
OVER = {
    "dbos": "SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'",
    "procrastinate": "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'",
}


async def check_peer(url: str, name: str, question: str, count: int) -> None:
    """Nothing is lost there either."""
    connection = await asyncpg.connect(url)
    try:
        waiting, over = await connection.fetchval(WAITING[name]), await connection.fetchval(OVER[name])
        found = dict(await connection.fetch("SELECT traits->>'tier', count(*) FROM profiles GROUP BY 1"))
    finally:
        await connection.close()
    if question == "events":
        is_whole = (waiting, over) == (count // ONE_MATCHES_IN, count)
    else:
        is_whole = not waiting and found == tiers(count)
    if not is_whole:
        raise BenchmarkError(f"{name}: {waiting} wait, {over} are over, people are {found}")


Measure = Callable[[int], Awaitable[Taken]]


async def compare(
    what: str, rounds: int, ours: tuple[int, Measure], peers: Mapping[str, tuple[int, Measure]], *, each: int
) -> None:
    """Measure ours and the peers' in turns and print medians; one event makes `each` of what is counted."""
    figures = {name: Figures() for name in ("sendora", *peers)}
    for number in range(rounds):
        for name, (count, measure) in (*peers.items(), ("sendora", ours)):
            figures[name].add(count * each, await measure(number))
    best = max(median(figures[name].rates) for name in peers)
    print(f"{what}: sendora {figures['sendora']}; {median(figures['sendora'].rates) / best:.1f} × the better peer")
    for name in peers:
        print(f"  {name} {figures[name]}")


async def run(server: Gateway, python: Path, sizes: argparse.Namespace) -> None:
    """All questions, on one stack."""

    def peers_of(question: str, count: int) -> dict[str, tuple[int, Measure]]:
        def measure_of(name: str) -> Measure:
            return lambda _: run_peer(python, server, name, question, count)

        return {name: (count, measure_of(name)) for name in WAITING}

    connection = await asyncpg.connect(server.database_url)
    async with aiohttp.ClientSession() as session:
        bench = Bench(server, session, connection)
        await bench.measure_latency(sizes.singles)
        await bench.track(
            [{"eventType": "bench.person.met", "userId": person(number)} for number in range(sizes.journeys)]
        )
        journey = await bench.save({"eventType": STEPS_TYPE}, STEPS)

        async def step(number: int) -> Taken:
            return await bench.step(journey, sizes.journeys, number * sizes.journeys)

        peers = peers_of("steps", sizes.peer_journeys)
        await compare("steps by one worker", sizes.rounds, (sizes.journeys, step), peers, each=2)
        workflows = await bench.save_handlers()

        async def match(number: int) -> Taken:
            return await bench.match(workflows, sizes.events, number)

        peers = peers_of("events", sizes.peer_events)
        what = f"events matched against {HANDLERS:,} active workflows"
        await compare(what, sizes.rounds, (sizes.events, match), peers, each=1)
        await beside_waiting(server, min(workflows), sizes.waiting)
        beside = Figures()
        beside.add(sizes.journeys * 2, await step(sizes.rounds))
        print(f"steps by one worker, beside {sizes.waiting:,} waiting runs: {beside}")
    await connection.close()


async def beside_waiting(server: Gateway, workflow_id: UUID, count: int) -> None:
    """Claims, on a connection like a worker's."""
    database = Database(server.database_url, max_size=1, application_name="sendora-benchmark")
    await database.connect()
    try:
        await measure_waiting(database, UUID(server.project_id), workflow_id, few=FEW, many=count)
    finally:
        await database.disconnect()


def main() -> None:
    """One run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--singles", type=int, default=200)
    parser.add_argument("--journeys", type=int, default=5_000)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--peer-journeys", type=int, default=400)
    parser.add_argument("--peer-events", type=int, default=400)
    parser.add_argument("--waiting", type=int, default=1_000_000)
    sizes = parser.parse_args()
    python = peer_python()
    with gateway() as server:
        asyncio.run(run(server, python, sizes))


if __name__ == "__main__":
    main()
