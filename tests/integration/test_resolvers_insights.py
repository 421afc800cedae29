"""Insights and boards through the API: saved, listed, asked and deleted, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from db.audiences import delete_audience
from engine.analytics import boards, insights
from engine.node_ids import parse_node_id
from tests.integration.graphql_support import Tenant, open_gateway

SAVE = """mutation ($input: SaveInsightInput!) {
  saveInsight(input: $input) { insight { id name kind input updatedAt } userErrors { code message path } }
}"""
DELETE = "mutation ($id: ID!) { deleteInsight(id: $id) { deletedId userErrors { code path } } }"
LIST = """query ($first: Int, $after: Cursor, $search: String) {
  insights(first: $first, after: $after, search: $search) {
    edges { cursor node { id name } } pageInfo { hasNextPage endCursor }
  }
}"""
ASK = """query ($id: ID!) { node(id: $id) { ... on Insight {
  kind
  funnel { entered completed } retention { cohorts { size returned } } trend { series { total } }
} } }"""
SAVE_BOARD = """mutation ($input: SaveBoardInput!) {
  saveBoard(input: $input) { board { id name insights { name } updatedAt } userErrors { code message path } }
}"""
DELETE_BOARD = "mutation ($id: ID!) { deleteBoard(id: $id) { deletedId userErrors { code path } } }"
BOARDS = "{ boards { id name insights { name trend { series { total } } } } }"
PERIOD = {"since": "2026-03-01T00:00:00+01:00", "until": "2026-03-03T00:00:00Z"}
ORDERS = {"event": {"eventType": "order.placed"}, **PERIOD}


@pytest.fixture
async def shop(module_database_url: str) -> AsyncIterator[Tenant]:
    async with open_gateway(module_database_url) as gateway:
        yield await gateway.tenant()


async def save(tenant: Tenant, **given: Any) -> Any:
    return (await tenant.data(SAVE, input=given))["saveInsight"]


async def saved(tenant: Tenant, name: str, **question: Any) -> Any:
    answer = await save(tenant, name=name, **(question or {"trend": ORDERS}))
    assert answer["userErrors"] == []
    return answer["insight"]


async def save_board(tenant: Tenant, **given: Any) -> Any:
    return (await tenant.data(SAVE_BOARD, input=given))["saveBoard"]


async def test_an_insight_is_asked_whenever_it_is_looked_at(shop: Tenant) -> None:
    both = {"steps": [{"eventType": "app.opened"}, {"eventType": "order.placed"}], **PERIOD}
    back = {"startEvent": {"eventType": "app.opened"}, "returnEvent": {"eventType": "app.opened"}, "periods": 1}
    made = [
        await saved(shop, "Orders", trend=ORDERS),
        await saved(shop, "Buyers", funnel=both),
        await saved(shop, "Back", retention={**back, **PERIOD}),
    ]
    await shop.track(eventType="app.opened", userId="ada", timestamp="2026-03-01T10:00:00Z")

    before = [(await shop.data(ASK, id=each["id"]))["node"] for each in made]
    await shop.track(userId="ada", timestamp="2026-03-01T11:00:00Z")
    after = [(await shop.data(ASK, id=each["id"]))["node"] for each in made]

    cohorts = [{"size": 0, "returned": [0]}, {"size": 1, "returned": [1]}, {"size": 0, "returned": [0]}]
    nothing = {"funnel": None, "retention": None, "trend": None}
    assert before == [
        {**nothing, "kind": "TREND", "trend": {"series": [{"total": 0.0}]}},
        {**nothing, "kind": "FUNNEL", "funnel": {"entered": 1, "completed": 0}},
        {**nothing, "kind": "RETENTION", "retention": {"cohorts": cohorts}},
    ]
    assert after[0]["trend"] == {"series": [{"total": 1.0}]}
    assert after[1]["funnel"] == {"entered": 1, "completed": 1}


async def test_the_question_is_kept_as_it_was_asked(shop: Tenant) -> None:
    where = [{"path": "event.properties.amount", "op": "GT", "value": 1.5}]
    made = await saved(shop, "Orders", trend={"event": {"eventType": "order.*", "where": where}, "period": "P7D"})

    # What the schema fills in is kept too: a default that changes later does not change the question.
    assert made["input"] == {
        "event": {"eventType": "order.*", "where": where, "optional": False},
        "measure": "COUNT",
        "period": "P7D",
        "interval": "DAY",
        "groupLimit": 10,
        "timezone": "UTC",
        "compare": False,
    }
    assert (await saved(shop, "March"))["input"]["since"] == "2026-02-28T23:00:00Z"


async def test_a_change_leaves_what_it_does_not_give(shop: Tenant) -> None:
    made = await saved(shop, "Orders")

    renamed = await save(shop, id=made["id"], name="All orders")
    assert (renamed["insight"]["name"], renamed["insight"]["input"]) == ("All orders", made["input"])

    funnel = {"steps": [{"eventType": "a"}, {"eventType": "b"}]}
    asked = await save(shop, id=made["id"], funnel=funnel)
    assert (asked["insight"]["name"], asked["insight"]["kind"]) == ("All orders", "FUNNEL")


async def test_lists_come_by_name_page_by_page_and_can_be_searched(shop: Tenant) -> None:
    for name in ("b orders", "A orders", "c people"):
        await saved(shop, name)

    first = (await shop.data(LIST, first=2))["insights"]
    rest = (await shop.data(LIST, first=2, after=first["pageInfo"]["endCursor"]))["insights"]
    found = (await shop.data(LIST, search="ORD"))["insights"]

    names = [[edge["node"]["name"] for edge in page["edges"]] for page in (first, rest, found)]
    assert names == [["A orders", "b orders"], ["c people"], ["A orders", "b orders"]]
    assert (first["pageInfo"]["hasNextPage"], rest["pageInfo"]["hasNextPage"]) == (True, False)


FUNNEL = {"steps": [{"eventType": "a"}, {"eventType": "b"}]}
NO_AUDIENCE = "aud_" + "0" * 32


@pytest.mark.parametrize(
    ("given", "code", "path"),
    [
        ({"name": "", "trend": ORDERS}, "INVALID", ["input", "name"]),
        ({"name": "x" * 101, "trend": ORDERS}, "INVALID", ["input", "name"]),
        ({"name": "Nothing"}, "INVALID", ["input"]),
        ({"name": "Two", "trend": ORDERS, "funnel": FUNNEL}, "INVALID", ["input"]),
        ({"name": "One step", "funnel": {"steps": [{"eventType": "a"}]}}, "INVALID", ["input", "funnel", "steps"]),
        ({"name": "Zone", "trend": {**ORDERS, "timezone": "x"}}, "INVALID", ["input", "trend", "timezone"]),
        (
            {"name": "Whose", "trend": {**ORDERS, "audienceId": NO_AUDIENCE}},
            "NOT_FOUND",
            ["input", "trend", "audienceId"],
        ),
        ({"id": "ins_" + "0" * 32, "name": "Other"}, "NOT_FOUND", ["input", "id"]),
        ({"id": "tpl_" + "0" * 32, "name": "Other"}, "NOT_FOUND", ["input", "id"]),
    ],
)
async def test_what_cannot_be_asked_is_not_kept(
    shop: Tenant, given: dict[str, Any], code: str, path: list[str]
) -> None:
    answer = await save(shop, **given)

    assert answer["insight"] is None
    assert [(error["code"], error["path"]) for error in answer["userErrors"]] == [(code, path)]
    assert (await shop.data(LIST))["insights"]["edges"] == []


async def test_a_name_is_there_once(shop: Tenant) -> None:
    first, second = await saved(shop, "Orders"), await saved(shop, "People")

    for answer in (await save(shop, name="Orders", trend=ORDERS), await save(shop, id=second["id"], name="Orders")):
        assert [(error["code"], error["path"]) for error in answer["userErrors"]] == [("CONFLICT", ["input", "name"])]
    assert (await save(shop, id=first["id"], name="Orders"))["userErrors"] == []


async def test_an_insight_whose_audience_is_gone_says_so_beside_the_others(shop: Tenant) -> None:
    """Such as were deleted before insights held on to their audiences."""
    made = await shop.data(
        'mutation { saveAudience(input: {name: "All", where: []}) { audience { id } } }',
    )
    audience_id = made["saveAudience"]["audience"]["id"]
    await saved(shop, "Of all", trend={**ORDERS, "audienceId": audience_id})
    await saved(shop, "Orders")
    audience = parse_node_id(audience_id)
    assert audience is not None
    services = shop.gateway.services
    async with services.database.transaction() as connection:
        now = services.clock.now()
        await delete_audience(connection, project_id=shop.project_id, audience_id=audience.uuid, now=now)

    response = await shop.run("{ insights { edges { node { name trend { series { total } } } } } }")

    assert [edge["node"]["trend"] for edge in response["data"]["insights"]["edges"]] == [
        None,
        {"series": [{"total": 0.0}]},
    ]
    assert [error["extensions"]["code"] for error in response["errors"]] == ["BAD_USER_INPUT"]


async def test_no_more_than_a_project_may_have(shop: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(insights, "MAX_INSIGHTS", 1)
    monkeypatch.setattr(boards, "MAX_BOARDS", 0)
    await saved(shop, "Orders")

    assert [error["code"] for error in (await save(shop, name="More", trend=ORDERS))["userErrors"]] == [
        "LIMIT_EXCEEDED"
    ]
    assert [error["code"] for error in (await save_board(shop, name="Board"))["userErrors"]] == ["LIMIT_EXCEEDED"]


async def test_a_board_shows_insights_in_its_order_until_they_are_deleted(shop: Tenant) -> None:
    one, two = await saved(shop, "One"), await saved(shop, "Two")
    made = await save_board(shop, name="Morning", insightIds=[two["id"], one["id"]])
    assert [each["name"] for each in made["board"]["insights"]] == ["Two", "One"]
    assert [each["trend"] for each in (await shop.data(BOARDS))["boards"][0]["insights"]] == [
        {"series": [{"total": 0.0}]}
    ] * 2

    deleted = (await shop.data(DELETE, id=two["id"]))["deleteInsight"]
    assert deleted == {"deletedId": two["id"], "userErrors": []}
    renamed = await save_board(shop, id=made["board"]["id"], name="Evening")

    assert (renamed["board"]["name"], renamed["board"]["insights"]) == ("Evening", [{"name": "One"}])
    emptied = await save_board(shop, id=made["board"]["id"], insightIds=[])
    assert emptied["board"]["insights"] == []


async def test_boards_come_by_name_and_leave_their_insights_behind(shop: Tenant) -> None:
    insight = await saved(shop, "One")
    later = (await save_board(shop, name="b", insightIds=[insight["id"]]))["board"]["id"]
    await save_board(shop, name="a")
    assert [board["name"] for board in (await shop.data(BOARDS))["boards"]] == ["a", "b"]

    assert (await shop.data(DELETE_BOARD, id=later))["deleteBoard"]["userErrors"] == []
    again = (await shop.data(DELETE_BOARD, id=later))["deleteBoard"]

    assert again == {"deletedId": None, "userErrors": [{"code": "NOT_FOUND", "path": ["id"]}]}
    assert len((await shop.data(LIST))["insights"]["edges"]) == 1
    found = await shop.data("query ($id: ID!) { node(id: $id) { id } }", id=later)
    assert found == {"node": None}


async def test_what_a_board_cannot_show_is_refused(shop: Tenant) -> None:
    insight = (await saved(shop, "One"))["id"]
    await save_board(shop, name="taken")
    cases: list[tuple[dict[str, Any], list[tuple[str, list[str]]]]] = [
        ({"name": " "}, [("INVALID", ["input", "name"])]),
        ({"name": "taken"}, [("CONFLICT", ["input", "name"])]),
        ({"name": "x", "insightIds": [insight, insight]}, [("INVALID", ["input", "insightIds", "1"])]),
        ({"name": "x", "insightIds": [insight, "ins_" + "0" * 32]}, [("NOT_FOUND", ["input", "insightIds", "1"])]),
        ({"name": "x", "insightIds": ["aud_" + "0" * 32]}, [("NOT_FOUND", ["input", "insightIds", "0"])]),
        ({"name": "x", "insightIds": [insight] * 51}, [("LIMIT_EXCEEDED", ["input", "insightIds"])]),
        ({"id": "brd_" + "0" * 32, "name": "x"}, [("NOT_FOUND", ["input", "id"])]),
    ]

    for given, expected in cases:
        answer = await save_board(shop, **given)
        assert answer["board"] is None
        assert [(error["code"], error["path"]) for error in answer["userErrors"]] == expected
    assert [board["name"] for board in (await shop.data(BOARDS))["boards"]] == ["taken"]
