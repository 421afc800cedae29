"""Webhook endpoints through GraphQL: made, changed, rotated, retired, deleted, tested."""

from __future__ import annotations

from base64 import b64decode
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from engine.clock import DatabaseClock
from engine.node_ids import parse_node_id
from engine.webhooks import endpoints
from engine.webhooks.secrets import open_delivery_secret
from engine.work import Work, WorkKind
from tests.integration.graphql_support import Tenant

URL = "https://hooks.example.com/in"
FIELDS = """id url description events enabled signatureScheme retrySchedule allowPlainHttp createdAt disabledReason
  secrets { id hint createdAt expiresAt }"""
SAVE = f"""mutation ($input: SaveWebhookEndpointInput!) {{
  saveWebhookEndpoint(input: $input) {{ endpoint {{ {FIELDS} }} secret userErrors {{ code path message }} }}
}}"""
ROTATE = f"""mutation ($id: ID!, $grace: Int) {{
  rotateWebhookSecret(id: $id, graceSeconds: $grace) {{ endpoint {{ {FIELDS} }} secret userErrors {{ code path }} }}
}}"""
RETIRE = f"""mutation ($endpoint: ID!, $secret: ID!) {{
  retireWebhookSecret(endpointId: $endpoint, secretId: $secret) {{
    endpoint {{ {FIELDS} }} secret userErrors {{ code path }}
  }}
}}"""
DELETE = "mutation ($id: ID!) { deleteWebhookEndpoint(id: $id) { deletedId userErrors { code path } } }"
TEST = """mutation ($id: ID, $url: String, $type: String!) {
  sendTestWebhook(endpointId: $id, url: $url, eventType: $type) {
    delivery { id channel status payload recipient userId attemptCount endpoint { id } event { id } }
    secret userErrors { code path }
  }
}"""
LIST = """query ($first: Int, $after: Cursor) {
  webhookEndpoints(first: $first, after: $after) {
    edges { cursor node { id } } pageInfo { hasNextPage hasPreviousPage }
  }
}"""


async def save(tenant: Tenant, **given: Any) -> Any:
    """Saved without an error."""
    saved = (await tenant.data(SAVE, input=given))["saveWebhookEndpoint"]
    assert saved["userErrors"] == []
    return saved


async def refused(tenant: Tenant, **given: Any) -> list[tuple[str, list[str]]]:
    """Why nothing was saved."""
    saved = (await tenant.data(SAVE, input=given))["saveWebhookEndpoint"]
    assert (saved["endpoint"], saved["secret"]) == (None, None)
    return [(error["code"], error["path"]) for error in saved["userErrors"]]


async def test_an_endpoint_is_made_with_defaults_and_its_secret_is_shown_once(shop: Tenant) -> None:
    saved = await save(shop, url=URL, events=["order.*", "order.*", "push.sent"])
    endpoint, secret = saved["endpoint"], saved["secret"]
    assert endpoint["id"].startswith("whe_")
    assert {name: endpoint[name] for name in ("url", "description", "events", "enabled", "disabledReason")} == {
        "url": URL,
        "description": None,
        "events": ["order.*", "push.sent"],
        "enabled": True,
        "disabledReason": None,
    }
    assert (endpoint["signatureScheme"], endpoint["allowPlainHttp"]) == ("HEX", False)
    assert endpoint["retrySchedule"] == [2, 8, 30, 90, 1670]
    assert secret.startswith("whsec_")
    assert len(b64decode(secret.removeprefix("whsec_"), validate=True)) == 24
    (shown,) = endpoint["secrets"]
    assert shown["id"].startswith("whs_")
    assert (shown["hint"], shown["expiresAt"]) == (f"whsec_…{secret[-4:]}", None)
    again = await save(shop, id=endpoint["id"], description="orders")
    assert again["secret"] is None
    found = await shop.data(
        f"query ($id: ID!) {{ node(id: $id) {{ ... on WebhookEndpoint {{ {FIELDS} }} }} }}", id=endpoint["id"]
    )
    assert found["node"] == again["endpoint"]
    assert secret not in repr(found)


