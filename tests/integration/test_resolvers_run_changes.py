"""Pausing, resuming and cancelling runs through the API, with whatever a worker does at the same time."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from db.delivery_changes import cancel_delivery
from db.records import Lane
from db.workflow_runs import lock_runs
from engine.audit import SYSTEM, Audit
from engine.identity import Role
from engine.work import Work, WorkKind
from engine.workflows.run_changes import ChangedRun, cancel_run, pause_run, resume_run
from engine.workflows.state import AskModel, ModelAnswer
from tests.integration.dispatch_support import TestClock
from tests.integration.graphql_support import Gateway, Tenant
from tests.integration.log_support import open_database, wait_until_blocked
from tests.integration.postgres_proxy import open_proxy
from tests.integration.run_support import drain_runs, runner_of, save_workflow, start_run, uuid_of
from tests.integration.runner_support import MemoryModels

CHANGE = """mutation ($id: ID!) { %s(id: $id) {
  run { id status nextStepAt finishedAt currentStep trace { label outcome outcomeCode detail delivery { status } } }
  userErrors { code path message }
} }"""
UPDATE = {"label": "mark", "type": "UPDATE_PROFILE", "config": {"traits": {"plan": "pro"}}}
HOOK = {"label": "call", "type": "WEBHOOK", "config": {"url": "https://hooks.example.com/a"}}
WAIT = {"label": "rest", "type": "WAIT", "delayMinutes": 60, "config": {}}
ASK = {"label": "ask", "type": "AI_ACTION", "config": {"flavor": "generate", "prompt": "Hi", "saveTo": "said"}}


async def change(shop: Tenant, field: str, node_id: str) -> Any:
    return (await shop.data(CHANGE % field, id=node_id))[field]


async def changed(shop: Tenant, field: str, node_id: str) -> Any:
    payload = await change(shop, field, node_id)
    assert payload["userErrors"] == []
    return payload["run"]


async def columns(shop: Tenant, node_id: str) -> dict[str, Any]:
    async with shop.gateway.services.database.connection() as connection:
        row = await connection.fetchrow(
            "SELECT status, claim_at, next_step_at, is_held, lease_token, open_trace, vars FROM workflow_runs"
            " WHERE project_id = $1 AND run_id = $2",
            shop.project_id,
            uuid_of(node_id),
        )
    return dict(row.items())


async def set_columns(shop: Tenant, node_id: str, assignment: str) -> None:
    async with shop.gateway.services.database.connection() as connection:
        await connection.execute(
            f"UPDATE workflow_runs SET {assignment} WHERE project_id = $1 AND run_id = $2",
            shop.project_id,
            uuid_of(node_id),
        )


async def lane(shop: Tenant, node_id: str) -> list[tuple[str, str | None, str | None]]:
    """The run's items: status, and the step's label and outcome."""
    async with shop.gateway.services.database.connection() as connection:
        rows = await connection.fetch(
            "SELECT status, step ->> 'label' AS label, step ->> 'outcome' AS outcome FROM workflow_run_updates"
            " WHERE project_id = $1 AND run_id = $2 ORDER BY seq",
            shop.project_id,
            uuid_of(node_id),
        )
    return [(row["status"], row["label"], row["outcome"]) for row in rows]


async def test_a_paused_run_is_looked_at_by_nobody_until_it_is_resumed(shop: Tenant, gateway: Gateway) -> None:
    run_id = await start_run(shop, await save_workflow(shop, WAIT, UPDATE))
    await drain_runs(shop)
    due = (await columns(shop, run_id))["next_step_at"]
    gateway.woken.clear()

    paused = await changed(shop, "pauseWorkflowRun", run_id)
    held = await columns(shop, run_id)
    woken_by_pausing = list(gateway.woken)
    resumed = await changed(shop, "resumeWorkflowRun", run_id)
    going_on = await columns(shop, run_id)

    assert (paused["status"], paused["currentStep"], paused["finishedAt"]) == ("PAUSED", "rest", None)
    assert datetime.fromisoformat(paused["nextStepAt"]) == due
    assert (held["claim_at"], held["next_step_at"]) == (None, due)
    # The wait goes on: it is due when it was.
    assert (resumed["status"], going_on["claim_at"], going_on["next_step_at"]) == ("RUNNING", due, due)
    assert woken_by_pausing == []
    assert gateway.woken == [Work(WorkKind.RUNS, shop.project_id)]
    assert await lane(shop, run_id) == [
        ("RUNNING", None, None),
        ("RUNNING", "rest", None),
        ("PAUSED", None, None),
        ("RUNNING", None, None),
    ]


async def test_what_fell_due_meanwhile_is_done_at_once(shop: Tenant) -> None:
    run_id = await start_run(shop, await save_workflow(shop, WAIT, UPDATE))
    await drain_runs(shop)
    await changed(shop, "pauseWorkflowRun", run_id)
    await set_columns(shop, run_id, "next_step_at = next_step_at - interval '2 hours'")
    await drain_runs(shop)
    assert (await columns(shop, run_id))["status"] == "PAUSED"

    await changed(shop, "resumeWorkflowRun", run_id)
    going_on = await columns(shop, run_id)
    await drain_runs(shop)

    now = shop.gateway.services.clock.now()
    assert now - timedelta(minutes=1) < going_on["claim_at"] <= now
    assert (await columns(shop, run_id))["status"] == "COMPLETED"


async def test_a_step_whose_message_ended_meanwhile_is_heard_of_at_once(shop: Tenant) -> None:
    run_id = await start_run(shop, await save_workflow(shop, HOOK, UPDATE))
    await drain_runs(shop)
    await changed(shop, "pauseWorkflowRun", run_id)
    services = shop.gateway.services
    async with services.database.transaction() as connection:
        delivery_id = await connection.fetchval(
            "SELECT delivery_id FROM deliveries WHERE project_id = $1 AND workflow_run_id = $2",
            shop.project_id,
            uuid_of(run_id),
        )
        await cancel_delivery(connection, project_id=shop.project_id, delivery_id=delivery_id, now=services.clock.now())

    await changed(shop, "resumeWorkflowRun", run_id)
    await drain_runs(shop)

    assert (await columns(shop, run_id))["status"] == "COMPLETED"
    assert ("RUNNING", "call", "CANCELLED") in await lane(shop, run_id)


async def test_cancelling_ends_the_step_and_its_messages_in_one_transaction(shop: Tenant, gateway: Gateway) -> None:
    run_id = await start_run(shop, await save_workflow(shop, HOOK, UPDATE))
    await drain_runs(shop)
    gateway.announced.clear()

    run = await changed(shop, "cancelWorkflowRun", run_id)
    told = [(each.lane, len(each.items)) for each in gateway.announced]
    await drain_runs(shop)

    assert (run["status"], run["nextStepAt"], run["currentStep"]) == ("CANCELLED", None, None)
    assert run["finishedAt"] is not None
    assert run["trace"] == [
        {
            "label": "call",
            "outcome": "CANCELLED",
            "outcomeCode": "cancelled",
            "detail": "The run was cancelled.",
            "delivery": {"status": "CANCELLED"},
        }
    ]
    assert told == [(Lane.DELIVERIES, 1), (Lane.RUNS, 1)]
    assert (await lane(shop, run_id))[-1] == ("CANCELLED", "call", "CANCELLED")
    assert (await shop.data("{ deliveries { edges { node { status } } } }"))["deliveries"]["edges"] == [
        {"node": {"status": "CANCELLED"}}
    ]


async def test_each_change_is_refused_where_it_cannot_be_done(shop: Tenant, gateway: Gateway) -> None:
    workflow = await save_workflow(shop, WAIT)
    statuses = ("QUEUED", "RUNNING", "PAUSED", "COMPLETED", "FAILED", "CANCELLED")
    expected = {
        "pauseWorkflowRun": ({"RUNNING"}, "only a RUNNING one can be paused."),
        "resumeWorkflowRun": ({"PAUSED"}, "only a PAUSED one can be resumed."),
        "cancelWorkflowRun": (
            {"QUEUED", "RUNNING", "PAUSED"},
            "only a QUEUED, RUNNING or PAUSED one can be cancelled.",
        ),
    }
    for field, (allowed, sentence) in expected.items():
        for status in statuses:
            run_id = await start_run(shop, workflow)
            await set_columns(shop, run_id, f"status = '{status}', claim_at = NULL")
            gateway.announced.clear()
            gateway.woken.clear()
            payload = await change(shop, field, run_id)
            if status in allowed:
                assert payload["userErrors"] == [], (field, status)
                continue
            message = f"This run is {status}: {sentence}"
            assert payload == {"run": None, "userErrors": [{"code": "STATE", "path": ["id"], "message": message}]}
            assert (await columns(shop, run_id))["status"] == status
            assert (gateway.announced, gateway.woken) == ([], [])


async def test_what_is_no_run_is_not_found(shop: Tenant) -> None:
    missing = {"code": "NOT_FOUND", "path": ["id"], "message": "This project has no such run."}
    for node_id in ("run_" + "0" * 32, "wfl_" + "0" * 32, "x"):
        for field in ("pauseWorkflowRun", "resumeWorkflowRun", "cancelWorkflowRun"):
            assert await change(shop, field, node_id) == {"run": None, "userErrors": [missing]}


async def test_a_viewer_changes_nothing(shop: Tenant) -> None:
    run_id = await start_run(shop, await save_workflow(shop, WAIT))
    viewer = await shop.as_role(Role.VIEWER)
    for field in ("pauseWorkflowRun", "cancelWorkflowRun"):
        assert await viewer.codes(CHANGE % field, id=run_id) == ["FORBIDDEN"]
    assert (await columns(shop, run_id))["status"] == "RUNNING"


@pytest.mark.parametrize("field", ["pauseWorkflowRun", "cancelWorkflowRun"])
async def test_what_a_model_says_to_a_run_that_was_stopped_meanwhile_changes_nothing(shop: Tenant, field: str) -> None:
    run_id = await start_run(shop, await save_workflow(shop, ASK))
    leases = []

    async def stop_first(_effect: AskModel) -> ModelAnswer:
        leases.append((await columns(shop, run_id))["lease_token"])
        await changed(shop, field, run_id)
        leases.append((await columns(shop, run_id))["lease_token"])
        return ModelAnswer("hello")

    await drain_runs(shop, MemoryModels(script=stop_first))

    stopped = await columns(shop, run_id)
    assert leases[0] is not None
    assert leases[1:] == [None]
    assert stopped["status"] == ("PAUSED" if field == "pauseWorkflowRun" else "CANCELLED")
    assert (stopped["vars"], stopped["claim_at"]) == ("{}", None)


async def test_a_model_is_asked_again_when_its_run_is_resumed(shop: Tenant) -> None:
    run_id = await start_run(shop, await save_workflow(shop, ASK))

    async def pause_first(_effect: AskModel) -> ModelAnswer:
        await changed(shop, "pauseWorkflowRun", run_id)
        return ModelAnswer("too late")

    await drain_runs(shop, MemoryModels(script=pause_first))
    await changed(shop, "resumeWorkflowRun", run_id)
    models = MemoryModels(script=lambda _effect: ModelAnswer("in time"))
    await drain_runs(shop, models)

    ended = await columns(shop, run_id)
    assert (ended["status"], ended["vars"], len(models.asked)) == ("COMPLETED", '{"said": "in time"}', 1)


async def test_a_change_waits_for_the_round_that_has_the_run(shop: Tenant) -> None:
    """A worker holds the run's row; pausing comes after it, and pauses what that made of it."""
    run_id = await start_run(shop, await save_workflow(shop, WAIT, UPDATE))
    database = shop.gateway.services.database
    async with database.transaction() as connection:
        await lock_runs(connection, project_id=shop.project_id, run_ids=[uuid_of(run_id)])
        pausing = asyncio.create_task(changed(shop, "pauseWorkflowRun", run_id))
        pid = await _waiting_for(connection)
        await wait_until_blocked(connection, pid)
        assert not pausing.done()
        await connection.execute(
            "UPDATE workflow_runs SET step = 1 WHERE project_id = $1 AND run_id = $2", shop.project_id, uuid_of(run_id)
        )
    assert (await pausing)["currentStep"] == "mark"


