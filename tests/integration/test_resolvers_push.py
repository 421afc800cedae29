"""Push through GraphQL: devices, settings, sends, tests, reports and Live Activities."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from db.push_tokens import MAX_ACTIVE_TOKENS_OF_USER
from engine.clock import DatabaseClock
from engine.dispatch.values import PushContent
from engine.identity import ApiKeyKind, Role
from engine.work import Work, WorkKind
from tests.integration.delivery_support import make_delivery, node_id
from tests.integration.graphql_support import Gateway, Tenant

PHONE = "ab" * 32
P256DH = "BNcRdreALRFXTkOOUHK1EtK2wtaz5Ry4YfYCA_0QTpQtUbVlUls0VJXg7A8u-Ts1XbjhazAkj7I99e8QcYP7DkM"
AUTH = "tBHItJI5svbpez7KI4CCXg"
HELLO = {"title": "Hello", "body": "there"}

REGISTER = """mutation ($input: RegisterPushTokenInput!) {
  registerPushToken(input: $input) {
    pushToken {
      id platform environment userId active timezone locale appVersion lastUsedAt invalidatedReason
    }
    warnings
    userErrors { code path message }
  }
}"""
UNREGISTER = """mutation ($token: String!) {
  unregisterPushToken(token: $token) { pushToken { id active invalidatedReason } userErrors { code path } }
}"""
TOKENS = """query ($first: Int, $after: Cursor, $last: Int, $before: Cursor, $filter: PushTokenFilter) {
  pushTokens(first: $first, after: $after, last: $last, before: $before, filter: $filter) {
    edges { cursor node { userId } } pageInfo { hasNextPage hasPreviousPage endCursor }
  }
}"""
SEND = """mutation ($input: SendPushInput!) {
  sendPush(input: $input) {
    batchId queued scheduled suppressed
    deliveries {
      id batchId status suppressedReason userId scheduledFor nextAttemptAt variant locale payload
      pushToken { platform userId }
    }
    userErrors { code path message }
  }
}"""
SETTINGS = """{ pushSettings {
  quietHoursStartLocal quietHoursEndLocal deferInQuietHours freqCapPerUserPerDay freqCapPerUserPerHour
} }"""
UPDATE_SETTINGS = """mutation ($input: PushSettingsInput!) {
  updatePushSettings(input: $input) {
    pushSettings {
      quietHoursStartLocal quietHoursEndLocal deferInQuietHours freqCapPerUserPerDay freqCapPerUserPerHour
    }
    userErrors { code path }
  }
}"""
TEST_PUSH = """mutation ($id: ID!) {
  sendTestPush(pushTokenId: $id) { delivery { status suppressedReason userId } userErrors { code path } }
}"""
TRACK_PUSH = """mutation ($input: TrackPushInput!) {
  trackPush(input: $input) { event { id eventType userId properties } duplicate userErrors { code path } }
}"""
REGISTER_ACTIVITY = """mutation ($input: RegisterLiveActivityTokenInput!) {
  registerLiveActivityToken(input: $input) { state userErrors { code path } }
}"""
SEND_ACTIVITY = """mutation ($input: SendLiveActivityInput!) {
  sendLiveActivity(input: $input) {
    queued suppressed deliveries { status suppressedReason payload } userErrors { code path }
  }
}"""


async def register(tenant: Tenant, **fields: Any) -> Any:
    data = await tenant.data(REGISTER, input={"platform": "IOS", "token": PHONE, **fields})
    return data["registerPushToken"]


async def device(tenant: Tenant, **fields: Any) -> str:
    registered = await register(tenant, **fields)
    assert registered["userErrors"] == []
    push_token_id: str = registered["pushToken"]["id"]
    return push_token_id


async def send(tenant: Tenant, **fields: Any) -> Any:
    data = await tenant.data(SEND, input={"userIds": ["ada"], "push": HELLO, **fields})
    return data["sendPush"]


INVALIDATED = """{ events(filter: {eventTypes: ["push.token_invalidated"]}, order: OLDEST_FIRST) {
  edges { node { userId properties } }
} }"""


async def test_a_person_has_no_more_active_devices_than_a_send_should_go_to(gateway: Gateway, shop: Tenant) -> None:
    """A key in an app may register any number, for anybody."""
    devices = [
        await device(shop, platform="ANDROID", token=f"token-{each}", userId="ada")
        for each in range(MAX_ACTIVE_TOKENS_OF_USER)
    ]
    await device(shop, platform="ANDROID", token="token-0")
    other = await device(shop, platform="ANDROID", token="of-bob", userId="bob")
    assert (await send(shop))["queued"] == MAX_ACTIVE_TOKENS_OF_USER

    for each in range(3):
        await device(shop, platform="ANDROID", token=f"more-{each}", userId="ada")

    assert (await send(shop))["queued"] == MAX_ACTIVE_TOKENS_OF_USER
    events = [edge["node"] for edge in (await shop.data(INVALIDATED))["events"]["edges"]]
    # The first of all has registered again meanwhile.
    assert [event["properties"]["pushTokenId"] for event in events] == devices[1:4]
    assert {(event["userId"], event["properties"]["reason"]) for event in events} == {("ada", "TooManyDevices")}
    assert (await send(shop, userIds=["bob"]))["deliveries"][0]["pushToken"]["userId"] == "bob"
    assert other not in devices


def clock_of(tenant: Tenant) -> DatabaseClock:
    clock = tenant.gateway.services.clock
    assert isinstance(clock, DatabaseClock)
    return clock


async def event_types(tenant: Tenant) -> Counter[str]:
    data = await tenant.data("{ events(first: 100) { edges { node { eventType } } } }")
    return Counter(edge["node"]["eventType"] for edge in data["events"]["edges"])


# ── devices ──


async def test_a_device_is_registered_moves_and_comes_back(shop: Tenant) -> None:
    first = await register(shop, userId="ada", timezone="Europe/Berlin", locale="de_AT", appVersion="1.0")
    token = first["pushToken"]
    assert first == {
        "pushToken": {
            "id": token["id"],
            "platform": "IOS",
            "environment": "PRODUCTION",
            "userId": "ada",
            "active": True,
            "timezone": "Europe/Berlin",
            "locale": "de_AT",
            "appVersion": "1.0",
            "lastUsedAt": None,
            "invalidatedReason": None,
        },
        "warnings": [],
        "userErrors": [],
    }
    # In other digits it is the same device; what is not said stays.
    again = await register(shop, token=PHONE.upper(), appVersion="1.1", environment="SANDBOX")
    assert again["pushToken"] == {**token, "appVersion": "1.1", "environment": "SANDBOX"}
    moved = await register(shop, userId="bob")
    assert (moved["pushToken"]["id"], moved["pushToken"]["userId"]) == (token["id"], "bob")

    ended = (await shop.data(UNREGISTER, token=PHONE.upper()))["unregisterPushToken"]
    assert ended == {
        "pushToken": {"id": token["id"], "active": False, "invalidatedReason": "UnregisteredByApp"},
        "userErrors": [],
    }
    # Whoever comes after bob signed off is nobody known.
    back = await register(shop)
    assert (back["pushToken"]["id"], back["pushToken"]["active"], back["pushToken"]["userId"]) == (
        token["id"],
        True,
        None,
    )


@pytest.mark.parametrize("platform", ["IOS", "ANDROID"])
async def test_an_expo_token_registers_with_a_warning(shop: Tenant, platform: str) -> None:
    registered = await register(shop, platform=platform, token="ExponentPushToken[xxxxxxxxxxxxxxxxxxxxxx]")
    assert registered["userErrors"] == []
    assert registered["pushToken"]["active"]
    [warning] = registered["warnings"]
    assert "getDevicePushTokenAsync" in warning


@pytest.mark.parametrize(
    ("fields", "code", "path"),
    [
        ({"token": "xyz"}, "INVALID", ["input", "token"]),
        ({"token": "abc"}, "INVALID", ["input", "token"]),
        ({"token": "ab" * 201}, "INVALID", ["input", "token"]),
        ({"platform": "ANDROID", "token": ""}, "INVALID", ["input", "token"]),
        ({"platform": "ANDROID", "token": "has blanks"}, "INVALID", ["input", "token"]),
        ({"platform": "ANDROID", "token": "x" * 2049}, "INVALID", ["input", "token"]),
        ({"webPushKeys": {"p256dh": P256DH, "auth": AUTH}}, "INVALID", ["input", "webPushKeys"]),
        ({"timezone": "Berlin"}, "INVALID", ["input", "timezone"]),
        ({"locale": "de AT"}, "INVALID", ["input", "locale"]),
        ({"appVersion": "x" * 65}, "INVALID", ["input", "appVersion"]),
        ({"userId": ""}, "INVALID", ["input", "userId"]),
        ({"userId": "a\0b"}, "INVALID", ["input", "userId"]),
        ({"userId": "x" * 257}, "INVALID", ["input", "userId"]),
    ],
)
async def test_what_can_be_no_device_is_refused(shop: Tenant, fields: Any, code: str, path: list[str]) -> None:
    refused = await register(shop, **fields)
    assert refused["pushToken"] is None
    assert [(error["code"], error["path"]) for error in refused["userErrors"]] == [(code, path)]
    assert (await shop.data(TOKENS))["pushTokens"]["edges"] == []


WEB = {"platform": "WEB", "token": "https://push.example/1", "webPushKeys": {"p256dh": P256DH, "auth": AUTH}}


@pytest.mark.parametrize(
    ("fields", "code", "path"),
    [
        ({"webPushKeys": None}, "INVALID", ["input", "webPushKeys"]),
        ({"webPushKeys": {"p256dh": "AAAA", "auth": AUTH}}, "INVALID", ["input", "webPushKeys", "p256dh"]),
        # 65 bytes that are no point of the curve.
        ({"webPushKeys": {"p256dh": "B" + "A" * 86, "auth": AUTH}}, "INVALID", ["input", "webPushKeys", "p256dh"]),
        ({"webPushKeys": {"p256dh": P256DH, "auth": "AAAA"}}, "INVALID", ["input", "webPushKeys", "auth"]),
        ({"webPushKeys": {"p256dh": P256DH, "auth": "ü"}}, "INVALID", ["input", "webPushKeys", "auth"]),
        ({"token": "http://push.example/1"}, "BLOCKED_URL", ["input", "token"]),
        ({"token": "https://169.254.169.254/latest"}, "BLOCKED_URL", ["input", "token"]),
        ({"token": "https://localhost/1"}, "BLOCKED_URL", ["input", "token"]),
    ],
)
async def test_a_browser_needs_its_keys_and_an_endpoint_that_may_be_called(
    shop: Tenant, fields: Any, code: str, path: list[str]
) -> None:
    refused = await register(shop, **{**WEB, **fields})
    assert [(error["code"], error["path"]) for error in refused["userErrors"]] == [(code, path)]
    assert (await register(shop, **WEB))["userErrors"] == []


async def test_an_app_key_sees_what_it_said_and_nothing_that_was_known(shop: Tenant) -> None:
    app = await shop.as_role(Role.INGEST, ApiKeyKind.PUBLISHABLE)
    said = {"userId": "ada", "timezone": "Europe/Berlin", "locale": "de", "appVersion": "1"}
    assert (await register(app, **said))["pushToken"] | said == (await register(app, **said))["pushToken"]

    response = await app.run(REGISTER, input={"platform": "IOS", "token": PHONE})
    assert {error["path"][-1] for error in response["errors"]} == {"userId", "timezone", "locale", "appVersion"}
    assert {error["extensions"]["code"] for error in response["errors"]} == {"FORBIDDEN"}
    assert "Berlin" not in repr(response)
    assert response["data"]["registerPushToken"]["pushToken"]["active"]

    everything = UNREGISTER.replace("{ id active", "{ userId id active")
    response = await app.run(everything, token=PHONE)
    assert [error["path"][-1] for error in response["errors"]] == ["userId"]
    assert response["data"]["unregisterPushToken"]["pushToken"]["invalidatedReason"] == "UnregisteredByApp"


@pytest.mark.parametrize("token", [PHONE, "", "x" * 3000, "a\0b", "ü"])
async def test_a_device_that_never_registered_cannot_be_signed_off(shop: Tenant, token: str) -> None:
    refused = (await shop.data(UNREGISTER, token=token))["unregisterPushToken"]
    assert refused == {"pushToken": None, "userErrors": [{"code": "NOT_FOUND", "path": ["token"]}]}


async def test_devices_are_listed_newest_first_and_filtered(shop: Tenant) -> None:
    for number, user_id in enumerate(["ada", "bob", "cyd", "ada"]):
        await register(shop, token=f"{number:064x}", userId=user_id)
    await register(shop, platform="ANDROID", token="fcm:1", userId="dan")
    await shop.data(UNREGISTER, token=f"{1:064x}")

    async def listed(**arguments: Any) -> Any:
        return (await shop.data(TOKENS, **arguments))["pushTokens"]

    def users(page: Any) -> list[str]:
        return [edge["node"]["userId"] for edge in page["edges"]]

    first = await listed(first=2)
    assert users(first) == ["dan", "ada"]
    assert first["pageInfo"]["hasNextPage"]
    rest = await listed(first=10, after=first["pageInfo"]["endCursor"])
    assert users(rest) == ["cyd", "bob", "ada"]
    assert (rest["pageInfo"]["hasNextPage"], rest["pageInfo"]["hasPreviousPage"]) == (False, True)
    assert users(await listed(last=2)) == ["bob", "ada"]
    assert users(await listed(last=1, before=rest["edges"][1]["cursor"])) == ["cyd"]
    assert users(await listed(filter={"userId": "ada"})) == ["ada", "ada"]
    assert users(await listed(filter={"platforms": ["ANDROID", "WEB"]})) == ["dan"]
    assert users(await listed(filter={"platforms": []})) == []
    assert users(await listed(filter={"active": False})) == ["bob"]
    assert users(await listed(filter={"active": True, "userId": "bob"})) == []


async def test_a_device_is_found_by_its_id_and_through_its_person(shop: Tenant) -> None:
    token_id = await device(shop, userId="ada")
    await shop.track(userId="ada")
    data = await shop.data(
        """query ($id: ID!) { node(id: $id) { id ... on PushToken { platform } }
                              profile(userId: "ada") { pushTokens { id } } }""",
        id=token_id,
    )
    assert data == {"node": {"id": token_id, "platform": "IOS"}, "profile": {"pushTokens": [{"id": token_id}]}}


# ── settings ──


async def test_settings_absent_stays_null_clears(shop: Tenant) -> None:
    defaults = {
        "quietHoursStartLocal": None,
        "quietHoursEndLocal": None,
        "deferInQuietHours": True,
        "freqCapPerUserPerDay": None,
        "freqCapPerUserPerHour": None,
    }
    assert (await shop.data(SETTINGS))["pushSettings"] == defaults

    async def update(**given: Any) -> Any:
        updated = (await shop.data(UPDATE_SETTINGS, input=given))["updatePushSettings"]
        assert updated["userErrors"] == []
        assert (await shop.data(SETTINGS))["pushSettings"] == updated["pushSettings"]
        return updated["pushSettings"]

    night = {"quietHoursStartLocal": 22, "quietHoursEndLocal": 0, "deferInQuietHours": False}
    assert await update(**night) == {**defaults, **night}
    assert await update(freqCapPerUserPerDay=3) == {**defaults, **night, "freqCapPerUserPerDay": 3}
    assert await update() == {**defaults, **night, "freqCapPerUserPerDay": 3}
    cleared = await update(quietHoursStartLocal=None, deferInQuietHours=None, freqCapPerUserPerDay=None)
    assert cleared == {**defaults, "quietHoursEndLocal": 0}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("quietHoursStartLocal", 24),
        ("quietHoursEndLocal", -1),
        ("freqCapPerUserPerDay", 0),
        ("freqCapPerUserPerHour", 1_000_001),
    ],
)
async def test_settings_out_of_range_change_nothing(shop: Tenant, name: str, value: int) -> None:
    given = {"deferInQuietHours": False, name: value}
    refused = (await shop.data(UPDATE_SETTINGS, input=given))["updatePushSettings"]
    assert refused == {"pushSettings": None, "userErrors": [{"code": "INVALID", "path": ["input", name]}]}
    assert (await shop.data(SETTINGS))["pushSettings"]["deferInQuietHours"] is True


async def test_the_key_for_browsers_is_made_on_first_use_and_stays(shop: Tenant) -> None:
    document = "{ pushSettings { vapidPublicKey } }"
    viewer = await shop.as_role(Role.VIEWER)
    found = await asyncio.gather(*(viewer.data(document) for _ in range(4)))
    [key] = {each["pushSettings"]["vapidPublicKey"] for each in found}
    assert len(key) == 87


# ── sending ──


async def test_a_push_makes_one_delivery_for_each_active_device(shop: Tenant) -> None:
    await device(shop, userId="ada")
    await device(shop, userId="ada", platform="ANDROID", token="fcm:1")
    await device(shop, userId="ada", token="cd" * 32)
    await shop.data(UNREGISTER, token="cd" * 32)
    sent = await send(shop, userIds=["ada", "nobody", "ada"])
    assert (sent["queued"], sent["scheduled"], sent["suppressed"], sent["userErrors"]) == (2, 0, 1, [])
    assert {each["batchId"] for each in sent["deliveries"]} == {sent["batchId"]}
    assert [
        (each["userId"], each["status"], each["suppressedReason"], (each["pushToken"] or {}).get("platform"))
        for each in sent["deliveries"]
    ] == [
        ("ada", "QUEUED", None, "IOS"),
        ("ada", "QUEUED", None, "ANDROID"),
        ("nobody", "SUPPRESSED", "NO_TOKENS", None),
    ]
    assert shop.gateway.woken == [Work(WorkKind.DELIVERIES, shop.project_id)]
    assert await event_types(shop) == {"push.send_requested": 3, "push.suppressed": 1}


async def test_the_policy_is_applied_at_acceptance(shop: Tenant) -> None:
    await device(shop, userId="ada")
    hour = clock_of(shop).now().hour
    await shop.data(UPDATE_SETTINGS, input={"quietHoursStartLocal": hour, "quietHoursEndLocal": (hour + 2) % 24})
    waits = await send(shop)
    assert (waits["queued"], waits["scheduled"]) == (0, 1)
    [delivery] = waits["deliveries"]
    assert delivery["status"] == "SCHEDULED"
    assert delivery["scheduledFor"] == delivery["nextAttemptAt"]
    assert delivery["scheduledFor"].endswith(f"T{(hour + 2) % 24:02}:00:00Z")
    assert shop.gateway.woken == []

    await shop.data(UPDATE_SETTINGS, input={"deferInQuietHours": False, "freqCapPerUserPerHour": 1})
    assert (await send(shop))["deliveries"][0]["suppressedReason"] == "QUIET_HOURS"
    assert (await send(shop, ignoreQuietHours=True))["queued"] == 1
    assert (await send(shop, ignoreQuietHours=True))["deliveries"][0]["suppressedReason"] == "FREQUENCY_CAP"


async def test_what_is_scheduled_waits_and_what_lies_behind_is_now(shop: Tenant) -> None:
    await device(shop, userId="ada")
    now = clock_of(shop).now()
    later = (now + timedelta(hours=3)).isoformat()
    sent = await send(shop, scheduledFor=later, userIds=["ada", "nobody"])
    assert (sent["queued"], sent["scheduled"], sent["suppressed"]) == (0, 1, 1)
    assert (await send(shop, scheduledFor=(now - timedelta(days=1)).isoformat()))["queued"] == 1
    too_far = await send(shop, scheduledFor=(now + timedelta(days=367)).isoformat())
    assert [(error["code"], error["path"]) for error in too_far["userErrors"]] == [
        ("INVALID", ["input", "scheduledFor"])
    ]


async def test_variants_and_locales_are_recorded(shop: Tenant) -> None:
    await device(shop, userId="ada", locale="de-AT")
    sent = await send(
        shop,
        push=None,
        variants=[{"name": "a", "weight": 1, "push": HELLO}, {"name": "b", "weight": 0, "push": HELLO}],
        localized=[{"locale": "DE", "push": {"title": "Hallo", "body": "Welt"}}],
    )
    assert sent["userErrors"] == []
    assert [(each["variant"], each["locale"]) for each in sent["deliveries"]] == [("a", "DE")]


async def test_a_priority_that_was_given_is_told_from_the_default(shop: Tenant) -> None:
    for user_id, locale in (("ada", "de"), ("bob", "fr"), ("cyd", "it")):
        await device(shop, userId=user_id, locale=locale)
    as_literal = """mutation { sendPush(input: {
      userIds: ["ada", "bob", "cyd"], push: { title: "t", body: "", priority: NORMAL }
      localized: [
        { locale: "de", push: { title: "de", body: "" } }
        { locale: "fr", push: { title: "fr", body: "", priority: HIGH } }
        { locale: "it", push: { title: "it", body: "", priority: null } }
      ]
    }) { userErrors { message } } }"""
    assert (await shop.data(as_literal))["sendPush"]["userErrors"] == []
    as_variables = {
        "userIds": ["ada", "bob", "cyd"],
        "push": {**HELLO, "priority": "NORMAL"},
        "localized": [
            {"locale": "de", "push": HELLO},
            {"locale": "fr", "push": {**HELLO, "priority": "HIGH"}},
            {"locale": "it", "push": {**HELLO, "priority": None}},
        ],
    }
    assert (await send(shop, **as_variables))["userErrors"] == []
    async with shop.gateway.services.database.connection() as connection:
        rows = await connection.fetch("SELECT content FROM deliveries WHERE project_id = $1", shop.project_id)
    assert len(rows) == 6
    for row in rows:
        asked = msgspec.json.decode(row["content"], type=PushContent)
        assert asked.push is not None
        assert asked.push.priority == "NORMAL"
        assert [each.push.priority for each in asked.localized] == [None, "HIGH", None]


async def test_the_same_key_and_request_give_the_same_answer(shop: Tenant) -> None:
    await device(shop, userId="ada")
    first = await send(shop, idempotencyKey="order-1", userIds=["ada", "nobody"])
    announced, events = len(shop.gateway.announced), await event_types(shop)
    assert await send(shop, idempotencyKey="order-1", userIds=["ada", "nobody"]) == first
    assert len(shop.gateway.announced) == announced
    assert await event_types(shop) == events
    other = await send(shop, idempotencyKey="order-1", userIds=["ada"])
    assert [(error["code"], error["path"]) for error in other["userErrors"]] == [
        ("CONFLICT", ["input", "idempotencyKey"])
    ]
    assert (other["batchId"], other["deliveries"]) == (None, [])
    assert (await send(shop, idempotencyKey="order-2", userIds=["ada", "nobody"]))["batchId"] != first["batchId"]


async def test_a_key_used_by_many_at_once_makes_one_batch(shop: Tenant) -> None:
    await device(shop, userId="ada")
    answers = await asyncio.gather(*(send(shop, idempotencyKey="once") for _ in range(5)))
    assert len({answer["batchId"] for answer in answers}) == 1
    assert (await event_types(shop))["push.send_requested"] == 1
    # The counts stay those of acceptance, whatever became of the deliveries.
    async with shop.gateway.services.database.connection() as connection:
        await connection.execute(
            "UPDATE deliveries SET status = 'CANCELLED', next_attempt_at = NULL WHERE project_id = $1",
            shop.project_id,
        )
    again = await send(shop, idempotencyKey="once")
    assert (again["queued"], again["deliveries"][0]["status"]) == (1, "CANCELLED")


LONG = {"title": "x" * 4096, "body": ""}


@pytest.mark.parametrize(
    ("fields", "code", "path"),
    [
        ({"userIds": None}, "INVALID", ["input", "userIds"]),
        ({"userIds": []}, "INVALID", ["input", "userIds"]),
        ({"userIds": ["a"] * 1001}, "LIMIT_EXCEEDED", ["input", "userIds"]),
        ({"userIds": ["a", ""]}, "INVALID", ["input", "userIds", "1"]),
        ({"audienceId": "aud_x"}, "INVALID", ["input", "userIds"]),
        ({"userIds": None, "audienceId": "aud_x"}, "NOT_FOUND", ["input", "audienceId"]),
        ({"idempotencyKey": ""}, "INVALID", ["input", "idempotencyKey"]),
        ({"idempotencyKey": "x" * 129}, "INVALID", ["input", "idempotencyKey"]),
        ({"push": None}, "INVALID", ["input", "push"]),
        ({"push": {"title": " ", "body": ""}}, "INVALID", ["input", "push", "title"]),
        ({"push": {**HELLO, "badge": -1}}, "INVALID", ["input", "push", "badge"]),
        ({"push": {**HELLO, "ttlSeconds": 2_419_201}}, "INVALID", ["input", "push", "ttlSeconds"]),
        ({"push": {**HELLO, "collapseId": "ü" * 33}}, "INVALID", ["input", "push", "collapseId"]),
        ({"push": {**HELLO, "sound": ""}}, "INVALID", ["input", "push", "sound"]),
        ({"push": {**HELLO, "data": {"a": "\0"}}}, "INVALID", ["input", "push", "data", "a"]),
        ({"push": LONG}, "LIMIT_EXCEEDED", ["input", "push"]),
        ({"variants": [{"name": "a", "weight": 0, "push": HELLO}]}, "INVALID", ["input", "variants"]),
        ({"variants": [{"name": "", "weight": 1, "push": HELLO}]}, "INVALID", ["input", "variants", "0", "name"]),
        (
            {"variants": [{"name": "a", "weight": 1, "push": HELLO}] * 2},
            "INVALID",
            ["input", "variants", "1", "name"],
        ),
        ({"variants": [{"name": "a", "weight": 1, "push": HELLO}] * 11}, "LIMIT_EXCEEDED", ["input", "variants"]),
        (
            {"variants": [{"name": "a", "weight": 1, "push": LONG}]},
            "LIMIT_EXCEEDED",
            ["input", "variants", "0", "push"],
        ),
        ({"localized": [{"locale": "?", "push": HELLO}]}, "INVALID", ["input", "localized", "0", "locale"]),
        (
            {"localized": [{"locale": "de_at", "push": HELLO}, {"locale": "de-AT", "push": HELLO}]},
            "INVALID",
            ["input", "localized", "1", "locale"],
        ),
        ({"localized": [{"locale": "de", "push": HELLO}] * 51}, "LIMIT_EXCEEDED", ["input", "localized"]),
        (
            {
                "localized": [
                    {"locale": f"x{a}{b}", "push": {"title": "x" * 4000, "body": ""}} for a in "abcd" for b in "efgh"
                ]
                + [{"locale": "de", "push": {"title": "x" * 4000, "body": ""}}]
            },
            "LIMIT_EXCEEDED",
            ["input"],
        ),
    ],
)
async def test_what_cannot_be_sent_is_refused_as_a_whole(shop: Tenant, fields: Any, code: str, path: list[str]) -> None:
    await device(shop, userId="ada")
    refused = await send(shop, **fields)
    assert [(error["code"], error["path"]) for error in refused["userErrors"]] == [(code, path)]
    assert (refused["batchId"], refused["deliveries"], refused["queued"]) == (None, [], 0)
    assert await event_types(shop) == {}


async def test_a_send_that_would_take_too_much_room_is_refused(shop: Tenant) -> None:
    people = [f"user-{number}" for number in range(1000)]
    texts = [{"locale": f"a{letter}", "push": {"title": "x" * 4000, "body": ""}} for letter in "abcdefghijklmnop"]
    async with shop.gateway.services.database.connection() as connection:
        await connection.execute(
            """INSERT INTO push_tokens (project_id, push_token_id, platform, environment, token, user_id, registered_at)
               SELECT $1, gen_random_uuid(), 'ANDROID', 'PRODUCTION', 'fcm:' || u || d, 'user-' || u, now()
               FROM generate_series(0, 999) AS u, generate_series(1, 2) AS d""",
            shop.project_id,
        )
    refused = await send(shop, userIds=people, localized=texts)
    assert [(error["code"], error["path"]) for error in refused["userErrors"]] == [
        ("LIMIT_EXCEEDED", ["input", "userIds"])
    ]
    sent = await send(shop, userIds=people)
    assert (sent["queued"], len(sent["deliveries"])) == (2000, 100)


# ── tests ──


async def test_a_test_is_sent_whatever_the_hour_and_the_caps(shop: Tenant) -> None:
    token_id = await device(shop, userId="ada")
    hour = clock_of(shop).now().hour
    await shop.data(
        UPDATE_SETTINGS,
        input={"quietHoursStartLocal": hour, "quietHoursEndLocal": (hour + 2) % 24, "freqCapPerUserPerDay": 1},
    )
    for _ in range(2):
        sent = (await shop.data(TEST_PUSH, id=token_id))["sendTestPush"]
        assert sent == {
            "delivery": {"status": "QUEUED", "suppressedReason": None, "userId": "ada"},
            "userErrors": [],
        }
    await shop.data(UNREGISTER, token=PHONE)
    refused = (await shop.data(TEST_PUSH, id=token_id))["sendTestPush"]
    assert refused == {"delivery": None, "userErrors": [{"code": "STATE", "path": ["pushTokenId"]}]}


@pytest.mark.parametrize("token_id", ["nonsense", "ptk_" + "0" * 32, "dlv_" + "0" * 32])
async def test_a_test_needs_a_device_that_is_there(shop: Tenant, token_id: str) -> None:
    refused = (await shop.data(TEST_PUSH, id=token_id))["sendTestPush"]
    assert refused == {"delivery": None, "userErrors": [{"code": "NOT_FOUND", "path": ["pushTokenId"]}]}


async def test_a_device_of_nobody_known_can_be_tested(shop: Tenant) -> None:
    sent = (await shop.data(TEST_PUSH, id=await device(shop)))["sendTestPush"]
    assert sent["delivery"] == {"status": "QUEUED", "suppressedReason": None, "userId": None}


# ── reports ──


async def report(tenant: Tenant, delivery_id: str, interaction: str, **fields: Any) -> Any:
    given = {"deliveryId": delivery_id, "interaction": interaction, **fields}
    return (await tenant.data(TRACK_PUSH, input=given))["trackPush"]


async def stamps(tenant: Tenant, delivery_id: str) -> Any:
    data = await tenant.data(
        """query ($id: ID!) { node(id: $id) {
             ... on Delivery { status openedAt clickedAt deliveredAt finishedAt } } }""",
        id=delivery_id,
    )
    return data["node"]


async def test_a_report_stamps_once_and_shows_that_the_push_arrived(shop: Tenant) -> None:
    delivery_id = node_id(await make_delivery(shop, status="SENT", user_id="ada", attempt_count=1))
    first = await report(shop, delivery_id, "OPENED")
    assert first["event"]["eventType"] == "push.opened"
    assert first["event"]["userId"] == "ada"
    assert first["event"]["properties"]["deliveryId"] == delivery_id
    stamped = await stamps(shop, delivery_id)
    assert stamped["status"] == "DELIVERED"
    assert stamped["openedAt"] == stamped["deliveredAt"] == stamped["finishedAt"]
    assert stamped["clickedAt"] is None

    clock_of(shop).advance(timedelta(minutes=5))
    again = await report(shop, delivery_id, "OPENED")
    assert (again["event"], again["duplicate"]) == (first["event"], True)
    clicked = await report(shop, delivery_id, "CLICKED", actionId="buy")
    assert clicked["event"]["properties"]["actionId"] == "buy"
    assert (await report(shop, delivery_id, "DISMISSED"))["event"]["eventType"] == "push.dismissed"
    after = await stamps(shop, delivery_id)
    assert (after["openedAt"], after["status"]) == (stamped["openedAt"], "DELIVERED")
    assert after["clickedAt"] > after["openedAt"]
    counted = await event_types(shop)
    assert {name: counted[name] for name in ("push.opened", "push.clicked", "push.dismissed", "push.delivered")} == {
        "push.opened": 1,
        "push.clicked": 1,
        "push.dismissed": 1,
        "push.delivered": 1,
    }


async def test_reports_at_the_same_time_are_one(shop: Tenant) -> None:
    delivery_id = node_id(await make_delivery(shop, status="UNCERTAIN", user_id="ada", attempt_count=1))
    reports = await asyncio.gather(*(report(shop, delivery_id, "OPENED") for _ in range(4)))
    assert sorted(each["duplicate"] for each in reports) == [False, True, True, True]
    assert len({each["event"]["id"] for each in reports}) == 1
    assert (await stamps(shop, delivery_id))["status"] == "DELIVERED"


@pytest.mark.parametrize("status", ["SENDING", "RETRYING", "FAILED"])
async def test_a_report_before_the_answer_of_the_service_stamps_and_leaves_the_status(
    shop: Tenant, status: str
) -> None:
    delivery_id = node_id(await make_delivery(shop, status=status, user_id="ada", attempt_count=1))
    assert (await report(shop, delivery_id, "CLICKED"))["userErrors"] == []
    stamped = await stamps(shop, delivery_id)
    assert (stamped["status"], stamped["clickedAt"] is not None) == (status, True)


async def test_what_was_never_sent_cannot_have_been_seen(shop: Tenant) -> None:
    waiting = node_id(await make_delivery(shop, status="QUEUED", user_id="ada"))
    mail = node_id(await make_delivery(shop, status="SENT", channel="EMAIL", attempt_count=1))
    state = {"event": None, "duplicate": False, "userErrors": [{"code": "STATE", "path": ["input", "deliveryId"]}]}
    assert await report(shop, waiting, "OPENED") == state
    unknown = {**state, "userErrors": [{"code": "NOT_FOUND", "path": ["input", "deliveryId"]}]}
    for delivery_id in (mail, "dlv_" + "0" * 32, "ptk_" + "0" * 32, "nonsense"):
        assert await report(shop, delivery_id, "OPENED") == unknown
    long = await report(shop, waiting, "OPENED", actionId="x" * 129)
    assert long["userErrors"] == [{"code": "INVALID", "path": ["input", "actionId"]}]


async def test_an_app_key_may_report_and_learns_nothing(shop: Tenant) -> None:
    delivery_id = node_id(await make_delivery(shop, status="SENT", user_id="ada", attempt_count=1))
    app = await shop.as_role(Role.INGEST, ApiKeyKind.PUBLISHABLE)
    document = TRACK_PUSH.replace("{ id eventType userId properties }", "{ id seq }")
    given = {"deliveryId": delivery_id, "interaction": "OPENED"}
    assert (await app.data(document, input=given))["trackPush"]["event"]["id"].startswith("evt_")
    assert set(await app.codes(TRACK_PUSH, input=given)) == {"FORBIDDEN"}


# ── Live Activities ──

RIDE = {"attributesType": "Ride", "activityId": "ride-1", "contentState": {"minutes": 5}}
START = {**RIDE, "action": "START", "attributes": {"driver": "Bo"}, "alert": HELLO}


async def test_a_live_activity_is_sent_to_devices_that_have_it(shop: Tenant) -> None:
    token_id = await device(shop, userId="ada")

    async def registered(**fields: Any) -> Any:
        given = {"deviceToken": PHONE.upper(), "attributesType": "Ride", "token": "CD" * 40, **fields}
        return (await shop.data(REGISTER_ACTIVITY, input=given))["registerLiveActivityToken"]

    async def sent(**fields: Any) -> Any:
        return (await shop.data(SEND_ACTIVITY, input={"userIds": ["ada"], **fields}))["sendLiveActivity"]

    nowhere = await sent(**START)
    assert [each["suppressedReason"] for each in nowhere["deliveries"]] == ["NO_TOKENS"]
    assert await registered() == {"state": "STARTABLE", "userErrors": []}
    started = await sent(**START)
    assert (started["queued"], started["deliveries"][0]["status"]) == (1, "QUEUED")
    assert (await sent(**RIDE, action="UPDATE"))["suppressed"] == 1
    assert await registered(activityId="ride-1") == {"state": "ACTIVE", "userErrors": []}
    updated = await sent(**RIDE, action="UPDATE", userIds=None, pushTokenId=token_id, staleDate="2026-06-01T12:00:00Z")
    assert updated["queued"] == 1
    assert updated["deliveries"][0]["payload"]["liveActivity"]["staleDate"] == 1780315200
    assert (await sent(**{**RIDE, "action": "END", "contentState": None}))["queued"] == 1

    stranger = await registered(deviceToken="ee" * 32)
    assert stranger == {"state": None, "userErrors": [{"code": "NOT_FOUND", "path": ["input", "deviceToken"]}]}
    malformed = await registered(token="not hex")
    assert malformed["userErrors"] == [{"code": "INVALID", "path": ["input", "token"]}]


@pytest.mark.parametrize(
    ("fields", "code", "path"),
    [
        ({**START, "attributes": None}, "INVALID", ["input", "attributes"]),
        ({**START, "alert": None}, "INVALID", ["input", "alert"]),
        ({**START, "contentState": [1]}, "INVALID", ["input", "contentState"]),
        ({**START, "contentState": {"a": "x" * 4096}}, "LIMIT_EXCEEDED", ["input"]),
        ({**START, "contentState": {"a": "\0"}}, "INVALID", ["input", "contentState", "a"]),
        ({**START, "attributesType": ""}, "INVALID", ["input", "attributesType"]),
        ({**START, "userIds": None}, "INVALID", ["input", "userIds"]),
        ({**START, "userIds": None, "pushTokenId": "ptk_" + "0" * 32}, "NOT_FOUND", ["input", "pushTokenId"]),
        ({**START, "userIds": None, "pushTokenId": "x"}, "NOT_FOUND", ["input", "pushTokenId"]),
    ],
)
async def test_what_no_activity_can_be_is_refused(shop: Tenant, fields: Any, code: str, path: list[str]) -> None:
    given = {"userIds": ["ada"], **fields}
    refused = (await shop.data(SEND_ACTIVITY, input=given))["sendLiveActivity"]
    assert refused["userErrors"] == [{"code": code, "path": path}]
    assert refused["deliveries"] == []
