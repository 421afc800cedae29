"""After `reseal` an older secret can be forgotten: everything opens under the new one alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import asyncpg

from engine.resealing import Resealed, reseal_everything
from engine.vault import Vault
from tests.integration.graphql_support import open_gateway

OLD, NEW = b"an old secret, long enough for it", b"a new secret, long enough for it.."
CONFIGURE = """mutation ($input: ConfigureProviderInput!) {
  configureProvider(input: $input) { provider { configured } userErrors { message path } } }"""
TWILIO = {
    "kind": "TWILIO",
    "settings": {"accountSid": "AC" + "0" * 32, "from": "+14155550100"},
    "secrets": {"authToken": "t0ken"},
}
SET_UP = """mutation {
  saveWebhookEndpoint(input: {url: "https://example.com/hook", events: ["*"]}) { userErrors { message } }
  saveInboundEndpoint(
    input: {name: "shop", verifier: HMAC_SHA256, secret: "a shared secret", eventType: "shop.called"}
  ) { userErrors { message } }
  addSenderDomain(domain: "example.com") { userErrors { message } }
  rotateWorkflowSecret { userErrors { message } }
}"""


async def test_everything_that_is_sealed_is_sealed_anew(database_url: str) -> None:
    async with open_gateway(database_url) as gateway:
        gateway.services = replace(gateway.services, vault=Vault(OLD))
        tenant = await gateway.tenant()
        payloads: dict[str, Any] = {**await tenant.data(SET_UP), **await tenant.data(CONFIGURE, input=TWILIO)}
        assert [payload["userErrors"] for payload in payloads.values()] == [[], [], [], [], []]
        database = gateway.services.database

        assert await reseal_everything(database, Vault(NEW)) == Resealed(0, 0, 5)
        assert await reseal_everything(database, Vault(NEW, [OLD])) == Resealed(5, 0, 0)
        assert await reseal_everything(database, Vault(NEW)) == Resealed(0, 5, 0)
        assert await reseal_everything(database, Vault(OLD)) == Resealed(0, 0, 5)

        assert await sealed_columns(database_url) == 5


async def sealed_columns(url: str) -> int:
    """How many columns hold something sealed: each of them is a place that `reseal` must know."""
    connection = await asyncpg.connect(url)
    try:
        count: int = await connection.fetchval(
            "SELECT count(*) FROM information_schema.columns"
            " WHERE table_schema = 'public' AND column_name LIKE 'sealed%'"
        )
    finally:
        await connection.close()
    return count