async def _waiting_for(connection: Any) -> int:
    """The backend that waits for a lock in this database."""
    while True:
        pid: int | None = await connection.fetchval(
            "SELECT pid FROM pg_stat_activity"
            " WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0"
        )
        if pid is not None:
            return pid
        await asyncio.sleep(0.01)


async def test_a_paused_run_that_a_runner_had_found_due_is_left_alone(shop: Tenant) -> None:
    run_id = await start_run(shop, await save_workflow(shop, UPDATE))
    runner = runner_of(shop)
    find_due = runner._find_due

    async def found_then_paused(project_id: Any) -> Any:
        due = await find_due(project_id)
        if due:
            await changed(shop, "pauseWorkflowRun", run_id)
        return due

    runner._find_due = found_then_paused  # type: ignore[method-assign]
    await runner.drain(shop.project_id)
    await runner.stop()
    assert (await columns(shop, run_id))["status"] == "PAUSED"
    assert await lane(shop, run_id) == [("RUNNING", None, None), ("PAUSED", None, None)]


async def test_a_commit_whose_answer_is_lost_changes_a_run_once(
    shop: Tenant, module_database_url: str, tmp_path: Path
) -> None:
    run_id = await start_run(shop, await save_workflow(shop, WAIT))
    now, told = TestClock().now(), list[Any]()
    async with open_proxy(tmp_path, module_database_url) as proxy, open_database(proxy.url, max_size=2) as database:
        for action in (pause_run, resume_run, cancel_run):
            proxy.lose_answers_to(lambda sent: b"COMMIT;" in sent, times=1)
            outcome = await action(
                database, told.append, project_id=shop.project_id, run_id=uuid_of(run_id), audit=Audit(SYSTEM, now)
            )
            assert isinstance(outcome, ChangedRun)
        assert proxy.lost == 3
    assert [status for status, _, _ in await lane(shop, run_id)] == ["RUNNING", "PAUSED", "RUNNING", "CANCELLED"]
