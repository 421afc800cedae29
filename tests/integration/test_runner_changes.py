"""Pausing, holding, releasing and cancelling: of runs, and of workflows with all of theirs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

from db.workflow_records import RunRecord
from db.workflow_runs import find_projects_with_runs, lock_runs, save_runs
from engine.dispatch.ledger import record
from engine.dispatch.values import Channel
from engine.workflows import changes
from engine.workflows.cancelling import cancel_runs
from engine.workflows.changes import carry_out_change
from engine.workflows.run_ledger import paused, resumed, run_update_of
from tests.integration.runner_support import Shop, open_shop

WEBHOOK = {"type": "WEBHOOK", "label": "call", "config": {"url": "https://127.0.0.1/hook"}}
UPDATE = {"type": "UPDATE_PROFILE", "label": "mark", "config": {"traits": {"last": "{{ event.orderId }}"}}}
WAIT = {"type": "WAIT", "label": "wait", "config": {}, "delayMinutes": 60}
ASK = {"type": "AI_ACTION", "label": "ask", "config": {"flavor": "generate", "prompt": "?", "saveTo": "said"}}
STEPS = (UPDATE, WAIT, WEBHOOK, ASK)


@pytest.fixture
async def shop(module_database_url: str) -> AsyncIterator[Shop]:
    async with open_shop(module_database_url) as shop:
        await shop.person("ada", name="Ada")
        yield shop


async def pause(shop: Shop, run_id: UUID) -> None:
    await write(shop, paused(await shop.run(run_id), shop.clock.now()))


async def resume(shop: Shop, run_id: UUID) -> None:
    await write(shop, resumed(await shop.run(run_id), shop.clock.now()))


async def write(shop: Shop, run: RunRecord) -> None:
    """As whoever pauses and resumes a run does."""
    async with shop.database.transaction() as connection:
        await lock_runs(connection, project_id=shop.project_id, run_ids=[run.run_id])
        await save_runs(connection, project_id=shop.project_id, runs=[run])
        await record(
            connection,
            project_id=shop.project_id,
            transitions=(),
            events=(),
            run_updates=[run_update_of(run)],
            now=shop.clock.now(),
        )


async def cancel(shop: Shop, run_id: UUID) -> None:
    async with shop.database.transaction() as connection:
        locked = await lock_runs(connection, project_id=shop.project_id, run_ids=[run_id])
        await cancel_runs(
            connection, project_id=shop.project_id, runs=[each.run for each in locked], now=shop.clock.now()
        )


async def reach(shop: Shop, run_id: UUID, boundary: int) -> None:
    """Carry a run of `STEPS` on up to one of the `BOUNDARIES` between what its steps do."""
    if boundary > 0:
        await shop.runner.drain(shop.project_id)
    if boundary > 1:
        shop.clock.advance(minutes=60)
    if boundary > 2:
        await shop.runner.drain(shop.project_id)
    if boundary > 3:
        await shop.dispatcher.drain(shop.project_id)
        await shop.dispatcher.settled()
    if boundary > 4:
        await shop.reports.follow(shop.project_id)
    assert ((await shop.run(run_id)).status, len(await shop.trace(run_id))) == ("RUNNING", BOUNDARIES[boundary])


BOUNDARIES = [0, 2, 2, 3, 3, 3]
"""How many steps have begun: before the first; waiting; due; sending; sent; heard of."""
ENDED = [("mark", "ok"), ("wait", "waited"), ("call", "sent"), ("ask", "ok")]


@pytest.mark.parametrize("boundary", range(len(BOUNDARIES)))
async def test_a_run_that_is_paused_does_nothing_and_goes_on_where_it_was(shop: Shop, boundary: int) -> None:
    run_id = await shop.begin(*STEPS, orderId="o1")
    await reach(shop, run_id, boundary)

    await pause(shop, run_id)
    before = (await shop.run(run_id), await shop.trace(run_id))
    shop.clock.advance(hours=5)
    await shop.settle()
    still = (await shop.run(run_id), await shop.trace(run_id))
    await resume(shop, run_id)
    for _ in range(3):
        await shop.settle()
        shop.clock.advance(hours=1)

    assert still == before
    assert still[0].status == "PAUSED"
    assert await shop.outcomes(run_id) == ENDED
    assert (await shop.run(run_id)).status == "COMPLETED"
    assert len(await shop.deliveries(run_id)) == 1
    assert len(await shop.events("profile.updated")) == 1


async def test_a_wait_goes_on_while_its_run_is_paused(shop: Shop) -> None:
    run_id = await shop.begin(WAIT, UPDATE, orderId="o1")
    await shop.drain()

    await pause(shop, run_id)
    shop.clock.advance(minutes=30)
    await resume(shop, run_id)
    await shop.drain()
    early = await shop.outcomes(run_id)
    shop.clock.advance(minutes=30)
    await shop.drain()

    assert early == [("wait", None)]
    assert await shop.outcomes(run_id) == [("wait", "waited"), ("mark", "ok")]


async def test_a_model_that_was_being_asked_is_asked_again(shop: Shop) -> None:
    run_id = await shop.begin(ASK)

    async def answer_late(_effect: Any) -> Any:
        await pause(shop, run_id)
        return shop.models.script(_effect)

    def script(effect: Any) -> Any:
        shop.models.script = shop.models.__class__().script
        return answer_late(effect)

    shop.models.script = script
    await shop.drain()
    held = await shop.run(run_id)
    await resume(shop, run_id)
    await shop.drain()

    assert (held.status, held.claim_at) == ("PAUSED", None)
    assert len(shop.models.asked) == 2
    assert await shop.outcomes(run_id) == [("ask", "ok")]


@pytest.mark.parametrize("boundary", range(len(BOUNDARIES)))
async def test_a_run_can_be_cancelled_wherever_it_is(shop: Shop, boundary: int) -> None:
    run_id = await shop.begin(*STEPS, orderId="o1")
    await reach(shop, run_id, boundary)

    await cancel(shop, run_id)
    shop.clock.advance(hours=5)
    await shop.settle()

    run = await shop.run(run_id)
    assert (run.status, run.claim_at, run.next_step_at, run.open_trace) == ("CANCELLED", None, None, None)
    assert (await shop.updates(run_id))[-1][0] == "CANCELLED"
    assert all(each.finished_at is not None for each in await shop.trace(run_id))
    assert {each["status"] for each in await shop.deliveries(run_id)} <= {"CANCELLED", "DELIVERED"}
    assert (await shop.events("automation.run_completed")) == []


async def test_cancelling_stops_what_was_not_sent_and_says_so(shop: Shop) -> None:
    run_id = await shop.begin(WEBHOOK, UPDATE)
    await shop.drain()

    await cancel(shop, run_id)
    await shop.settle()

    assert [each["status"] for each in await shop.deliveries(run_id)] == ["CANCELLED"]
    assert shop.channels[Channel.WEBHOOK].received == []
    (step,) = await shop.trace(run_id)
    assert (step.outcome, step.detail, step.finished_at) == ("CANCELLED", "The run was cancelled.", shop.clock.now())


async def test_a_paused_workflow_holds_its_runs_and_lets_them_go_on_in_order(shop: Shop) -> None:
    workflow_id = await shop.workflow(WAIT, UPDATE)
    seq = await shop.track(orderId="o1")
    running = await shop.start(workflow_id, ["ada"] * 2, event_seq=seq)
    await shop.drain()

    await shop.change(workflow_id, is_paused=True)
    queued = await shop.start(workflow_id, ["ada"] * 3, event_seq=seq, is_held=True)
    shop.clock.advance(hours=1)
    await shop.drain()
    while_paused = await shop.runs([*running, *queued])
    await shop.change(workflow_id, is_paused=False, pending_change="RELEASE")
    async with shop.database.connection() as connection:
        found = await find_projects_with_runs(connection, now=shop.clock.now())
    shop.clock.advance(minutes=1)
    await shop.drain()
    released = await shop.runs([*running, *queued])
    shop.clock.advance(hours=1)
    await shop.drain()

    assert {(each.run_id in running, each.status, each.is_held, each.claim_at) for each in while_paused} == {
        (True, "RUNNING", True, None),
        (False, "QUEUED", True, None),
    }
    assert [await shop.outcomes(each) for each in queued[:1]] == [[("wait", "waited"), ("mark", "ok")]]
    assert shop.project_id in found
    assert {(each.run_id in running, each.status, each.is_held) for each in released} == {
        (True, "COMPLETED", False),
        (False, "RUNNING", False),
    }
    updates = await shop.fetch(
        "SELECT run_id FROM workflow_run_updates"
        " WHERE project_id = $1 AND run_id = ANY($2) AND status = 'RUNNING' AND step IS NULL ORDER BY seq",
        queued,
    )
    assert [row["run_id"] for row in updates] == queued
    assert {each.status for each in await shop.runs(queued)} == {"COMPLETED"}
    (workflow,) = await shop.fetch("SELECT pending_change FROM workflows WHERE project_id = $1")
    assert workflow["pending_change"] is None


async def test_a_paused_workflow_hears_what_became_of_its_messages_and_begins_nothing(shop: Shop) -> None:
    workflow_id = await shop.workflow(WEBHOOK, UPDATE)
    (run_id,) = await shop.start(workflow_id, event_seq=await shop.track(orderId="o1"))
    await shop.drain()

    await shop.change(workflow_id, is_paused=True)
    await shop.settle()
    held = await shop.run(run_id)
    trace = await shop.outcomes(run_id)
    await shop.change(workflow_id, is_paused=False, pending_change="RELEASE")
    await shop.settle()

    assert trace == [("call", "sent")]
    assert (held.status, held.is_held, held.claim_at) == ("RUNNING", True, None)
    assert await shop.outcomes(run_id) == [("call", "sent"), ("mark", "ok")]


async def test_a_switched_off_workflow_finishes_what_it_began(shop: Shop) -> None:
    workflow_id = await shop.workflow(WAIT, UPDATE)
    (run_id,) = await shop.start(workflow_id, event_seq=await shop.track(orderId="o1"))

    await shop.change(workflow_id, is_active=False)
    await shop.drain()
    shop.clock.advance(hours=1)
    await shop.drain()

    assert (await shop.run(run_id)).status == "COMPLETED"


async def test_a_deleted_workflow_ends_all_its_runs(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "BATCH_RUNS", 2)
    workflow_id = await shop.workflow(WEBHOOK)
    other_id = await shop.workflow(WAIT, name="Another")
    seq = await shop.track()
    sending = await shop.start(workflow_id, ["ada"] * 3, event_seq=seq)
    (other,) = await shop.start(other_id)
    await shop.drain()
    queued = await shop.start(workflow_id, ["ada"] * 2, event_seq=seq, is_held=True)

    await shop.change(workflow_id, deleted_at=shop.clock.now(), is_active=False, pending_change="CANCEL")
    await shop.settle()

    assert {each.status for each in await shop.runs([*sending, *queued])} == {"CANCELLED"}
    assert (await shop.run(other)).status == "RUNNING"
    assert shop.channels[Channel.WEBHOOK].received == []
    (workflow,) = await shop.fetch(
        "SELECT pending_change FROM workflows WHERE project_id = $1 AND deleted_at IS NOT NULL"
    )
    assert workflow["pending_change"] is None


async def test_a_change_goes_in_batches_and_ends_with_the_last(shop: Shop) -> None:
    workflow_id = await shop.workflow(UPDATE)
    await shop.change(workflow_id, is_paused=True)
    runs = await shop.start(workflow_id, ["ada"] * 4, is_held=True)
    await shop.change(workflow_id, is_paused=False, pending_change="RELEASE")

    done = []
    for _ in range(4):
        async with shop.database.transaction() as connection:
            changed = await carry_out_change(connection, project_id=shop.project_id, now=shop.clock.now(), limit=2)
        done.append(None if changed is None else changed.runs)

    assert done == [2, 2, 0, None]
    assert {each.status for each in await shop.runs(runs)} == {"RUNNING"}


async def test_a_run_of_a_deleted_workflow_is_left_to_whoever_cancels_it(shop: Shop) -> None:
    workflow_id = await shop.workflow(UPDATE)
    (run_id,) = await shop.start(workflow_id)

    await shop.change(workflow_id, deleted_at=shop.clock.now(), is_active=False)
    await shop.drain()

    run = await shop.run(run_id)
    assert (run.status, run.claim_at, await shop.trace(run_id)) == ("RUNNING", None, [])