async def test_the_secret_is_stored_sealed(shop: Tenant) -> None:
    secret = (await save(shop, url=URL, events=["*"]))["secret"]
    async with shop.gateway.services.database.connection() as connection:
        stored = await connection.fetchval(
            "SELECT sealed_secret FROM webhook_secrets WHERE project_id = $1", shop.project_id
        )
    assert secret.encode() not in stored
    assert b64decode(secret.removeprefix("whsec_")) not in stored


async def test_what_is_absent_stays_and_null_clears(shop: Tenant) -> None:
    given = {
        "url": "http://hooks.example.com:8080/in",
        "allowPlainHttp": True,
        "description": "orders",
        "events": ["order.*"],
        "enabled": False,
        "signatureScheme": "STRIPE",
        "retrySchedule": [1, 604800],
    }
    made = (await save(shop, **given))["endpoint"]
    assert {name: made[name] for name in given} == given
    same = (await save(shop, id=made["id"]))["endpoint"]
    assert same == made
    cleared = await save(shop, id=made["id"], description=None, enabled=None, signatureScheme=None, retrySchedule=None)
    assert {name: cleared["endpoint"][name] for name in ("description", "enabled", "signatureScheme")} == {
        "description": None,
        "enabled": True,
        "signatureScheme": "HEX",
    }
    assert cleared["endpoint"]["retrySchedule"] == [2, 8, 30, 90, 1670]
    assert (await save(shop, id=made["id"], retrySchedule=[]))["endpoint"]["retrySchedule"] == []
    assert await refused(shop, id=made["id"], url=None) == [("INVALID", ["input", "url"])]
    assert await refused(shop, id=made["id"], events=None) == [("INVALID", ["input", "events"])]
    # An http url goes with its permission.
    assert await refused(shop, id=made["id"], allowPlainHttp=None) == [("BLOCKED_URL", ["input", "url"])]


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com",
        "https://127.0.0.1",
        "https://2130706433/",
        "https://[::ffff:10.0.0.1]/",
        "https://metadata.google.internal/",
        "https://user:password@hooks.example.com",
        "https://hooks.example.com:22",
        "ftp://hooks.example.com",
        "https://hooks.example.com/" + "x" * 2048,
    ],
)
async def test_a_url_that_may_not_be_called_is_refused_where_it_stands(shop: Tenant, url: str) -> None:
    assert await refused(shop, url=url, events=["*"]) == [("BLOCKED_URL", ["input", "url"])]
    made = (await save(shop, url=URL, events=["*"]))["endpoint"]
    assert await refused(shop, id=made["id"], url=url) == [("BLOCKED_URL", ["input", "url"])]


async def test_everything_that_is_wrong_is_said_at_once_and_nothing_is_made(shop: Tenant) -> None:
    errors = await refused(
        shop,
        url="https://localhost",
        description="x" * 501,
        events=["order.placed", "", "x" * 201, "a\0b"],
        retrySchedule=[0, 1, 604801],
    )
    assert errors == [
        ("BLOCKED_URL", ["input", "url"]),
        ("INVALID", ["input", "description"]),
        ("INVALID", ["input", "events", "1"]),
        ("INVALID", ["input", "events", "2"]),
        ("INVALID", ["input", "events", "3"]),
        ("INVALID", ["input", "retrySchedule", "0"]),
        ("INVALID", ["input", "retrySchedule", "2"]),
    ]
    assert (await shop.data(LIST))["webhookEndpoints"]["edges"] == []


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"events": ["*"]}, "url"),
        ({"url": "", "events": ["*"]}, "url"),
        ({"url": URL}, "events"),
        ({"url": URL, "events": []}, "events"),
        ({"url": URL, "events": [f"a.{number}" for number in range(201)]}, "events"),
        ({"url": URL, "events": ["*"], "retrySchedule": [1] * 21}, "retrySchedule"),
        ({"url": URL, "events": ["*"], "description": "a\0b"}, "description"),
    ],
)
async def test_what_an_endpoint_needs_and_how_much_of_it(shop: Tenant, given: dict[str, Any], path: str) -> None:
    assert await refused(shop, **given) == [("INVALID", ["input", path])]


