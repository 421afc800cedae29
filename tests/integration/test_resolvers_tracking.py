"""Writing through the schema: track, trackBatch and identify over a real PostgreSQL."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from engine.identity import ApiKeyKind, Role
from tests.integration.graphql_support import TRACK, Tenant

BATCH = """mutation ($input: TrackBatchInput!) {
  trackBatch(input: $input) { accepted duplicates rejected dropped cursor userErrors { code message path } }
}"""
IDENTIFY = """mutation ($input: IdentifyInput!) {
  identify(input: $input) {
    profile { id userId anonymous traits createdAt lastSeenAt }
    event { seq module eventType userId context }
    userErrors { code path }
  }
}"""
ALL = "{ events(order: OLDEST_FIRST, first: 100) { edges { cursor node { seq key eventType userId properties } } } }"


async def stored(tenant: Tenant) -> list[Any]:
    return [edge["node"] for edge in (await tenant.data(ALL))["events"]["edges"]]


async def test_a_tracked_event_comes_back_as_it_is_stored(shop: Tenant) -> None:
    event = await shop.track(
        id="order-1",
        module="shop",
        timestamp="2026-05-01T14:00:00+02:00",
        userId="ada",
        anonymousId="dev-1",
        properties={"amount": 12.5, "tags": ["a"]},
        context={"locale": "de"},
    )
    assert shop.viewer is not None
    received = event.pop("receivedAt")
    assert received.endswith("Z")
    assert event.pop("id").startswith("evt_")
    assert event == {
        "seq": 1,
        "orgId": str(shop.viewer.project.organization_id),
        "projectId": str(shop.project_id),
        "key": "order-1",
        "module": "shop",
        "eventType": "order.placed",
        "timestamp": "2026-05-01T12:00:00Z",
        "userId": "ada",
        "anonymousId": "dev-1",
        "properties": {"amount": 12.5, "tags": ["a"]},
        "context": {"locale": "de"},
    }


async def test_defaults_are_analytics_now_and_empty_objects(shop: Tenant) -> None:
    for extra in ({}, {"module": None, "properties": None, "context": None, "timestamp": None}):
        event = await shop.track(**extra)
        assert (event["module"], event["properties"], event["context"]) == ("analytics", {}, {})
        assert event["timestamp"] == event["receivedAt"]


async def test_cause_and_depth_of_a_context_are_not_a_clients_to_say(shop: Tenant) -> None:
    context = {"cause": "dlv_1", "depth": 9, "page": {"depth": 3}}
    event = await shop.track(context=context)
    assert event["context"] == {"page": {"depth": 3}}
    batch = {"events": [{"eventType": "order.paid", "context": context}, {"eventType": "order.lost"}]}
    assert (await shop.data(BATCH, input=batch))["trackBatch"]["accepted"] == 2
    found = await shop.data("{ events(order: OLDEST_FIRST) { edges { node { context } } } }")
    assert [edge["node"]["context"] for edge in found["events"]["edges"]] == [
        {"page": {"depth": 3}},
        {"page": {"depth": 3}},
        {},
    ]


async def test_the_same_id_again_gives_the_stored_event_and_stores_nothing(shop: Tenant) -> None:
    first = await shop.track(id="k", properties={"n": 1})
    again = (await shop.data(TRACK, input={"event": {"id": "k", "eventType": "other.thing"}}))["track"]
    assert (again["duplicate"], again["event"]) == (True, first)
    assert len(await stored(shop)) == 1


async def test_org_and_project_must_be_the_keys_when_given(shop: Tenant) -> None:
    assert shop.viewer is not None
    org, project = str(shop.viewer.project.organization_id), str(shop.project_id)
    await shop.track(orgId=org, projectId=project.upper())
    refused = await shop.data(TRACK, input={"event": {"eventType": "a.b", "orgId": str(uuid4()), "projectId": "prj_1"}})
    assert refused["track"]["event"] is None
    assert [(error["code"], error["path"]) for error in refused["track"]["userErrors"]] == [
        ("INVALID", ["input", "event", "orgId"]),
        ("INVALID", ["input", "event", "projectId"]),
    ]
    assert len(await stored(shop)) == 1


@pytest.mark.parametrize(
    ("event", "path"),
    [
        ({"eventType": "not a * type"}, ["eventType"]),
        ({"eventType": ""}, ["eventType"]),
        ({"eventType": "a.b", "userId": "a\0b"}, ["userId"]),
        ({"eventType": "a.b", "properties": [1]}, ["properties"]),
        ({"eventType": "a.b", "properties": "text"}, ["properties"]),
        ({"eventType": "a.b", "properties": {"a": {"b": "\0"}}}, ["properties", "a", "b"]),
        ({"eventType": "a.b", "timestamp": "9999-12-31T23:59:59Z"}, ["timestamp"]),
        ({"eventType": "a.b", "timestamp": "0001-01-01T00:00:00Z"}, ["timestamp"]),
        ({"eventType": "a.b", "id": "x" * 129}, ["id"]),
        ({"eventType": "a.b", "properties": {"text": "x" * 66_000}}, []),
    ],
)
async def test_an_impossible_event_is_a_user_error_with_its_path(
    shop: Tenant, event: dict[str, Any], path: list[str]
) -> None:
    payload = (await shop.data(TRACK, input={"event": event}))["track"]
    assert (payload["event"], payload["duplicate"]) == (None, False)
    assert [(error["code"], error["path"]) for error in payload["userErrors"]] == [
        ("INVALID", ["input", "event", *path])
    ]
    assert await stored(shop) == []


async def test_a_batch_stores_what_is_valid_and_names_the_rest(shop: Tenant) -> None:
    await shop.track(id="known")
    events = [
        {"id": "a", "eventType": "a.b"},
        {"id": "b", "eventType": "a.b", "properties": [1]},
        {"id": "known", "eventType": "a.b"},
        {"id": "c", "eventType": "a.b", "projectId": str(uuid4())},
        {"id": "d", "eventType": "a.b", "properties": {"text": "x" * 66_000}},
        {"id": "a", "eventType": "a.b"},
        {"id": "e", "eventType": "a.b"},
    ]
    payload = (await shop.data(BATCH, input={"events": events}))["trackBatch"]
    assert [payload[name] for name in ("accepted", "duplicates", "rejected", "dropped")] == [2, 2, 3, 0]
    assert [(error["code"], error["path"]) for error in payload["userErrors"]] == [
        ("INVALID", ["input", "events", "1", "properties"]),
        ("INVALID", ["input", "events", "3", "projectId"]),
        ("INVALID", ["input", "events", "4"]),
    ]
    assert [event["key"] for event in await stored(shop)] == ["known", "a", "e"]


async def test_the_cursor_of_a_batch_is_the_position_after_its_last_event(shop: Tenant) -> None:
    events = [{"eventType": "a.b"} for _ in range(3)]
    cursor = (await shop.data(BATCH, input={"events": events}))["trackBatch"]["cursor"]
    await shop.track(id="after")
    listed = await shop.data(
        "query ($after: Cursor) { events(order: OLDEST_FIRST, after: $after) { edges { node { key } } } }", after=cursor
    )
    assert [edge["node"]["key"] for edge in listed["events"]["edges"]] == ["after"]


async def test_a_batch_of_none_or_too_many_stores_nothing(shop: Tenant) -> None:
    for count, code in ((0, "INVALID"), (1001, "LIMIT_EXCEEDED")):
        payload = (await shop.data(BATCH, input={"events": [{"eventType": "a.b"}] * count}))["trackBatch"]
        assert [payload[name] for name in ("accepted", "duplicates", "rejected", "cursor")] == [0, 0, count, None]
        assert [(error["code"], error["path"]) for error in payload["userErrors"]] == [(code, ["input", "events"])]
    assert await stored(shop) == []


async def test_a_batch_of_1000_is_stored_in_order(shop: Tenant) -> None:
    events = [{"id": f"e{number}", "eventType": "a.b"} for number in range(1000)]
    payload = (await shop.data(BATCH, input={"events": events}))["trackBatch"]
    assert (payload["accepted"], payload["userErrors"]) == (1000, [])
    assert [event["key"] for event in await stored(shop)] == [f"e{number}" for number in range(100)]


async def test_a_batch_as_a_literal_is_stored_like_one_in_variables(shop: Tenant) -> None:
    """Variables go through the compiled decoder, literals through GraphQL's own coercion."""
    literal = """mutation ($two: EventInput!) {
      trackBatch(input: {events: [{id: "x", eventType: "a.b", properties: {n: 1}}, $two]}) {
        accepted userErrors { path }
      }
    }"""
    payload = (await shop.data(literal, two={"id": "y", "eventType": "a.b", "properties": {"n": 2}}))["trackBatch"]
    assert payload == {"accepted": 2, "userErrors": []}
    assert [(event["key"], event["properties"]) for event in await stored(shop)] == [("x", {"n": 1}), ("y", {"n": 2})]


