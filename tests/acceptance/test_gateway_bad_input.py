"""Values that can never work, each beside a second client: a clear error with a code, and an untouched log."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest

from tests.acceptance.gateway_client import (
    FOLLOW,
    TRACK,
    TRACK_BATCH,
    Gateway,
    code_of,
    harmless,
    open_event_source,
)
from tests.acceptance.http_server import Response

GOOD: dict[str, Any] = {"eventType": "bad_input.tested"}
NUL = "\\u0000"
LONE = "\\ud800"


def request_with(document: str, variables: str) -> bytes:
    """The body of a request whose variables are this text, which no JSON library would write."""
    return f'{{"query": {json.dumps(document)}, "variables": {variables}}}'.encode("utf-8", "surrogatepass")


def event_with(members: str) -> str:
    """Variables of TRACK: a good event and these members, as text."""
    return f'{{"event": {{"eventType": "bad_input.tested", {members}}}}}'


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    ("variables", "code"),
    [
        # what the schema does not know, or knows otherwise
        (event_with('"unknown": 1'), "BAD_USER_INPUT"),
        ('{"event": {"eventType": 5}}', "BAD_USER_INPUT"),
        ('{"event": {}}', "BAD_USER_INPUT"),
        ('{"event": null}', "BAD_USER_INPUT"),
        ("{}", "BAD_USER_INPUT"),
        ("[]", "BAD_USER_INPUT"),
        ('"text"', "BAD_USER_INPUT"),
        (event_with('"userId": ["a"]'), "BAD_USER_INPUT"),
        (event_with('"timestamp": 1700000000'), "BAD_USER_INPUT"),
        # instants that are none, or leave the years of the calendar once in UTC
        (event_with('"timestamp": "yesterday"'), "BAD_USER_INPUT"),
        (event_with('"timestamp": "2026-02-30T00:00:00Z"'), "BAD_USER_INPUT"),
        (event_with('"timestamp": "2026-05-01T12:00:00"'), "BAD_USER_INPUT"),
        (event_with('"timestamp": "9999-12-31T23:59:59-12:00"'), "BAD_USER_INPUT"),
        (event_with('"timestamp": "0001-01-01T00:00:00+14:00"'), "BAD_USER_INPUT"),
        # characters that no stored text can hold, wherever they stand
        *((event_with(f'"{name}": "a{NUL}b"'), "BAD_USER_INPUT") for name in ("id", "module", "userId", "anonymousId")),
        *((event_with(f'"{name}": "a{LONE}b"'), "BAD_USER_INPUT") for name in ("id", "module", "userId", "orgId")),
        *((event_with(f'"{name}": {{"a": ["{NUL}"]}}'), "BAD_USER_INPUT") for name in ("properties", "context")),
        *((event_with(f'"{name}": {{"{NUL}": 1}}'), "BAD_USER_INPUT") for name in ("properties", "traits")),
        *((event_with(f'"{name}": {{"a": "{LONE}"}}'), "BAD_USER_INPUT") for name in ("properties", "traits")),
        (event_with('"userId": "\ud800"'), "BAD_USER_INPUT"),
        # numbers beyond 64 bits, and what JSON has no numbers for
        (event_with('"properties": {"a": 9223372036854775808}'), "BAD_USER_INPUT"),
        (event_with('"properties": {"a": -9223372036854775809}'), "BAD_USER_INPUT"),
        (event_with(f'"properties": {{"a": {"9" * 5000}}}'), "BAD_USER_INPUT"),
        (event_with('"properties": {"a": 1e400}'), "BAD_USER_INPUT"),
        (event_with('"properties": {"a": NaN}'), "BAD_USER_INPUT"),
        # depth
        (event_with(f'"properties": {{"a": {nested(1000)}}}'), "BAD_USER_INPUT"),
        (event_with(f'"properties": {{"a": {nested(65)}}}'), "BAD_USER_INPUT"),
        (event_with(f'"properties": {nested(100_000)}'), "BAD_USER_INPUT"),
        ('{"event": ' * 1000 + "1" + "}" * 1000, "BAD_USER_INPUT"),
    ],
)
async def test_an_event_that_can_never_be_one_is_refused(gateway: Gateway, variables: str, code: str) -> None:
    async with harmless(gateway):
        answer = await gateway.send(request_with(TRACK, variables))
        batch = variables.replace('{"event":', '{"events":', 1)
        batched = await gateway.send(request_with(TRACK_BATCH, batch))

    assert code_of(answer) == code
    assert code_of(batched) == code


@pytest.mark.parametrize(
    ("literal", "code"),
    [
        ('{eventType: "a.b", unknown: 1}', "GRAPHQL_VALIDATION_FAILED"),
        ("{eventType: 5}", "GRAPHQL_VALIDATION_FAILED"),
        ('{eventType: "a.b", timestamp: "0001-01-01T00:00:00+01:00"}', "GRAPHQL_VALIDATION_FAILED"),
        ('{eventType: "a.b", properties: {a: 99999999999999999999}}', "BAD_USER_INPUT"),
        ('{eventType: "a.b", properties: {a: 1e999}}', "BAD_USER_INPUT"),
        (f'{{eventType: "a.b", properties: {{a: {"9" * 5000}}}}}', "BAD_USER_INPUT"),
        ('{eventType: "a.b", userId: "\\u0000"}', "BAD_USER_INPUT"),
        ('{eventType: "a.b", userId: "a\0b"}', "BAD_USER_INPUT"),
        ('{eventType: "a.b", userId: "\\uD800"}', "GRAPHQL_PARSE_FAILED"),
        ('{eventType: "a.b", userId: "\\u{DFFF}"}', "GRAPHQL_PARSE_FAILED"),
        (f'{{eventType: "a.b", properties: {{a: {nested(100)}}}}}', "GRAPHQL_VALIDATION_FAILED"),
        (f'{{eventType: "a.b", properties: {{a: {nested(900)}}}}}', "DEPTH_EXCEEDED"),
        (f'{{eventType: "a.b", properties: {{a: {nested(10_000)}}}}}', "DEPTH_EXCEEDED"),
        ('{eventType: "a.b", properties: ' + "{a: " * 900 + "1" + "}" * 900 + "}", "DEPTH_EXCEEDED"),
    ],
)
async def test_a_literal_is_bound_as_a_variable_is(gateway: Gateway, literal: str, code: str) -> None:
    async with harmless(gateway):
        answer = await gateway.ask(f"mutation {{ track(input: {{ event: {literal} }}) {{ duplicate }} }}")

    assert code_of(answer) == code


@pytest.mark.parametrize(
    ("event", "path"),
    [
        ({"properties": {"a": "x" * 64 * 1024}}, []),
        ({"context": {"a": "x" * 64 * 1024}}, []),
        ({"properties": [1]}, ["properties"]),
        ({"properties": "text"}, ["properties"]),
        ({"context": 1}, ["context"]),
        ({"traits": [], "userId": "u"}, ["traits"]),
        ({"eventType": ""}, ["eventType"]),
        ({"eventType": "order.*"}, ["eventType"]),
        ({"eventType": "x" * 201}, ["eventType"]),
        ({"module": "no module"}, ["module"]),
        ({"id": ""}, ["id"]),
        ({"id": "x" * 129}, ["id"]),
        ({"userId": "x" * 257}, ["userId"]),
        ({"anonymousId": ""}, ["anonymousId"]),
        ({"timestamp": "9999-12-31T23:59:59Z"}, ["timestamp"]),
        ({"timestamp": "0001-01-01T00:00:00Z"}, ["timestamp"]),
        ({"orgId": str(uuid4())}, ["orgId"]),
        ({"projectId": "no project"}, ["projectId"]),
    ],
)
async def test_an_event_that_is_rejected_leaves_its_neighbours_be(
    gateway: Gateway, event: dict[str, Any], path: list[str]
) -> None:
    bad = GOOD | event

    async with harmless(gateway, stored=2):
        alone = await gateway.track(**bad)
        batch = (await gateway.data(TRACK_BATCH, events=[GOOD, bad, GOOD]))["trackBatch"]

    assert alone["event"] is None
    assert [(error["code"], error["path"]) for error in alone["userErrors"]] == [("INVALID", ["input", "event", *path])]
    assert (batch["accepted"], batch["rejected"]) == (2, 1)
    paths = [(error["code"], error["path"]) for error in batch["userErrors"]]
    assert paths == [("INVALID", ["input", "events", "1", *path])]


@pytest.mark.parametrize(("count", "code"), [(0, "INVALID"), (1001, "LIMIT_EXCEEDED")])
async def test_a_batch_of_none_or_too_many_is_refused_whole(gateway: Gateway, count: int, code: str) -> None:
    async with harmless(gateway):
        batch = (await gateway.data(TRACK_BATCH, events=[GOOD] * count))["trackBatch"]

    assert (batch["accepted"], batch["rejected"], batch["cursor"]) == (0, count, None)
    assert [(error["code"], error["path"]) for error in batch["userErrors"]] == [(code, ["input", "events"])]


async def test_a_batch_of_a_thousand_is_stored(gateway: Gateway) -> None:
    async with harmless(gateway, stored=1000):
        batch = (await gateway.data(TRACK_BATCH, events=[GOOD] * 1000))["trackBatch"]

    assert (batch["accepted"], batch["rejected"], batch["userErrors"]) == (1000, 0, [])


async def test_a_body_over_2_mib_is_413(gateway: Gateway) -> None:
    events = [{**GOOD, "properties": {"a": "x" * 60_000}}] * 40

    async with harmless(gateway):
        answer = await gateway.ask(TRACK_BATCH, events=events)

    assert (answer.status, code_of(answer)) == (413, "COST_EXCEEDED")


@pytest.mark.parametrize(
    ("traits", "path"),
    [([], ["traits"]), ("text", ["traits"]), (5, ["traits"]), ({"a": "x" * 64 * 1024}, [])],
)
async def test_who_somebody_is_must_be_an_object(gateway: Gateway, traits: object, path: list[str]) -> None:
    document = """mutation ($traits: JSON!) {
      identify(input: { userId: "bad", traits: $traits }) { profile { id } event { id } userErrors { code path } }
    }"""
    async with harmless(gateway):
        answer = (await gateway.data(document, traits=traits))["identify"]

    assert answer == {"profile": None, "event": None, "userErrors": [{"code": "INVALID", "path": ["input", *path]}]}


READERS = {
    "node": "query ($text: ID!) { node(id: $text) { id } }",
    "nodes": "query ($text: ID!) { nodes(ids: [$text]) { id } }",
    "profile": "query ($text: String!) { profile(userId: $text) { id } }",
    "profiles": "query ($text: String!) { profiles(search: $text) { edges { cursor } } }",
    "eventTypes search": "query ($text: String!) { eventTypes(search: $text) { edges { cursor } } }",
    "eventTypes module": "query ($text: String!) { eventTypes(module: $text) { edges { cursor } } }",
    "userId": "query ($text: String!) { events(filter: { userId: $text }) { totalCount } }",
    "anonymousId": "query ($text: String!) { events(filter: { anonymousId: $text }) { totalCount } }",
    "keys": "query ($text: String!) { events(filter: { keys: [$text] }) { totalCount } }",
    "eventTypes": "query ($text: String!) { events(filter: { eventTypes: [$text] }) { totalCount } }",
    "modules": "query ($text: String!) { events(filter: { modules: [$text] }) { totalCount } }",
    "after": "query ($text: Cursor!) { events(after: $text) { totalCount } }",
    "where path": (
        "query ($text: String!) { events(filter: { where: [{ path: $text, op: EQ, value: 1 }] }) { totalCount } }"
    ),
    "where value": (
        'query ($text: JSON!) { events(filter: { where: [{ path: "event.userId", op: EQ, value: $text }] })'
        " { totalCount } }"
    ),
    "where people": (
        'query ($text: JSON!) { profiles(where: [{ path: "profile.traits.a", op: CONTAINS, value: $text }])'
        " { totalCount } }"
    ),
    "revokeApiKey": "mutation ($text: ID!) { revokeApiKey(id: $text) { userErrors { code } } }",
    "createProject": "mutation ($text: String!) { createProject(name: $text) { userErrors { code } } }",
    "identify": 'mutation ($text: JSON!) { identify(input: { userId: "u", traits: $text }) { userErrors { code } } }',
}


@pytest.mark.parametrize("reader", READERS)
async def test_characters_that_cannot_be_stored_cannot_be_asked_for(gateway: Gateway, reader: str) -> None:
    document = READERS[reader]

    async with harmless(gateway):
        answers = [
            await gateway.send(request_with(document, f'{{"text": "{text}"}}')) for text in (NUL, LONE, "\ud800")
        ]
        literal = document[document.index("{") :].replace("$text", f'"{NUL}"')
        answers.append(await gateway.ask(f"{document.split()[0]} {literal}"))

    assert [code_of(answer) for answer in answers] == ["BAD_USER_INPUT"] * 4


@pytest.mark.parametrize(
    "identifier",
    [
        "",
        "evt_",
        "evt_" + "A" * 32,
        "prf_" + "٣" * 32,
        "prf_" + "z" * 32,
        "wf_1",
        "evt_" + "é" * 32,
        "x" * 100_000,
        "../../etc",
    ],
)
async def test_an_id_of_nothing_is_null(gateway: Gateway, identifier: str) -> None:
    document = "query ($id: ID!) { node(id: $id) { id } nodes(ids: [$id, $id]) { id } }"

    async with harmless(gateway):
        assert await gateway.data(document, id=identifier) == {"node": None, "nodes": [None, None]}


LISTS = ("events", "eventTypes", "profiles", "events last", "profiles last", "timeline")


async def page_of(gateway: Gateway, name: str, size: object) -> Response:
    argument = f"{'last' if name.endswith('last') else 'first'}: {size}"
    part = f"({argument}) {{ edges {{ cursor }} }}"
    if name == "timeline":
        return await gateway.ask(f"{{ profiles(first: 1) {{ edges {{ node {{ timeline{part} }} }} }} }}")
    return await gateway.ask(f"{{ {name.split()[0]}{part} }}")


@pytest.mark.parametrize(
    ("size", "code"),
    [
        (0, "BAD_USER_INPUT"),
        (-1, "BAD_USER_INPUT"),
        (-(2**31), "BAD_USER_INPUT"),
        (2**31, "GRAPHQL_VALIDATION_FAILED"),
        ('"5"', "GRAPHQL_VALIDATION_FAILED"),
        (1.5, "GRAPHQL_VALIDATION_FAILED"),
    ],
)
async def test_a_page_has_at_least_one_item(gateway: Gateway, size: object, code: str) -> None:
    async with harmless(gateway):
        answers = [await page_of(gateway, name, size) for name in LISTS]

    assert [code_of(answer) for answer in answers] == [code] * len(LISTS)


@pytest.mark.parametrize("size", [101, 2**31 - 1])
async def test_a_page_over_a_hundred_has_a_hundred(gateway: Gateway, size: int) -> None:
    async with harmless(gateway):
        answer: Any = (await page_of(gateway, "events", size)).json

    assert len(answer["data"]["events"]["edges"]) == 100


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("first: 1, last: 1", "BAD_USER_INPUT"),
        ("order: SIDEWAYS", "GRAPHQL_VALIDATION_FAILED"),
        ('order: "NEWEST_FIRST"', "GRAPHQL_VALIDATION_FAILED"),
        ("order: 1", "GRAPHQL_VALIDATION_FAILED"),
        ("order: [NEWEST_FIRST]", "GRAPHQL_VALIDATION_FAILED"),
        ("unknown: 1", "GRAPHQL_VALIDATION_FAILED"),
        ("filter: { unknown: 1 }", "GRAPHQL_VALIDATION_FAILED"),
        ('filter: { since: "0001-01-01T00:00:00Z" }', "BAD_USER_INPUT"),
        ('filter: { until: "9999-12-31T23:59:59Z" }', "BAD_USER_INPUT"),
        ('filter: { until: "9999-12-31T23:59:59-01:00" }', "GRAPHQL_VALIDATION_FAILED"),
        ('filter: { since: "now" }', "GRAPHQL_VALIDATION_FAILED"),
        ("filter: { eventTypes: [null] }", "GRAPHQL_VALIDATION_FAILED"),
        (f'filter: {{ eventTypes: ["{"x" * 201}"] }}', "BAD_USER_INPUT"),
        (f"filter: {{ eventTypes: {json.dumps([str(number) for number in range(201)])} }}", "BAD_USER_INPUT"),
        (f"filter: {{ keys: {json.dumps([str(number) for number in range(1001)])} }}", "BAD_USER_INPUT"),
        (f'filter: {{ userId: "{"x" * 513}" }}', "BAD_USER_INPUT"),
    ],
)
async def test_a_list_refuses_what_makes_no_sense(gateway: Gateway, arguments: str, code: str) -> None:
    async with harmless(gateway):
        answer = await gateway.ask(f"{{ events({arguments}) {{ totalCount }} }}")

    assert code_of(answer) == code


async def test_an_order_that_is_no_order_is_refused_in_a_variable_too(gateway: Gateway) -> None:
    document = "query ($order: EventOrder) { events(order: $order) { totalCount } }"

    async with harmless(gateway):
        answers = [await gateway.ask(document, order=order) for order in ("newest_first", "", 0, [])]

    assert [code_of(answer) for answer in answers] == ["BAD_USER_INPUT"] * 4


@pytest.mark.parametrize(
    ("names", "matched"),
    [
        # any run of characters, dots too; more stars say no more than one
        (["*"], {"shop.cart.opened", "shop", "Shop Opened"}),
        (["**"], {"shop.cart.opened", "shop", "Shop Opened"}),
        (["*" * 200], {"shop.cart.opened", "shop", "Shop Opened"}),
        (["*.*"], {"shop.cart.opened"}),
        (["shop*"], {"shop.cart.opened", "shop"}),
        (["shop.*"], {"shop.cart.opened"}),
        (["s*d"], {"shop.cart.opened"}),
        (["s**p"], {"shop"}),
        (["*.cart.*"], {"shop.cart.opened"}),
        # nothing is called that, and neither SQL's nor a shell's wildcards are ours
        ([""], set()),
        ([], set()),
        (["."], set()),
        (["sh_p"], set()),
        (["sh%"], set()),
        (["sho?"], set()),
        (["[s]hop"], set()),
        (["SHOP"], set()),
        (["\\shop"], set()),
        ([" shop"], set()),
    ],
)
async def test_a_wildcard_matches_alike_in_a_list_and_in_a_stream_however_odd_it_is(
    gateway: Gateway, names: list[str], matched: set[str]
) -> None:
    user = f"wildcards-{uuid4()}"
    after = await gateway.head()
    for name in ("shop.cart.opened", "shop", "Shop Opened"):
        await gateway.track(eventType=name, userId=user)
    event_filter = {"eventTypes": names, "userId": user}

    document = "query ($filter: EventFilter) { events(filter: $filter) { edges { node { eventType } } } }"
    listed = await gateway.data(document, filter=event_filter)
    async with open_event_source(gateway, FOLLOW, after=after, filter=event_filter) as stream:
        streamed = {(await stream.item())["data"]["eventStream"]["node"]["eventType"] for _ in matched}

    assert {edge["node"]["eventType"] for edge in listed["events"]["edges"]} == matched
    assert streamed == matched


async def test_a_time_that_ends_before_it_begins_holds_nothing(gateway: Gateway) -> None:
    event_filter = {"since": "2026-05-02T00:00:00Z", "until": "2026-05-01T00:00:00Z"}
    document = "query ($filter: EventFilter) { events(filter: $filter) { totalCount edges { cursor } } }"

    async with harmless(gateway):
        data = await gateway.data(document, filter=event_filter)

    assert data == {"events": {"totalCount": 0, "edges": []}}


def condition(path: str, op: str, *value: object) -> dict[str, object]:
    return {"path": path, "op": op, **({"value": value[0]} if value else {})}


TEST = condition("event.eventType", "EQ", "x")


def wrapped(levels: int) -> dict[str, Any]:
    inner: dict[str, Any] = TEST
    for _ in range(levels):
        inner = {"not": inner}
    return inner


MALFORMED: list[tuple[Any, str]] = [
    # not one of the forms
    ([{}], "where.0 "),
    ([{"op": "EQ", "value": 1}], "where.0 "),
    ([{"any": [TEST], "all": [TEST]}], "where.0 "),
    ([{"any": []}], "where.0.any "),
    ([{"all": []}], "where.0.all "),
    ([{"not": {}}], "where.0.not "),
    ([{"any": [TEST], "op": "EQ"}], "where.0.op "),
    ([{"path": "event.userId", "value": 1}], "where.0.op "),
    ([condition("event.userId", "EQ")], "where.0.value "),
    # too many, too deep, too large
    ([TEST] * 201, "where.200 "),
    ([wrapped(9)], "nested too deeply"),
    ([wrapped(40)], "nested too deeply"),
    ([condition("event.properties.a", "IN", list(range(1001)))], "where.0.value "),
    ([condition("event.properties.a", "EQ", "x" * 8193)], "where.0.value "),
    ([condition("event.properties.a", "EQ", json.loads(nested(20)))], "where.0.value "),
    ([condition(f"event.properties.{'a.' * 300}b", "EQ", 1)], "where.0.path "),
    # paths to nowhere
    ([condition("", "EQ", 1)], "where.0.path "),
    ([condition("event", "EQ", 1)], "where.0.path "),
    ([condition("event.", "EQ", 1)], "where.0.path "),
    ([condition("event.colour", "EQ", 1)], "where.0.path "),
    ([condition("event.properties..a", "EQ", 1)], "where.0.path "),
    ([condition("moon.phase", "EQ", 1)], "where.0.path "),
    ([condition("run.vars.x", "EQ", 1)], "where.0.path "),
    ([condition("profile.consent.moon", "EQ", "GRANTED")], "where.0.path "),
    # operators and values that do not go together
    ([condition("event.properties.a", "IN", 1)], "where.0.value "),
    ([condition("event.properties.a", "GT", None)], "where.0.value "),
    ([condition("event.properties.a", "GT", True)], "where.0.value "),
    ([condition("event.properties.a", "LTE", {})], "where.0.value "),
    ([condition("event.properties.a", "STARTS_WITH", 1)], "where.0.value "),
    ([condition("event.properties.a", "EXISTS", 1)], "where.0.value "),
    ([condition("event.seq", "GT", "a")], "where.0.value "),
    ([condition("event.seq", "CONTAINS", 1)], "where.0.op "),
    ([condition("event.userId", "IS_ANNIVERSARY")], "where.0.op "),
    ([condition("event.timestamp", "GT", "soon")], "where.0.value "),
    ([condition("event.timestamp", "GT", "9999-12-31T23:59:59-10:00")], "where.0.value "),
    ([condition("event.timestamp", "GT", "0001-01-01T00:00:00+10:00")], "where.0.value "),
    # counts
    ([{"events": {"eventType": ""}, "op": "EQ", "value": 1}], "where.0.events.eventType "),
    ([{"events": {"eventType": "a"}, "op": "EQ", "value": "1"}], "where.0.value "),
    ([{"events": {"eventType": "a"}, "op": "EXISTS"}], "where.0.op "),
    ([{"events": {"eventType": "a", "withinSeconds": 0}, "op": "GT", "value": 1}], "where.0.events.withinSeconds "),
    ([{"events": {"eventType": "a", "sum": "event.userId"}, "op": "GT", "value": 1}], "where.0.events.sum "),
    (
        [{"events": {"eventType": "a", "where": [condition("profile.traits.a", "EQ", 1)]}, "op": "GT", "value": 1}],
        "where.0.events.where.0.path ",
    ),
]


@pytest.mark.parametrize(("where", "message"), MALFORMED)
async def test_a_malformed_condition_is_named_by_its_path(gateway: Gateway, where: Any, message: str) -> None:
    async with harmless(gateway):
        of_events = await gateway.ask(
            "query ($where: [ConditionInput!]) { events(filter: { where: $where }) { totalCount } }", where=where
        )
        of_people = await gateway.ask(
            "query ($where: [ConditionInput!]) { profiles(where: $where) { totalCount } }", where=where
        )

    assert code_of(of_events) == "BAD_USER_INPUT"
    errors: Any = of_events.json["errors"]
    assert message in errors[0]["message"]
    assert code_of(of_people) == "BAD_USER_INPUT"


@pytest.mark.parametrize(
    "where", ["text", [None], 5, [{"unknown": 1}], [{"path": "event.userId", "op": "LIKE"}], [{"path": 5, "op": "EQ"}]]
)
async def test_a_condition_of_the_wrong_type_is_refused(gateway: Gateway, where: object) -> None:
    document = "query ($where: [ConditionInput!]) { events(filter: { where: $where }) { totalCount } }"

    async with harmless(gateway):
        answer = await gateway.ask(document, where=where)

    assert code_of(answer) == "BAD_USER_INPUT"


async def test_a_name_with_sql_in_it_is_a_name(gateway: Gateway) -> None:
    user = "'; DROP TABLE events; --"

    async with harmless(gateway, stored=1):
        await gateway.track(eventType="sql.tried", userId=user, properties={user: user})
        where = [condition(f"event.properties.{user.replace('.', chr(92) + '.')}", "EQ", user)]
        data = await gateway.data(
            "query ($w: [ConditionInput!], $u: String!) { events(filter: { userId: $u, where: $w }) { totalCount } }",
            w=where,
            u=user,
        )

    assert data == {"events": {"totalCount": 1}}
