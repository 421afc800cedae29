"""Steps that ask a model: answered, late, unavailable, and asked by a worker that is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from db.workflow_runs import find_projects_with_runs
from engine.work import Work, WorkKind
from engine.workflows.advancing import MAX_ASKING
from engine.workflows.state import MAX_ASKED, AskModel, ModelAnswer, ModelLate, ModelUnavailable
from tests.integration.dispatch_support import until
from tests.integration.runner_support import MemoryModels, Shop, open_shop, people

ASK = {
    "type": "AI_ACTION",
    "label": "ask",
    "config": {"flavor": "generate", "prompt": "About {{ event.orderId }}", "saveTo": "said"},
}
MARK = {"type": "UPDATE_PROFILE", "label": "mark", "config": {"traits": {"said": "{{ run.vars.said }}"}}}


@pytest.fixture
async def shop(module_database_url: str) -> AsyncIterator[Shop]:
    async with open_shop(module_database_url) as shop:
        await shop.person("ada", name="Ada")
        yield shop


async def test_an_answer_is_a_variable_of_the_run(shop: Shop) -> None:
    shop.models.script = lambda _effect: ModelAnswer("Thank you")
    run_id = await shop.begin(ASK, MARK, orderId="o1")

    await shop.drain()

    assert [each.prompt for each in shop.models.asked] == ["About o1"]
    assert await shop.outcomes(run_id) == [("ask", "ok"), ("mark", "ok")]
    assert (await shop.traits("ada"))["said"] == "Thank you"
    assert Work(WorkKind.RUNS, shop.project_id) in shop.woken
    assert await shop.updates(run_id) == [
        ("RUNNING", None, None),
        ("RUNNING", "ask", None),
        ("RUNNING", "ask", "OK"),
        ("COMPLETED", "mark", "OK"),
    ]


async def test_nobody_else_looks_at_a_run_while_its_model_is_asked(shop: Shop) -> None:
    answer: asyncio.Future[ModelAnswer] = asyncio.get_running_loop().create_future()
    shop.models.script = lambda _effect: answer
    run_id = await shop.begin(ASK)

    await shop.runner.drain(shop.project_id)
    other = shop.another_runner()
    await other.drain(shop.project_id)
    async with shop.database.connection() as connection:
        found = await find_projects_with_runs(connection, now=shop.clock.now())
    answer.set_result(ModelAnswer("yes"))
    await shop.runner.settled()

    assert shop.project_id not in found
    assert len(shop.models.asked) == 1
    assert await shop.outcomes(run_id) == [("ask", "ok")]


async def test_without_a_model_the_run_goes_on(shop: Shop) -> None:
    shop.models.script = lambda _effect: ModelUnavailable("There is no model.")
    run_id = await shop.begin(ASK, MARK, orderId="o1")

    await shop.drain()

    assert await shop.outcomes(run_id) == [("ask", "ai_unavailable"), ("mark", "ok")]
    assert (await shop.trace(run_id))[0].detail == "There is no model."


@pytest.mark.parametrize("script", [lambda _effect: ModelLate(), lambda _effect: 1 / 0])
async def test_a_model_that_is_late_is_asked_again_for_a_while(shop: Shop, script: Any) -> None:
    shop.models.script = script
    run_id = await shop.begin(ASK, MARK)

    await shop.drain()
    first = await shop.outcomes(run_id)
    for _ in range(MAX_ASKED):
        shop.clock.advance(seconds=30)
        await shop.drain()

    assert first == [("ask", "ai_pending")]
    assert len(shop.models.asked) == MAX_ASKED
    assert await shop.outcomes(run_id) == [("ask", "ai_unavailable"), ("mark", "ok")]


async def test_a_worker_that_died_while_asking_counts_as_late(shop: Shop) -> None:
    never: asyncio.Future[ModelAnswer] = asyncio.get_running_loop().create_future()
    dead = shop.another_runner()
    shop.models.script = lambda _effect: never
    run_id = await shop.begin(ASK, MARK)
    await dead.drain(shop.project_id)

    await shop.end_leases()
    shop.models.script = MemoryModels().script
    async with shop.database.connection() as connection:
        found = await find_projects_with_runs(connection, now=shop.clock.now())
    await shop.drain()
    pending = await shop.outcomes(run_id)
    never.set_result(ModelAnswer("too late"))
    await dead.settled()
    ignored = await shop.outcomes(run_id)
    shop.clock.advance(seconds=30)
    await shop.drain()

    assert shop.project_id in found
    assert pending == ignored == [("ask", "ai_pending")]
    assert await shop.outcomes(run_id) == [("ask", "ok"), ("mark", "ok")]
    assert (await shop.traits("ada"))["said"] == "yes"


async def test_a_worker_that_stops_gives_back_what_it_asks(shop: Shop) -> None:
    never: asyncio.Future[ModelAnswer] = asyncio.get_running_loop().create_future()
    stopping = shop.another_runner()
    shop.models.script = lambda _effect: never
    run_id = await shop.begin(ASK, MARK)
    await stopping.drain(shop.project_id)

    await stopping.stop()
    shop.models.script = MemoryModels().script
    await shop.drain()

    assert len(shop.models.asked) == 2
    assert await shop.outcomes(run_id) == [("ask", "ok"), ("mark", "ok")]
    assert await stopping.drain(shop.project_id) is False


async def test_more_runs_than_may_ask_at_once_come_back_one_group_after_the_other(shop: Shop) -> None:
    answers: list[asyncio.Future[ModelAnswer]] = []

    def ask(_effect: AskModel) -> asyncio.Future[ModelAnswer]:
        answers.append(asyncio.get_running_loop().create_future())
        return answers[-1]

    shop.models.script = ask
    workflow_id = await shop.workflow(ASK)
    await shop.person(*people(40))
    runs = await shop.start(workflow_id, people(40))

    await shop.runner.drain(shop.project_id)
    await until(lambda: len(answers) == MAX_ASKING)
    waiting = sorted({each.claim_at for each in await shop.runs(runs) if each.claim_at is not None})
    now = shop.clock.now()
    under_way = []
    for _ in range(3):
        under_way.append(len([each for each in answers if not each.done()]))
        for each in answers:
            if not each.done():
                each.set_result(ModelAnswer("yes"))
        await shop.runner.settled()
        shop.clock.advance(seconds=2)
        await shop.runner.drain(shop.project_id)
        await asyncio.sleep(0)

    assert [(each - now).total_seconds() for each in waiting] == [2, 4]
    assert under_way == [16, 16, 8]
    assert {each.status for each in await shop.runs(runs)} == {"COMPLETED"}