async def test_what_a_decoder_refuses_is_worded_by_graphql(shop: Tenant) -> None:
    response = await shop.run(BATCH, input={"events": [{"eventType": "a.b"}, {"eventType": 5}]})
    [error] = response["errors"]
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    assert error["message"].startswith("Variable '$input' has invalid value at .events[1].eventType:")
    assert await stored(shop) == []


async def test_identify_merges_traits_and_shows_the_person(shop: Tenant) -> None:
    await shop.data(IDENTIFY, input={"userId": "ada", "traits": {"plan": "free", "name": "Ada"}})
    payload = (await shop.data(IDENTIFY, input={"userId": "ada", "traits": {"plan": "pro"}, "anonymousId": "dev-1"}))[
        "identify"
    ]
    assert payload["userErrors"] == []
    assert payload["profile"]["id"].startswith("prf_")
    assert (payload["profile"]["userId"], payload["profile"]["traits"]) == ("ada", {"plan": "pro", "name": "Ada"})
    assert payload["event"] == {
        "seq": 2,
        "module": "identity",
        "eventType": "user.identified",
        "userId": "ada",
        "context": {"traits": {"plan": "pro"}},
    }


async def test_the_later_timestamp_wins_whatever_comes_first(shop: Tenant) -> None:
    for day, plan in ((2, "second"), (1, "first"), (3, "third"), (2, "again")):
        payload = await shop.data(
            IDENTIFY, input={"userId": "ada", "traits": {"plan": plan}, "timestamp": f"2026-05-0{day}T00:00:00Z"}
        )
    assert payload["identify"]["profile"]["traits"] == {"plan": "third"}


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"userId": "", "traits": {}}, ["input", "userId"]),
        ({"userId": "a\0", "traits": {}}, ["input", "userId"]),
        ({"userId": "a", "traits": [1]}, ["input", "traits"]),
        ({"userId": "a", "traits": {}, "timestamp": "9999-01-01T00:00:00Z"}, ["input", "timestamp"]),
    ],
)
async def test_an_impossible_identification_is_a_user_error(
    shop: Tenant, given: dict[str, Any], path: list[str]
) -> None:
    payload = (await shop.data(IDENTIFY, input=given))["identify"]
    assert (payload["profile"], payload["event"]) == (None, None)
    assert [(error["code"], error["path"]) for error in payload["userErrors"]] == [("INVALID", path)]