async def test_two_hundred_patterns_and_twenty_waits_are_not_too_many(shop: Tenant) -> None:
    await save(shop, url=URL, events=[f"a.{number}" for number in range(200)], retrySchedule=[1] * 20)


async def test_a_project_has_so_many_endpoints(shop: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "MAX_ENDPOINTS", 2)
    for _ in range(2):
        await save(shop, url=URL, events=["*"])
    assert await refused(shop, url=URL, events=["*"]) == [("LIMIT_EXCEEDED", ["input"])]


@pytest.mark.parametrize("node_id", ["whe_" + "0" * 32, "whe_x", "key_" + "0" * 32, "", "nothing"])
async def test_what_is_not_there(shop: Tenant, node_id: str) -> None:
    assert await refused(shop, id=node_id, url=URL) == [("NOT_FOUND", ["input", "id"])]
    deleted = (await shop.data(DELETE, id=node_id))["deleteWebhookEndpoint"]
    assert deleted == {"deletedId": None, "userErrors": [{"code": "NOT_FOUND", "path": ["id"]}]}
    rotated = (await shop.data(ROTATE, id=node_id))["rotateWebhookSecret"]
    assert rotated["userErrors"] == [{"code": "NOT_FOUND", "path": ["id"]}]
    retired = (await shop.data(RETIRE, endpoint=node_id, secret="whs_x"))["retireWebhookSecret"]
    assert retired["userErrors"] == [{"code": "NOT_FOUND", "path": ["endpointId"]}]
    tested = (await shop.data(TEST, id=node_id, type="push.sent"))["sendTestWebhook"]
    assert tested["userErrors"] == [{"code": "NOT_FOUND", "path": ["endpointId"]}]


async def test_a_list_is_paged_newest_first(shop: Tenant) -> None:
    ids = [(await save(shop, url=f"{URL}/{number}", events=["*"]))["endpoint"]["id"] for number in range(5)][::-1]
    first = (await shop.data(LIST, first=2))["webhookEndpoints"]
    assert [edge["node"]["id"] for edge in first["edges"]] == ids[:2]
    assert first["pageInfo"] == {"hasNextPage": True, "hasPreviousPage": False}
    rest = (await shop.data(LIST, first=3, after=first["edges"][-1]["cursor"]))["webhookEndpoints"]
    assert [edge["node"]["id"] for edge in rest["edges"]] == ids[2:]
    assert rest["pageInfo"] == {"hasNextPage": False, "hasPreviousPage": True}


async def test_a_deleted_endpoint_is_gone_with_its_secrets(shop: Tenant) -> None:
    made = (await save(shop, url=URL, events=["*"]))["endpoint"]
    deleted = (await shop.data(DELETE, id=made["id"]))["deleteWebhookEndpoint"]
    assert deleted == {"deletedId": made["id"], "userErrors": []}
    assert (await shop.data("query ($id: ID!) { node(id: $id) { id } }", id=made["id"]))["node"] is None
    async with shop.gateway.services.database.connection() as connection:
        left = await connection.fetchval("SELECT count(*) FROM webhook_secrets WHERE project_id = $1", shop.project_id)
    assert left == 0


