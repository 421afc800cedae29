"""Authoring over the API: what is saved, what is refused and where, and what becomes of it when it is switched."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from db.workflows import read_generation
from engine.node_ids import parse_node_id
from engine.work import Work, WorkKind
from engine.workflows import saving
from engine.workflows.blueprints import BLUEPRINTS
from engine.workflows.definition import Schedule
from engine.workflows.schedules import next_occurrence
from engine.workflows.validation import MAX_NAME_CHARACTERS
from tests.integration.graphql_support import Tenant, open_gateway

SHOWN = """{
  id name description isActive isPaused version createdAt updatedAt
  trigger { eventType filters reentry audience { id name } schedule { cron timezone nextAt } }
  steps { label type config delayMinutes next }
}"""
SAVE = f"""mutation ($input: SaveWorkflowInput!) {{
  saveWorkflow(input: $input) {{ workflow {SHOWN} userErrors {{ code path message }} }}
}}"""
SWITCH = f"""mutation ($id: ID!, $on: Boolean!) {{
  setWorkflowActive(id: $id, isActive: $on) {{ workflow {SHOWN} userErrors {{ code path }} }}
}}"""
PAUSE = f"mutation ($id: ID!) {{ pauseWorkflow(id: $id) {{ workflow {SHOWN} userErrors {{ code path }} }} }}"
RESUME = f"mutation ($id: ID!) {{ resumeWorkflow(id: $id) {{ workflow {SHOWN} userErrors {{ code path }} }} }}"
DELETE = "mutation ($id: ID!) { deleteWorkflow(id: $id) { deletedId userErrors { code path } } }"
CLONE = f"""mutation ($key: String!, $name: String) {{
  cloneBlueprint(key: $key, name: $name) {{ workflow {SHOWN} userErrors {{ code path message }} }}
}}"""
NODE = f"query ($id: ID!) {{ node(id: $id) {{ ... on Workflow {SHOWN} }} }}"
LIST = """query ($first: Int, $after: Cursor, $last: Int, $before: Cursor, $search: String, $isActive: Boolean) {
  workflows(first: $first, after: $after, last: $last, before: $before, search: $search, isActive: $isActive) {
    edges { cursor node { name } } pageInfo { hasNextPage hasPreviousPage startCursor endCursor }
  }
}"""
TRY = """mutation ($input: TestRunWorkflowInput!) {
  testRunWorkflow(input: $input) { matched status trace { label } userErrors { code path } }
}"""
SAVE_AUDIENCE = "mutation ($input: SaveAudienceInput!) { saveAudience(input: $input) { audience { id } } }"
DELETE_AUDIENCE = "mutation ($id: ID!) { deleteAudience(id: $id) { userErrors { code } } }"
SAVE_TEMPLATE = "mutation ($input: SaveTemplateInput!) { saveTemplate(input: $input) { template { id } } }"
DELETE_TEMPLATE = "mutation ($id: ID!) { deleteTemplate(id: $id) { userErrors { code } } }"

HOOK = {"type": "WEBHOOK", "config": {"url": "https://example.com/", "body": {"z": 1, "a": [1.0, True, None]}}}
SMS = {"label": "hello", "type": "SEND_SMS", "config": {"body": "Hi {{ user.name }}"}}
JOURNEY = {"name": "Journey", "trigger": {"eventType": "order.placed"}, "steps": [SMS]}


@pytest.fixture
async def shop(database_url: str) -> AsyncIterator[Tenant]:
    async with open_gateway(database_url) as gateway:
        yield await gateway.tenant()


async def save(shop: Tenant, **given: Any) -> Any:
    """The workflow, which must have been saved."""
    payload = (await shop.data(SAVE, input=given))["saveWorkflow"]
    assert payload["userErrors"] == []
    return payload["workflow"]


async def refused(shop: Tenant, **given: Any) -> list[tuple[str, str]]:
    """Code and path of everything that is wrong."""
    payload = (await shop.data(SAVE, input=given))["saveWorkflow"]
    assert payload["workflow"] is None
    return [(error["code"], ".".join(error["path"])) for error in payload["userErrors"]]


async def audience(shop: Tenant, name: str = "Pros") -> str:
    where = [{"path": "profile.traits.plan", "op": "EQ", "value": "pro"}]
    node_id: str = (await shop.data(SAVE_AUDIENCE, input={"name": name, "where": where}))["saveAudience"]["audience"][
        "id"
    ]
    return node_id


async def template(shop: Tenant, channel: str = "EMAIL") -> str:
    given = {"name": channel, "channel": channel, "bodyText": "Hi"} | ({"subject": "Hi"} if channel == "EMAIL" else {})
    node_id: str = (await shop.data(SAVE_TEMPLATE, input=given))["saveTemplate"]["template"]["id"]
    return node_id


async def row(shop: Tenant, node_id: str, columns: str) -> Any:
    parsed = parse_node_id(node_id)
    assert parsed is not None
    async with shop.gateway.services.database.connection() as connection:
        found = await connection.fetchrow(
            f"SELECT {columns} FROM workflows WHERE project_id = $1 AND workflow_id = $2",
            shop.project_id,
            parsed.uuid,
        )
    return tuple(found.values())


async def generation(shop: Tenant) -> int:
    async with shop.gateway.services.database.connection() as connection:
        return await read_generation(connection, project_id=shop.project_id)


async def test_a_workflow_is_made_as_it_was_written_and_off(shop: Tenant) -> None:
    trigger = {
        "eventType": "order.placed",
        "filters": [{"path": "event.properties.amount", "op": "GTE", "value": 9.5}],
        "audienceId": await audience(shop),
        "reentry": "ONE_ACTIVE_RUN",
    }
    wait = {"label": "pause", "type": "WAIT", "config": {"reason": "why"}, "delayMinutes": 60.5, "next": "hello"}
    made = await save(shop, name="Journey", description="For all.", trigger=trigger, steps=[SMS, HOOK, wait])

    assert (made["name"], made["description"], made["version"]) == ("Journey", "For all.", 1)
    assert (made["isActive"], made["isPaused"]) == (False, False)
    assert made["createdAt"] == made["updatedAt"]
    assert made["trigger"] == {
        "eventType": "order.placed",
        "filters": trigger["filters"],
        "reentry": "ONE_ACTIVE_RUN",
        "audience": {"id": trigger["audienceId"], "name": "Pros"},
        "schedule": None,
    }
    assert made["steps"] == [
        SMS | {"delayMinutes": None, "next": None},
        {"label": "webhook_1", "delayMinutes": None, "next": None}
        | HOOK
        | {"config": {"url": "https://example.com/", "method": "POST", "body": {"z": 1, "a": [1.0, True, None]}}},
        wait,
    ]
    assert await shop.data(NODE, id=made["id"]) == {"node": made}


async def test_what_comes_out_can_be_sent_back_and_is_the_same(shop: Tenant) -> None:
    made = await save(shop, **JOURNEY | {"steps": [SMS, HOOK]})
    before = await generation(shop)
    again = await save(shop, id=made["id"], name=made["name"], steps=made["steps"])
    assert again == made
    assert await generation(shop) == before


async def test_followers_begin_with_the_first_workflow_where_the_log_stands(shop: Tenant) -> None:
    await shop.track(eventType="order.placed")
    await save(shop, **JOURNEY)
    await shop.track(eventType="order.placed")
    await save(shop, **JOURNEY | {"name": "Another"})
    async with shop.gateway.services.database.connection() as connection:
        found = await connection.fetch(
            "SELECT follower, lane, position FROM log_followers WHERE project_id = $1 ORDER BY follower",
            shop.project_id,
        )
    assert [tuple(each.values()) for each in found] == [("workflow_runs", 2, 0), ("workflows", 1, 1)]


async def test_everything_that_is_wrong_is_said_below_input_and_nothing_is_saved(shop: Tenant) -> None:
    steps = [
        {"type": "SEND_SMS", "config": {"bdy": "hi"}, "next": "nowhere"},
        {"type": "WEBHOOK", "config": {"url": "http://127.0.0.1/"}},
    ]
    schedule = {"cron": "0 9 30 2 *", "timezone": "Berlin"}
    assert await refused(shop, name=" ", trigger={"schedule": schedule}, steps=steps) == [
        ("INVALID", "input.name"),
        ("INVALID", "input.trigger.schedule.cron"),
        ("INVALID", "input.trigger.schedule.timezone"),
        ("INVALID", "input.trigger.audienceId"),
        ("INVALID", "input.steps.0.next"),
        ("INVALID", "input.steps.0.config.bdy"),
        ("BLOCKED_URL", "input.steps.1.config.url"),
    ]
    assert await refused(shop) == [
        ("INVALID", "input.name"),
        ("INVALID", "input.trigger"),
        ("INVALID", "input.steps"),
    ]
    assert (await shop.data(LIST))["workflows"]["edges"] == []
    assert await generation(shop) == 0


async def test_a_misspelt_key_is_answered_with_the_nearest(shop: Tenant) -> None:
    steps = [{"type": "SEND_PUSH", "config": {"titel": "Hi", "body": "b"}}]
    [error] = (await shop.data(SAVE, input=JOURNEY | {"steps": steps}))["saveWorkflow"]["userErrors"]
    assert error["path"] == ["input", "steps", "0", "config", "titel"]
    assert "did you mean title?" in error["message"]


async def test_a_change_leaves_what_is_absent_and_null_clears(shop: Tenant) -> None:
    made = await save(shop, **JOURNEY, description="For all.", isActive=True)
    named = await save(shop, id=made["id"], name="Path")
    assert named == made | {"name": "Path", "version": 2, "updatedAt": named["updatedAt"]}
    assert named["updatedAt"] > made["updatedAt"]

    cleared = await save(shop, id=made["id"], description=None, isActive=None, expectedVersion=None)
    assert (cleared["description"], cleared["isActive"], cleared["version"]) == (None, False, 3)

    changed = await save(shop, id=made["id"], trigger={"eventType": "a.b"}, steps=[HOOK])
    assert (changed["trigger"]["eventType"], len(changed["steps"]), changed["version"]) == ("a.b", 1, 4)
    assert await refused(shop, id=made["id"], name=None, trigger=None, steps=None) == [
        ("INVALID", "input.name"),
        ("INVALID", "input.trigger"),
        ("INVALID", "input.steps"),
    ]


async def test_a_version_once_saved_is_kept(shop: Tenant) -> None:
    made = await save(shop, **JOURNEY)
    await save(shop, id=made["id"], name="Path")
    async with shop.gateway.services.database.connection() as connection:
        found = await connection.fetch(
            "SELECT version, definition FROM workflow_versions WHERE project_id = $1 ORDER BY version", shop.project_id
        )
    assert [(each["version"], msgspec.json.decode(each["definition"])["name"]) for each in found] == [
        (1, "Journey"),
        (2, "Path"),
    ]


async def test_a_value_of_another_type_is_a_change_and_another_order_of_members_is_none(shop: Tenant) -> None:
    steps = [{"type": "UPDATE_PROFILE", "config": {"traits": {"a": 1, "b": 2}}}]
    made = await save(shop, **JOURNEY | {"steps": steps})
    same = [{"type": "UPDATE_PROFILE", "config": {"traits": {"b": 2, "a": 1}}}]
    assert (await save(shop, id=made["id"], steps=same))["version"] == 1
    other = [{"type": "UPDATE_PROFILE", "config": {"traits": {"a": True, "b": 2}}}]
    assert (await save(shop, id=made["id"], steps=other))["version"] == 2


async def test_a_lost_update_is_refused(shop: Tenant) -> None:
    made = await save(shop, **JOURNEY)
    await save(shop, id=made["id"], name="Theirs", expectedVersion=1)

    payload = (await shop.data(SAVE, input={"id": made["id"], "name": "Mine", "expectedVersion": 1}))["saveWorkflow"]
    [error] = payload["userErrors"]
    assert (error["code"], error["path"]) == ("CONFLICT", ["input", "expectedVersion"])
    assert "its version is 2, not 1" in error["message"]
    # Also one that would change nothing: whoever saves it has not seen what is stored.
    assert await refused(shop, id=made["id"], name="Theirs", expectedVersion=1) == [
        ("CONFLICT", "input.expectedVersion")
    ]
    assert await refused(shop, **JOURNEY, expectedVersion=1) == [("INVALID", "input.expectedVersion")]
    assert (await shop.data(NODE, id=made["id"]))["node"]["name"] == "Theirs"


async def test_a_name_is_one_workflows_until_that_is_deleted(shop: Tenant) -> None:
    made = await save(shop, **JOURNEY)
    other = await save(shop, **JOURNEY | {"name": "Other"})
    assert await refused(shop, **JOURNEY) == [("CONFLICT", "input.name")]
    assert await refused(shop, id=other["id"], name="Journey") == [("CONFLICT", "input.name")]
    await save(shop, id=made["id"], name="Journey")

    await shop.data(DELETE, id=made["id"])
    await save(shop, id=other["id"], name="Journey")


@pytest.mark.parametrize("node_id", ["", "wfl_x", "tpl_" + "0" * 32, "wfl_" + "0" * 32])
async def test_an_unknown_workflow_is_not_found(shop: Tenant, node_id: str) -> None:
    assert await refused(shop, id=node_id, name="a") == [("NOT_FOUND", "input.id")]
    for document, variables in ((SWITCH, {"on": True}), (PAUSE, {}), (RESUME, {}), (DELETE, {})):
        [payload] = (await shop.data(document, id=node_id, **variables)).values()
        assert payload["userErrors"] == [{"code": "NOT_FOUND", "path": ["id"]}]
    assert shop.gateway.woken == []


async def test_templates_and_audiences_must_be_there_when_they_are_named(shop: Tenant) -> None:
    template_id, for_sms, audience_id = await template(shop), await template(shop, "SMS"), await audience(shop)

    def mail(node_id: str) -> dict[str, Any]:
        return {"type": "SEND_EMAIL", "config": {"to": "a@b.co", "templateId": node_id}}

    trigger = {"eventType": "a.b", "audienceId": audience_id}
    made = await save(shop, name="Journey", trigger=trigger, steps=[mail(template_id)])
    await shop.data(DELETE_TEMPLATE, id=template_id)
    await shop.data(DELETE_AUDIENCE, id=audience_id)
    assert await refused(shop, name="New", trigger=trigger, steps=[SMS, mail(template_id), mail(for_sms)]) == [
        ("NOT_FOUND", "input.trigger.audienceId"),
        ("NOT_FOUND", "input.steps.1.config.templateId"),
        ("NOT_FOUND", "input.steps.2.config.templateId"),
    ]
    # What stays as it is is not looked at again.
    renamed = await save(shop, id=made["id"], name="Path")
    assert renamed["trigger"]["audience"] is None


async def test_switched_on_it_begins_with_what_comes_next(shop: Tenant) -> None:
    made = await save(shop, **JOURNEY)
    await shop.track()
    on = (await shop.data(SWITCH, id=made["id"], on=True))["setWorkflowActive"]["workflow"]
    assert on == made | {"isActive": True, "updatedAt": on["updatedAt"]}
    assert await row(shop, made["id"], "after_seq") == (1,)

    before = await generation(shop)
    await shop.track()
    assert (await shop.data(SWITCH, id=made["id"], on=True))["setWorkflowActive"]["workflow"] == on
    assert (await row(shop, made["id"], "after_seq"), await generation(shop)) == ((1,), before)

    off = await save(shop, id=made["id"], isActive=False)
    assert (off["isActive"], off["version"], await generation(shop)) == (False, 1, before + 1)
    await save(shop, id=made["id"], isActive=True)
    assert await row(shop, made["id"], "after_seq") == (2,)
    made_on = await save(shop, **JOURNEY | {"name": "Other"}, isActive=True)
    assert await row(shop, made_on["id"], "is_active, after_seq") == (True, 2)


async def test_a_schedule_is_due_while_it_is_on(shop: Tenant) -> None:
    def due(cron: str, zone: str = "UTC") -> datetime | None:
        return next_occurrence(Schedule(cron, zone), shop.gateway.services.clock.now())

    trigger = {"schedule": {"cron": "0 9 1 1 *", "timezone": "Europe/Berlin"}, "audienceId": await audience(shop)}
    made = await save(shop, **JOURNEY | {"trigger": trigger})
    yearly = due("0 9 1 1 *", "Europe/Berlin")
    assert yearly is not None
    assert made["trigger"]["schedule"]["nextAt"] == yearly.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert await row(shop, made["id"], "next_due_at") == (None,)

    await save(shop, id=made["id"], isActive=True)
    assert await row(shop, made["id"], "next_due_at") == (yearly,)
    other = trigger | {"schedule": {"cron": "0 9 1 7 *"}}
    changed = await save(shop, id=made["id"], trigger=other)
    assert (changed["isActive"], await row(shop, made["id"], "next_due_at")) == (True, (due("0 9 1 7 *"),))
    await shop.data(SWITCH, id=made["id"], on=False)
    assert await row(shop, made["id"], "next_due_at") == (None,)


async def test_what_is_due_already_stays_due_when_something_else_is_saved(shop: Tenant) -> None:
    trigger = {"schedule": {"cron": "* * * * *"}, "audienceId": await audience(shop)}
    made = await save(shop, **JOURNEY | {"trigger": trigger}, isActive=True)
    before = await row(shop, made["id"], "next_due_at")
    shop.gateway.services.clock.advance(timedelta(hours=1))  # type: ignore[attr-defined]
    await save(shop, id=made["id"], name="Path", trigger=trigger, isActive=True)
    assert await row(shop, made["id"], "next_due_at") == before


async def test_a_workflow_whose_audience_was_deleted_is_not_switched_on(shop: Tenant) -> None:
    audience_id = await audience(shop)
    made = await save(shop, **JOURNEY | {"trigger": {"eventType": "a.b", "audienceId": audience_id}})
    await shop.data(DELETE_AUDIENCE, id=audience_id)
    payload = (await shop.data(SWITCH, id=made["id"], on=True))["setWorkflowActive"]
    assert payload == {"workflow": None, "userErrors": [{"code": "STATE", "path": ["isActive"]}]}
    assert await refused(shop, id=made["id"], isActive=True) == [("STATE", "input.isActive")]

    trigger = {"eventType": "a.b", "audienceId": await audience(shop, "Others")}
    assert (await save(shop, id=made["id"], isActive=True, trigger=trigger))["isActive"] is True


async def test_a_paused_workflow_is_released_when_it_is_resumed(shop: Tenant) -> None:
    made = await save(shop, **JOURNEY, isActive=True)
    assert (await shop.data(RESUME, id=made["id"]))["resumeWorkflow"]["workflow"] == made
    assert await row(shop, made["id"], "is_paused, pending_change") == (False, None)

    paused = (await shop.data(PAUSE, id=made["id"]))["pauseWorkflow"]["workflow"]
    assert paused == made | {"isPaused": True, "updatedAt": paused["updatedAt"]}
    before = await generation(shop)
    assert (await shop.data(PAUSE, id=made["id"]))["pauseWorkflow"]["workflow"] == paused
    assert (await row(shop, made["id"], "is_paused, pending_change"), await generation(shop)) == ((True, None), before)

    resumed = (await shop.data(RESUME, id=made["id"]))["resumeWorkflow"]["workflow"]
    assert (resumed["isPaused"], resumed["isActive"], resumed["version"]) == (False, True, 1)
    assert await row(shop, made["id"], "is_paused, pending_change") == (False, "RELEASE")
    assert shop.gateway.woken[-1] == Work(WorkKind.RUNS, shop.project_id)
    # Paused again before that was done: what is held stays held.
    await shop.data(PAUSE, id=made["id"])
    assert await row(shop, made["id"], "is_paused, pending_change") == (True, None)


async def test_a_deleted_workflow_is_in_no_list_and_its_runs_are_cancelled(shop: Tenant) -> None:
    trigger = {"schedule": {"cron": "* * * * *"}, "audienceId": await audience(shop)}
    made = await save(shop, **JOURNEY | {"trigger": trigger}, isActive=True)
    await shop.data(PAUSE, id=made["id"])
    before = await generation(shop)
    assert (await shop.data(DELETE, id=made["id"]))["deleteWorkflow"] == {"deletedId": made["id"], "userErrors": []}

    columns = "is_active, pending_change, next_due_at, deleted_at IS NOT NULL"
    assert await row(shop, made["id"], columns) == (False, "CANCEL", None, True)
    assert await generation(shop) == before + 1
    assert shop.gateway.woken[-1] == Work(WorkKind.RUNS, shop.project_id)
    assert (await shop.data(LIST))["workflows"]["edges"] == []
    assert await shop.data(NODE, id=made["id"]) == {"node": None}
    again = (await shop.data(DELETE, id=made["id"]))["deleteWorkflow"]
    assert again == {"deletedId": None, "userErrors": [{"code": "NOT_FOUND", "path": ["id"]}]}
    assert await refused(shop, id=made["id"], name="a") == [("NOT_FOUND", "input.id")]
    # Nothing of its schedule keeps anyone from deleting the audience.
    assert (await shop.data(DELETE_AUDIENCE, id=trigger["audienceId"]))["deleteAudience"]["userErrors"] == []


async def test_a_project_has_a_number_of_workflows_at_most(shop: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "MAX_WORKFLOWS", 2)
    made = await save(shop, **JOURNEY)
    await save(shop, **JOURNEY | {"name": "Second"})
    assert await refused(shop, **JOURNEY | {"name": "Third"}) == [("LIMIT_EXCEEDED", "input")]
    await save(shop, id=made["id"], name="First")
    await shop.data(DELETE, id=made["id"])
    await save(shop, **JOURNEY | {"name": "Third"})


async def test_the_list_goes_both_ways_newest_first(shop: Tenant) -> None:
    for number in range(5):
        await save(shop, **JOURNEY | {"name": f"{number}"})

    async def page(**arguments: Any) -> tuple[list[str], Any]:
        found = (await shop.data(LIST, **arguments))["workflows"]
        return [edge["node"]["name"] for edge in found["edges"]], found["pageInfo"]

    names, info = await page(first=2)
    assert (names, info["hasNextPage"], info["hasPreviousPage"]) == (["4", "3"], True, False)
    names, info = await page(first=2, after=info["endCursor"])
    assert (names, info["hasNextPage"], info["hasPreviousPage"]) == (["2", "1"], True, True)
    names, back = await page(last=1, before=info["startCursor"])
    assert (names, back["hasNextPage"], back["hasPreviousPage"]) == (["3"], True, True)
    names, info = await page(first=2, after=info["endCursor"])
    assert (names, info["hasNextPage"]) == (["0"], False)
    names, info = await page(last=2)
    assert (names, info["hasNextPage"], info["hasPreviousPage"]) == (["1", "0"], False, True)


async def test_the_list_is_searched_by_name_and_by_what_is_on(shop: Tenant) -> None:
    await save(shop, **JOURNEY | {"name": "100% off_Ä"}, isActive=True)
    await save(shop, **JOURNEY | {"name": "Welcome"})

    async def names(**arguments: Any) -> list[str]:
        return [edge["node"]["name"] for edge in (await shop.data(LIST, **arguments))["workflows"]["edges"]]

    assert await names(search="WELC") == ["Welcome"]
    assert await names(search="0% off_ä") == ["100% off_Ä"]
    assert await names(search="%") == ["100% off_Ä"]
    assert await names(isActive=True) == ["100% off_Ä"]
    assert await names(isActive=False, search="off") == []
    assert await shop.codes(LIST, search="a\0") == ["BAD_USER_INPUT"]


async def clone(shop: Tenant, **arguments: Any) -> Any:
    return (await shop.data(CLONE, **arguments))["cloneBlueprint"]


async def test_each_blueprint_is_cloned_off_with_its_audience_as_often_as_one_likes(shop: Tenant) -> None:
    for key, blueprint in BLUEPRINTS.items():
        for number in ("", " 2", " 3"):
            made = (await clone(shop, key=key))["workflow"]
            assert (made["name"], made["isActive"]) == (f"{blueprint.definition.name}{number}", False)
            assert len(made["steps"]) == len(blueprint.definition.steps)
            held = made["trigger"]["audience"]
            if blueprint.audience is None:
                assert held is None
                assert made["trigger"]["eventType"] == blueprint.definition.trigger.event_type
            else:
                assert held["name"] == f"{blueprint.audience.name}{number}"
                on = (await shop.data(SWITCH, id=made["id"], on=True))["setWorkflowActive"]["workflow"]
                assert on["trigger"]["schedule"]["nextAt"] > datetime.now(UTC).isoformat()[:19]


async def test_the_audience_of_a_clone_is_what_the_blueprint_shows(shop: Tenant) -> None:
    document = "{ workflowBlueprints { key audience { name where } trigger { schedule { nextAt } } } }"
    listed = (await shop.data(document))["workflowBlueprints"]
    shown = {each["key"]: each["audience"] for each in listed if each["audience"] is not None}
    assert shown.keys() == {"re_engagement", "birthday"}
    times = [each["trigger"]["schedule"]["nextAt"] for each in listed if each["audience"] is not None]
    assert [time[10:] for time in times] == ["T10:00:00Z", "T09:00:00Z"]
    for key, expected in shown.items():
        held = (await clone(shop, key=key))["workflow"]["trigger"]["audience"]
        found = await shop.data("query ($id: ID!) { node(id: $id) { ... on Audience { name where } } }", id=held["id"])
        assert found["node"] == expected


async def test_a_clone_may_have_a_name_of_ones_own(shop: Tenant) -> None:
    made = (await clone(shop, key="birthday", name="Many happy returns"))["workflow"]
    assert (made["name"], made["trigger"]["audience"]["name"]) == ("Many happy returns", "Birthday today")

    for name, code in (
        ("Many happy returns", "CONFLICT"),
        (" ", "INVALID"),
        ("x" * (MAX_NAME_CHARACTERS + 1), "INVALID"),
    ):
        [error] = (await clone(shop, key="birthday", name=name))["userErrors"]
        assert (error["code"], error["path"]) == (code, ["name"])
    # What was refused has left no audience behind.
    counted = await shop.data("{ audiences { edges { node { name } } } }")
    assert [edge["node"]["name"] for edge in counted["audiences"]["edges"]] == ["Birthday today"]


async def test_an_unknown_blueprint_is_answered_with_the_nearest(shop: Tenant) -> None:
    [error] = (await clone(shop, key="brithday"))["userErrors"]
    assert (error["code"], error["path"]) == ("NOT_FOUND", ["key"])
    assert "did you mean birthday?" in error["message"]


async def test_a_saved_workflow_is_tried_in_its_newest_version(shop: Tenant) -> None:
    made = await save(shop, **JOURNEY)
    sample = {"workflowId": made["id"], "eventType": "order.placed", "userId": "ada"}
    assert (await shop.data(TRY, input=sample))["testRunWorkflow"]["trace"] == [{"label": "hello"}]
    wait = {"label": "pause", "type": "WAIT", "config": {}, "delayMinutes": 60}
    await save(shop, id=made["id"], steps=[wait])
    tried = (await shop.data(TRY, input=sample))["testRunWorkflow"]
    assert (tried["matched"], tried["status"], tried["trace"]) == (True, "COMPLETED", [{"label": "pause"}])

    await shop.data(DELETE, id=made["id"])
    gone = (await shop.data(TRY, input=sample))["testRunWorkflow"]
    assert gone["userErrors"] == [{"code": "NOT_FOUND", "path": ["input", "workflowId"]}]


async def test_a_test_run_starts_for_members_of_the_audience_only(shop: Tenant) -> None:
    identify = "mutation ($input: IdentifyInput!) { identify(input: $input) { userErrors { code } } }"
    await shop.data(identify, input={"userId": "ada", "traits": {"plan": "pro"}})
    await shop.data(identify, input={"userId": "bob", "traits": {"plan": "free"}})
    audience_id = await audience(shop)
    for trigger in ({"eventType": "a.b"}, {"schedule": {"cron": "0 9 * * *"}}):
        made = await save(shop, name=f"{[*trigger]}", trigger={**trigger, "audienceId": audience_id}, steps=[SMS])
        matched = {}
        for user_id in ("ada", "bob", "nobody", None):
            sample = {"workflowId": made["id"], "eventType": "a.b", "userId": user_id}
            matched[user_id] = (await shop.data(TRY, input=sample))["testRunWorkflow"]["matched"]
        assert matched == {"ada": True, "bob": False, "nobody": False, None: False}