async def test_an_app_key_writes_and_learns_nothing_of_the_person(shop: Tenant) -> None:
    """INGEST through a publishable key: its own event, and null for the person it named."""
    app = await shop.as_role(Role.INGEST, ApiKeyKind.PUBLISHABLE)
    await shop.data(IDENTIFY, input={"userId": "ada", "traits": {"secret": 1}})
    payload = (await app.data(IDENTIFY, input={"userId": "ada", "traits": {"plan": "pro"}}))["identify"]
    assert payload["profile"] is None
    assert payload["event"]["context"] == {"traits": {"plan": "pro"}}


async def test_a_server_key_with_ingest_sees_ids_of_the_person_only(shop: Tenant) -> None:
    server = await shop.as_role(Role.INGEST)
    ids = "mutation ($input: IdentifyInput!) { identify(input: $input) { profile { id userId } event { seq } } }"
    payload = (await server.data(ids, input={"userId": "ada", "traits": {}}))["identify"]
    assert payload["profile"]["userId"] == "ada"
    for selection in ("traits", "anonymous", "createdAt", "lastSeenAt", "timeline { edges { cursor } }"):
        document = ids.replace("id userId", selection)
        assert await server.codes(document, input={"userId": "ada", "traits": {}}) == ["FORBIDDEN"], selection


