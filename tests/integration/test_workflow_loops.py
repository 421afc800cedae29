"""Workflows that start each other, through what they say of themselves, what they change and what they send: they stop
at the bound, and the last run says why."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from engine.dispatch.ledger import MAX_DEPTH
from tests.integration.run_support import SAVE_WORKFLOW
from tests.integration.worker_support import Store, open_store

WHY = f"Workflows that start each other stop after {MAX_DEPTH}."
RUNS = """{ workflowRuns(first: 100) { edges { node { status error workflow { name } trace { label outcome } } } } }"""
FAILURES = """{ events(first: 10, filter: {eventTypes: ["automation.run_failed"]}) {
  edges { node { properties context } }
} }"""
MARK = {"label": "mark", "type": "UPDATE_PROFILE", "config": {"traits": {"marked": "{{ run.workflow }}"}}}
WAIT = {"label": "wait", "type": "WAIT", "config": {}, "delayMinutes": 30}
MAIL = {"label": "mail", "type": "SEND_EMAIL", "config": {"to": "{{ user.email }}", "subject": "s", "bodyText": "b"}}


@pytest.fixture
async def store(module_database_url: str, redis_url: str) -> AsyncIterator[Store]:
    async with open_store(module_database_url, redis_url) as store:
        await store.configure()
        await store.identify({"ada": {"email": "ada@example.org"}})
        await store.work()
        yield store


async def save(store: Store, name: str, event_type: str, *steps: dict[str, Any], of: Sequence[str] = ()) -> None:
    """A workflow that is on. `of`: only what the workflows of these names say of themselves starts it."""
    filters = [{"path": "event.properties.workflowName", "op": "IN", "value": of}] if of else []
    trigger = {"eventType": event_type, "filters": filters}
    await store.data(SAVE_WORKFLOW, input={"name": name, "trigger": trigger, "steps": list(steps), "isActive": True})


async def chain(store: Store) -> list[tuple[str, str, str | None]]:
    """Once everything is done: workflow, status and error of all runs, in the order in which they began."""
    await store.track([{"eventType": "order.placed", "userId": "ada"}])
    await store.pass_time(timedelta(days=2))
    edges = (await store.data(RUNS))["edges"]
    nodes = [edge["node"] for edge in reversed(edges)]
    assert all(node["trace"] for node in nodes if node["status"] == "COMPLETED")
    assert all(node["trace"] == [] for node in nodes if node["status"] == "FAILED")
    return [(node["workflow"]["name"], node["status"], node["error"]) for node in nodes]


def stopped(*names: str) -> list[tuple[str, str, str | None]]:
    """Runs of these workflows, of which the last is one too deep."""
    return [*((name, "COMPLETED", None) for name in names[:-1]), (names[-1], "FAILED", WHY)]


async def test_one_that_what_it_changes_starts_again(store: Store) -> None:
    await save(store, "first", "order.placed", MARK)
    await save(store, "again", "profile.updated", WAIT, MARK)

    assert await chain(store) == stopped("first", *["again"] * (MAX_DEPTH + 1))
    [failure] = [edge["node"] for edge in (await store.data(FAILURES))["edges"]]
    assert (failure["properties"]["error"], failure["properties"]["workflowName"]) == (WHY, "again")
    assert failure["context"]["depth"] == MAX_DEPTH + 2


async def test_two_that_start_each_other_by_ending(store: Store) -> None:
    await save(store, "first", "order.placed", MARK)
    await save(store, "ping", "automation.run_completed", WAIT, of=["first", "pong"])
    await save(store, "pong", "automation.step_completed", WAIT, of=["ping"])

    assert await chain(store) == stopped("first", *["ping", "pong"] * (MAX_DEPTH // 2), "ping")


async def test_one_that_its_own_mail_starts_again(store: Store) -> None:
    await save(store, "first", "order.placed", MAIL)
    await save(store, "again", "email.sent", MAIL)

    assert await chain(store) == stopped("first", *["again"] * (MAX_DEPTH + 1))
    assert len(store.smtp.received) == MAX_DEPTH + 1
