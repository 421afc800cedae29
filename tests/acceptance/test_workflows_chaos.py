"""kill -9 of workers in the middle of 1,000 runs: every run ends, and no step is skipped or done twice.

A gateway, two workers, PostgreSQL and Valkey as processes; the receiver and the relay in this one. Workers die whenever
so much has arrived outside, one or both at once, and are started again. In the end the tables are compared with what
the journey is, with what arrived (by idempotency key), and with what clients saw that followed `workflowRunUpdates` and
lost their connections on the way.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import asyncpg

from tests.acceptance.chaos.deployment import Deployment
from tests.acceptance.chaos.run import grouped
from tests.acceptance.chaos.writers import Ledger
from tests.acceptance.chaos_deliveries.shop import EGRESS
from tests.acceptance.chaos_workflows.journeys import INTERESTS, PEOPLE, RunWatcher, World
from tests.acceptance.chaos_workflows.judge import Judge, Tables, judge_watcher
from tests.acceptance.running import eventually

WORKER = ("-m", "tests.acceptance.chaos_workflows.worker_with_short_lease")
SETTLE_SECONDS = 90.0
"""For everybody to reach the end; some fifteen on an idle machine."""
WATCH_SECONDS = 15.0
KILLS: Sequence[tuple[str, float, tuple[int, ...]]] = (
    ("hooks", 0.05, (0,)),
    ("hooks", 0.35, (1,)),
    ("hooks", 0.7, (0, 1)),
    ("mails", 0.3, (0, 1)),
)
"""Once so many of all webhooks or mails have come: the workers that die."""
LEFT = """SELECT count(*) FROM workflow_runs
WHERE project_id = $1 AND status NOT IN ('COMPLETED', 'FAILED', 'CANCELLED')"""
BEGUN = "SELECT count(*) FROM workflow_runs WHERE project_id = $1"


class Chaos:
    """One run of everything."""

    def __init__(self, deployment: Deployment, world: World) -> None:
        self.deployment = deployment
        self.world = world
        self.ledger = Ledger()
        self.killed = 0
        chance = random.Random(4)
        self.watchers = [
            RunWatcher(deployment, self.ledger, interest, random.Random(chance.random())) for interest in INTERESTS
        ]
        self._seconds = time.monotonic()

    @property
    def project_id(self) -> UUID:
        return UUID(self.deployment.keys.project_id)

    async def run(self) -> None:
        done = asyncio.Event()
        connection = await asyncpg.connect(self.deployment.postgres.url)
        try:
            async with asyncio.TaskGroup() as tasks:
                for watcher in self.watchers:
                    tasks.create_task(watcher.watch(done))
                # What they are told to begin with comes before what they are shown
                await eventually(
                    lambda: all(watcher.start is not None for watcher in self.watchers), seconds=20, what="positions"
                )
                self._seconds = time.monotonic()
                await self.world.order(self.deployment)
                killing = tasks.create_task(self._kill())
                await self._settle(connection)
                self._seconds = time.monotonic() - self._seconds
                killing.cancel()
                done.set()
            await self._judge(connection)
        finally:
            await connection.close()

    async def _kill(self) -> None:
        for what, share, victims in KILLS:
            came = self.world.receiver.requests if what == "hooks" else self.world.smtp.received
            await eventually(
                lambda came=came, share=share: len(came) >= share * PEOPLE, seconds=SETTLE_SECONDS, what=what
            )
            workers = [self.deployment.workers[victim] for victim in victims]
            for worker in workers:
                worker.end()
                self.killed += 1
            for worker in workers:
                worker.launch()

    async def _settle(self, connection: asyncpg.Connection) -> None:
        deadline = time.monotonic() + SETTLE_SECONDS
        while await connection.fetchval(BEGUN, self.project_id) < PEOPLE or await connection.fetchval(
            LEFT, self.project_id
        ):
            if time.monotonic() > deadline:
                self.ledger.violations.append(f"{await connection.fetchval(LEFT, self.project_id)} runs do not end")
                return
            await asyncio.sleep(0.1)

    async def _judge(self, connection: asyncpg.Connection) -> None:
        tables = await Tables.read(connection, self.project_id)
        judge = Judge(tables, self.world)
        self.ledger.violations += judge.violations()
        self.ledger.counts += judge.fates
        for watcher in self.watchers:
            rows = await connection.fetch(
                f"SELECT seq FROM workflow_run_updates WHERE project_id = $1 AND {watcher.interest.sql}",
                self.project_id,
            )
            wanted = {row["seq"] for row in rows}
            if not await watcher.finish(max(wanted), WATCH_SECONDS):
                self.ledger.violations.append(f"{watcher.name} stands at {watcher.position} of {tables.head}")
            self.ledger.violations += judge_watcher(watcher, tables.updates, wanted)

    def report(self) -> str:
        """What happened, for whoever reads the test's output."""
        return "\n".join(
            [
                f"{PEOPLE} runs in {self._seconds:.1f} s, {self.killed} workers killed",
                *grouped(self.ledger.counts),
                *self.ledger.violations[:20],
            ]
        )

    def logged_errors(self) -> list[str]:
        """Of all parts, but for outcomes that a worker came to write after their lease had ended."""
        lines = [line for part in self.deployment.parts for line in part.logged_errors()]
        return [line for line in lines if "settlement.given_up" not in line]


async def test_a_thousand_runs_end_whole_although_workers_are_killed(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, gateways=1, workers=2, worker=WORKER, settings=EGRESS)
    try:
        await deployment.open()
        async with World.running() as world:
            await world.open(deployment)
            chaos = Chaos(deployment, world)
            await chaos.run()
    finally:
        deployment.close()

    print(f"\n{chaos.report()}")
    assert chaos.ledger.violations == []
    assert chaos.logged_errors() == []
    # The faults hit: all of the killing was done, and something was in the dead workers' hands
    assert chaos.killed == sum(len(victims) for _, _, victims in KILLS)
    assert chaos.ledger.counts["EMAIL: UNCERTAIN, arrived once"] > 0
    assert chaos.ledger.counts["WEBHOOK: DELIVERED, arrived several times"] > 0
