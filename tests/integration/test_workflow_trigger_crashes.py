"""A worker dies at any await while it starts workflows: everybody begins once all the same.

`CRASH_STRIDE=1` kills a worker at every single step, instead of at a dozen.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.integration.log_support import open_database
from tests.integration.trigger_crash_driver import PEOPLE, work
from tests.integration.trigger_support import Stage

ROOT = Path(__file__).resolve().parents[2]
STRIDE = os.environ.get("CRASH_STRIDE", "0")


@pytest.mark.parametrize(("scene", "begun_always"), [("events", 2), ("schedule", 1)])
async def test_a_worker_killed_at_any_await_starts_everybody_once(
    database_url: str, scene: str, begun_always: int
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.integration.trigger_crash_driver",
        database_url,
        scene,
        STRIDE,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    counted = json.loads(output)
    # Some lives have fewer steps than the one that was counted.
    assert counted["lives"] * 0.8 <= counted["killed"] < counted["lives"]

    async with open_database(database_url) as database:
        async with database.connection() as connection:
            projects = [
                row["project_id"] for row in await connection.fetch("SELECT DISTINCT project_id FROM workflows")
            ]
        finished = 0
        for project_id in projects:
            stage = Stage(database, project_id, database_url)
            stage.clock.advance(days=1)
            await stage.end_leases()
            finished += len(await stage.runs()) == len(PEOPLE) * (begun_always + 1)

            await work(stage, scene)

            await check(stage, begun_always)
    assert len(projects) == counted["lives"]
    # The crashes hit: before everything was done, and after.
    assert 0 < finished < len(projects)


async def check(stage: Stage, begun_always: int) -> None:
    """Everybody went into each workflow as often as they were to, and the lanes say so."""
    async with stage.database.connection() as connection:
        rows = await connection.fetch(
            "SELECT w.name, r.user_id FROM workflow_runs AS r JOIN workflows AS w USING (project_id, workflow_id)"
            " WHERE r.project_id = $1",
            stage.project_id,
        )
    begun = Counter((row["name"], row["user_id"]) for row in rows)
    always = {("always", person): begun_always for person in PEOPLE}
    assert begun == {**always, **{("once", person): 1 for person in PEOPLE}}
    assert [seq for seq, _, _ in await stage.run_updates()] == list(range(1, begun.total() + 1))
    assert len(await stage.events()) == begun.total()
