"""After `reseal` an older secret can be forgotten: everything opens under the new one alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import asyncpg

from engine.accounts.access_tokens import AccessTokens
from engine.accounts.enrolling import enroll_totp as enroll
from engine.accounts.signing_keys import SigningKeys
from engine.resealing import Resealed, reseal_everything
from engine.vault import Vault
from tests.integration.graphql_support import REGION, Tenant, open_gateway

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
  rotateIdentitySecret { userErrors { message } }
}"""


async def test_everything_that_is_sealed_is_sealed_anew(database_url: str) -> None:
    async with open_gateway(database_url) as gateway:
        keys = SigningKeys(gateway.services.database, Vault(OLD), gateway.services.clock)
        tokens = AccessTokens(keys, gateway.services.clock, region=REGION, issuer="http://gateway.test")
        accounts = replace(gateway.services.accounts, vault=Vault(OLD), tokens=tokens)
        gateway.services = replace(gateway.services, vault=Vault(OLD), accounts=accounts)
        tenant = await gateway.tenant()
        await enroll_totp(tenant)
        payloads: dict[str, Any] = {**await tenant.data(SET_UP), **await tenant.data(CONFIGURE, input=TWILIO)}
        assert [payload["userErrors"] for payload in payloads.values()] == [[]] * 6
        database = gateway.services.database

        places = await sealed_columns(database_url)
        assert await reseal_everything(database, Vault(NEW)) == Resealed(0, 0, places)
        assert await reseal_everything(database, Vault(NEW, [OLD])) == Resealed(places, 0, 0)
        assert await reseal_everything(database, Vault(NEW)) == Resealed(0, places, 0)
        assert await reseal_everything(database, Vault(OLD)) == Resealed(0, 0, places)


async def enroll_totp(tenant: Tenant) -> None:
    """Makes a signing key, and the secret of somebody's second factor."""
    document = """mutation { signUp(input: {email: "ada@example.com", password: "correct horse"}) {
      session { userId } } }"""
    user_id = (await tenant.data(document))["signUp"]["session"]["userId"]
    assert tenant.viewer is not None
    made = await enroll(tenant.gateway.services.accounts, tenant.viewer.project, user_id=user_id)
    assert made.secret is not None


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