class TestRotation:
    async def test_two_secrets_are_active_until_the_grace_is_over(self, shop: Tenant) -> None:
        made = await save(shop, url=URL, events=["*"])
        rotated = (await shop.data(ROTATE, id=made["endpoint"]["id"], grace=3600))["rotateWebhookSecret"]
        old, new = rotated["endpoint"]["secrets"]
        assert rotated["secret"] not in (None, made["secret"])
        assert (old["id"], new["hint"]) == (made["endpoint"]["secrets"][0]["id"], f"whsec_…{rotated['secret'][-4:]}")
        assert (old["expiresAt"] is None, new["expiresAt"]) == (False, None)
        clock = shop.gateway.services.clock
        assert isinstance(clock, DatabaseClock)
        clock.advance(timedelta(seconds=3599))
        assert len(await secrets_of(shop, made)) == 2
        clock.advance(timedelta(seconds=1))
        assert await secrets_of(shop, made) == [new["id"]]

    async def test_never_more_than_two(self, shop: Tenant) -> None:
        made = await save(shop, url=URL, events=["*"])
        endpoint_id = made["endpoint"]["id"]
        await shop.data(ROTATE, id=endpoint_id)
        before = await secrets_of(shop, made)
        third = (await shop.data(ROTATE, id=endpoint_id))["rotateWebhookSecret"]
        assert third == {"endpoint": None, "secret": None, "userErrors": [{"code": "STATE", "path": ["id"]}]}
        assert await secrets_of(shop, made) == before
        await shop.data(RETIRE, endpoint=endpoint_id, secret=before[0])
        assert (await shop.data(ROTATE, id=endpoint_id))["rotateWebhookSecret"]["userErrors"] == []

    async def test_without_grace_the_old_one_ends_at_once(self, shop: Tenant) -> None:
        made = await save(shop, url=URL, events=["*"])
        rotated = (await shop.data(ROTATE, id=made["endpoint"]["id"], grace=0))["rotateWebhookSecret"]
        assert [each["hint"] for each in rotated["endpoint"]["secrets"]] == [f"whsec_…{rotated['secret'][-4:]}"]

    @pytest.mark.parametrize("grace", [-1, 2_592_001])
    async def test_a_grace_has_bounds(self, shop: Tenant, grace: int) -> None:
        made = await save(shop, url=URL, events=["*"])
        rotated = (await shop.data(ROTATE, id=made["endpoint"]["id"], grace=grace))["rotateWebhookSecret"]
        assert rotated["userErrors"] == [{"code": "INVALID", "path": ["graceSeconds"]}]
        assert len(await secrets_of(shop, made)) == 1

    async def test_an_old_secret_is_retired_and_the_newest_never(self, shop: Tenant) -> None:
        made = await save(shop, url=URL, events=["*"])
        endpoint_id = made["endpoint"]["id"]
        (only,) = await secrets_of(shop, made)
        last = (await shop.data(RETIRE, endpoint=endpoint_id, secret=only))["retireWebhookSecret"]
        assert last == {"endpoint": None, "secret": None, "userErrors": [{"code": "STATE", "path": ["secretId"]}]}
        await shop.data(ROTATE, id=endpoint_id)
        old, new = await secrets_of(shop, made)
        newest = (await shop.data(RETIRE, endpoint=endpoint_id, secret=new))["retireWebhookSecret"]
        assert newest["userErrors"] == [{"code": "STATE", "path": ["secretId"]}]
        retired = (await shop.data(RETIRE, endpoint=endpoint_id, secret=old))["retireWebhookSecret"]
        assert (retired["secret"], retired["userErrors"]) == (None, [])
        assert await secrets_of(shop, made) == [new]
        again = (await shop.data(RETIRE, endpoint=endpoint_id, secret=old))["retireWebhookSecret"]
        assert again["userErrors"] == [{"code": "NOT_FOUND", "path": ["secretId"]}]


async def secrets_of(tenant: Tenant, made: Any) -> list[str]:
    document = "query ($id: ID!) { node(id: $id) { ... on WebhookEndpoint { secrets { id } } } }"
    found = (await tenant.data(document, id=made["endpoint"]["id"]))["node"]["secrets"]
    return [each["id"] for each in found]


