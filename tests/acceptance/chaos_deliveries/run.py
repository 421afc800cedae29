"""One run: everybody at once, the faults, the end of the faults, and the judgement."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import asyncpg

from tests.acceptance.chaos.deployment import Deployment
from tests.acceptance.chaos.run import grouped
from tests.acceptance.chaos.writers import Ledger, Writer
from tests.acceptance.chaos_deliveries.faults import DeliveryFaults
from tests.acceptance.chaos_deliveries.judge import Judge, Tables, judge_watcher
from tests.acceptance.chaos_deliveries.receivers import World
from tests.acceptance.chaos_deliveries.senders import Sender, Sends
from tests.acceptance.chaos_deliveries.shop import EGRESS, open_shops
from tests.acceptance.chaos_deliveries.watchers import INTERESTS, Watcher

SETTLE_SECONDS = 60.0
"""For the last leases and the last waits between attempts to end; about ten on an idle machine."""
WATCH_SECONDS = 15.0
WORKER = ("-m", "tests.acceptance.chaos_deliveries.worker_with_short_lease")
WRITERS = ((1, (0.05, 0.3)), (1, (0.05, 0.3)), (12, (0.5, 1.5)))
"""The largest batch of each (1: `track`), and how long it waits between two."""
SENDERS = 3
SENDER_PAUSE = (0.05, 0.3)
UNFINISHED = """SELECT
    (SELECT count(*) FROM deliveries WHERE project_id = $1 AND (next_attempt_at IS NOT NULL OR status = 'SENDING'))
    + (SELECT h.head - f.position FROM heads AS h JOIN log_followers AS f USING (project_id, lane)
       WHERE h.project_id = $1 AND h.lane = 1 AND f.follower = 'webhooks') AS number"""


def make_deployment(directory: Path, dns_port: int) -> Deployment:
    """Two gateways and two workers whose leases are short."""
    settings = {**EGRESS, "SENDORA_DNS_SERVER": f"127.0.0.1:{dns_port}"}
    return Deployment(directory, gateways=2, workers=2, worker=WORKER, settings=settings)


@dataclass(slots=True)
class DeliveryChaos:
    """Writers, senders, watchers and faults over one deployment."""

    deployment: Deployment
    world: World
    chance: random.Random
    ledger: Ledger = field(default_factory=Ledger)
    sends: Sends = field(default_factory=Sends)
    watchers: list[Watcher] = field(default_factory=list)
    fates: Counter[str] = field(default_factory=Counter)
    settled_after: float = 0.0

    @property
    def project_id(self) -> UUID:
        return UUID(self.deployment.keys.project_id)

    async def run(self, seconds: float) -> None:
        """Everything, then the end of everything, then what came of it."""
        async with open_shops(self.deployment) as (shop,):
            await self.world.open(shop)
        self.watchers = [Watcher(self.deployment, self.ledger, interest, self._chance()) for interest in INTERESTS]
        keeping = asyncio.create_task(self.deployment.keep_workers())
        try:
            await self._break_and_mend(seconds)
            await self._judge()
        finally:
            keeping.cancel()

    async def _break_and_mend(self, seconds: float) -> None:
        over, done = asyncio.Event(), asyncio.Event()
        faults = DeliveryFaults(self.deployment, self.ledger.counts, self.world, self.watchers, self._chance())
        async with asyncio.TaskGroup() as tasks:
            for watcher in self.watchers:
                tasks.create_task(watcher.watch(done))
            # What they are told to begin with comes before what they are shown
            await asyncio.sleep(0.5)
            async with asyncio.TaskGroup() as until_mended:
                for writer in self._make_writers():
                    until_mended.create_task(writer.write(over))
                for sender in self._make_senders():
                    until_mended.create_task(sender.send(over))
                until_mended.create_task(faults.inject(over))
                await asyncio.sleep(seconds)
                over.set()
            self.world.calm()
            await self._settle()
            done.set()

    def _chance(self) -> random.Random:
        return random.Random(self.chance.random())

    def _make_writers(self) -> list[Writer]:
        return [
            Writer(
                self.ledger,
                self.deployment.gateways,
                self.deployment.keys.secret_key,
                number=number,
                chance=self._chance(),
                largest_batch=largest_batch,
                pause=pause,
            )
            for number, (largest_batch, pause) in enumerate(WRITERS)
        ]

    def _make_senders(self) -> list[Sender]:
        return [
            Sender(
                self.ledger,
                self.sends,
                self.deployment.gateways,
                self.deployment.keys.secret_key,
                self.world.people,
                number=number,
                chance=self._chance(),
                pause=SENDER_PAUSE,
            )
            for number in range(SENDERS)
        ]

    async def _settle(self) -> None:
        """Until nothing is left to do."""
        began = time.monotonic()
        connection = await asyncpg.connect(self.deployment.postgres.url)
        try:
            while left := await connection.fetchval(UNFINISHED, self.project_id):
                if time.monotonic() - began > SETTLE_SECONDS:
                    self.ledger.violations.append(f"{left} deliveries and events have nobody who finishes them")
                    break
                await asyncio.sleep(0.1)
        finally:
            await connection.close()
        self.settled_after = time.monotonic() - began

    async def _judge(self) -> None:
        for gateway in self.deployment.gateways:
            await gateway.until_listening(ready=True)
        connection = await asyncpg.connect(self.deployment.postgres.url)
        try:
            tables = await Tables.read(connection, self.project_id)
            judge = Judge(tables, self.ledger, self.sends, self.world)
            self.ledger.violations += judge.violations()
            self.fates = judge.fates
            for watcher in self.watchers:
                await self._judge_watcher(connection, watcher, tables)
        finally:
            await connection.close()

    async def _judge_watcher(self, connection: asyncpg.Connection, watcher: Watcher, tables: Tables) -> None:
        rows = await connection.fetch(
            f"SELECT seq FROM delivery_transitions WHERE project_id = $1 AND {watcher.interest.sql}", self.project_id
        )
        wanted = {row["seq"] for row in rows}
        if not await watcher.finish(max(wanted, default=0), WATCH_SECONDS):
            self.ledger.violations.append(f"{watcher.name} stands at {watcher.position} of {tables.heads[2]}")
        self.ledger.violations += judge_watcher(watcher, tables.transitions, wanted)

    def logged_errors(self) -> list[str]:
        """Of every gateway and worker, but for outcomes that a worker came to write after their lease had ended."""
        lines = [line for part in self.deployment.parts for line in part.logged_errors()]
        return [line for line in lines if "settlement.given_up" not in line]

    def report(self) -> str:
        """What happened, for whoever reads the test's output."""
        lines = [
            f"{len(self.ledger.sent)} events tracked, {len(self.sends.asked)} sends,"
            f" {sum(len(watcher.received) for watcher in self.watchers)} updates shown,"
            f" settled {self.settled_after:.1f} s after the last fault",
            f"broken for seconds: {self.deployment.weather.seconds()}",
            *grouped(self.ledger.counts + self.fates),
            f"violations {len(self.ledger.violations)}, errors logged {len(self.logged_errors())}",
        ]
        return "\n".join(lines)
