"""One run: everybody at once, the faults, the end of the faults, and the judgement."""

from __future__ import annotations

import asyncio
import json
import random
from bisect import bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from statistics import quantiles
from uuid import UUID

import asyncpg

from engine.cursors import CursorCodec
from tests.acceptance.chaos.clients import PEOPLE_STREAM, WHOLE_STREAM
from tests.acceptance.chaos.deployment import Deployment
from tests.acceptance.chaos.events import TASTES
from tests.acceptance.chaos.faults import StreamFaults
from tests.acceptance.chaos.readers import Reader
from tests.acceptance.chaos.revocations import Revoker
from tests.acceptance.chaos.subscribers import Manner, Subscriber
from tests.acceptance.chaos.writers import Ledger, Writer

SETTLE_SECONDS = 60.0
"""For the last answers and for everybody to catch up; some seconds on an idle machine."""
AFTERMATH_SECONDS = 2.0
"""How long after a fault of PostgreSQL or of its gateway a delivery is not measured: clients, pools and readers try
again at intervals of a second."""
REDIS_AFTERMATH_SECONDS = 1.0
"""How long after Redis came back it counts as away: so long may a gateway take to be connected again."""
ONE_LOOK_SECONDS = 0.5
EVERYTHING, ONE_USER, BY_WILDCARD, BY_SUFFIX, MODULE_AND_USER, LARGE_AMOUNTS, RARE, NOBODY = TASTES
SOCKET, EVENTS, EVENT_SOURCE = Manner(True), Manner(False), Manner(False, by_last_event_id=True)
WATCHERS = (
    (EVERYTHING, SOCKET),
    (EVERYTHING, EVENTS),
    (EVERYTHING, EVENT_SOURCE),
    (EVERYTHING, Manner(True, stays=(15, 40))),
    (EVERYTHING, Manner(True, document=WHOLE_STREAM, item_seconds=0.002, stays=(3, 12))),
    (EVERYTHING, Manner(False, document=WHOLE_STREAM, pauses=(2, 7), stays=(6, 20))),
    (EVERYTHING, Manner(True, document=WHOLE_STREAM, pauses=(2, 7), stays=(16, 45))),
    (EVERYTHING, Manner(True, document=PEOPLE_STREAM, stays=(3, 12))),
    (ONE_USER, SOCKET),
    (ONE_USER, Manner(False, document=PEOPLE_STREAM)),
    (BY_WILDCARD, EVENT_SOURCE),
    (BY_SUFFIX, EVENTS),
    (MODULE_AND_USER, SOCKET),
    (LARGE_AMOUNTS, Manner(True, document=WHOLE_STREAM, pauses=(0.5, 2), stays=(2, 8))),
    (LARGE_AMOUNTS, EVENT_SOURCE),
    (RARE, Manner(True, stays=(10, 40))),
    (RARE, Manner(False, by_last_event_id=True, stays=(10, 40))),
    (NOBODY, Manner(True, stays=(5, 20))),
)
WRITERS = (*[(1, (0.0, 0.1))] * 5, (6, (0.02, 0.3)), (60, (0.3, 2.0)), (400, (2.0, 6.0)))
"""The largest batch of each (1: `track`), and how long it waits between two: about 200 events a second in
all. The largest are announced without their events, and fill more than one page."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Of seconds."""

    count: int
    p50: float
    p95: float
    longest: float

    @classmethod
    def of(cls, seconds: list[float]) -> Spread:
        cuts = quantiles([*seconds, *seconds], n=20)
        return cls(len(seconds), cuts[9], cuts[18], max(seconds))

    def __str__(self) -> str:
        return f"{self.count} times, p50 {self.p50:.3f} s, p95 {self.p95:.3f} s, longest {self.longest:.3f} s"


@dataclass(frozen=True, slots=True)
class Report:
    """What a run found."""

    violations: list[str]
    logged_errors: list[str]
    counts: Counter[str]
    received: int
    largest_gateway_bytes: int
    late: dict[str, Spread]
    revoked: dict[str, Spread]
    text: str


