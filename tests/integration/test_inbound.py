"""Inbound endpoints from the mutation to the event, over HTTP."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import io
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from standardwebhooks.webhooks import Webhook

from engine.vault import Vault
from inbound.http import LOOK_UPS_AT_ONCE
from tests.integration.graphql_support import Gateway, Tenant
from tests.integration.inbound_support import HttpResponse, InboundServer, serve_inbound

SAVE = """mutation ($input: SaveInboundEndpointInput!) {
  saveInboundEndpoint(input: $input) {
    endpoint { id name verifier url eventType createdAt } userErrors { code path message }
  }
}"""
EVENTS = """{ events(filter: {modules: ["inbound"]}, order: OLDEST_FIRST) {
  edges { node { key eventType userId properties context } }
} }"""
SECRET = "the secret that GitHub shows"
WHSEC = "whsec_" + base64.b64encode(bytes(range(24))).decode()


async def save(tenant: Tenant, **given: Any) -> Any:
    return (await tenant.data(SAVE, input=given))["saveInboundEndpoint"]


async def endpoint(tenant: Tenant, **given: Any) -> Any:
    made = await save(
        tenant, **{"name": "GitHub", "verifier": "GITHUB", "secret": SECRET, "eventType": "github.event", **given}
    )
    assert made["userErrors"] == []
    return made["endpoint"]


async def events(tenant: Tenant) -> list[Any]:
    return [edge["node"] for edge in (await tenant.data(EVENTS))["events"]["edges"]]


def github(body: bytes, *, delivery: str = "d-1", secret: str = SECRET, **more: str) -> dict[str, str]:
    signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {
        "X-Hub-Signature-256": f"sha256={signature}",
        "X-GitHub-Delivery": delivery,
        "X-GitHub-Event": "push",
        "Content-Type": "application/json",
        **more,
    }


async def test_what_is_signed_becomes_an_event_once_however_often_it_comes(
    gateway: Gateway, server: InboundServer
) -> None:
    tenant = await gateway.tenant()
    made = await endpoint(tenant)
    body = b'{"ref": "refs/heads/main", "n": [1, 2.5, null]}'

    answers = [await server.post(made["url"], body, github(body)) for _ in range(3)]
    other = await server.post(made["url"], body, github(body, delivery="d-2"))

    assert {(each.status, each.body) for each in (*answers, other)} == {(200, b'{"status":"received"}')}
    first, second = await events(tenant)
    hexed = made["id"].removeprefix("inb_")
    assert (first["key"], second["key"]) == (f"inbound:{hexed}:d-1", f"inbound:{hexed}:d-2")
    assert (first["eventType"], first["userId"]) == ("github.event", None)
    assert first["context"] == {"inboundEndpointId": made["id"]}
    properties = first["properties"]
    assert properties["body"] == {"ref": "refs/heads/main", "n": [1, 2.5, None]}
    assert properties["verifier"] == "GITHUB"
    assert properties["headers"]["x-github-event"] == "push"
    assert "signature" not in repr(first).lower()


async def test_the_same_id_at_two_endpoints_is_two_events(gateway: Gateway, server: InboundServer) -> None:
    tenant = await gateway.tenant()
    for name in ("one", "two"):
        made = await endpoint(tenant, name=name)
        await server.post(made["url"], b"{}", github(b"{}"))

    assert len(await events(tenant)) == 2


async def test_a_request_that_is_not_believed_stores_nothing_and_leaves_no_secret_in_the_log(
    gateway: Gateway, server: InboundServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    tenant = await gateway.tenant()
    made = await endpoint(tenant)
    body = b'{"card": "4242 4242 4242 4242"}'
    headers = github(body)

    refused = [
        await server.post(made["url"], body, github(body, secret="another")),
        await server.post(made["url"], body + b" ", headers),
        await server.post(made["url"], body),
    ]

    assert {(each.status, each.body) for each in refused} == {(401, b'{"error":"invalid signature"}')}
    assert await events(tenant) == []
    ours = [record for record in caplog.records if record.msg == "inbound.refused"]
    assert [record.reason for record in ours] == ["forged", "forged", "unsigned"]  # type: ignore[attr-defined]
    written = repr([record.__dict__ for record in ours])
    for secret in (SECRET, headers["X-Hub-Signature-256"][7:], "4242 4242 4242 4242"):
        assert secret not in written


async def test_unknown_endpoints_and_methods(gateway: Gateway, server: InboundServer) -> None:
    made = await endpoint(await gateway.tenant())
    for name in ("inb_" + "0" * 32, "inb_x", made["id"].replace("inb_", "prv_"), made["id"].upper()):
        unknown = await server.post(f"/inbound/{name}", b"{}", github(b"{}"))
        assert (unknown.status, unknown.body) == (404, b'{"error":"unknown endpoint"}')
    assert (await server.request("GET", made["url"])).status == 405
    # Nothing about an endpoint may be asked from a page of another origin, and nothing is offered to one.
    assert "access-control-allow-origin" not in (await server.post(made["url"], b"{}", github(b"{}"))).headers


async def test_a_body_is_bounded_whether_it_says_its_length_or_not(gateway: Gateway, server: InboundServer) -> None:
    tenant = await gateway.tenant()
    made = await endpoint(tenant)
    fits, body = b'"' + b"x" * (1024 * 1024 - 2) + b'"', b"x" * (1024 * 1024 + 1)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    assert (await server.post(made["url"], io.BytesIO(body), github(body))).status == 413
    assert (await server.post(made["url"], chunks(), github(body))).status == 413
    assert (await server.post(made["url"], io.BytesIO(fits), github(fits))).status == 200
    [stored] = await events(tenant)
    assert stored["properties"]["bodyIsTruncated"] is True
    assert stored["properties"]["bodyBytes"] == len(fits)
    assert stored["properties"]["bodySha256"] == hashlib.sha256(fits).hexdigest()
    assert fits.decode().startswith(stored["properties"]["body"])


ODD_BODIES: list[tuple[bytes, Any]] = [
    # a form, as Slack sends interactions
    (b"payload=%7B%22a%22%3A1%7D", "payload=%7B%22a%22%3A1%7D"),
    (b"", ""),
    (b"\xff\xfe", "\ufffd\ufffd"),
    # what the log holds in no JSON, it holds as text
    (b'{"a": "\\u0000"}', '{"a": "\\u0000"}'),
    (b'{"a": 123456789012345678901234567890}', '{"a": 123456789012345678901234567890}'),
    (b"[" * 80 + b"]" * 80, "[" * 80 + "]" * 80),
    (b'{"a": NaN}', '{"a": NaN}'),
    (b"a\0b", "a\ufffdb"),
    (b"\x01" * 61_000, "\x01" * 9216),
]


@pytest.mark.parametrize(("body", "stored"), ODD_BODIES)
async def test_whatever_is_signed_is_stored(gateway: Gateway, server: InboundServer, body: bytes, stored: Any) -> None:
    tenant = await gateway.tenant()
    made = await endpoint(tenant)

    answered = await server.post(made["url"], body, github(body, **{"Content-Type": "text/plain"}))

    assert answered.status == 200
    [event] = await events(tenant)
    assert event["properties"]["body"] == stored


async def test_standard_webhooks_and_slacks_challenge(gateway: Gateway, server: InboundServer) -> None:
    tenant = await gateway.tenant()
    now = gateway.services.clock.now()
    standard = await endpoint(tenant, verifier="STANDARD_WEBHOOKS", secret=WHSEC)
    signed = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(WHSEC).sign("msg_1", now, "{}"),
    }
    assert (await server.post(standard["url"], b"{}", signed)).status == 200

    slack = await endpoint(tenant, verifier="SLACK")
    body, time = b'{"type":"url_verification","challenge":"abc"}', str(int(now.timestamp()))
    signature = hmac.new(SECRET.encode(), b"v0:" + time.encode() + b":" + body, hashlib.sha256).hexdigest()
    headers = {"X-Slack-Signature": f"v0={signature}", "X-Slack-Request-Timestamp": time}
    challenged = await server.post(slack["url"], body, headers)

    assert (challenged.status, challenged.body) == (200, b"abc")
    assert challenged.headers["content-type"].startswith("text/plain")
    assert len(await events(tenant)) == 1


async def test_while_the_log_takes_nothing_the_sender_is_told_to_come_again(
    gateway: Gateway, server: InboundServer
) -> None:
    made = await endpoint(await gateway.tenant())
    await gateway.services.log.close()

    refused = await server.post(made["url"], b"{}", github(b"{}"))

    assert (refused.status, refused.headers["retry-after"]) == (503, "5")


async def test_a_secret_under_a_lost_key_is_no_reason_to_drop_anything(gateway: Gateway) -> None:
    made = await endpoint(await gateway.tenant())
    lost = replace(gateway.services, vault=Vault(b"another secret, also long enough for it"))
    async with serve_inbound(lost) as server:
        assert (await server.post(made["url"], b"{}", github(b"{}"))).status == 503


async def post(server: InboundServer, url: str, secret: str) -> HttpResponse:
    return await server.post(url, b"{}", github(b"{}", secret=secret))


async def test_an_endpoint_is_changed_in_parts_and_deleted(gateway: Gateway, server: InboundServer) -> None:
    tenant = await gateway.tenant()
    made = await endpoint(tenant)

    renamed = await save(tenant, id=made["id"], name="  GitHub 2 ")
    assert renamed["endpoint"] == {**made, "name": "GitHub 2"}
    assert (await post(server, made["url"], SECRET)).status == 200

    changed = await save(tenant, id=made["id"], secret="new")
    assert changed["userErrors"] == []
    assert "new" not in repr(changed["endpoint"])
    assert (await post(server, made["url"], SECRET)).status == 401
    assert (await post(server, made["url"], "new")).status == 200

    misfit = await save(tenant, id=made["id"], verifier="STANDARD_WEBHOOKS")
    assert [(error["code"], error["path"]) for error in misfit["userErrors"]] == [("INVALID", ["input", "secret"])]
    fitting = await save(tenant, id=made["id"], verifier="STANDARD_WEBHOOKS", secret=WHSEC)
    assert fitting["endpoint"]["verifier"] == "STANDARD_WEBHOOKS"
    assert (await save(tenant, id=made["id"], secret="plain"))["userErrors"][0]["path"] == ["input", "secret"]

    delete = "mutation ($id: ID!) { deleteInboundEndpoint(id: $id) { deletedId userErrors { code } } }"
    assert (await tenant.data(delete, id=made["id"]))["deleteInboundEndpoint"]["deletedId"] == made["id"]
    assert (await post(server, made["url"], "new")).status == 404


async def test_an_endpoint_is_listed_and_found_by_its_id_without_its_secret(gateway: Gateway) -> None:
    tenant = await gateway.tenant()
    made = await endpoint(tenant)
    shown = "id name verifier url eventType createdAt"

    listed = (await tenant.data(f"{{ inboundEndpoints {{ {shown} }} }}"))["inboundEndpoints"]
    found = await tenant.data(
        f"query ($id: ID!) {{ node(id: $id) {{ ... on InboundEndpoint {{ {shown} }} }} }}", id=made["id"]
    )

    assert listed == [made] == [found["node"]]
    assert made["url"] == f"http://gateway.test/inbound/{made['id']}"
    async with gateway.services.database.connection() as connection:
        row = await connection.fetchval("SELECT string_agg(inbound_endpoints::text, '') FROM inbound_endpoints")
    assert SECRET.encode().hex() not in row


@pytest.mark.parametrize(
    ("given", "paths"),
    [
        ({}, ["name", "verifier", "secret", "eventType"]),
        ({"name": " ", "verifier": "GITHUB", "secret": "", "eventType": "a*"}, ["name", "eventType", "secret"]),
        ({"name": "x" * 101, "verifier": "STANDARD_WEBHOOKS", "secret": "x", "eventType": "a.b"}, ["name", "secret"]),
        ({"id": "inb_" + "0" * 32, "name": "x"}, ["id"]),
        ({"id": "whe_" + "0" * 32, "name": "x"}, ["id"]),
    ],
)
async def test_an_endpoint_that_cannot_be_is_refused_with_all_that_is_wrong(
    gateway: Gateway, given: dict[str, Any], paths: list[str]
) -> None:
    tenant = await gateway.tenant()

    refused = await save(tenant, **given)

    assert refused["endpoint"] is None
    assert [error["path"] for error in refused["userErrors"]] == [["input", path] for path in paths]
    assert (await tenant.data("{ inboundEndpoints { id } }"))["inboundEndpoints"] == []


async def test_null_is_refused_where_absent_would_leave_things_as_they_are(
    gateway: Gateway, server: InboundServer
) -> None:
    tenant = await gateway.tenant()
    made = await endpoint(tenant)

    refused = await save(tenant, id=made["id"], name=None, secret=None, eventType=None, verifier=None)
    partly = await save(tenant, id=made["id"], name="renamed", secret=None)
    nothing = await save(tenant, id=made["id"])

    paths = [["input", name] for name in ("name", "verifier", "secret", "eventType")]
    assert [(error["code"], error["path"]) for error in refused["userErrors"]] == [("INVALID", path) for path in paths]
    assert [error["path"] for error in partly["userErrors"]] == [["input", "secret"]]
    assert refused["endpoint"] is partly["endpoint"] is None
    assert (nothing["endpoint"], nothing["userErrors"]) == (made, [])
    assert (await post(server, made["url"], SECRET)).status == 200


async def test_a_project_has_so_many_endpoints_and_no_more(gateway: Gateway) -> None:
    tenant = await gateway.tenant()
    async with gateway.services.database.connection() as connection:
        await connection.execute(
            """INSERT INTO inbound_endpoints SELECT $1, gen_random_uuid(), 'x', 'GITHUB', '\\x00', 'a.b', now()
               FROM generate_series(1, 100)""",
            tenant.project_id,
        )

    refused = await save(tenant, name="one more", verifier="GITHUB", secret="x", eventType="a.b")

    assert [error["code"] for error in refused["userErrors"]] == ["LIMIT_EXCEEDED"]


async def test_addresses_that_are_made_up_leave_the_pool_to_others(
    gateway: Gateway, server: InboundServer, module_database_url: str
) -> None:
    tenant = await gateway.tenant()
    locker = await asyncpg.connect(module_database_url)
    try:
        # Whoever looks one up waits, as on a database that is slow.
        async with locker.transaction():
            await locker.execute("LOCK TABLE inbound_endpoints, providers IN ACCESS EXCLUSIVE MODE")
            flood = [
                asyncio.create_task(server.post(path))
                for _ in range(20)
                for path in (f"/inbound/inb_{uuid4().hex}", f"/callbacks/prv_{uuid4().hex}")
            ]
            async with asyncio.timeout(5):
                for _ in range(20):
                    assert await events(tenant) == []
            waiting = await locker.fetchval(
                "SELECT count(*) FROM pg_locks WHERE NOT granted"
                " AND relation IN ('inbound_endpoints'::regclass, 'providers'::regclass)"
            )
            assert waiting == LOOK_UPS_AT_ONCE
        assert {answer.status for answer in await asyncio.gather(*flood)} == {404}
    finally:
        await locker.close()
