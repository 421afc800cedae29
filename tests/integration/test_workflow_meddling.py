"""Two workers carry runs on while people meddle with all of it over the API: pause, resume and cancel runs, pause,
resume, switch, change and delete workflows, in any order and at any moment.

In the end everybody leaves the workers alone, and each run has come to the end that it was given: whole, each step
once and on the version that it began with, or cancelled where it was; and what arrived is what its deliveries say.
`MEDDLING_SEED` gives another run's choices, `MEDDLING_CHANGES` more of them.
"""

from __future__ import annotations

import asyncio
import os
import random
from datetime import timedelta
from typing import Any
from uuid import UUID

from db.workflow_records import RunRecord
from engine.workflows.state import StepTrace
from tests.integration.run_support import SAVE_WORKFLOW, uuid_of
from tests.integration.test_workflow_boundaries import (
    CANCEL_RUN,
    PAUSE,
    PAUSE_RUN,
    RESUME,
    RESUME_RUN,
    arrived,
    change,
    check_whole,
    latecomer,
    order,
    outcomes,
    person,
    prepare,
    run_node,
    save,
    steps,
)
from tests.integration.worker_support import Store, open_store

SEED = int(os.environ.get("MEDDLING_SEED", "7"))
CHANGES = int(os.environ.get("MEDDLING_CHANGES", "100"))
ROUNDS = 14
"""How often the clock goes on to what is due next, at least; and for as long as there is meddling."""
WORKFLOWS = 16
PAUSE_SECONDS = 0.03
"""Most between one change and the next."""
SWITCH = """mutation ($id: ID!, $on: Boolean!) {
  setWorkflowActive(id: $id, isActive: $on) { workflow { id } userErrors { code } }
}"""
DELETE = "mutation ($id: ID!) { deleteWorkflow(id: $id) { deletedId userErrors { code } } }"
OTHER = [{"label": "other", "type": "WAIT", "config": {}, "delayMinutes": 1}]
OTHER_ENDED = [("other", "waited")]
MADE = "SELECT channel, status FROM deliveries WHERE project_id = $1 AND workflow_run_id = $2"


class Meddler:
    """Somebody with the key of an editor, and no plan."""

    def __init__(self, store: Store, chance: random.Random) -> None:
        self.cancelled: set[UUID] = set()
        self.deleted: set[str] = set()
        self.changes = 0
        self._store = store
        self._chance = chance
        self._workflows: list[str] = []

    async def open(self) -> None:
        """Workflows with a run each."""
        self._workflows = [await save(self._store, name_of(number)) for number in range(WORKFLOWS)]
        await self._store.track(order(name_of(number), person(number)) for number in range(WORKFLOWS))

    async def meddle(self) -> None:
        """One change after the other."""
        while self.changes < CHANGES:
            number = self._chance.randrange(WORKFLOWS)
            self.changes += 1
            if self._workflows[number] not in self.deleted:
                await self._change(number, self._workflows[number])
            await asyncio.sleep(self._chance.uniform(0, PAUSE_SECONDS))

    async def leave_alone(self) -> None:
        """Whatever is paused goes on."""
        for run in await self._store.runs():
            if run.status == "PAUSED":
                assert await change(self._store, RESUME_RUN, run_node(run.run_id))
        for workflow in self._workflows:
            if workflow not in self.deleted:
                await self._store.data(RESUME, id=workflow)

    async def _change(self, number: int, workflow: str) -> None:
        store, chance = self._store, self._chance
        match chance.choices(range(8), weights=[4, 4, 1, 2, 3, 2, 1, 3])[0]:
            case 0:
                await self._change_run(number, PAUSE_RUN)
            case 1:
                await self._change_run(number, RESUME_RUN)
            case 2:
                await self._change_run(number, CANCEL_RUN)
            case 3:
                await store.data(PAUSE, id=workflow)
            case 4:
                await store.data(RESUME, id=workflow)
            case 5:
                await store.data(SWITCH, id=workflow, on=chance.random() < 0.5)
            case 6 if chance.random() < 0.2:
                self.deleted.add(workflow)
                await store.data(DELETE, id=workflow)
            case 6:
                given = OTHER if chance.random() < 0.5 else steps(store)
                await store.data(SAVE_WORKFLOW, input={"id": workflow, "steps": given})
            case _:
                await store.track([order(name_of(number), latecomer(number))])

    async def _change_run(self, number: int, document: str) -> None:
        theirs = [run for run in await self._store.runs() if run.user_id in (person(number), latecomer(number))]
        if not theirs:
            return
        run = self._chance.choice(theirs)
        is_done = await change(self._store, document, run_node(run.run_id))
        if document == CANCEL_RUN and is_done:
            self.cancelled.add(run.run_id)


def name_of(number: int) -> str:
    return f"order.number_{number}"


async def check_end(store: Store, meddler: Meddler, run: RunRecord, trace: list[StepTrace]) -> None:
    """It is over, as whatever was done to it wanted, and what it made has come to its end, too."""
    deleted = {uuid_of(workflow) for workflow in meddler.deleted}
    ends = {"COMPLETED", "CANCELLED"} if run.workflow_id in deleted else {"COMPLETED"}
    assert run.status in ({"CANCELLED"} if run.run_id in meddler.cancelled else ends), run
    assert (run.claim_at, run.next_step_at, run.is_held, run.open_trace) == (None, None, False, None)
    assert [step.number for step in trace] == list(range(1, len(trace) + 1))
    assert all(step.finished_at is not None and step.outcome is not None for step in trace)
    came: Any = arrived(store)
    for channel, status in await store.fetch(MADE, run.run_id):
        assert status in ("SENT", "DELIVERED", "CANCELLED")
        assert came[f"{channel} {run_node(run.run_id)}"] == (status != "CANCELLED")


async def test_whatever_is_done_to_runs_while_workers_carry_them_on(database_url: str, redis_url: str) -> None:
    async with open_store(database_url, redis_url, workers=2) as store:
        await prepare(store)
        meddler = Meddler(store, random.Random(SEED))
        await meddler.open()
        meddling, rounds = asyncio.create_task(meddler.meddle()), 0
        while not meddling.done() or rounds < ROUNDS:
            await store.work()
            store.clock.at = max(store.clock.at, await store.next_due() or store.clock.at)
            rounds += 1
        await meddling
        await meddler.leave_alone()
        await store.pass_time(timedelta(hours=1))

        runs = await store.runs()
        traces = await store.traces([run.run_id for run in runs])
        for run in runs:
            await check_end(store, meddler, run, traces[run.run_id])
        completed = [run for run in runs if run.status == "COMPLETED"]
        await check_whole(store, [run for run in completed if outcomes(traces[run.run_id]) != OTHER_ENDED])
        print(f"\n{len(runs)} runs, of which {len(completed)} were completed, in {rounds} rounds")
        assert await store.fetch("SELECT FROM workflows WHERE project_id = $1 AND pending_change IS NOT NULL") == []
        assert len(runs) >= WORKFLOWS
        assert completed