@dataclass(slots=True)
class Chaos:
    """Writers, subscribers and faults over one deployment."""

    deployment: Deployment
    chance: random.Random
    ledger: Ledger = field(default_factory=Ledger)
    subscribers: list[Subscriber] = field(default_factory=list)
    largest_gateway_bytes: int = 0
    head: int = 0
    revoker: Revoker = field(init=False)

    def __post_init__(self) -> None:
        self.revoker = Revoker(self.deployment, self.ledger, random.Random(self.chance.random()))

    async def run(self, seconds: float) -> None:
        """Everything, then the end of everything, then what came of it."""
        self.subscribers = self._make_subscribers()
        writers = self._make_writers()
        over, done = asyncio.Event(), asyncio.Event()
        chance = random.Random(self.chance.random())
        faults = StreamFaults(self.deployment, self.ledger, self.subscribers, self.revoker, chance)
        looking = asyncio.create_task(self._look_at_memory())
        async with asyncio.TaskGroup() as tasks:
            for subscriber in self.subscribers:
                tasks.create_task(subscriber.watch(done))
            async with asyncio.TaskGroup() as until_mended:
                for writer in writers:
                    until_mended.create_task(writer.write(over))
                until_mended.create_task(self._make_reader().read(over))
                until_mended.create_task(faults.inject(over))
                await asyncio.sleep(seconds)
                over.set()
            done.set()
        await self._judge()
        looking.cancel()

    def _make_subscribers(self) -> list[Subscriber]:
        codec = self._codec()
        made = []
        for number, (taste, manner) in enumerate(WATCHERS):
            subscriber = Subscriber(
                self.ledger,
                self.deployment.gateways,
                codec,
                UUID(self.deployment.keys.project_id),
                self.deployment.keys.secret_key,
                number=number,
                chance=random.Random(self.chance.random()),
                taste=taste,
                manner=manner,
            )
            made.append(subscriber)
        return made

    def _codec(self) -> CursorCodec:
        """Only to look where a cursor stands."""
        return CursorCodec(self.deployment.secret_key.encode())

    def _make_reader(self) -> Reader:
        return Reader(
            self.ledger,
            self.deployment.gateways,
            self._codec(),
            self.deployment.keys.secret_key,
            UUID(self.deployment.keys.project_id),
            random.Random(self.chance.random()),
        )

    def _make_writers(self) -> list[Writer]:
        return [
            Writer(
                self.ledger,
                self.deployment.gateways,
                self.deployment.keys.secret_key,
                number=number,
                chance=random.Random(self.chance.random()),
                largest_batch=largest_batch,
                pause=pause,
            )
            for number, (largest_batch, pause) in enumerate(WRITERS)
        ]

    async def _look_at_memory(self) -> None:
        while True:
            sizes = [gateway.resident_bytes() for gateway in self.deployment.gateways]
            self.largest_gateway_bytes = max(self.largest_gateway_bytes, *sizes)
            await asyncio.sleep(ONE_LOOK_SECONDS)

    async def _judge(self) -> None:
        for gateway in self.deployment.gateways:
            await gateway.until_listening(ready=True)
        connection = await asyncpg.connect(self.deployment.postgres.url)
        try:
            await self._judge_table(connection)
            async with asyncio.TaskGroup() as tasks:
                for subscriber in self.subscribers:
                    expected = await self._expected(connection, subscriber)
                    tasks.create_task(self._judge_subscriber(subscriber, expected))
        finally:
            await connection.close()

    async def _judge_table(self, connection: asyncpg.Connection) -> None:
        """Dense, with everything acknowledged once, where the answers said, and nothing that nobody sent."""
        project_id = UUID(self.deployment.keys.project_id)
        rows = await connection.fetch(
            "SELECT seq, key, event_type, user_id, properties FROM events WHERE project_id = $1 ORDER BY seq",
            project_id,
        )
        self.head = await connection.fetchval("SELECT head FROM heads WHERE project_id = $1 AND lane = 1", project_id)
        violations, sent, acknowledged = self.ledger.violations, self.ledger.sent, self.ledger.acknowledged_at
        if [row["seq"] for row in rows] != list(range(1, self.head + 1)):
            violations.append(f"the log is not dense: {len(rows)} rows, head {self.head}")
        seqs = {row["key"]: row["seq"] for row in rows}
        if len(seqs) != len(rows):
            violations.append("a key is stored twice")
        violations += [f"{key} was acknowledged and is lost" for key in acknowledged.keys() - seqs.keys()]
        violations += [f"{key} was never sent" for key in seqs.keys() - sent.keys()]
        violations += [f"{key} was never acknowledged" for key in sent.keys() - acknowledged.keys()]
        for key, seq in self.ledger.seqs.items():
            if seqs.get(key) != seq:
                violations.append(f"{key} was answered with seq {seq} and has {seqs.get(key)}")
        for row in rows:
            stored = (row["event_type"], row["user_id"], json.loads(row["properties"]))
            event = sent.get(row["key"])
            if event is not None and stored != (event["eventType"], event.get("userId"), event["properties"]):
                violations.append(f"{event} is stored as {stored}")

    async def _expected(self, connection: asyncpg.Connection, subscriber: Subscriber) -> list[int]:
        if subscriber.start is None:
            self.ledger.violations.append(f"{subscriber.name} never got a stream")
            return []
        rows = await connection.fetch(
            f"SELECT seq FROM events WHERE project_id = $1 AND seq > $2 AND {subscriber.taste.sql} ORDER BY seq",
            UUID(self.deployment.keys.project_id),
            subscriber.start,
        )
        return [row["seq"] for row in rows]

    async def _judge_subscriber(self, subscriber: Subscriber, expected: list[int]) -> None:
        if not await subscriber.finish(expected[-1] if expected else 0, SETTLE_SECONDS):
            self.ledger.violations.append(f"{subscriber.name} stands at {subscriber.position} of {self.head}")
        await subscriber.stay(0.5)
        received = subscriber.trace.received
        for position, number in subscriber.trace.claims:
            if bisect_right(expected, position) != number:
                self.ledger.violations.append(f"{subscriber.name} was told {position} when it had {number} items")
        if received == expected:
            return
        lost = sorted(set(expected) - set(received))
        twice = [seq for seq, times in Counter(received).items() if times > 1]
        invented = sorted(set(received) - set(expected))
        disordered = received != sorted(received)
        self.ledger.violations.append(
            f"{subscriber.name}: of {len(expected)} lost {len(lost)} {lost[:9]}, twice {len(twice)} {twice[:9]},"
            f" not for it {len(invented)} {invented[:9]}, disordered: {disordered}"
        )

    # The report

    def report(self) -> Report:
        late = {name: Spread.of(seconds) for name, seconds in self._lateness().items() if seconds}
        revoked = {
            name: Spread.of(seconds)
            for name, seconds in (
                ("revoked", self.revoker.delays),
                ("revoked without Redis", self.revoker.delays_without_redis),
            )
            if seconds
        }
        received = sum(len(subscriber.trace.received) for subscriber in self.subscribers)
        logged = [line for part in self.deployment.parts for line in part.logged_errors()]
        awake = [each for each in self.subscribers if each.taste is EVERYTHING and each.manner.is_prompt]
        silence = max(subscriber.trace.longest_silence for subscriber in awake)
        lines = [
            f"{self.head} events, {received} deliveries to {len(self.subscribers)} subscribers,"
            f" longest silence of one who wants everything {silence:.1f} s",
            f"broken for seconds: {self.deployment.weather.seconds()}",
            f"gateways at most {self.largest_gateway_bytes / 2**20:.0f} MiB",
            *(f"{name}: {spread}" for name, spread in {**late, **revoked}.items()),
            *grouped(self.ledger.counts),
            f"violations {len(self.ledger.violations)}, errors logged {len(logged)}",
        ]
        return Report(
            violations=self.ledger.violations[:20],
            logged_errors=logged[:20],
            counts=self.ledger.counts,
            received=received,
            largest_gateway_bytes=self.largest_gateway_bytes,
            late=late,
            revoked=revoked,
            text="\n".join(lines),
        )

    def _lateness(self) -> dict[str, list[float]]:
        """Seconds from an event's acknowledgement to its delivery, and for `track` to its answer, where it is measured:
        PostgreSQL and the gateway were well, and the client had been connected for a while."""
        found: dict[str, list[float]] = {"late": [], "late without Redis": [], "track": [], "track without Redis": []}
        for subscriber in self.subscribers:
            for sighting in subscriber.trace.sightings:
                at = self.ledger.acknowledged_at.get(sighting.key)
                if at is not None and at > sighting.since + AFTERMATH_SECONDS:
                    self._measure(found, "late", at, max(at, sighting.at), sighting.gateway)
        for began, seconds, gateway in self.ledger.answers:
            self._measure(found, "track", began, began + seconds, gateway)
        return found

    def _measure(self, found: dict[str, list[float]], what: str, since: float, until: float, gateway: int) -> None:
        weather = self.deployment.weather
        if not weather.was_clear({"postgres", f"gateway {gateway}"}, since, until, aftermath=AFTERMATH_SECONDS):
            return
        redis_was_well = weather.was_clear({"redis"}, since, until, aftermath=REDIS_AFTERMATH_SECONDS)
        found[what if redis_was_well else f"{what} without Redis"].append(until - since)


def grouped(counts: Counter[str]) -> list[str]:
    """A line for each kind: `fault: redis killed 4, redis paused 2`."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name, number in sorted(counts.items()):
        kind, _, what = name.rpartition(": ")
        groups[kind or "clients"].append(f"{what} {number}")
    return [f"{kind}: {', '.join(each)}" for kind, each in groups.items()]
