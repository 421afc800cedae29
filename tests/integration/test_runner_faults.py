"""Whatever happens to workers, every run is carried on by one of them at a time, no step is skipped and none is
repeated; a run that cannot be stored fails alone; and what waits costs nothing.

`RUNNER_LIVES=1000` kills a worker at every single step instead of at some.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from db.statements import statements
from db.workflow_runs import DueRun, find_due_runs, find_projects_with_runs
from engine.workflows.advancing import BROKEN, Budget
from engine.workflows.asking import LEASE
from engine.workflows.definitions import Definitions
from engine.workflows.rounds import UNREADABLE, Round, Tools
from engine.workflows.runner import NOT_STORABLE, TOO_LARGE
from engine.workflows.state import ModelAnswer
from tests.integration.log_support import open_database
from tests.integration.postgres_proxy import open_proxy
from tests.integration.runner_crash_driver import RUNS
from tests.integration.runner_support import EGRESS, VAULT, Shop, open_shop, people

ROOT = Path(__file__).resolve().parents[2]
LIVES = int(os.environ.get("RUNNER_LIVES", "12"))

WHICH = {
    "type": "BRANCH",
    "label": "which",
    "config": {"condition": {"trait": "plan", "value": "pro"}, "ifTrue": "mark", "ifFalse": "end"},
}
MARK = {"type": "UPDATE_PROFILE", "label": "mark", "config": {"traits": {"last": "{{ run.id }}"}}}
CALL = {"type": "WEBHOOK", "label": "call", "config": {"url": "https://127.0.0.1/hook"}}
ASK = {"type": "AI_ACTION", "label": "ask", "config": {"flavor": "generate", "prompt": "?", "saveTo": "said"}}


@pytest.fixture
async def shop(module_database_url: str) -> AsyncIterator[Shop]:
    async with open_shop(module_database_url) as shop:
        await shop.person("ada", plan="pro")
        yield shop


async def check_once(shop: Shop, run_ids: list[UUID], *labels: str) -> None:
    """Every step of every run was begun and ended once, in the trace, in its lane, in the log, and in what it sent."""
    expected = [*labels]
    assert {each.status for each in await shop.runs(run_ids)} == {"COMPLETED"}
    for run_id in run_ids:
        assert [each.label for each in await shop.trace(run_id)] == expected
        assert [each.number for each in await shop.trace(run_id)] == list(range(1, len(expected) + 1))
        ended = [label for _, label, outcome in await shop.updates(run_id) if outcome not in (None, "AI_PENDING")]
        assert ended == expected
        assert len(await shop.deliveries(run_id)) == expected.count("call")
    done = await shop.events("automation.step_completed", "automation.run_completed", "profile.updated")
    assert Counter(each.event_type for each in done) == {
        "automation.step_completed": len(expected) * len(run_ids),
        "automation.run_completed": len(run_ids),
        "profile.updated": expected.count("mark") * len(run_ids),
    }
    rows = await shop.fetch("SELECT seq FROM workflow_run_updates WHERE project_id = $1 ORDER BY seq")
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))


async def test_a_run_whose_worker_dies_at_any_await_is_carried_on_by_another(database_url: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.integration.runner_crash_driver",
        database_url,
        str(LIVES),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    counted = json.loads(output)
    assert counted["lives"] * 0.8 <= counted["killed"] < counted["lives"]

    async with open_shop(database_url) as shop:
        found = await shop.fetch("SELECT DISTINCT project_id FROM workflow_runs WHERE project_id <> $1")
        assert len(found) == counted["lives"]
        for row in found:
            await take_over(Shop(shop.database, row["project_id"], shop.url))


async def take_over(dead: Shop) -> None:
    await dead.fetch("UPDATE deliveries SET lease_until = now() WHERE project_id = $1 AND lease_until IS NOT NULL")
    await dead.end_leases()
    await dead.dispatcher.take_over(dead.project_id)
    # What the dead worker followed is leased for some seconds.
    await dead.fetch("UPDATE log_followers SET lease_until = now() WHERE project_id = $1")
    for _ in range(2):
        await dead.settle()
        dead.clock.advance(seconds=30)
    rows = await dead.fetch("SELECT run_id FROM workflow_runs WHERE project_id = $1 ORDER BY run_id")
    assert len(rows) == RUNS
    await check_once(dead, [row["run_id"] for row in rows], "which", "mark", "call", "ask")


@pytest.mark.parametrize("nth", range(1, 7))
async def test_a_commit_whose_answer_is_lost_is_not_done_again(shop: Shop, tmp_path: Path, nth: int) -> None:
    workflow_id = await shop.workflow(WHICH, MARK, CALL, ASK)
    runs = await shop.start(workflow_id, ["ada"] * 3, event_seq=await shop.track())
    commits = 0

    def is_nth_commit(sent: bytes) -> bool:
        nonlocal commits
        commits += b"COMMIT;" in sent
        return b"COMMIT;" in sent and commits == nth

    async with open_proxy(tmp_path, shop.url) as proxy, open_database(proxy.url) as database:
        proxy.lose_answers_to(is_nth_commit, times=1)
        runner = shop.another_runner(database)
        await runner.drain(shop.project_id)
        await runner.settled()
        await shop.send()
        await runner.drain(shop.project_id)
        await runner.settled()
        await runner.stop()
        lost = proxy.lost
    await shop.end_leases()
    await shop.settle()
    shop.clock.advance(seconds=30)
    await shop.settle()

    assert lost == 1
    await check_once(shop, runs, "which", "mark", "call", "ask")


async def test_two_workers_never_have_one_run(shop: Shop) -> None:
    await shop.person(*people(30), plan="pro")
    workflow_id = await shop.workflow(WHICH, MARK, CALL)
    runs = await shop.start(workflow_id, people(30) * 2, event_seq=await shop.track())
    runners = [shop.another_runner(round_runs=7) for _ in range(4)]

    while {each.status for each in await shop.runs(runs)} != {"COMPLETED"}:
        await asyncio.gather(*(each.drain(shop.project_id) for each in runners))
        await shop.send()

    await check_once(shop, runs, "which", "mark", "call")


async def test_a_run_that_another_worker_holds_is_passed_over(shop: Shop) -> None:
    workflow_id = await shop.workflow(WHICH, MARK)
    await shop.person("bob", plan="pro")
    first, second = await shop.start(workflow_id, ["ada", "bob"])

    async with shop.database.transaction() as connection:
        await connection.execute(
            "SELECT FROM workflow_runs WHERE project_id = $1 AND run_id = $2 FOR NO KEY UPDATE", shop.project_id, first
        )
        await shop.runner.drain(shop.project_id)
        held = [each.status for each in await shop.runs([first, second])]
    await shop.runner.drain(shop.project_id)

    assert sorted(held) == ["COMPLETED", "RUNNING"]
    assert {each.status for each in await shop.runs([first, second])} == {"COMPLETED"}


async def test_a_delivery_that_comes_to_something_while_its_run_is_looked_at_is_heard(shop: Shop) -> None:
    run_id = await shop.begin(CALL, user_id=None)
    await shop.drain()
    run = await shop.run(run_id)
    await shop.fetch(
        "UPDATE workflow_runs SET claim_at = $3 WHERE project_id = $1 AND run_id = $2", run_id, shop.clock.now()
    )
    tools = Tools(vault=VAULT, definitions=Definitions(), refuse_url=EGRESS.refusal, lease=LEASE)
    async with shop.database.transaction() as connection:
        current = Round(connection, tools, project_id=shop.project_id, now=shop.clock.now())
        done = await current.carry_on([DueRun(run_id, run.workflow_id, None)], Budget())
        sending = asyncio.create_task(shop.send())
        await wait_until_blocked_or_done(shop, sending)
    await sending
    await shop.drain()

    assert done.runs == 1
    assert (await shop.run(run_id)).status == "COMPLETED"


async def wait_until_blocked_or_done(shop: Shop, task: asyncio.Task[None]) -> None:
    waiting = (
        "SELECT pid FROM pg_stat_activity WHERE $1::uuid IS NOT NULL AND datname = current_database()"
        " AND cardinality(pg_blocking_pids(pid)) > 0"
    )
    while not task.done() and not await shop.fetch(waiting):
        pass


async def test_a_run_that_cannot_be_stored_is_found_and_fails_alone(shop: Shop) -> None:
    await shop.person(*people(20), plan="pro")
    filled = json.dumps({"plan": "pro", "big": os.urandom(130_500).hex()})
    await shop.fetch(
        "UPDATE profiles SET traits = $2::text::jsonb WHERE project_id = $1 AND user_id = 'user-0013'", filled
    )
    workflow_id = await shop.workflow(WHICH, {**MARK, "config": {"traits": {"last": "x" * 2_000}}})
    runs = await shop.start(workflow_id, people(20))

    await shop.drain()

    after = {each.user_id: each for each in await shop.runs(runs)}
    broken = after.pop("user-0013")
    assert {each.status for each in after.values()} == {"COMPLETED"}
    assert (broken.status, broken.error) == ("FAILED", TOO_LARGE)
    assert await shop.updates(broken.run_id) == [("RUNNING", None, None), ("FAILED", None, None)]
    (event,) = await shop.events("automation.run_failed")
    assert msgspec.json.decode(event.properties)["error"] == TOO_LARGE


@pytest.mark.parametrize(("said", "error"), [("a\0b", NOT_STORABLE), ("a\ud800b", BROKEN)])
async def test_an_answer_that_cannot_be_stored_fails_its_run(shop: Shop, said: str, error: str) -> None:
    shop.models.script = lambda _effect: ModelAnswer(said)
    run_id = await shop.begin(ASK, MARK)

    await shop.drain()

    run = await shop.run(run_id)
    assert (run.status, run.error, run.open_trace) == ("FAILED", error, None)
    assert await shop.outcomes(run_id) == [("ask", "error")]


async def test_a_version_that_cannot_be_read_fails_its_runs_and_no_others(shop: Shop) -> None:
    broken_id, workflow_id = await shop.workflow(WHICH, MARK), await shop.workflow(WHICH, MARK, name="Whole")
    broken, whole = *await shop.start(broken_id), *await shop.start(workflow_id)
    await shop.fetch(
        "UPDATE workflow_versions SET definition = '{\"steps\": 1}' WHERE project_id = $1 AND workflow_id = $2",
        broken_id,
    )

    await shop.drain()

    assert [(each.status, each.error) for each in await shop.runs([broken])] == [("FAILED", UNREADABLE)]
    assert (await shop.run(whole)).status == "COMPLETED"


async def test_a_million_waiting_runs_cost_what_a_thousand_cost(shop: Shop) -> None:
    """Shown with fewer: claiming reads as many pages as before, through the index of what is due."""
    workflow_id = await shop.workflow(WHICH, MARK)
    await shop.start(workflow_id, people(10))
    await add_waiting(shop, workflow_id, 1_000)
    few = await pages_read(shop)
    await add_waiting(shop, workflow_id, 49_000)
    many = await pages_read(shop)

    assert few[0] == many[0] == {"workflow_runs_due", "workflow_runs_leased"}
    assert many[1] <= few[1] + 4
    async with shop.database.connection() as connection:
        due = await find_due_runs(connection, project_id=shop.project_id, now=shop.clock.now(), limit=100)
        assert len(due) == 10
        assert shop.project_id in await find_projects_with_runs(connection, now=shop.clock.now())


async def add_waiting(shop: Shop, workflow_id: UUID, count: int) -> None:
    await shop.fetch(
        "INSERT INTO workflow_runs (project_id, run_id, workflow_id, version, status, step, next_step_at, claim_at,"
        " started_at) SELECT $1, gen_random_uuid(), $2, 1, 'RUNNING', 0, due, due, $3::timestamptz"
        " FROM (SELECT $3::timestamptz + n * interval '1 s' AS due FROM generate_series(1, $4::integer) AS n) AS w",
        workflow_id,
        shop.clock.now(),
        count,
    )


async def pages_read(shop: Shop) -> tuple[set[str], int]:
    """The indexes that finding the due ones uses, and how many pages it reads."""
    async with shop.database.connection() as connection:
        await connection.execute("ANALYZE workflow_runs")
        text = await connection.fetchval(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statements('workflow_runs')['find_due_runs']}",
            shop.project_id,
            shop.clock.now(),
            100,
        )
    plan = json.loads(text)[0]["Plan"]
    return set(_indexes(plan)), plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


def _indexes(plan: dict[str, Any]) -> list[str]:
    own = [plan["Index Name"]] if "Index Name" in plan else []
    return own + [name for each in plan.get("Plans", []) for name in _indexes(each)]