async def test_ingest_sees_what_it_wrote_and_not_the_person_behind_it(shop: Tenant) -> None:
    app = await shop.as_role(Role.INGEST, ApiKeyKind.PUBLISHABLE)
    event = await app.track(id="mine", userId="ada", properties={"n": 1})
    assert (event["userId"], event["properties"]) == ("ada", {"n": 1})
    with_person = TRACK.replace("event { id", "event { profile { id } id")
    same = {"id": "mine", "eventType": "order.placed", "userId": "ada", "properties": {"n": 1}}
    response = await app.run(with_person, input={"event": same})
    assert response["data"]["track"]["event"]["profile"] is None
    assert [(error["path"], error["extensions"]["code"]) for error in response["errors"]] == [
        (["track", "event", "profile"], "FORBIDDEN")
    ]


async def test_ingest_cannot_read_an_event_of_somebody_else_by_guessing_its_id(shop: Tenant) -> None:
    await shop.track(id="order-7", userId="ada", properties={"card": "4242"})
    app = await shop.as_role(Role.INGEST, ApiKeyKind.PUBLISHABLE)
    guess = {"event": {"id": "order-7", "eventType": "order.placed"}}
    seen = "mutation ($input: TrackInput!) { track(input: $input) { duplicate event { id seq key } } }"
    assert (await app.data(seen, input=guess))["track"]["duplicate"] is True
    for name in ("properties", "context", "userId", "anonymousId", "module", "eventType", "timestamp"):
        document = seen.replace("id seq key", name)
        response = await app.run(document, input=guess)
        assert "4242" not in repr(response)
        assert "ada" not in repr(response)
        assert await app.codes(document, input=guess) == ["FORBIDDEN"], name


@pytest.mark.parametrize(
    ("said", "is_shown"),
    [
        ({}, False),
        ({"context": {"page": "/a", "ip": "192.0.2.1"}}, True),
        ({"context": {"page": "/a", "ip": "198.51.100.1"}}, False),
        ({"context": {"page": "/a", "ip": "192.0.2.1"}, "timestamp": "2026-01-02T00:00:00Z"}, False),
    ],
)
async def test_ingest_is_shown_a_stored_event_only_where_it_said_all_of_it(
    shop: Tenant, said: dict[str, Any], is_shown: bool
) -> None:
    """Somebody else's surroundings are theirs, also where the rest is the same."""
    same = {"id": "same", "eventType": "order.placed", "userId": "ada", "properties": {"n": 1}}
    stored = {"context": {"page": "/a", "ip": "192.0.2.1"}, "timestamp": "2026-01-01T00:00:00Z"}
    given = {"timestamp": stored["timestamp"], **said}
    await shop.track(**same, **stored)
    app = await shop.as_role(Role.INGEST, ApiKeyKind.PUBLISHABLE)
    document = "mutation ($input: TrackInput!) { track(input: $input) { event { context timestamp } } }"
    response = await app.run(document, input={"event": {**same, **given}})
    assert (response["data"]["track"]["event"] is not None) is is_shown
    assert is_shown or {error["extensions"]["code"] for error in response["errors"]} == {"FORBIDDEN"}
