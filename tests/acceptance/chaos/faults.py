"""The faults, and the seeded script that injects them: one task for each kind of victim, so that they overlap.

A part that one task breaks is left alone by the others until it is back. Every fault ends: what is checked afterwards
is a deployment that nobody disturbs any more.
"""

from __future__ import annotations

import asyncio
import random
import signal
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import asyncpg

from tests.acceptance.chaos.deployment import Deployment, Gateway, Part
from tests.acceptance.chaos.revocations import Revoker
from tests.acceptance.chaos.subscribers import Subscriber
from tests.acceptance.chaos.writers import Ledger

Fault = Callable[[], Awaitable[None]]
Kind = tuple[Sequence[Fault], tuple[float, float]]


class Faults(ABC):
    """Breaks a deployment until it is over. Which faults those are, and how often they come, is for `kinds` to say."""

    def __init__(self, deployment: Deployment, counts: Counter[str], chance: random.Random) -> None:
        self._deployment = deployment
        self._counts = counts
        self._chance = chance

    async def inject(self, over: asyncio.Event) -> None:
        """All of them, side by side. Returns once everything that was broken has been mended."""
        async with asyncio.TaskGroup() as tasks:
            for faults, pause in self.kinds():
                tasks.create_task(self._repeat(faults, pause, over))

    @abstractmethod
    def kinds(self) -> Sequence[Kind]:
        """By victim, so that they overlap: the faults, and the least and most seconds between two of them."""

    async def _repeat(self, faults: Sequence[Fault], pause: tuple[float, float], over: asyncio.Event) -> None:
        """Each once, in an order of chance, before any comes again."""
        left: list[Fault] = []
        while True:
            try:
                async with asyncio.timeout(self._chance.uniform(*pause)):
                    await over.wait()
                return
            except TimeoutError:
                left = left or self._chance.sample(faults, len(faults))
                await left.pop()()

    def _count(self, what: str, times: int = 1) -> None:
        self._counts[f"fault: {what}"] += times

    # Redis

    async def restart_redis(self) -> None:
        async with self._deployment.redis_lock:
            self._count("redis killed")
            await self._deployment.crash_redis(away=self._chance.choice([0, 0.3, 2.5, 4.0]))

    async def pause_redis(self) -> None:
        async with self._deployment.redis_lock:
            self._count("redis paused")
            await self._deployment.pause_redis(self._chance.uniform(0.2, 4))

    async def empty_redis(self) -> None:
        async with self._deployment.redis_lock:
            self._count("redis emptied")
            await self._deployment.tell_redis("FLUSHALL")

    async def cut_subscriptions(self) -> None:
        async with self._deployment.redis_lock:
            self._count("redis subscriptions cut")
            with self._deployment.weather.spell("redis"):
                await self._deployment.tell_redis("CLIENT", "KILL", "TYPE", "pubsub")

    async def lose_announcements(self) -> None:
        """A gateway dies with what it has committed and could tell nobody: Redis is dead, or takes no more."""
        gateway = self._free_gateway()
        if gateway is None:
            return
        async with self._deployment.redis_lock, gateway.lock:
            self._count("gateway killed before it could announce")
            with self._deployment.weather.spell("redis"):
                self._deployment.kill_redis()
                await asyncio.sleep(self._chance.uniform(0.1, 1))
                with self._deployment.weather.spell(gateway.name):
                    await asyncio.to_thread(gateway.end)
                    await self._deployment.start_redis()
                    await gateway.until_listening()

    # Gateways

    def _free_gateway(self) -> Gateway | None:
        free = [gateway for gateway in self._deployment.gateways if not gateway.lock.locked()]
        return self._chance.choice(free) if free else None

    async def crash_gateway(self) -> None:
        await self._end_gateway("gateway killed", signal.SIGKILL)

    async def stop_gateway(self) -> None:
        await self._end_gateway("gateway stopped", signal.SIGTERM)

    async def _end_gateway(self, what: str, number: signal.Signals) -> None:
        gateway = self._free_gateway()
        if gateway is None:
            return
        async with gateway.lock:
            self._count(what)
            await self._deployment.crash_gateway(gateway, away=self._chance.uniform(0, 2), number=number)

    async def pause_gateway(self) -> None:
        gateway = self._free_gateway()
        if gateway is None:
            return
        async with gateway.lock:
            self._count("gateway paused")
            await self._deployment.pause_part(gateway, self._chance.uniform(1, 5))

    # PostgreSQL

    async def terminate_backends(self) -> None:
        await self._end_in_postgres("backends terminated", self._deployment.terminate_backends)

    async def cancel_statements(self) -> None:
        await self._end_in_postgres("statements cancelled", self._deployment.cancel_statements)

    async def _end_in_postgres(self, what: str, end: Callable[[], Awaitable[int]]) -> None:
        async with self._deployment.postgres_lock:
            try:
                self._count(what, await end())
            except (asyncpg.PostgresError, OSError, TimeoutError) as error:
                self._count(f"postgres not reached ({type(error).__name__})")

    async def kill_backend(self) -> None:
        await self._end_in_postgres("backends killed", self._deployment.kill_backend)

    async def pause_postgres(self) -> None:
        async with self._deployment.postgres_lock:
            self._count("postgres paused")
            await self._deployment.pause_postgres(self._chance.uniform(0.5, 3))

    async def crash_postgres(self) -> None:
        async with self._deployment.postgres_lock:
            self._count("postgres killed")
            await self._deployment.crash_postgres(away=self._chance.choice([0, 0.5, 2.0]))

    # Workers

    async def crash_worker(self) -> None:
        worker = self._free_worker()
        if worker is not None:
            async with worker.lock:
                self._count("worker killed")
                await self._deployment.crash_worker(worker, away=self._chance.uniform(0, 3))

    def _free_worker(self) -> Part | None:
        free = [worker for worker in self._deployment.workers if not worker.lock.locked()]
        return self._chance.choice(free) if free else None


class StreamFaults(Faults):
    """What streams of events have to bear."""

    def __init__(
        self,
        deployment: Deployment,
        ledger: Ledger,
        subscribers: Sequence[Subscriber],
        revoker: Revoker,
        chance: random.Random,
    ) -> None:
        super().__init__(deployment, ledger.counts, chance)
        self._subscribers = subscribers
        self._revoker = revoker

    def kinds(self) -> Sequence[Kind]:
        """See `Faults.kinds`."""
        redis = [
            self.restart_redis,
            self.pause_redis,
            self.empty_redis,
            self.cut_subscriptions,
            self.lose_announcements,
        ]
        gateways = [self.crash_gateway, self.crash_gateway, self.pause_gateway, self.stop_gateway]
        postgres = [self.terminate_backends, self.cancel_statements, self.pause_postgres]
        postgres += [self.kill_backend, self.crash_postgres]
        return (
            (redis, (0.5, 3.0)),
            (gateways, (1.0, 5.0)),
            (postgres, (2.0, 7.0)),
            ([self.cut_sockets], (0.2, 2.0)),
            ([self.crash_worker], (3.0, 12.0)),
            ([self.revoke_key], (2.0, 8.0)),
        )

    async def cut_sockets(self) -> None:
        for subscriber in self._chance.sample(list(self._subscribers), self._chance.randint(1, 4)):
            self._count("sockets cut")
            subscriber.cut()

    async def revoke_key(self) -> None:
        self._count("keys revoked")
        await self._revoker.revoke_one()
