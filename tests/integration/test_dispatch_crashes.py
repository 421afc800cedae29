"""A worker dies at any await of the send path: nothing is lost, and what must not be repeated is not."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path
from uuid import UUID

from engine.dispatch.values import Channel, DeliveryStatus
from tests.integration.dispatch_crash_driver import project_of
from tests.integration.dispatch_support import open_desk
from tests.peers.memory_channel import MemoryChannel

ROOT = Path(__file__).resolve().parents[2]
DELIVERIES = 2
"""Of each kind in each life."""


async def kill_workers(url: str, file: Path) -> int:
    """Let one worker die at each step; returns how many steps there are, the last of which nobody died at."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.integration.dispatch_crash_driver",
        url,
        str(file),
        str(DELIVERIES),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return int(output)


async def test_a_worker_killed_at_any_await_loses_nothing(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "received"
    steps = await kill_workers(database_url, file)
    received: Counter[UUID] = Counter(UUID(line.split()[1]) for line in file.read_text().splitlines())
    assert steps > 40

    async with open_desk(database_url) as desk:
        desk.webhook = MemoryChannel(Channel.WEBHOOK, repeatable=True, receive=lambda m: received.update([m.key]))
        desk.push = MemoryChannel(Channel.PUSH, repeatable=False, receive=lambda m: received.update([m.key]))
        projects = [project_of(step) for step in range(1, steps + 1)]
        dispatcher = desk.dispatcher()
        for project in projects:
            await desk.end_leases(project)
            await dispatcher.take_over(project)
        await desk.drain(dispatcher, *projects)

        seen: Counter[tuple[str, str]] = Counter()
        for project in projects:
            await desk.steps(project)
            async with desk.database.connection() as connection:
                rows = await connection.fetch(
                    "SELECT delivery_id, channel, status FROM deliveries WHERE project_id = $1", project
                )
            assert len(rows) == 2 * DELIVERIES
            for row in rows:
                times = received[row["delivery_id"]]
                seen[row["channel"], row["status"]] += 1
                if row["channel"] == Channel.WEBHOOK:
                    # Repeated perhaps, under one key; and it was received.
                    assert (row["status"], times >= 1) == (DeliveryStatus.DELIVERED, True)
                else:
                    assert times <= 1
                    assert row["status"] == DeliveryStatus.UNCERTAIN or (row["status"], times) == ("SENT", 1)
            pushes = await desk.events(project)
            assert pushes["push.sent"] == sum(row["status"] == DeliveryStatus.SENT for row in rows)

    assert max(received.values()) <= 2
    # The crashes hit: some lives ended in doubt, some repeated what they had sent.
    assert seen[Channel.PUSH, DeliveryStatus.UNCERTAIN] > 0
    assert any(times == 2 for times in received.values())
    assert seen[Channel.PUSH, DeliveryStatus.SENT] > 0
