"""Runs through the schema: lists, what one shows, and how workflows fare."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from uuid_utils.compat import uuid7

from db.workflow_stats import OutcomeCount, RunCount
from engine.node_ids import NodeKind, write_node_id
from engine.workflows.definition import RunStatus
from resolvers.loaders import RUN_DELIVERIES
from resolvers.workflow_stats import summarise
from tests.integration.delivery_support import make_delivery, node_id
from tests.integration.graphql_support import Tenant
from tests.integration.run_support import drain_runs, insert_run_steps, insert_runs, save_workflow, start_run, uuid_of

LIST = """query ($first: Int, $after: Cursor, $last: Int, $before: Cursor, $filter: WorkflowRunFilter) {
  workflowRuns(first: $first, after: $after, last: $last, before: $before, filter: $filter) {
    edges { cursor node { id } }
    pageInfo { hasNextPage hasPreviousPage startCursor endCursor }
    totalCount
    totalCountIsCapped
  }
}"""
SHOW = """query ($id: ID!) { node(id: $id) { ... on WorkflowRun {
  id workflow { id name version } workflowVersion steps { label type config } status userId
  profile { traits } event { id } startedAt finishedAt nextStepAt currentStep error
  trace { label type outcome outcomeCode detail startedAt finishedAt input output delivery { id status } }
  deliveries { id } vars
} } }"""
UPDATE = {"label": "mark", "type": "UPDATE_PROFILE", "config": {"traits": {"plan": "pro"}}}
HOOK = {"label": "call", "type": "WEBHOOK", "config": {"url": "https://hooks.example.com/a", "method": "PUT"}}
WAIT = {"label": "rest", "type": "WAIT", "delayMinutes": 60, "config": {}}
FAILS = {"label": "text", "type": "SEND_SMS", "config": {"body": "{% for a in (1..20000) %}{{ a }}{% endfor %}"}}


def run_node_id(run_id: UUID) -> str:
    return write_node_id(NodeKind.WORKFLOW_RUN, run_id)


def ids(data: Any) -> list[str]:
    return [edge["node"]["id"] for edge in data["workflowRuns"]["edges"]]


async def listed(shop: Tenant, **run_filter: Any) -> list[str]:
    return ids(await shop.data(LIST, first=100, filter=run_filter))


async def fill(shop: Tenant, workflow: str, count: int, **columns: Any) -> list[str]:
    """Runs as rows, oldest first; gives their node ids."""
    runs = [{"run_id": uuid7(), "workflow_id": uuid_of(workflow), **columns} for _ in range(count)]
    async with shop.gateway.services.database.transaction() as connection:
        await insert_runs(connection, shop.project_id, runs, now=shop.gateway.services.clock.now())
    return [run_node_id(run["run_id"]) for run in runs]


@asynccontextmanager
async def counted(shop: Tenant, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[None]]:
    """One entry for each connection that is taken meanwhile: a list takes one, and so does each look-up."""
    database, taken = shop.gateway.services.database, list[None]()
    connection = database.connection

    def counting() -> Any:
        taken.append(None)
        return connection()

    with monkeypatch.context() as patch:
        patch.setattr(database, "connection", counting)
        yield taken


async def test_a_run_shows_all_of_itself(shop: Tenant) -> None:
    workflow = await save_workflow(shop, UPDATE, HOOK, WAIT)
    event = await shop.track(userId="ada", traits={"name": "Ada"})
    run_id = await start_run(shop, workflow, event_seq=event["seq"])
    begun = (await shop.data(SHOW, id=run_id))["node"]
    await drain_runs(shop)
    found = (await shop.data(SHOW, id=run_id))["node"]

    assert (begun["currentStep"], begun["nextStepAt"], begun["trace"]) == ("mark", begun["startedAt"], [])
    [made] = (await shop.data("{ deliveries { edges { node { id workflowRun { id currentStep } } } } }"))["deliveries"][
        "edges"
    ]
    assert made["node"]["workflowRun"] == {"id": run_id, "currentStep": "call"}
    trace = found.pop("trace")
    for step in trace:
        assert step.pop("startedAt") <= step.pop("finishedAt")
    assert trace == [
        {
            "label": "mark",
            "type": "UPDATE_PROFILE",
            "outcome": "OK",
            "outcomeCode": "ok",
            "detail": None,
            "input": {"traits": {"plan": "pro"}},
            "output": None,
            "delivery": None,
        },
        {
            "label": "call",
            "type": "WEBHOOK",
            "outcome": None,
            "outcomeCode": None,
            "detail": None,
            "input": {"url": "https://hooks.example.com/a", "method": "PUT"},
            "output": None,
            "delivery": {"id": made["node"]["id"], "status": "QUEUED"},
        },
    ]
    assert found.pop("startedAt") == begun["startedAt"]
    assert found == {
        "id": run_id,
        "workflow": {"id": workflow, "name": "Journey", "version": 1},
        "workflowVersion": 1,
        "steps": [
            {"label": "mark", "type": "UPDATE_PROFILE", "config": UPDATE["config"]},
            {"label": "call", "type": "WEBHOOK", "config": HOOK["config"]},
            {"label": "rest", "type": "WAIT", "config": {}},
        ],
        "status": "RUNNING",
        "userId": "ada",
        "profile": {"traits": {"name": "Ada", "plan": "pro"}},
        "event": {"id": event["id"]},
        "finishedAt": None,
        "nextStepAt": None,
        "currentStep": "call",
        "error": None,
        "deliveries": [{"id": made["node"]["id"]}],
        "vars": {},
    }


async def test_a_step_in_progress_ends_when_it_began(shop: Tenant) -> None:
    """finishedAt is never null in the contract: while a step is in progress it says when it began."""
    run_id = await start_run(shop, await save_workflow(shop, WAIT))
    await drain_runs(shop)
    found = (await shop.data(SHOW, id=run_id))["node"]
    [step] = found["trace"]
    assert (step["label"], step["outcome"], step["finishedAt"]) == ("rest", None, step["startedAt"])
    assert found["currentStep"] == "rest"
    assert found["nextStepAt"] > step["startedAt"]


async def test_a_run_that_failed_says_why_and_has_no_step_any_more(shop: Tenant) -> None:
    run_id = await start_run(shop, await save_workflow(shop, FAILS), user_id=None)
    await drain_runs(shop)
    found = (await shop.data(SHOW, id=run_id))["node"]
    assert (found["status"], found["currentStep"], found["nextStepAt"]) == ("FAILED", None, None)
    assert found["error"].startswith("Step text: ")
    assert found["finishedAt"] >= found["startedAt"]
    assert (found["userId"], found["profile"], found["event"]) == (None, None, None)


async def test_a_run_shows_the_steps_that_it_started_with(shop: Tenant) -> None:
    workflow = await save_workflow(shop, WAIT)
    run_id = await start_run(shop, workflow)
    await save_workflow(shop, UPDATE, HOOK, id=workflow)
    later = await start_run(shop, workflow)
    old, new = [(await shop.data(SHOW, id=each))["node"] for each in (run_id, later)]
    assert [(each["workflowVersion"], each["workflow"]["version"], each["currentStep"]) for each in (old, new)] == [
        (1, 2, "rest"),
        (2, 2, "mark"),
    ]
    assert [len(each["steps"]) for each in (old, new)] == [1, 2]


async def test_a_deleted_workflow_is_still_what_its_runs_are_of(shop: Tenant) -> None:
    workflow = await save_workflow(shop, WAIT)
    run_id = await start_run(shop, workflow)
    await shop.data("mutation ($id: ID!) { deleteWorkflow(id: $id) { userErrors { code } } }", id=workflow)
    assert await shop.data("query ($id: ID!) { node(id: $id) { id } }", id=workflow) == {"node": None}
    found = (await shop.data(SHOW, id=run_id))["node"]
    assert (found["workflow"]["name"], found["currentStep"]) == ("Journey", "rest")


async def test_the_first_of_a_steps_deliveries_is_shown_with_it_and_a_hundred_with_the_run(shop: Tenant) -> None:
    workflow = await save_workflow(shop, UPDATE)
    [run_id] = await fill(shop, workflow, 1)
    steps = [{"run_id": uuid_of(run_id), "workflow_id": uuid_of(workflow), "number": number} for number in (1, 2, 3)]
    async with shop.gateway.services.database.transaction() as connection:
        await insert_run_steps(connection, shop.project_id, steps, now=shop.gateway.services.clock.now())
    places = {"workflow_run_id": uuid_of(run_id), "workflow_id": uuid_of(workflow)}
    made = [await make_delivery(shop, **places, workflow_step_number=1 if n < 2 else 3) for n in range(4)]
    await make_delivery(shop, workflow_run_id=uuid4(), workflow_step_number=2)
    found = (await shop.data(SHOW, id=run_id))["node"]
    first = [step["delivery"] and step["delivery"]["id"] for step in found["trace"]]
    assert first == [node_id(made[0]), None, node_id(made[2])]
    assert [each["id"] for each in found["deliveries"]] == [node_id(each) for each in made]

    async with shop.gateway.services.database.connection() as connection:
        await connection.execute(
            """INSERT INTO deliveries (project_id, delivery_id, workflow_run_id, channel, status, dispatch_key, content,
                                       retry_schedule, created_at)
               SELECT $1, gen_random_uuid(), $2, 'SMS', 'SENT', 'sms', '{}', '{}', now() FROM generate_series(1, $3)""",
            shop.project_id,
            uuid_of(run_id),
            RUN_DELIVERIES,
        )
    assert len((await shop.data(SHOW, id=run_id))["node"]["deliveries"]) == RUN_DELIVERIES


async def test_runs_are_listed_newest_first_page_by_page_from_both_ends(shop: Tenant) -> None:
    workflow = await save_workflow(shop, UPDATE)
    runs = (await fill(shop, workflow, 7))[::-1]
    first = (await shop.data(LIST, first=3))["workflowRuns"]
    second = (await shop.data(LIST, first=3, after=first["pageInfo"]["endCursor"]))["workflowRuns"]
    last = (await shop.data(LIST, last=3))["workflowRuns"]
    before = (await shop.data(LIST, last=2, before=last["pageInfo"]["startCursor"]))["workflowRuns"]
    pages = [first, second, last, before]
    assert [ids({"workflowRuns": page}) for page in pages] == [runs[:3], runs[3:6], runs[4:], runs[2:4]]
    flags = [(page["pageInfo"]["hasPreviousPage"], page["pageInfo"]["hasNextPage"]) for page in pages]
    assert flags == [(False, True), (True, True), (True, False), (True, True)]
    assert (first["totalCount"], first["totalCountIsCapped"]) == (7, False)


async def test_counting_stops_at_its_cap(shop: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("db.workflow_run_lists.COUNT_CAP", 5)
    await fill(shop, await save_workflow(shop, UPDATE), 6)
    found = (await shop.data(LIST))["workflowRuns"]
    assert (found["totalCount"], found["totalCountIsCapped"]) == (5, True)


async def test_a_filter_lets_only_what_it_says_through(shop: Tenant) -> None:
    one, other = await save_workflow(shop, UPDATE), await save_workflow(shop, UPDATE, name="Other")
    now = shop.gateway.services.clock.now()
    [ada] = await fill(shop, one, 1, user_id="ada")
    [bob] = await fill(shop, other, 1, user_id="bob", status="FAILED")
    [nobody] = await fill(shop, one, 1, status="PAUSED", started_at=now - timedelta(days=2))
    day = (now - timedelta(days=1)).isoformat()
    expected: list[tuple[dict[str, Any], list[str]]] = [
        ({}, [nobody, bob, ada]),
        ({"ids": [ada, nobody]}, [nobody, ada]),
        ({"ids": []}, []),
        ({"workflowId": one}, [nobody, ada]),
        ({"statuses": ["FAILED", "PAUSED"]}, [nobody, bob]),
        ({"userId": "ada"}, [ada]),
        ({"since": day}, [bob, ada]),
        ({"until": day}, [nobody]),
        ({"workflowId": one, "statuses": ["RUNNING"], "userId": "ada", "since": day}, [ada]),
        ({"workflowId": other, "userId": "ada"}, []),
    ]
    for run_filter, runs in expected:
        assert await listed(shop, **run_filter) == runs, run_filter

    document = """query ($id: ID!, $filter: WorkflowRunFilter) { node(id: $id) { ... on Workflow {
      runs(filter: $filter) { totalCount edges { node { id } } }
    } } }"""
    of_one: list[tuple[dict[str, Any], list[str]]] = [
        ({}, [nobody, ada]),
        ({"statuses": ["PAUSED"]}, [nobody]),
        ({"workflowId": one}, [nobody, ada]),
        ({"workflowId": other}, []),
    ]
    for run_filter, runs in of_one:
        found = (await shop.data(document, id=one, filter=run_filter))["node"]["runs"]
        assert ([edge["node"]["id"] for edge in found["edges"]], found["totalCount"]) == (runs, len(runs)), run_filter


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"ids": ["dlv_x"]}, "filter.ids takes ids that begin with run_"),
    ({"ids": [f"run_{n:032x}" for n in range(1_001)]}, "filter.ids has too many entries"),
    ({"workflowId": "run_" + "0" * 32}, "filter.workflowId takes ids that begin with wfl_"),
    ({"userId": "a\0"}, "filter.userId holds a NUL character"),
    ({"until": "9999-12-31T00:00:00Z"}, "filter.until must lie within"),
]


@pytest.mark.parametrize(("run_filter", "sentence"), REFUSED, ids=[sentence for _, sentence in REFUSED])
async def test_a_filter_that_can_never_work_says_what_to_do(
    shop: Tenant, run_filter: dict[str, Any], sentence: str
) -> None:
    [error] = (await shop.run(LIST, filter=run_filter))["errors"]
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    assert error["message"].startswith(sentence)
    stream = "subscription ($filter: WorkflowRunFilter) { workflowRunUpdates(filter: $filter) { cursor } }"
    assert await shop.refusal(stream, filter=run_filter) == "BAD_USER_INPUT"


async def test_a_person_leads_to_their_runs(shop: Tenant) -> None:
    workflow = await save_workflow(shop, UPDATE)
    await shop.track(userId="ada")
    runs = await fill(shop, workflow, 3, user_id="ada")
    await fill(shop, workflow, 1, user_id="bob")
    document = """query ($after: Cursor) { profile(userId: "ada") { workflowRuns(first: 2, after: $after) {
      totalCount pageInfo { hasNextPage endCursor } edges { node { id userId } }
    } } }"""
    page = (await shop.data(document))["profile"]["workflowRuns"]
    rest = (await shop.data(document, after=page["pageInfo"]["endCursor"]))["profile"]["workflowRuns"]
    assert page["totalCount"] == 3
    found = [edge["node"]["id"] for each in (page, rest) for edge in each["edges"]]
    assert found == runs[::-1]


async def test_a_list_of_runs_costs_a_statement_per_table_not_per_run(
    shop: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflow = await save_workflow(shop, UPDATE)
    await shop.track(userId="ada")
    runs = await fill(shop, workflow, 30, user_id="ada", event_seq=1)
    steps = [{"run_id": uuid_of(each), "workflow_id": uuid_of(workflow)} for each in runs]
    async with shop.gateway.services.database.transaction() as connection:
        await insert_run_steps(connection, shop.project_id, steps, now=shop.gateway.services.clock.now())
    for each in runs:
        await make_delivery(shop, workflow_run_id=uuid_of(each), workflow_step_number=1)
    document = """{ workflowRuns(first: 30) { edges { node {
      currentStep workflow { name } steps { label } trace { delivery { id workflowRun { id } } } deliveries { id }
      event { id } profile { traits }
    } } } }"""
    async with counted(shop, monkeypatch) as taken:
        found = (await shop.data(document))["workflowRuns"]["edges"]
    assert len(found) == 30
    assert all(edge["node"]["trace"][0]["delivery"] is not None for edge in found)
    # The list; its versions, workflows, traces, first deliveries and all, events, people; those deliveries; their runs.
    assert len(taken) <= 12


STATS = """query ($since: DateTime) { workflows { edges { node { name stats(since: $since) {
  started queued completed failed running paused cancelled steps { label outcomes }
} } } } }"""


async def test_statistics_count_runs_by_status_and_steps_by_outcome(
    shop: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = await save_workflow(shop, UPDATE, HOOK), await save_workflow(shop, WAIT, name="Two")
    now = shop.gateway.services.clock.now()
    for status in ("COMPLETED", "COMPLETED", "FAILED", "PAUSED", "CANCELLED", "QUEUED"):
        await fill(shop, one, 1, status=status)
    [old] = await fill(shop, one, 1, status="COMPLETED", started_at=now - timedelta(days=9))
    outcomes = [("call", "SENT"), ("call", "SENT"), ("call", "SKIPPED_MISSING_CONFIG"), ("gone", "OK"), ("call", None)]
    steps = [
        {"run_id": uuid7(), "workflow_id": uuid_of(one), "label": label, "outcome": outcome}
        for label, outcome in outcomes
    ]
    steps += [{**steps[0], "run_id": uuid_of(old), "started_at": now - timedelta(days=9)}]
    async with shop.gateway.services.database.transaction() as connection:
        await insert_run_steps(connection, shop.project_id, steps, now=now)

    async with counted(shop, monkeypatch) as taken:
        ever = [edge["node"] for edge in (await shop.data(STATS))["workflows"]["edges"]]
    lately = (await shop.data(STATS, since=(now - timedelta(days=1)).isoformat()))["workflows"]["edges"]

    nothing = dict.fromkeys(("started", "queued", "completed", "failed", "running", "paused", "cancelled"), 0)
    assert ever == [
        {"name": "Two", "stats": {**nothing, "steps": [{"label": "rest", "outcomes": {}}]}},
        {
            "name": "Journey",
            "stats": {
                "started": 7,
                "queued": 1,
                "completed": 3,
                "failed": 1,
                "running": 0,
                "paused": 1,
                "cancelled": 1,
                "steps": [
                    {"label": "mark", "outcomes": {}},
                    {"label": "call", "outcomes": {"sent": 3, "skipped-missing-config": 1}},
                    {"label": "gone", "outcomes": {"ok": 1}},
                ],
            },
        },
    ]
    assert lately[1]["node"]["stats"]["started"] == 6
    assert lately[1]["node"]["stats"]["steps"][1]["outcomes"] == {"sent": 2, "skipped-missing-config": 1}
    # The list of workflows, and the counts of both together.
    assert len(taken) == 2
    assert two != one


async def test_statistics_since_a_year_that_only_a_mistake_writes_are_refused(shop: Tenant) -> None:
    await save_workflow(shop, UPDATE)
    assert await shop.codes(STATS, since="0001-01-01T00:00:00Z") == ["BAD_USER_INPUT"]


def test_a_summary_has_every_status_and_the_steps_in_their_order() -> None:
    workflow_id = uuid4()
    summary = summarise(
        [RunCount(workflow_id, "FAILED", 2)],
        [OutcomeCount(workflow_id, "b", "OK", 1), OutcomeCount(workflow_id, "a", "AI_PENDING", 3)],
        ["a", "b", "c"],
    )
    assert summary.by_status == {**dict.fromkeys(RunStatus, 0), RunStatus.FAILED: 2}
    assert [(step.label, step.outcomes) for step in summary.steps] == [
        ("a", {"ai_pending": 3}),
        ("b", {"ok": 1}),
        ("c", {}),
    ]