class TestSamples:
    async def test_to_an_endpoint(self, shop: Tenant) -> None:
        made = (await save(shop, url=URL, events=["order.*"]))["endpoint"]
        sent = (await shop.data(TEST, id=made["id"], type="push.sent"))["sendTestWebhook"]
        delivery = sent["delivery"]
        assert (sent["secret"], sent["userErrors"]) == (None, [])
        assert (delivery["channel"], delivery["status"], delivery["attemptCount"]) == ("WEBHOOK", "QUEUED", 0)
        assert (delivery["endpoint"], delivery["event"], delivery["userId"]) == ({"id": made["id"]}, None, None)
        assert shop.gateway.woken == [Work(WorkKind.DELIVERIES, shop.project_id)]
        assert len(shop.gateway.announced) == 1
        listed = await shop.data(
            """query ($id: ID!) { node(id: $id) { ... on WebhookEndpoint {
                 deliveries(filter: {eventTypes: ["push.*"]}) { edges { node { id } } totalCount } } } }""",
            id=made["id"],
        )
        assert listed["node"]["deliveries"] == {"edges": [{"node": {"id": delivery["id"]}}], "totalCount": 1}

    async def test_to_a_url_with_a_secret_of_its_own(self, shop: Tenant) -> None:
        sent = (await shop.data(TEST, url=URL, type="user.signed_up"))["sendTestWebhook"]
        assert sent["userErrors"] == []
        assert sent["delivery"]["endpoint"] is None
        parsed = parse_node_id(sent["delivery"]["id"])
        assert parsed is not None
        async with shop.gateway.services.database.connection() as connection:
            row = await connection.fetchrow(
                "SELECT project_id, content, dispatch_key, retry_schedule FROM deliveries WHERE project_id = $1",
                shop.project_id,
            )
        content = msgspec.json.decode(row["content"])
        assert sent["secret"] not in row["content"]
        assert sent["secret"] not in repr(sent["delivery"])
        assert content["sealedSecret"] not in repr(sent["delivery"])
        opened = open_delivery_secret(
            shop.gateway.services.vault,
            content["sealedSecret"],
            project_id=row["project_id"],
            delivery_id=parsed.uuid,
        )
        assert opened == sent["secret"]
        assert (content["url"], row["dispatch_key"]) == (URL, "https://hooks.example.com:443")
        assert row["retry_schedule"] == [2, 8, 30, 90, 1670]
        body = msgspec.json.decode(content["body"])
        assert (body["type"], body["id"], body["data"]["eventType"]) == (
            "user.signed_up",
            content["eventId"],
            "user.signed_up",
        )

    async def test_of_a_type_that_the_project_has_stored(self, shop: Tenant) -> None:
        unknown = (await shop.data(TEST, url=URL, type="shop.opened"))["sendTestWebhook"]
        assert unknown["userErrors"] == [{"code": "NOT_FOUND", "path": ["eventType"]}]
        await shop.track(eventType="shop.opened")
        known = (await shop.data(TEST, url=URL, type="shop.opened"))["sendTestWebhook"]
        assert known["userErrors"] == []
        nul = (await shop.data(TEST, url=URL, type="a\0b"))["sendTestWebhook"]
        assert nul["userErrors"] == [{"code": "NOT_FOUND", "path": ["eventType"]}]

    async def test_one_of_the_two_is_given(self, shop: Tenant) -> None:
        made = (await save(shop, url=URL, events=["*"]))["endpoint"]
        for given in ({}, {"id": made["id"], "url": URL}):
            sent = (await shop.data(TEST, type="push.sent", **given))["sendTestWebhook"]
            assert sent["userErrors"] == [{"code": "INVALID", "path": ["endpointId"]}]

    async def test_neither_to_a_blocked_url_nor_to_an_endpoint_that_is_off(self, shop: Tenant) -> None:
        for url in ("http://hooks.example.com", "https://127.0.0.1", ""):
            blocked = (await shop.data(TEST, url=url, type="push.sent"))["sendTestWebhook"]
            assert blocked == {
                "delivery": None,
                "secret": None,
                "userErrors": [{"code": "BLOCKED_URL", "path": ["url"]}],
            }
        off = (await save(shop, url=URL, events=["*"], enabled=False))["endpoint"]
        sent = (await shop.data(TEST, id=off["id"], type="push.sent"))["sendTestWebhook"]
        assert sent["userErrors"] == [{"code": "STATE", "path": ["endpointId"]}]
        assert shop.gateway.woken == []
