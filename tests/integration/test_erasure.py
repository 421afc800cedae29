"""Erasing a person: what goes, what stays, and what is told of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.graphql_support import Tenant, open_gateway

ERASE = """mutation ($userId: String!, $reason: String!) {
  eraseProfile(input: { userId: $userId, reason: $reason }) {
    receipt { userId profileId erasedAt removed }
    userErrors { code message path }
  }
}"""


@pytest.fixture
async def shop(database_url: str) -> AsyncIterator[Tenant]:
    async with open_gateway(database_url) as gateway:
        yield await gateway.tenant()


async def erase(tenant: Tenant, user_id: str, reason: str = "asked for by mail") -> dict:
    return (await tenant.data(ERASE, userId=user_id, reason=reason))["eraseProfile"]


async def test_a_person_is_erased_from_the_log_and_leaves_holes(shop: Tenant) -> None:
    await shop.track(userId="ada", anonymousId="phone-1")
    await shop.track(anonymousId="phone-1")
    await shop.track(userId="bob")

    payload = await erase(shop, "ada")
    assert payload["userErrors"] == []
    assert payload["receipt"]["removed"] == {"events": 2, "identityLinks": 1, "profiles": 1}
