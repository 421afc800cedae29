"""What readers that stopped reading cost: nothing that grows with the log."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc

from db.records import Lane
from engine.live.streams import RING_ITEMS
from tests.integration.log_support import make_project
from tests.integration.stream_support import RecordingSink, Rendering, open_gateway, until


async def test_a_hundred_stuck_readers_hold_no_more_after_twenty_thousand_events_than_after_five_thousand(
    database_url: str, redis_url: str
) -> None:
    async with open_gateway(database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        # Each with a document of its own: nothing can be shared between them.
        for number in range(100):
            await gateway.subscribe(project_id, RecordingSink(bound=1), rendering=Rendering(number))

        async def append(count: int) -> None:
            head = gateway.hub.stats().heads[project_id] + count
            for _ in range(count // 500):
                await gateway.append_many(project_id, 500, properties='{"filling":"' + "x" * 500 + '"}')
            await until(lambda: gateway.hub.stats().heads[project_id] >= head, within=60)

        await append(5_000)
        gc.collect()
        tracemalloc.start()
        try:
            await append(15_000)
            await asyncio.sleep(0.1)
            gc.collect()
            grown, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        # Rings were full before, and all they hold has been replaced since; 15,000 events alone would be 15 MB.
        assert gateway.hub.stats().catching_up == 100
        rings = sum(len(cohort.ring) for cohort in gateway.streams._lanes[project_id, Lane.EVENTS]._cohorts.values())
        assert rings <= 100 * RING_ITEMS
        replaced = rings * 250 + 2_000 * 3_000
        assert grown < replaced + 8_000_000
