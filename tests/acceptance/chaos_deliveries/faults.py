"""What deliveries have to bear, besides providers and receivers with moods."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

from tests.acceptance.chaos.deployment import Deployment
from tests.acceptance.chaos.faults import Faults, Kind
from tests.acceptance.chaos_deliveries.receivers import SMTP_LATER, World
from tests.acceptance.chaos_deliveries.watchers import Watcher
from tests.acceptance.chaos_deliveries.worker_with_short_lease import LEASE_SECONDS


class DeliveryFaults(Faults):
    """Workers die and stand still for longer than their leases, while everything around them fails too."""

    def __init__(
        self,
        deployment: Deployment,
        counts: Counter[str],
        world: World,
        watchers: Sequence[Watcher],
        chance: random.Random,
    ) -> None:
        super().__init__(deployment, counts, chance)
        self._world = world
        self._watchers = watchers

    def kinds(self) -> Sequence[Kind]:
        """See `Faults.kinds`."""
        return (
            ([self.crash_worker, self.crash_worker, self.pause_worker], (0.5, 2.5)),
            ([self.freeze_worker], (1.0, 3.0)),
            ([self.restart_redis, self.pause_redis], (1.0, 4.0)),
            ([self.crash_gateway, self.pause_gateway], (2.0, 5.0)),
            ([self.terminate_backends, self.crash_postgres, self.kill_backend], (1.5, 5.0)),
            ([self.refuse_mail, self.drop_mail], (0.3, 1.5)),
            ([self.cut_sockets], (0.5, 2.0)),
        )

    async def pause_worker(self) -> None:
        """For less than a lease."""
        await self._pause("worker paused", self._chance.uniform(0.3, 2.0))

    async def freeze_worker(self) -> None:
        """For longer than a lease: it goes on with deliveries that are not its own any more."""
        await self._pause("worker frozen", LEASE_SECONDS + self._chance.uniform(0.5, 1.5))

    async def _pause(self, what: str, seconds: float) -> None:
        worker = self._free_worker()
        if worker is not None:
            async with worker.lock:
                self._count(what)
                await self._deployment.pause_part(worker, seconds)

    async def refuse_mail(self) -> None:
        """The relay says "later" for one address."""
        person, smtp = self._chance.choice(self._world.people), self._world.peers.smtp
        self._count("mail refused")
        smtp.replies[person.email] = SMTP_LATER
        await asyncio.sleep(0.5)
        smtp.replies.pop(person.email, None)

    async def drop_mail(self) -> None:
        """The relay takes the next mail and vanishes."""
        self._count("relay vanished")
        self._world.peers.smtp.drop_after_data = True

    async def cut_sockets(self) -> None:
        """Of one watcher."""
        self._count("sockets cut")
        self._chance.choice(list(self._watchers)).cut()
