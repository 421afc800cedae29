"""Deliveries, held against everything that can fail: nothing is lost, nothing is sent twice that must not be, and every
step is seen.

Two gateways, two workers, PostgreSQL and Valkey as processes, and every kind of provider and receiver in this one, with
moods: they refuse, hang, and vanish half-way. For `SENDORA_CHAOS_SECONDS` (default 6) workers are killed, paused and
frozen for longer than their leases, gateways die, PostgreSQL and Valkey are killed and started again. Then everybody is
well, and in the end the tables are compared with what was asked for, what arrived, and what `deliveryUpdates` showed.
`SENDORA_CHAOS_SEED` gives another run's choices.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

from launch.ports import free_udp_port
from tests.acceptance.chaos_deliveries.receivers import World
from tests.acceptance.chaos_deliveries.run import DeliveryChaos, make_deployment

SECONDS = float(os.environ.get("SENDORA_CHAOS_SECONDS", "6"))
SEED = int(os.environ.get("SENDORA_CHAOS_SEED", "20"))


async def test_whatever_fails_each_delivery_comes_to_its_end_and_is_told_of(tmp_path: Path) -> None:
    dns_port = free_udp_port()
    deployment = make_deployment(tmp_path, dns_port)
    chance = random.Random(SEED)
    try:
        await deployment.open()
        async with World(dns_port, chance) as world:
            chaos = DeliveryChaos(deployment, world, chance)
            await chaos.run(SECONDS)
    finally:
        deployment.close()

    print(f"\nseed {SEED}\n{chaos.report()}")
    assert chaos.ledger.violations == []
    assert chaos.logged_errors() == []
    # The faults hit: workers died and slept through their leases, and left some messages in doubt
    assert chaos.ledger.counts["fault: worker killed"] > 0
    assert chaos.ledger.counts["fault: worker frozen"] > 0
    assert sum(number for fate, number in chaos.fates.items() if fate.endswith("UNCERTAIN, arrived once")) > 0
    assert chaos.fates["WEBHOOK: DELIVERED, arrived several times"] > 0
