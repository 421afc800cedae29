"""Audiences through the API: saved, listed, looked into and deleted, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from db.consents import write_consent
from engine.audiences import saving
from engine.audiences.membership import members_among, page_members
from engine.node_ids import parse_node_id
from engine.work import Work, WorkKind
from tests.integration.audience_support import AudienceWorker
from tests.integration.graphql_support import Tenant, open_gateway

SAVE = """mutation ($input: SaveAudienceInput!) {
  saveAudience(input: $input) { audience { id name where size createdAt updatedAt } userErrors { code message path } }
}"""
DELETE = "mutation ($id: ID!) { deleteAudience(id: $id) { deletedId userErrors { code message path } } }"
LIST = """query ($first: Int, $after: Cursor, $search: String) {
  audiences(first: $first, after: $after, search: $search) {
    edges { cursor node { id name } } pageInfo { hasNextPage endCursor }
  }
}"""
MEMBERS = """query ($id: ID!, $first: Int, $after: Cursor) {
  node(id: $id) { ... on Audience {
    size
    members(first: $first, after: $after) {
      totalCount edges { cursor node { userId traits } } pageInfo { hasNextPage endCursor }
    }
  } }
}"""
PRO = {"path": "profile.traits.plan", "op": "EQ", "value": "pro"}
BUYERS = {
    "events": {
        "eventType": "order.placed",
        "where": [{"path": "event.properties.amount", "op": "GT", "value": 50}],
        "withinSeconds": 2_592_000,
    },
    "op": "GTE",
    "value": 2,
}


@pytest.fixture
async def shop(module_database_url: str) -> AsyncIterator[Tenant]:
    async with open_gateway(module_database_url) as gateway:
        yield await gateway.tenant()


async def save(tenant: Tenant, **values: Any) -> Any:
    return (await tenant.data(SAVE, input=values))["saveAudience"]


async def saved(tenant: Tenant, name: str, *where: Any) -> Any:
    answer = await save(tenant, name=name, where=list(where))
    assert answer["userErrors"] == []
    return answer["audience"]


async def identify(tenant: Tenant, user_id: str, **traits: Any) -> None:
    document = "mutation ($input: IdentifyInput!) { identify(input: $input) { userErrors { code } } }"
    answer = await tenant.data(document, input={"userId": user_id, "traits": traits})
    assert answer["identify"]["userErrors"] == []


async def members(tenant: Tenant, node_id: str, **page: Any) -> Any:
    return (await tenant.data(MEMBERS, id=node_id, **page))["node"]


async def test_an_audience_is_whoever_meets_its_conditions_now(shop: Tenant) -> None:
    for user_id, plan in (("cy", "pro"), ("ada", "pro"), ("bob", "free")):
        await identify(shop, user_id, plan=plan)

    made = await saved(shop, "Pros", PRO)
    assert (made["name"], made["where"], made["size"]) == ("Pros", [PRO], 2)
    assert made["createdAt"] == made["updatedAt"]

    page = await members(shop, made["id"], first=1)
    assert [edge["node"]["userId"] for edge in page["members"]["edges"]] == ["ada"]
    assert (page["members"]["totalCount"], page["members"]["pageInfo"]["hasNextPage"]) == (2, True)
    rest = await members(shop, made["id"], first=5, after=page["members"]["pageInfo"]["endCursor"])
    assert [edge["node"] for edge in rest["members"]["edges"]] == [{"userId": "cy", "traits": {"plan": "pro"}}]
    assert rest["members"]["pageInfo"]["hasNextPage"] is False

    await identify(shop, "ada", plan="free")
    assert (await members(shop, made["id"]))["size"] == 1


async def test_events_and_consent_decide_too(shop: Tenant) -> None:
    await identify(shop, "ada")
    await identify(shop, "bob")
    agrees = {"path": "profile.consent.email", "op": "EQ", "value": "GRANTED"}
    made = await saved(shop, "Buyers", {"any": [BUYERS, {"not": {"not": agrees}}]})
    assert made["size"] == 0

    for amount in (60, 50, 70):
        await shop.track(userId="ada", properties={"amount": amount})
    clock = shop.gateway.services.clock
    async with shop.gateway.services.database.transaction() as connection:
        await write_consent(
            connection,
            project_id=shop.project_id,
            user_id="bob",
            purpose="EMAIL",
            state="GRANTED",
            source="test",
            now=clock.now(),
        )
    found = await members(shop, made["id"])
    assert [edge["node"]["userId"] for edge in found["members"]["edges"]] == ["ada", "bob"]

    later = clock.now() + timedelta(days=31)
    parsed = parse_node_id(made["id"])
    assert parsed is not None
    async with shop.gateway.services.database.connection() as connection:
        asked = {"project_id": shop.project_id, "audience_id": parsed.uuid, "user_ids": ["ada", "bob", "nobody"]}
        assert await members_among(connection, **asked, now=clock.now()) == {"ada", "bob"}
        assert await members_among(connection, **asked, now=later) == {"bob"}
        everybody: Any = {"project_id": shop.project_id, "conditions": (), "now": later}
        assert await page_members(connection, **everybody, after_user_id=None, limit=1) == ["ada"]
        assert await page_members(connection, **everybody, after_user_id="ada", limit=9) == ["bob"]


async def test_a_person_says_what_they_belong_to(shop: Tenant) -> None:
    await identify(shop, "ada", plan="pro")
    for name, where in (("Zeros", [{"not": PRO}]), ("Pros", [PRO]), ("Everybody", [])):
        await saved(shop, name, *where)

    services = shop.gateway.services
    assert Work(WorkKind.AUDIENCE_CHECKS, shop.project_id) in shop.gateway.woken
    await AudienceWorker(services.database, services.clock).catch_up(shop.project_id)
    found = await shop.data('{ profile(userId: "ada") { audiences { name size } } }')
    assert found["profile"]["audiences"] == [{"name": "Everybody", "size": 1}, {"name": "Pros", "size": 1}]


async def test_what_is_not_given_stays_as_it_is(shop: Tenant) -> None:
    made = await saved(shop, "Pros", PRO)

    renamed = await save(shop, id=made["id"], name="Professionals")
    assert (renamed["audience"]["name"], renamed["audience"]["where"]) == ("Professionals", [PRO])
    assert renamed["audience"]["createdAt"] == made["createdAt"] < renamed["audience"]["updatedAt"]
    widened = await save(shop, id=made["id"], where=[], name=None)
    assert (widened["audience"]["name"], widened["audience"]["where"]) == ("Professionals", [])


async def test_lists_are_by_name_and_can_be_searched(shop: Tenant) -> None:
    for name in ("b", "A", "Ab", "c"):
        await saved(shop, name)

    async def names(**page: Any) -> list[str]:
        listed = (await shop.data(LIST, **page))["audiences"]
        return [edge["node"]["name"] for edge in listed["edges"]]

    assert await names() == ["A", "Ab", "b", "c"]
    assert await names(search="B") == ["Ab", "b"]
    first = (await shop.data(LIST, first=2))["audiences"]
    assert first["pageInfo"]["hasNextPage"] is True
    assert await names(after=first["pageInfo"]["endCursor"]) == ["b", "c"]


REFUSED: list[tuple[dict[str, Any], str, list[str]]] = [
    ({"where": []}, "INVALID", ["input", "name"]),
    ({"name": " ", "where": []}, "INVALID", ["input", "name"]),
    ({"name": "x" * 101, "where": []}, "INVALID", ["input", "name"]),
    ({"name": "x"}, "INVALID", ["input", "where"]),
    ({"name": "x", "where": None}, "INVALID", ["input", "where"]),
    # What belongs to an event belongs to no person.
    ({"name": "x", "where": [{"path": "event.eventType", "op": "EXISTS"}]}, "INVALID", ["input", "where", "0", "path"]),
    ({"name": "x", "where": [{"any": [PRO, {"path": "run.vars.a", "op": "EXISTS"}]}]}, "INVALID", []),
    ({"name": "x", "where": [{**PRO, "op": "GT", "value": True}]}, "INVALID", ["input", "where", "0", "value"]),
    ({"name": "Taken", "where": []}, "CONFLICT", ["input", "name"]),
    ({"id": "aud_x", "name": "x"}, "NOT_FOUND", ["input", "id"]),
    ({"id": "aud_00000000000000000000000000000001", "name": "x"}, "NOT_FOUND", ["input", "id"]),
]


@pytest.mark.parametrize(("values", "code", "path"), REFUSED)
async def test_what_cannot_be_is_refused_and_nothing_is_half_done(
    shop: Tenant, values: dict[str, Any], code: str, path: list[str]
) -> None:
    await saved(shop, "Taken", PRO)
    answer = await save(shop, **values)
    assert answer["audience"] is None
    assert [error["code"] for error in answer["userErrors"]] == [code]
    if path:
        assert answer["userErrors"][0]["path"] == path
    listed = (await shop.data(LIST))["audiences"]
    assert [edge["node"]["name"] for edge in listed["edges"]] == ["Taken"]


async def test_a_name_that_another_has_is_a_conflict_when_it_is_changed(shop: Tenant) -> None:
    await saved(shop, "Taken")
    mine = await saved(shop, "Mine")
    assert (await save(shop, id=mine["id"], name="Taken"))["userErrors"][0]["code"] == "CONFLICT"
    assert (await save(shop, id=mine["id"], name="Mine", where=[PRO]))["userErrors"] == []


async def test_a_project_has_so_many_and_no_more(shop: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "MAX_AUDIENCES", 1)
    await saved(shop, "One")
    assert (await save(shop, name="Two", where=[]))["userErrors"][0]["code"] == "LIMIT_EXCEEDED"


async def test_one_that_was_deleted_is_nowhere_and_its_name_is_free(shop: Tenant) -> None:
    made = await saved(shop, "Pros", PRO)

    deleted = (await shop.data(DELETE, id=made["id"]))["deleteAudience"]
    assert deleted == {"deletedId": made["id"], "userErrors": []}
    assert (await shop.data(LIST))["audiences"]["edges"] == []
    assert (await shop.data("query ($id: ID!) { node(id: $id) { id } }", id=made["id"]))["node"] is None
    assert (await save(shop, id=made["id"], name="Again"))["userErrors"][0]["code"] == "NOT_FOUND"
    again = (await shop.data(DELETE, id=made["id"]))["deleteAudience"]
    assert [error["code"] for error in again["userErrors"]] == ["NOT_FOUND"]
    assert (await saved(shop, "Pros", PRO))["id"] != made["id"]


async def test_one_that_starts_a_workflow_stays_for_as_long_as_that_is_on(shop: Tenant) -> None:
    made = await saved(shop, "Pros", PRO)
    parsed = parse_node_id(made["id"])
    assert parsed is not None
    async with shop.gateway.services.database.connection() as connection:
        await connection.execute(
            """WITH made AS (
                 INSERT INTO workflows (project_id, workflow_id, name, is_active, version, created_at, updated_at)
                 VALUES ($1, $2, 'Welcome', true, 1, now(), now()) RETURNING project_id, workflow_id
               )
               INSERT INTO workflow_versions (project_id, workflow_id, version, definition, created_at)
               SELECT project_id, workflow_id, 1,
                 json_build_object('trigger', json_build_object('audience_id', $3::text)),
                 now()
               FROM made""",
            shop.project_id,
            parsed.uuid,
            str(parsed.uuid),
        )
    refused = (await shop.data(DELETE, id=made["id"]))["deleteAudience"]
    assert refused["deletedId"] is None
    [error] = refused["userErrors"]
    assert (error["code"], error["path"]) == ("STATE", ["id"])
    assert "Welcome" in error["message"]

    async with shop.gateway.services.database.connection() as connection:
        await connection.execute("UPDATE workflows SET is_active = false WHERE project_id = $1", shop.project_id)
    assert (await shop.data(DELETE, id=made["id"]))["deleteAudience"]["userErrors"] == []


async def test_one_that_insights_ask_about_stays_for_as_long_as_they_do(shop: Tenant) -> None:
    made = await saved(shop, "Pros", PRO)
    asked = {"event": {"eventType": "order.placed"}, "audienceId": made["id"]}
    insight = (await shop.data(SAVE_INSIGHT, input={"name": "Orders of pros", "trend": asked}))["saveInsight"][
        "insight"
    ]

    [error] = (await shop.data(DELETE, id=made["id"]))["deleteAudience"]["userErrors"]
    assert (error["code"], error["path"]) == ("STATE", ["id"])
    assert "Orders of pros" in error["message"]

    await shop.data("mutation ($id: ID!) { deleteInsight(id: $id) { deletedId } }", id=insight["id"])
    assert (await shop.data(DELETE, id=made["id"]))["deleteAudience"]["userErrors"] == []


SAVE_INSIGHT = "mutation ($input: SaveInsightInput!) { saveInsight(input: $input) { insight { id } } }"
CHANGES = """subscription ($id: ID!, $after: Cursor) {
  audienceChanges(audienceId: $id, after: $after) { cursor node { userId entered at audience { name } } }
}"""


async def test_who_comes_and_goes_is_followed_live_and_from_a_cursor(database_url: str, redis_url: str) -> None:
    async with open_gateway(database_url, redis_url) as gateway:
        shop = await gateway.tenant()
        services = gateway.services
        pros, others = await saved(shop, "Pros", PRO), await saved(shop, "Others", {"not": PRO})
        worker = AudienceWorker(services.database, services.clock)
        await worker.check(shop.project_id)
        following = await shop.follow(CHANGES, id=pros["id"])

        async def move(user_id: str, plan: str) -> None:
            await identify(shop, user_id, plan=plan)
            await worker.catch_up(shop.project_id)
            for announcement in worker.announced:
                services.announce(announcement)
            worker.announced.clear()

        await move("ada", "pro")
        await move("bob", "free")
        await move("ada", "free")
        seen = [(await following.next())["data"]["audienceChanges"] for _ in range(2)]
        assert [(each["node"]["userId"], each["node"]["entered"]) for each in seen] == [("ada", True), ("ada", False)]
        assert seen[0]["node"]["audience"] == {"name": "Pros"}

        # What was said of one that is gone by now can still be read.
        again = await shop.follow(CHANGES, id=pros["id"], after=seen[0]["cursor"])
        assert (await again.next())["data"]["audienceChanges"] == seen[1]
        late = await shop.follow(CHANGES, id=others["id"], after=seen[0]["cursor"])
        assert (await late.next())["data"]["audienceChanges"]["node"]["userId"] == "bob"
        assert await shop.refusal(CHANGES, id="aud_x") == "NOT_FOUND"
        await shop.data(DELETE, id=pros["id"])
        assert await shop.refusal(CHANGES, id=pros["id"]) == "NOT_FOUND"
