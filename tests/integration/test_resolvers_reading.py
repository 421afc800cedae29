"""Reading through the schema: lists, cursors, nodes, people and types over a real PostgreSQL."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from db.events import trim_events
from db.heads import advance_epoch
from engine.cursors import Cursor, CursorKind
from engine.identity import Role
from engine.taxonomy import CANONICAL
from tests.integration.graphql_support import Gateway, Tenant

EVENTS = """query ($first: Int, $after: Cursor, $last: Int, $before: Cursor, $filter: EventFilter, $order: EventOrder) {
  events(first: $first, after: $after, last: $last, before: $before, filter: $filter, order: $order) {
    edges { cursor node { seq key } }
    pageInfo { hasNextPage hasPreviousPage startCursor endCursor }
  }
}"""
PROFILES = """query (
  $first: Int, $after: Cursor, $last: Int, $before: Cursor, $where: [ConditionInput!], $search: String
) {
  profiles(first: $first, after: $after, last: $last, before: $before, where: $where, search: $search) {
    edges { cursor node { userId } }
    pageInfo { hasNextPage hasPreviousPage }
    totalCount
    totalCountIsCapped
  }
}"""
TYPES = """query ($first: Int, $after: Cursor, $module: String, $search: String) {
  eventTypes(first: $first, after: $after, module: $module, search: $search) {
    edges { cursor node { eventType module canonical description count lastSeenAt } }
    pageInfo { hasNextPage hasPreviousPage endCursor }
  }
}"""


async def fill(tenant: Tenant, count: int, **event: Any) -> None:
    events = [{"id": f"k{number}", "eventType": "a.b", **event} for number in range(1, count + 1)]
    await tenant.data("mutation ($i: TrackBatchInput!) { trackBatch(input: $i) { accepted } }", i={"events": events})


def seqs(data: Any) -> list[int]:
    return [edge["node"]["seq"] for edge in data["events"]["edges"]]


async def test_events_come_newest_first_20_at_a_time(shop: Tenant) -> None:
    await fill(shop, 30)
    data = await shop.data(EVENTS)
    assert seqs(data) == list(range(30, 10, -1))
    info = data["events"]["pageInfo"]
    assert (info["hasNextPage"], info["hasPreviousPage"]) == (True, False)
    assert (info["startCursor"], info["endCursor"]) == (
        data["events"]["edges"][0]["cursor"],
        data["events"]["edges"][-1]["cursor"],
    )


@pytest.mark.parametrize("order", ["NEWEST_FIRST", "OLDEST_FIRST", None])
async def test_paging_forward_and_backward_sees_each_event_once(shop: Tenant, order: str | None) -> None:
    await fill(shop, 23)
    expected = list(range(1, 24)) if order == "OLDEST_FIRST" else list(range(23, 0, -1))
    seen: list[int] = []
    after = None
    while True:
        data = await shop.data(EVENTS, first=5, after=after, order=order)
        seen += seqs(data)
        if not data["events"]["pageInfo"]["hasNextPage"]:
            break
        after = data["events"]["pageInfo"]["endCursor"]
    assert seen == expected
    seen, before = [], None
    while True:
        data = await shop.data(EVENTS, last=5, before=before, order=order)
        seen = seqs(data) + seen
        if not data["events"]["pageInfo"]["hasPreviousPage"]:
            break
        before = data["events"]["pageInfo"]["startCursor"]
    assert seen == expected


async def test_after_and_before_together_bound_a_page(shop: Tenant) -> None:
    await fill(shop, 10)
    cursors = {edge["node"]["seq"]: edge["cursor"] for edge in (await shop.data(EVENTS, first=10))["events"]["edges"]}
    assert seqs(await shop.data(EVENTS, first=100, after=cursors[8], before=cursors[3])) == [7, 6, 5, 4]
    assert seqs(await shop.data(EVENTS, last=2, after=cursors[8], before=cursors[3])) == [5, 4]


async def test_a_page_is_clamped_to_100_and_refused_below_1(shop: Tenant) -> None:
    await fill(shop, 120)
    assert len(seqs(await shop.data(EVENTS, first=2_147_483_647))) == 100
    assert len(seqs(await shop.data(EVENTS, last=1000))) == 100
    for arguments in ({"first": 0}, {"first": -1}, {"last": 0}, {"last": -5}, {"first": 1, "last": 1}):
        assert await shop.codes(EVENTS, **arguments) == ["BAD_USER_INPUT"], arguments


async def test_the_total_is_capped_at_10_000(shop: Tenant, gateway: Gateway) -> None:
    count = "{ events(first: 1) { totalCount totalCountIsCapped } }"
    await fill(shop, 3)
    assert (await shop.data(count))["events"] == {"totalCount": 3, "totalCountIsCapped": False}
    async with gateway.services.database.connection() as connection:
        await connection.execute(
            """INSERT INTO events (project_id, seq, batch_token, timestamp, received_at, key, module, event_type,
                                   properties, context)
               SELECT $1, n, 0, now(), now(), 'n' || n, 'm', 'a.b', '{}', '{}' FROM generate_series(4, 10001) AS n""",
            shop.project_id,  # type: ignore[union-attr]
        )
    assert (await shop.data(count))["events"] == {"totalCount": 10_000, "totalCountIsCapped": True}


async def test_filters_find_what_they_say(shop: Tenant) -> None:
    await shop.track(id="1", eventType="order.placed", userId="ada", module="shop", timestamp="2026-05-01T00:00:00Z")
    await shop.track(id="2", eventType="push.sent", userId="bob", anonymousId="dev", timestamp="2026-05-02T00:00:00Z")
    await shop.track(id="3", eventType="auth.signed_up", properties={"n": 3}, timestamp="2026-05-03T00:00:00Z")
    await shop.track(id="4", eventType="user.signed_up", properties={"n": 4}, timestamp="2026-05-04T00:00:00Z")
    cases: list[tuple[dict[str, Any], list[int]]] = [
        ({}, [4, 3, 2, 1]),
        ({"eventTypes": ["order.placed"]}, [1]),
        ({"eventTypes": ["push.*", "*.placed"]}, [2, 1]),
        # Either name of a type finds both.
        ({"eventTypes": ["auth.signed_up"]}, [4, 3]),
        ({"eventTypes": ["user.signed_up"]}, [4, 3]),
        ({"eventTypes": []}, []),
        ({"modules": ["shop"]}, [1]),
        ({"userId": "ada"}, [1]),
        ({"anonymousId": "dev"}, [2]),
        ({"keys": ["1", "3", "9"]}, [3, 1]),
        # since is inclusive, until exclusive.
        ({"since": "2026-05-02T00:00:00Z", "until": "2026-05-04T02:00:00+02:00"}, [3, 2]),
        ({"where": [{"path": "event.properties.n", "op": "GTE", "value": 4}]}, [4]),
        ({"where": [{"not": {"path": "event.properties.n", "op": "EXISTS"}}]}, [2, 1]),
        ({"userId": None, "where": None, "since": None}, [4, 3, 2, 1]),
    ]
    for event_filter, expected in cases:
        assert seqs(await shop.data(EVENTS, filter=event_filter)) == expected, event_filter


@pytest.mark.parametrize(
    "event_filter",
    [
        {"userId": "a\0"},
        {"eventTypes": ["x" * 201]},
        {"eventTypes": [f"t{n}" for n in range(201)]},
        {"keys": [f"k{n}" for n in range(1001)]},
        {"since": "0001-01-01T00:00:00Z"},
        {"until": "9999-12-31T23:59:59Z"},
        {"where": [{"path": "event.nothing", "op": "EQ", "value": 1}]},
        {"where": [{}]},
        {"where": [{"path": "event.properties.n", "op": "EQ"}]},
    ],
)
async def test_a_filter_that_can_never_work_is_bad_user_input(shop: Tenant, event_filter: dict[str, Any]) -> None:
    assert await shop.codes(EVENTS, filter=event_filter) == ["BAD_USER_INPUT"]


@pytest.mark.parametrize("cursor", ["x", "AAAA", "A" * 4000, "=", "../../etc"])
async def test_a_forged_cursor_is_invalid(shop: Tenant, cursor: str) -> None:
    assert await shop.codes(EVENTS, after=cursor) == ["CURSOR_INVALID"]


async def test_a_cursor_works_only_in_its_own_list(shop: Tenant) -> None:
    await shop.track(userId="ada")
    event_cursor = (await shop.data(EVENTS))["events"]["edges"][0]["cursor"]
    profile_cursor = (await shop.data(PROFILES))["profiles"]["edges"][0]["cursor"]
    type_cursor = (await shop.data(TYPES))["eventTypes"]["edges"][0]["cursor"]
    head = (await shop.data("{ viewer { project { head } } }"))["viewer"]["project"]["head"]
    for document, own in ((EVENTS, event_cursor), (PROFILES, profile_cursor), (TYPES, type_cursor)):
        for cursor in (event_cursor, profile_cursor, type_cursor, head):
            expected = [] if cursor == own else ["CURSOR_INVALID"]
            assert await shop.codes(document, after=cursor) == expected


async def test_a_cursor_of_a_log_that_was_replaced_or_removed_has_expired(shop: Tenant, gateway: Gateway) -> None:
    await fill(shop, 5)
    cursors = {edge["node"]["seq"]: edge["cursor"] for edge in (await shop.data(EVENTS))["events"]["edges"]}
    project_id = shop.project_id
    beyond = gateway.services.cursors.encode(Cursor(CursorKind.EVENTS, project_id, 1, (6,)))
    assert await shop.codes(EVENTS, after=beyond) == ["CURSOR_EXPIRED"]
    async with gateway.services.database.transaction() as connection:
        await trim_events(connection, project_id=project_id, first_seq=4)
    assert await shop.codes(EVENTS, after=cursors[2], order="OLDEST_FIRST") == ["CURSOR_EXPIRED"]
    assert seqs(await shop.data(EVENTS, after=cursors[3], order="OLDEST_FIRST")) == [4, 5]
    async with gateway.services.database.transaction() as connection:
        await advance_epoch(connection, project_id=project_id)
    assert await shop.codes(EVENTS, after=cursors[5]) == ["CURSOR_EXPIRED"]


async def test_an_event_type_list_has_what_was_seen_and_all_canonical_ones(shop: Tenant) -> None:
    for event_type in ("zebra.seen", "push.opened", "push.opened", "aardvark.seen"):
        await shop.track(eventType=event_type, timestamp="2026-05-01T00:00:00Z")
    entries: list[Any] = []
    after = None
    while True:
        page = (await shop.data(TYPES, first=7, after=after))["eventTypes"]
        entries += [edge["node"] for edge in page["edges"]]
        if not page["pageInfo"]["hasNextPage"]:
            break
        after = page["pageInfo"]["endCursor"]
    names = [entry["eventType"] for entry in entries]
    assert names == sorted([*CANONICAL, "aardvark.seen", "zebra.seen"])
    found = {entry["eventType"]: entry for entry in entries}
    assert {name for name, entry in found.items() if entry["canonical"]} == set(CANONICAL)
    assert found["push.opened"] == {
        "eventType": "push.opened",
        "module": "analytics",
        "canonical": True,
        "description": "A push notification was opened.",
        "count": 2,
        "lastSeenAt": "2026-05-01T00:00:00Z",
    }
    assert (found["sms.sent"]["module"], found["sms.sent"]["count"], found["sms.sent"]["lastSeenAt"]) == (
        "sms",
        0,
        None,
    )
    assert (found["zebra.seen"]["canonical"], found["zebra.seen"]["description"]) == (False, None)


async def test_event_types_are_narrowed_by_module_and_search(shop: Tenant) -> None:
    await shop.track(eventType="push.opened", module="push")
    await shop.track(eventType="push.opened", module="analytics")
    await shop.track(eventType="Push.custom", module="push")

    async def pairs(**arguments: Any) -> list[tuple[str, str]]:
        page = (await shop.data(TYPES, first=100, **arguments))["eventTypes"]
        return [(edge["node"]["eventType"], edge["node"]["module"]) for edge in page["edges"]]

    in_push = await pairs(module="push")
    assert len(in_push) == 15
    assert ("Push.custom", "push") in in_push
    assert await pairs(module="analytics") == [("push.opened", "analytics")]
    assert await pairs(search="OPENED") == [
        ("email.opened", "email"),
        ("link.opened", "link"),
        ("push.opened", "analytics"),
        ("push.opened", "push"),
    ]
    assert await pairs(search="%") == []
    for arguments in ({"search": "\0"}, {"module": "\0"}, {"search": "x" * 513}, {"first": 0}):
        assert await shop.codes(TYPES, **arguments) == ["BAD_USER_INPUT"]


async def test_a_profile_is_there_once_an_event_names_it(shop: Tenant) -> None:
    profile = "query ($u: String!) { profile(userId: $u) { id userId anonymous traits createdAt lastSeenAt } }"
    assert (await shop.data(profile, u="ada"))["profile"] is None
    await shop.track(userId="ada", traits={"plan": "pro"}, timestamp="2026-05-01T00:00:00Z")
    found = (await shop.data(profile, u="ada"))["profile"]
    assert (found["userId"], found["anonymous"], found["traits"]) == ("ada", False, {"plan": "pro"})
    assert found["lastSeenAt"] == "2026-05-01T00:00:00Z"
    assert found["id"].startswith("prf_")
    assert await shop.codes(profile, u="\0") == ["BAD_USER_INPUT"]


async def test_a_timeline_is_the_log_of_one_person(shop: Tenant) -> None:
    for user, event_type in (("ada", "a.b"), ("bob", "a.b"), ("ada", "c.d"), ("ada", "a.b")):
        await shop.track(userId=user, eventType=event_type)
    timeline = """query ($first: Int, $after: Cursor, $filter: EventFilter) {
      profile(userId: "ada") {
        timeline(first: $first, after: $after, filter: $filter) { totalCount edges { cursor node { seq } } }
      }
    }"""

    async def read(**arguments: Any) -> tuple[list[int], list[str], int]:
        found = (await shop.data(timeline, **arguments))["profile"]["timeline"]
        return [e["node"]["seq"] for e in found["edges"]], [e["cursor"] for e in found["edges"]], found["totalCount"]

    ordered, cursors, total = await read()
    assert (ordered, total) == ([4, 3, 1], 3)
    assert (await read(first=1, after=cursors[0]))[0] == [3]
    assert (await read(filter={"eventTypes": ["a.*"]}))[0] == [4, 1]
    assert (await read(filter={"userId": "ada"}))[0] == [4, 3, 1]
    assert (await read(filter={"userId": "bob"}))[::2] == ([], 0)
    assert await shop.codes(timeline, first=0) == ["BAD_USER_INPUT"]


async def test_profiles_are_listed_found_and_counted(shop: Tenant) -> None:
    for number in range(5):
        await shop.track(userId=f"user{number}", traits={"n": number, "email": f"U{number}@shop.example"})
    seen: list[str] = []
    after = None
    while True:
        page = (await shop.data(PROFILES, first=2, after=after))["profiles"]
        assert (page["totalCount"], page["totalCountIsCapped"]) == (5, False)
        seen += [edge["node"]["userId"] for edge in page["edges"]]
        if not page["pageInfo"]["hasNextPage"]:
            break
        after = page["edges"][-1]["cursor"]
    assert seen == [f"user{number}" for number in (4, 3, 2, 1, 0)]
    last = (await shop.data(PROFILES, last=2))["profiles"]
    assert [edge["node"]["userId"] for edge in last["edges"]] == ["user1", "user0"]
    assert last["pageInfo"] == {"hasNextPage": False, "hasPreviousPage": True}

    async def users(**arguments: Any) -> list[str]:
        return [edge["node"]["userId"] for edge in (await shop.data(PROFILES, **arguments))["profiles"]["edges"]]

    assert await users(where=[{"path": "profile.traits.n", "op": "GTE", "value": 3}]) == ["user4", "user3"]
    assert await users(where=[{"events": {"eventType": "order.*"}, "op": "GTE", "value": 2}]) == []
    assert await users(search="u3@SHOP") == ["user3"]
    assert await shop.codes(PROFILES, where=[{"path": "event.properties.n", "op": "EXISTS"}]) == ["BAD_USER_INPUT"]
    assert await shop.codes(PROFILES, search="\0") == ["BAD_USER_INPUT"]


async def test_every_kind_of_id_leads_to_its_node(shop: Tenant) -> None:
    event = await shop.track(userId="ada")
    viewer = (await shop.data("{ viewer { organization { id } project { id } apiKey { id } } }"))["viewer"]
    profile = (await shop.data('{ profile(userId: "ada") { id } }'))["profile"]["id"]
    ids = [event["id"], profile, viewer["project"]["id"], viewer["organization"]["id"], viewer["apiKey"]["id"]]
    nodes = "query ($ids: [ID!]!) { nodes(ids: $ids) { __typename id } }"
    found = (await shop.data(nodes, ids=[*ids, "evt_x", ids[0]]))["nodes"]
    kinds = ["Event", "Profile", "Project", "Organization", "ApiKey"]
    expected = [{"__typename": kind, "id": node_id} for kind, node_id in zip(kinds, ids, strict=True)]
    assert found == [*expected, None, expected[0]]
    one = "query ($id: ID!) { node(id: $id) { __typename ... on Event { seq profile { userId } } } }"
    assert (await shop.data(one, id=event["id"]))["node"] == {
        "__typename": "Event",
        "seq": 1,
        "profile": {"userId": "ada"},
    }


@pytest.mark.parametrize(
    "node_id",
    [
        "",
        "evt_",
        "evt_" + "A" * 32,  # position 0
        "evt_" + "A" * 33,
        "evt_" + "é" * 32,
        "prj_" + "0" * 32,  # the project of the log of revocations
        "org_" + "0" * 32,
        "key_" + "F" * 32,  # upper case was never given out
        "prf_" + "0" * 31,
        "prj_{00000000000000000000000000000000}",
        "wf_1",
        "\0",
        "x" * 10_000,
    ],
)
async def test_an_id_that_was_never_given_out_is_null(shop: Tenant, node_id: str) -> None:
    document = "query ($id: ID!) { node(id: $id) { id } nodes(ids: [$id]) { id } }"
    assert await shop.data(document, id=node_id) == {"node": None, "nodes": [None]}


async def test_nodes_takes_at_most_100_ids(shop: Tenant) -> None:
    nodes = "query ($ids: [ID!]!) { nodes(ids: $ids) { id } }"
    assert (await shop.data(nodes, ids=["x"] * 100))["nodes"] == [None] * 100
    assert await shop.codes(nodes, ids=["x"] * 101) == ["BAD_USER_INPUT"]


async def test_the_people_of_a_page_of_events_cost_one_statement(shop: Tenant, gateway: Gateway) -> None:
    for number in range(10):
        await shop.track(userId=f"user{number}")
    calls = 0
    read = gateway.services.database.connection

    def counting() -> Any:
        nonlocal calls
        calls += 1
        return read()

    gateway.services.database.connection = counting  # type: ignore[method-assign]
    await shop.data("{ events { edges { node { key } } } }")
    without_people, calls = calls, 0
    await shop.data("{ events { edges { node { profile { userId } } } } }")
    assert calls == without_people + 1


HEAD_LAST = (
    "{ eventTypes { edges { cursor } } viewer { project { head } } }",
    """query ($no: Boolean = true) { eventTypes { edges { cursor } } viewer { ...of } }
       fragment of on Viewer { ... @include(if: $no) { organization { projects { ...position } } } }
       fragment position on Project { now: head }""",
)


@pytest.mark.parametrize("document", HEAD_LAST)
async def test_the_head_is_read_before_the_rest_of_an_operation(shop: Tenant, gateway: Gateway, document: str) -> None:
    """So a client that follows from the head misses nothing that the answer does not show.

    The first statement runs at once, the second only when one more event has been stored: the head must be the first.
    """
    await shop.track(id="one", userId="ada")
    second, writing = asyncio.Event(), asyncio.Event()
    read = gateway.services.database.connection
    turns = 0

    def slow_second() -> Any:
        nonlocal turns
        turns += 1
        if turns == 1:
            return read()
        second.set()
        return _after(writing, read)

    gateway.services.database.connection = slow_second  # type: ignore[method-assign]
    reading = asyncio.create_task(shop.data(document))
    await second.wait()
    gateway.services.database.connection = read  # type: ignore[method-assign]
    await shop.track(id="two", userId="ada")
    writing.set()
    viewer = (await reading)["viewer"]
    head = viewer["project"]["head"] if "project" in viewer else viewer["organization"]["projects"][0]["now"]
    cursor = gateway.services.cursors.decode(head, project_id=shop.project_id, kinds=frozenset({CursorKind.HEAD}))
    assert cursor.key == (1, 0, 0, 0)


class _after:  # noqa: N801
    """A connection that is handed out once something has happened."""

    def __init__(self, happened: asyncio.Event, read: Any) -> None:
        self._happened = happened
        self._connection = read()

    async def __aenter__(self) -> Any:
        await self._happened.wait()
        return await self._connection.__aenter__()

    async def __aexit__(self, *error: Any) -> Any:
        return await self._connection.__aexit__(*error)


async def test_who_asks_is_shown_with_the_role_and_scopes_of_the_key(shop: Tenant) -> None:
    document = """{ viewer { role scopes apiKey { name kind environment role prefix revokedAt }
      organization { name region uuid projects { name uuid createdAt } } project { name } profile { id } } }"""
    viewer = (await shop.data(document))["viewer"]
    assert (viewer["role"], viewer["profile"]) == ("ADMIN", None)
    assert viewer["scopes"][0] == "events:write"
    assert viewer["apiKey"] == {
        "name": "First key",
        "kind": "SECRET",
        "environment": "PROD",
        "role": "ADMIN",
        "prefix": shop.token[:17],
        "revokedAt": None,
    }
    assert (viewer["organization"]["name"], viewer["organization"]["region"]) == ("shop Ltd", "US")
    assert [project["uuid"] for project in viewer["organization"]["projects"]] == [str(shop.project_id)]


async def test_ingest_sees_its_role_and_ids_and_nothing_else_of_the_viewer(shop: Tenant) -> None:
    app = await shop.as_role(Role.INGEST)
    ids = "{ viewer { role scopes organization { id uuid region } project { id uuid } } }"
    assert (await app.data(ids))["viewer"]["role"] == "INGEST"
    for selection in (
        "apiKey { name }",
        "organization { name }",
        "project { name }",
        "project { createdAt }",
        "project { head }",
        "project { apiKeys { id } }",
    ):
        assert set(await app.codes("{ viewer { " + selection + " } }")) == {"FORBIDDEN"}, selection


async def test_a_list_is_counted_once_and_only_for_those_who_ask(shop: Tenant, gateway: Gateway) -> None:
    await shop.track(userId="ada")
    read, statements = gateway.services.database.connection, 0

    def counting() -> Any:
        nonlocal statements
        statements += 1
        return read()

    gateway.services.database.connection = counting  # type: ignore[method-assign]
    for root, needed in (("events", 2), ("profiles", 1)):
        for counted, more in (("", 0), ("totalCount", 1), ("totalCount totalCountIsCapped", 1)):
            statements = 0
            await shop.data(f"{{ {root} {{ edges {{ cursor }} {counted} }} }}")
            assert statements == needed + more, (root, counted)
