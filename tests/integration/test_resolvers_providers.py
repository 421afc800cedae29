"""Providers through GraphQL: set up in parts, shown without secrets, changed and deleted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from engine.vault import Vault
from tests.integration.graphql_support import Gateway, Tenant

SHOWN = "id kind configured settings updatedAt lastError callbackUrl"
CONFIGURE = f"""mutation ($input: ConfigureProviderInput!) {{
  configureProvider(input: $input) {{ provider {{ {SHOWN} }} userErrors {{ code path message }} }}
}}"""
TOKEN = "a very secret auth token"
ACCOUNT = "AC" + "0" * 32


async def configure(tenant: Tenant, **given: Any) -> Any:
    return (await tenant.data(CONFIGURE, input=given))["configureProvider"]


async def test_an_account_is_set_up_in_parts_and_never_shows_its_secrets(gateway: Gateway) -> None:
    tenant = await gateway.tenant()

    first = await configure(tenant, kind="TWILIO", settings={"accountSid": ACCOUNT, "from": "+1 415 555 0132"})
    assert first["userErrors"] == []
    assert first["provider"]["configured"] is False
    second = await configure(tenant, kind="TWILIO", secrets={"authToken": TOKEN})

    provider = second["provider"]
    assert provider["id"] == first["provider"]["id"]
    assert provider["configured"] is True
    assert provider["settings"] == {"accountSid": ACCOUNT, "from": "+14155550132"}
    assert provider["callbackUrl"] == f"http://gateway.test/callbacks/{provider['id']}"
    assert provider["updatedAt"] > first["provider"]["updatedAt"]
    listed = (await tenant.data(f"{{ providers {{ {SHOWN} }} }}"))["providers"]
    node = await tenant.data(
        f"query ($id: ID!) {{ node(id: $id) {{ ... on Provider {{ {SHOWN} }} }} }}", id=provider["id"]
    )
    assert listed == [provider] == [node["node"]]
    assert TOKEN not in repr([first, second, listed])
    async with gateway.services.database.connection() as connection:
        row = await connection.fetchval("SELECT string_agg(providers::text, '') FROM providers")
    assert TOKEN not in row
    assert TOKEN.encode().hex() not in row


async def test_a_refused_call_changes_and_leaves_nothing(gateway: Gateway) -> None:
    tenant = await gateway.tenant()

    refused = await configure(tenant, kind="TWILIO", settings={"accountSid": ACCOUNT, "form": "x"})

    assert refused["provider"] is None
    [error] = refused["userErrors"]
    assert (error["code"], error["path"]) == ("INVALID", ["input", "settings", "form"])
    assert "Did you mean from?" in error["message"]
    assert (await tenant.data("{ providers { id } }"))["providers"] == []


async def test_an_address_inside_is_blocked(gateway: Gateway) -> None:
    refused = await configure(
        await gateway.tenant(), kind="RESEND", settings={"baseUrl": "http://127.0.0.1:1", "from": "a@example.com"}
    )
    assert [(error["code"], error["path"]) for error in refused["userErrors"]] == [
        ("BLOCKED_URL", ["input", "settings", "baseUrl"])
    ]


async def test_secrets_under_a_lost_key_are_said_to_be_unreadable_and_can_be_given_again(gateway: Gateway) -> None:
    tenant = await gateway.tenant()
    await configure(
        tenant,
        kind="TWILIO",
        settings={"accountSid": ACCOUNT, "from": "Shop"},
        secrets={"authToken": TOKEN},
    )
    known, unknown = gateway.services.vault, Vault(b"another secret, also long enough for it")
    gateway.services = replace(gateway.services, vault=unknown)

    [lost] = (await tenant.data(f"{{ providers {{ {SHOWN} }} }}"))["providers"]
    # A change of settings alone keeps them sealed: the operator may only have lost a setting.
    renamed = await configure(tenant, kind="TWILIO", settings={"from": "Shop 2"})
    gateway.services = replace(gateway.services, vault=known)
    [found] = (await tenant.data(f"{{ providers {{ {SHOWN} }} }}"))["providers"]
    gateway.services = replace(gateway.services, vault=unknown)
    again = await configure(tenant, kind="TWILIO", secrets={"authToken": TOKEN})

    assert lost["configured"] is False
    assert "SENDORA_SECRET_KEY" in lost["lastError"]
    assert renamed["provider"]["configured"] is False
    assert (found["configured"], found["settings"]["from"]) == (True, "Shop 2")
    assert again["provider"]["configured"] is True
    assert again["provider"]["lastError"] is None


async def test_a_provider_is_deleted_once(gateway: Gateway) -> None:
    tenant = await gateway.tenant()
    made = await configure(tenant, kind="OLLAMA", settings={"model": "llama3"})
    document = "mutation ($id: ID!) { deleteProvider(id: $id) { deletedId userErrors { code path } } }"

    first = (await tenant.data(document, id=made["provider"]["id"]))["deleteProvider"]
    second = (await tenant.data(document, id=made["provider"]["id"]))["deleteProvider"]

    assert first == {"deletedId": made["provider"]["id"], "userErrors": []}
    assert second == {"deletedId": None, "userErrors": [{"code": "NOT_FOUND", "path": ["id"]}]}
    assert made["provider"]["callbackUrl"] is None
    assert (await tenant.data("{ providers { id } }"))["providers"] == []
