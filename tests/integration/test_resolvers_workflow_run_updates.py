"""workflowRunUpdates as a root field: where it starts, what its items show, and what they cost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from uuid_utils.compat import uuid7

from db.workflow_records import NewRunUpdate
from engine.dispatch.ledger import record
from engine.errors import CursorInvalid
from engine.node_ids import NodeKind, write_node_id
from tests.integration.graphql_support import Follower, Gateway, Tenant, open_gateway
from tests.integration.run_support import (
    drain_runs,
    insert_runs,
    new_run_update,
    save_workflow,
    start_run,
    uuid_of,
)

STREAM = """subscription ($filter: WorkflowRunFilter, $after: Cursor) {
  workflowRunUpdates(filter: $filter, after: $after) {
    cursor
    node {
      status at
      step { label type outcome outcomeCode detail startedAt finishedAt input output delivery { id status } }
      run { id status currentStep workflow { name } trace { label } }
    }
  }
}"""
UPDATE = {"label": "mark", "type": "UPDATE_PROFILE", "config": {"traits": {"plan": "pro"}}}
HOOK = {"label": "call", "type": "WEBHOOK", "config": {"url": "https://hooks.example.com/a", "method": "PUT"}}


@pytest.fixture
async def gateway(module_database_url: str, redis_url: str) -> AsyncIterator[Gateway]:
    async with open_gateway(module_database_url, redis_url) as opened:
        yield opened


async def updates(follower: Follower, count: int) -> list[Any]:
    found = [await follower.next() for _ in range(count)]
    assert all("errors" not in each for each in found), found
    return [each["data"]["workflowRunUpdates"] for each in found]


def said(edges: list[Any]) -> list[tuple[str, str | None, str | None]]:
    """Status, and the step's label and outcome, of each."""
    steps = [(edge["node"]["status"], edge["node"]["step"]) for edge in edges]
    return [(status, step and step["label"], step and step["outcome"]) for status, step in steps]


async def head(tenant: Tenant) -> str:
    found: str = (await tenant.data("{ viewer { project { head } } }"))["viewer"]["project"]["head"]
    return found


async def append(tenant: Tenant, *changes: NewRunUpdate) -> None:
    """Items of the lane, announced as whoever changes runs does."""
    services = tenant.gateway.services
    async with services.database.transaction() as connection:
        told = await record(
            connection,
            project_id=tenant.project_id,
            transitions=(),
            events=(),
            run_updates=changes,
            now=services.clock.now(),
        )
    for announcement in told:
        services.announce(announcement)


async def test_each_change_arrives_live_with_the_step_as_of_then_and_the_run_as_it_is_now(shop: Tenant) -> None:
    start = await head(shop)
    follower = await shop.follow(STREAM)
    run_id = await start_run(shop, await save_workflow(shop, UPDATE, HOOK))
    [begun] = await updates(follower, 1)
    assert begun["node"] == {
        "status": "RUNNING",
        "at": begun["node"]["at"],
        "step": None,
        "run": {
            "id": run_id,
            "status": "RUNNING",
            "currentStep": "mark",
            "workflow": {"name": "Journey"},
            "trace": [],
        },
    }

    await drain_runs(shop)
    await shop.data("mutation ($id: ID!) { cancelWorkflowRun(id: $id) { userErrors { code } } }", id=run_id)
    live = await updates(follower, 3)
    # Another document: what was rendered for the first follower is not shown again.
    replayed = await updates(await shop.follow(STREAM.replace("status at", "at status"), after=start), 4)

    marked, calling, cancelled = (edge["node"] for edge in live)
    assert said(live) == [("RUNNING", "mark", "OK"), ("RUNNING", "call", None), ("CANCELLED", "call", "CANCELLED")]
    assert (marked["step"]["input"], marked["step"]["delivery"]) == ({"traits": {"plan": "pro"}}, None)
    assert calling["step"]["finishedAt"] == calling["step"]["startedAt"]
    assert calling["step"]["input"] == {"url": "https://hooks.example.com/a", "method": "PUT"}
    assert (cancelled["step"]["outcomeCode"], cancelled["step"]["detail"]) == ("cancelled", "The run was cancelled.")
    assert cancelled["run"]["trace"] == [{"label": "mark"}, {"label": "call"}]
    # Replayed, the steps are as of then still; what they lead to is as it is now.
    assert said(replayed) == said([begun, *live])
    assert [edge["cursor"] for edge in replayed] == [edge["cursor"] for edge in (begun, *live)]
    assert {edge["node"]["run"]["status"] for edge in replayed} == {"CANCELLED"}
    deliveries = [edge["node"]["step"]["delivery"] for edge in replayed[2:]]
    assert deliveries[0] == deliveries[1]
    assert deliveries[0]["status"] == "CANCELLED"


