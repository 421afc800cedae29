"""Resend's callbacks over HTTP: believed when signed under the provider's webhook secret, then mails move on."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
from standardwebhooks.webhooks import Webhook

from tests.integration.delivery_support import make_delivery
from tests.integration.graphql_support import Gateway, Tenant
from tests.integration.inbound_support import HttpResponse, InboundServer

SECRET = "whsec_" + base64.b64encode(bytes(range(24))).decode()
OTHER = "whsec_" + base64.b64encode(bytes(24)).decode()
CONFIGURE = """mutation ($secrets: JSON) {
  configureProvider(input: {kind: RESEND, settings: {from: "shop@example.com"}, secrets: $secrets}) {
    provider { callbackUrl } userErrors { path message }
  }
}"""


async def callback_url(tenant: Tenant, **secrets: str) -> str:
    configured = await tenant.data(CONFIGURE, secrets={"apiKey": "re_1", **secrets})
    assert configured["configureProvider"]["userErrors"] == []
    url: str = configured["configureProvider"]["provider"]["callbackUrl"]
    return url


async def sent_mail(tenant: Tenant) -> UUID:
    """A mail that Resend has taken."""
    return await make_delivery(
        tenant,
        channel="EMAIL",
        dispatch_key="email",
        content="{}",
        status="SENT",
        recipient="ada@example.com",
        attempt_count=1,
    )


async def report(
    tenant: Tenant, server: InboundServer, url: str, body: dict[str, Any], *, secret: str = SECRET, age: int = 0
) -> HttpResponse:
    at = tenant.gateway.services.clock.now() - timedelta(seconds=age)
    text = msgspec.json.encode(body).decode()
    headers = {
        "svix-id": "msg_1",
        "svix-timestamp": str(int(at.timestamp())),
        "svix-signature": Webhook(secret).sign("msg_1", at, text),
    }
    return await server.post(url, text, headers)


def said(delivery_id: UUID, kind: str) -> dict[str, Any]:
    return {"type": kind, "data": {"email_id": "re-1", "tags": {"delivery_id": delivery_id.hex}}}


async def status(tenant: Tenant, delivery_id: UUID) -> str:
    async with tenant.gateway.services.database.connection() as connection:
        found: str = await connection.fetchval("SELECT status FROM deliveries WHERE delivery_id = $1", delivery_id)
    return found


async def test_what_resend_signed_moves_a_mail_on(gateway: Gateway, server: InboundServer) -> None:
    tenant = await gateway.tenant()
    url, mail = await callback_url(tenant, webhookSecret=SECRET), await sent_mail(tenant)

    answers = [await report(tenant, server, url, said(mail, "email.delivered")) for _ in range(2)]
    answers.append(await report(tenant, server, url, {"type": "domain.created", "data": {}}))

    assert {(each.status, each.body) for each in answers} == {(200, b'{"status":"received"}')}
    assert await status(tenant, mail) == "DELIVERED"


async def test_nobody_else_moves_it(gateway: Gateway, server: InboundServer) -> None:
    tenant = await gateway.tenant()
    url, mail = await callback_url(tenant, webhookSecret=SECRET), await sent_mail(tenant)
    body = said(mail, "email.delivered")

    refused = [
        await server.post(url, msgspec.json.encode(body)),
        await report(tenant, server, url, body, secret=OTHER),
        await report(tenant, server, url, body, age=301),
        await report(tenant, server, url, body, age=-302),
    ]

    assert {(each.status, each.body) for each in refused} == {(401, b'{"error":"invalid signature"}')}
    assert await status(tenant, mail) == "SENT"


async def test_without_a_webhook_secret_nothing_is_believed(gateway: Gateway, server: InboundServer) -> None:
    tenant = await gateway.tenant()
    url, mail = await callback_url(tenant), await sent_mail(tenant)

    assert (await report(tenant, server, url, said(mail, "email.delivered"))).status == 401
    assert await status(tenant, mail) == "SENT"


async def test_another_projects_account_moves_none_of_ours(gateway: Gateway, server: InboundServer) -> None:
    tenant, attacker = await gateway.tenant(), await gateway.tenant("attacker")
    mail = await sent_mail(tenant)
    theirs = await callback_url(attacker, webhookSecret=OTHER)

    assert (await report(attacker, server, theirs, said(mail, "email.bounced"), secret=OTHER)).status == 200
    assert await status(tenant, mail) == "SENT"
