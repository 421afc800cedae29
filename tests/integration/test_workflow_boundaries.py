"""Runs that are paused, cancelled or held with their workflow at every boundary between two things that a worker does.

Many runs of one journey go on side by side; at the n-th boundary something is done to the n-th of them, over the API.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from db.workflow_records import RunRecord
from engine.node_ids import NodeKind, write_node_id
from engine.work import WorkKind
from engine.workflows.state import StepTrace
from tests.integration.run_support import SAVE_WORKFLOW
from tests.integration.worker_support import Store, open_store

CASES = 44
"""More than a run of the journey has boundaries."""
CHANGES_RUNS = frozenset({WorkKind.TRIGGERS, WorkKind.RUNS, WorkKind.DELIVERIES, WorkKind.RUN_REPORTS})
"""Work after which a run may stand elsewhere."""
PAUSE_RUN = "mutation ($id: ID!) { pauseWorkflowRun(id: $id) { run { status } userErrors { code } } }"
RESUME_RUN = "mutation ($id: ID!) { resumeWorkflowRun(id: $id) { run { status } userErrors { code } } }"
CANCEL_RUN = "mutation ($id: ID!) { cancelWorkflowRun(id: $id) { run { status } userErrors { code } } }"
PAUSE = "mutation ($id: ID!) { pauseWorkflow(id: $id) { workflow { id } userErrors { code } } }"
RESUME = "mutation ($id: ID!) { resumeWorkflow(id: $id) { workflow { id } userErrors { code } } }"
ENDED = [
    ("update", "ok"),
    ("which", "branched"),
    ("push", "sent"),
    ("mail", "sent"),
    ("text", "sent"),
    ("call", "sent"),
    ("ask", "ok"),
    ("wait", "waited"),
]
REACHED = {0, 1, 2, 3, 4, 5, 6, 8}
"""How many steps have begun at some boundary: when the model answers, the wait begins at once."""
CHANNELS = {"PUSH": 1, "EMAIL": 1, "SMS": 1, "WEBHOOK": 1}

Said = list[tuple[str, str | None]]


def steps(store: Store) -> list[dict[str, Any]]:
    """One of every type, each a minute after the one before, so that none is begun together with another."""
    condition = {"trait": "seen", "value": "o1"}
    given: list[tuple[str, str, dict[str, Any]]] = [
        ("update", "UPDATE_PROFILE", {"traits": {"seen": "{{ event.orderId }}"}}),
        ("which", "BRANCH", {"condition": condition, "ifTrue": "push", "ifFalse": "end"}),
        ("push", "SEND_PUSH", {"title": "{{ run.id }}", "body": "there"}),
        ("mail", "SEND_EMAIL", {"to": "{{ user.id }}@example.org", "subject": "{{ run.id }}", "bodyText": "there"}),
        ("text", "SEND_SMS", {"to": "+14155550132", "body": "{{ run.id }}"}),
        ("call", "WEBHOOK", {"url": f"{store.receiver.url}/hook"}),
        ("ask", "AI_ACTION", {"flavor": "decide", "prompt": "Well?"}),
        ("wait", "WAIT", {}),
    ]
    return [
        {"label": label, "type": kind, "config": config, "delayMinutes": 1 if label != "update" else 0}
        for label, kind, config in given
    ]


@pytest.fixture
async def store(database_url: str, redis_url: str) -> AsyncIterator[Store]:
    async with open_store(database_url, redis_url) as store:
        await prepare(store)
        yield store


async def prepare(store: Store) -> None:
    """Everybody can be reached on every channel, and there is a model."""
    await store.configure(with_model=True)
    people = [*map(person, range(CASES)), *map(latecomer, range(CASES))]
    await store.identify({user_id: {"name": user_id} for user_id in people})
    await store.add_devices((f"token-{user_id}", user_id, None) for user_id in people)


async def save(store: Store, name: str) -> str:
    """A workflow of the journey that its name starts."""
    given = {"name": name, "trigger": {"eventType": name}, "steps": steps(store), "isActive": True}
    node_id: str = (await store.data(SAVE_WORKFLOW, input=given))["workflow"]["id"]
    return node_id


def person(number: int) -> str:
    return f"person-{number:02}"


def latecomer(number: int) -> str:
    return f"late-{number:02}"


def order(name: str, user_id: str) -> dict[str, Any]:
    return {"eventType": name, "userId": user_id, "properties": {"orderId": "o1"}}


async def boundaries(store: Store) -> AsyncIterator[int]:
    """Do all there is to be done, and stop after each thing after which runs may stand elsewhere, with its number."""
    [worker] = store.workers
    number = 0
    yield number
    while True:
        found = await worker.find(store.project_id)
        for kind in found:
            await worker.do(kind, store.project_id)
            if kind in CHANGES_RUNS:
                yield (number := number + 1)
        if not found:
            due = await store.next_due()
            if due is None:
                return
            store.clock.at = max(store.clock.at, due)
            yield (number := number + 1)


async def run_of(store: Store, user_id: str) -> RunRecord | None:
    return next((run for run in await store.runs() if run.user_id == user_id), None)


async def change(store: Store, document: str, node_id: str) -> bool:
    """Whether it could be done; a run that is over cannot be changed."""
    [payload] = (await store.tenant.data(document, id=node_id)).values()
    assert [each["code"] for each in payload["userErrors"]] in ([], ["STATE"])
    return not payload["userErrors"]


def run_node(run_id: UUID) -> str:
    return write_node_id(NodeKind.WORKFLOW_RUN, run_id)


def outcomes(trace: list[StepTrace]) -> Said:
    return [(step.label, step.outcome and step.outcome.code) for step in trace]


async def sent(store: Store, run_id: UUID) -> dict[str, int]:
    """The deliveries of a run, by channel."""
    rows = await store.fetch("SELECT channel FROM deliveries WHERE project_id = $1 AND workflow_run_id = $2", run_id)
    return dict(Counter(row["channel"] for row in rows))


def arrived(store: Store) -> Counter[str]:
    """Messages that came, by channel and run."""
    return Counter(
        [
            *(f"PUSH {push['notification']['title']}" for push in store.fcm.accepted),
            *(f"EMAIL {mail.message['Subject']}" for mail in store.smtp.received),
            *(f"SMS {text.form['Body']}" for text in store.twilio.messages),
            *(f"WEBHOOK {request.event_id.rpartition('_')[0]}" for request in store.receiver.requests),
        ]
    )


async def check_whole(store: Store, runs: list[RunRecord]) -> None:
    """Each run did every step once, and everything arrived once."""
    traces = await store.traces([run.run_id for run in runs])
    came = arrived(store)
    for run in runs:
        assert (run.status, run.error) == ("COMPLETED", None), run.user_id
        assert outcomes(traces[run.run_id]) == ENDED, run.user_id
        assert [step.number for step in traces[run.run_id]] == list(range(1, len(ENDED) + 1))
        assert await sent(store, run.run_id) == CHANNELS
        assert [came[f"{channel} {run_node(run.run_id)}"] for channel in CHANNELS] == [1, 1, 1, 1]


async def test_a_run_paused_at_any_boundary_goes_on_there(store: Store) -> None:
    await save(store, "order")
    await store.track(order("order", person(number)) for number in range(CASES))
    paused: dict[str, list[StepTrace]] = {}
    async for number in boundaries(store):
        run = await run_of(store, person(number)) if number < CASES else None
        if run is not None and await change(store, PAUSE_RUN, run_node(run.run_id)):
            paused[person(number)] = (await store.traces([run.run_id]))[run.run_id]
    assert number < CASES

    # Nothing was done to any while it was paused, for however long
    await store.pass_time(timedelta(hours=5))
    for user_id, trace in paused.items():
        run = await run_of(store, user_id)
        assert run is not None
        assert (run.status, (await store.traces([run.run_id]))[run.run_id]) == ("PAUSED", trace)
        assert await change(store, RESUME_RUN, run_node(run.run_id))
    await store.pass_time(timedelta(hours=1))

    assert {len(trace) for trace in paused.values()} == REACHED
    assert len(paused) > 2 * len(ENDED)
    await check_whole(store, await store.runs())


async def test_a_run_cancelled_at_any_boundary_does_nothing_more(store: Store) -> None:
    await save(store, "order")
    await store.track(order("order", person(number)) for number in range(CASES))
    cancelled: dict[UUID, Said] = {}
    async for number in boundaries(store):
        run = await run_of(store, person(number)) if number < CASES else None
        if run is not None and await change(store, CANCEL_RUN, run_node(run.run_id)):
            cancelled[run.run_id] = outcomes((await store.traces([run.run_id]))[run.run_id])
    await store.pass_time(timedelta(hours=5))

    runs = {run.run_id: run for run in await store.runs()}
    came = arrived(store)
    for run_id, said in cancelled.items():
        assert runs[run_id].status == "CANCELLED"
        trace = (await store.traces([run_id]))[run_id]
        assert outcomes(trace) == said
        assert all(step.finished_at is not None and step.outcome is not None for step in trace)
        made = await store.fetch(
            "SELECT channel, status FROM deliveries WHERE project_id = $1 AND workflow_run_id = $2", run_id
        )
        assert {row["status"] for row in made} <= {"SENT", "DELIVERED", "CANCELLED"}
        for row in made:
            assert came[f"{row['channel']} {run_node(run_id)}"] == (row["status"] != "CANCELLED")
    assert {len(said) for said in cancelled.values()} == REACHED
    assert Counter(run.status for run in runs.values())["CANCELLED"] == len(cancelled)
    await check_whole(store, [run for run in runs.values() if run.run_id not in cancelled])


async def test_a_workflow_paused_at_any_boundary_holds_its_runs_and_queues_new_ones(store: Store) -> None:
    workflows = [await save(store, f"order.number_{number}") for number in range(CASES)]
    await store.track(order(f"order.number_{number}", person(number)) for number in range(CASES))
    begun: dict[int, int] = {}
    async for number in boundaries(store):
        if number < CASES:
            await store.data(PAUSE, id=workflows[number])
            run = await run_of(store, person(number))
            begun[number] = 0 if run is None else len((await store.traces([run.run_id]))[run.run_id])
    await store.track(order(f"order.number_{number}", latecomer(number)) for number in begun)
    await store.pass_time(timedelta(hours=5))

    # What had begun came to its end, and nothing was begun
    held = {run.user_id: run for run in await store.runs()}
    for number, steps_begun in begun.items():
        run = held[person(number)]
        trace = (await store.traces([run.run_id]))[run.run_id]
        assert len(trace) == steps_begun
        assert all(step.finished_at is not None for step in trace if step.type != "WAIT")
        is_over = outcomes(trace) == ENDED
        assert (run.status, run.is_held) in (
            [("COMPLETED", False)] if is_over else [("RUNNING", True), ("QUEUED", True)]
        )
        assert held[latecomer(number)].status == "QUEUED"
    for number in begun:
        await store.data(RESUME, id=workflows[number])
    await store.pass_time(timedelta(hours=1))

    assert set(begun.values()) == REACHED
    runs = await store.runs()
    assert len(runs) == CASES + len(begun)
    await check_whole(store, runs)
