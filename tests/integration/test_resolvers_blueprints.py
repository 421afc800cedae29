"""Blueprints and drafts over GraphQL: what comes out can be sent back, and what is wrong is said where it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from engine.workflows.blueprints import BLUEPRINTS
from engine.workflows.validation import unparse_definition
from tests.integration.graphql_support import Gateway, open_gateway

LIST = """{ workflowBlueprints {
  key name description trigger { eventType filters reentry schedule { cron timezone } }
  steps { label type config delayMinutes next }
} }"""
TRY = """mutation ($input: TestRunWorkflowInput!) { testRunWorkflow(input: $input) {
  matched status error trace { label type outcome outcomeCode startedAt finishedAt input delivery { id } }
  userErrors { code path message }
} }"""


@pytest.fixture
async def gateway(database_url: str, redis_url: str) -> AsyncIterator[Gateway]:
    async with open_gateway(database_url, redis_url) as opened:
        yield opened


def without_nulls(value: Any) -> Any:
    """As somebody would send it who leaves out what is not set."""
    if isinstance(value, dict):
        return {key: without_nulls(member) for key, member in value.items() if member is not None}
    return value


async def test_blueprints_come_out_in_the_shape_of_the_input(gateway: Gateway) -> None:
    listed = (await (await gateway.tenant()).data(LIST))["workflowBlueprints"]
    assert [each["key"] for each in listed] == list(BLUEPRINTS)
    for each, blueprint in zip(listed, BLUEPRINTS.values(), strict=True):
        written = {key: each[key] for key in ("name", "description")} | {
            "trigger": without_nulls(each["trigger"]),
            "steps": [without_nulls(step) for step in each["steps"]],
        }
        assert written == unparse_definition(blueprint.definition)


async def test_a_blueprint_can_be_tried_as_it_came_out(gateway: Gateway) -> None:
    shop = await gateway.tenant()
    properties = {"status": "trialing", "resetUrl": "https://a.example/reset"}
    for each in (await shop.data(LIST))["workflowBlueprints"]:
        draft = {key: each[key] for key in ("name", "description", "trigger", "steps")}
        event_type = each["trigger"]["eventType"] or "birthday"
        sample = {"draft": draft, "eventType": event_type, "userId": "ada", "properties": properties}
        tried = (await shop.data(TRY, input=sample))["testRunWorkflow"]
        if each["trigger"]["schedule"] is None:
            assert tried["userErrors"] == []
            assert (tried["matched"], tried["trace"][0]["label"]) == (True, each["steps"][0]["label"])
        else:
            # It has no audience until it is cloned.
            assert [error["path"] for error in tried["userErrors"]] == [["input", "draft", "trigger", "audienceId"]]


async def test_what_is_wrong_with_a_draft_is_said_where_it_is(gateway: Gateway) -> None:
    draft = {
        "trigger": {"eventType": "order.placed", "filters": [{"path": "order.total", "op": "EXISTS"}]},
        "steps": [
            {"type": "SEND_SMS", "config": {"bdy": "hi"}},
            {"type": "WEBHOOK", "config": {"url": "http://127.0.0.1/", "body": ["{{ user.name"]}, "next": "nowhere"},
        ],
    }
    sample = {"draft": draft, "eventType": "order.placed"}
    tried = (await (await gateway.tenant()).data(TRY, input=sample))["testRunWorkflow"]
    assert (tried["matched"], tried["status"], tried["trace"]) == (False, None, [])
    assert [(error["code"], ".".join(error["path"])) for error in tried["userErrors"]] == [
        ("INVALID", "input.draft.trigger.filters.0.path"),
        ("INVALID", "input.draft.steps.0.config.bdy"),
        ("INVALID", "input.draft.steps.1.next"),
        ("BLOCKED_URL", "input.draft.steps.1.config.url"),
        ("INVALID", "input.draft.steps.1.config.body.0"),
    ]


async def test_a_draft_is_tried_in_virtual_time_and_a_label_is_made_for_each_step(gateway: Gateway) -> None:
    draft = {
        "trigger": {"eventType": "order.*"},
        "steps": [
            {"type": "WAIT", "config": {}, "delayMinutes": 60},
            {"type": "UPDATE_PROFILE", "config": {"traits": {"last": "{{ event.id }}"}}},
        ],
    }
    sample = {"draft": draft, "eventType": "order.placed", "userId": "ada", "properties": {"id": "A-7"}}
    tried = (await (await gateway.tenant()).data(TRY, input=sample))["testRunWorkflow"]
    assert (tried["userErrors"], tried["matched"], tried["status"], tried["error"]) == ([], True, "COMPLETED", None)
    wait, update = tried["trace"]
    assert (wait["label"], wait["outcome"], wait["outcomeCode"]) == ("wait_1", "WAITED", "waited")
    assert (update["label"], update["outcome"], update["input"]) == (
        "update_profile_1",
        "OK",
        {"traits": {"last": "A-7"}},
    )
    assert update["startedAt"] > wait["startedAt"]
    assert wait["delivery"] is None