async def test_every_position_is_a_place_to_go_on_from(shop: Tenant) -> None:
    start = await head(shop)
    workflow = await save_workflow(shop, UPDATE)
    await shop.track(id="one")
    first = await start_run(shop, workflow)
    middle = await head(shop)
    second = await start_run(shop, workflow)
    both = await updates(await shop.follow(STREAM, after=start), 2)
    assert [edge["node"]["run"]["id"] for edge in both] == [first, second]
    followers = [await shop.follow(STREAM, after=after) for after in (middle, both[0]["cursor"])]
    assert [await updates(follower, 1) for follower in followers] == [[both[1]]] * 2
    third = await start_run(shop, workflow)
    for follower in followers:
        [live] = await updates(follower, 1)
        assert live["node"]["run"]["id"] == third
        assert follower.membership is not None
        assert follower.membership.cursor == live["cursor"]


async def test_a_cursor_of_another_stream_is_refused(shop: Tenant) -> None:
    await start_run(shop, await save_workflow(shop, UPDATE))
    deliveries = await shop.follow("subscription { deliveryUpdates { cursor } }")
    with pytest.raises(CursorInvalid):
        await shop.follow(STREAM, after=deliveries.announced[0])
    runs = (await shop.data("{ workflowRuns { edges { cursor } } }"))["workflowRuns"]["edges"]
    with pytest.raises(CursorInvalid):
        await shop.follow(STREAM, after=runs[0]["cursor"])


async def test_a_filter_lets_only_what_it_says_through(shop: Tenant) -> None:
    one, other, wanted = uuid7(), uuid7(), uuid7()
    now = shop.gateway.services.clock.now()
    expected: list[tuple[dict[str, Any], int]] = [
        ({}, 4),
        ({"ids": [write_node_id(NodeKind.WORKFLOW_RUN, wanted)]}, 2),
        ({"workflowId": write_node_id(NodeKind.WORKFLOW, other)}, 1),
        ({"statuses": ["COMPLETED", "FAILED"]}, 2),
        ({"userId": "ada"}, 2),
        ({"since": now.isoformat()}, 4),
        ({"until": now.isoformat()}, 0),
        ({"ids": []}, 0),
    ]
    document = STREAM.replace("run { id status currentStep workflow { name } trace { label } }", "")
    live = [(await shop.follow(document, filter=each), count) for each, count in expected]
    start = await head(shop)
    last = new_run_update(now, workflow_id=one, user_id="last", status="QUEUED")
    await append(
        shop,
        new_run_update(now, run_id=wanted, workflow_id=one, user_id="ada"),
        new_run_update(now, run_id=wanted, workflow_id=one, user_id="ada", status="COMPLETED"),
        new_run_update(now, workflow_id=other, status="FAILED"),
        last,
    )
    replayed = [(await shop.follow(document, filter=each, after=start), count) for each, count in expected]
    everything = await shop.follow(document, after=start)
    await updates(everything, 4)
    for follower, count in (*live, *replayed):
        await updates(follower, count)
        assert follower.items.empty()


async def test_a_burst_costs_a_statement_per_table_not_per_item(shop: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    start = await head(shop)
    workflow = await save_workflow(shop, UPDATE)
    now = shop.gateway.services.clock.now()
    runs = [{"run_id": uuid7(), "workflow_id": uuid_of(workflow)} for _ in range(150)]
    async with shop.gateway.services.database.transaction() as connection:
        await insert_runs(connection, shop.project_id, runs, now=now)
    step = {"number": 1, "step": 0, "label": "mark", "type": "UPDATE_PROFILE", "started_at": now}
    text = msgspec.json.encode(step).decode()
    await append(shop, *(new_run_update(now, **run, step=text) for run in runs))
    database, taken = shop.gateway.services.database, 0
    connection_of = database.connection

    def counting() -> Any:
        nonlocal taken
        taken += 1
        return connection_of()

    monkeypatch.setattr(database, "connection", counting)
    replayed = await updates(await shop.follow(STREAM, after=start), 150)
    # A page or two, and for each a few bursts of renderings: runs, workflows, versions, traces, deliveries of steps.
    assert taken <= 30
    assert {edge["node"]["step"]["label"] for edge in replayed} == {"mark"}


async def test_a_run_that_is_gone_is_said_to_be(shop: Tenant) -> None:
    follower = await shop.follow(STREAM)
    await append(shop, new_run_update(shop.gateway.services.clock.now()))
    item = await follower.next()
    assert item["data"] == {"workflowRunUpdates": None}
    assert [error["extensions"]["code"] for error in item["errors"]] == ["NOT_FOUND"]
