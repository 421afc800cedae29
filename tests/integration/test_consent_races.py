"""Who decides about a person and who changes what they allow, at the same time: the one that commits first counts.

Decided is at dispatch for mail, pushes and text messages, and at enrolment for workflows; here by the very functions
that read and lock for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import asyncpg
import pytest

from db.profiles import share_profiles
from engine.consent import ConsentPurpose, ConsentState, set_consent
from engine.dispatch.recipients import lock_standings
from engine.dispatch.values import Channel, PushContent, PushNotification
from engine.push.policy import PolicyToken, Send
from engine.push.standing import lock_standings as lock_push_standings
from engine.workflows.definition import ReentryPolicy
from engine.workflows.starting import Entrant, admit
from tests.integration.graphql_support import Gateway, Tenant, open_gateway
from tests.integration.log_support import wait_until_blocked

if TYPE_CHECKING:
    from datetime import datetime

SET = """mutation ($purpose: ConsentPurpose!, $state: ConsentState!) {
  setConsent(input: {userId: "ada", purpose: $purpose, state: $state, source: "app"}) { userErrors { code } }
}"""
CONTENT = PushContent(message_id=uuid4(), push=PushNotification(title="Hello", body="Ada"))
PURPOSES = [ConsentPurpose.EMAIL, ConsentPurpose.SMS, ConsentPurpose.PUSH, ConsentPurpose.WORKFLOWS]


async def may(connection: asyncpg.Connection, project_id: UUID, purpose: ConsentPurpose, now: datetime) -> bool:
    """Whether ada may be sent to, or enter, as whoever does it decides; what is decided from stays locked."""
    if purpose is ConsentPurpose.PUSH:
        push = await lock_push_standings(connection, project_id=project_id, user_ids=["ada"], message_ids=(), now=now)
        [decided] = push.decide(CONTENT, batch_id=None, user_id="ada", device=None, tokens=[PolicyToken()])
        return isinstance(decided, Send)
    if purpose is ConsentPurpose.WORKFLOWS:
        await share_profiles(connection, project_id=project_id, user_ids=["ada"])
        entrant = Entrant(uuid4(), 1, ReentryPolicy.ALWAYS, (), "ada")
        return bool(await admit(connection, project_id=project_id, entrants=[entrant], now=now))
    standings = await lock_standings(
        connection, Channel(purpose), project_id=project_id, user_ids=["ada"], addresses=["ada@shop.example"]
    )
    return standings.held_back("ada", "ada@shop.example") is None


@pytest.fixture
async def shop(database_url: str) -> AsyncIterator[Tenant]:
    async with open_gateway(database_url) as gateway:
        tenant = await gateway.tenant()
        await tenant.track(userId="ada")
        yield tenant


@pytest.mark.parametrize("purpose", PURPOSES)
async def test_a_revocation_waits_for_what_was_decided_before_and_counts_after(
    shop: Tenant, purpose: ConsentPurpose
) -> None:
    gateway: Gateway = shop.gateway
    now = gateway.services.clock.now()
    async with gateway.services.database.transaction() as deciding:
        # Nothing was ever said: there is no row of a consent to lock
        assert await may(deciding, shop.project_id, purpose, now)
        revoking = asyncio.create_task(shop.data(SET, purpose=purpose, state="REVOKED"))
        assert not (await asyncio.wait([revoking], timeout=0.05))[0]
    assert (await revoking)["setConsent"]["userErrors"] == []
    async with gateway.services.database.transaction() as deciding:
        assert not await may(deciding, shop.project_id, purpose, now)


@pytest.mark.parametrize("purpose", PURPOSES)
async def test_who_decides_waits_for_a_revocation_and_sees_it(shop: Tenant, purpose: ConsentPurpose) -> None:
    database, now = shop.gateway.services.database, shop.gateway.services.clock.now()
    async with database.connection() as observer, database.transaction() as deciding:
        async with database.transaction() as revoking:
            await set_consent(
                revoking,
                project_id=shop.project_id,
                user_id="ada",
                purpose=purpose,
                state=ConsentState.REVOKED,
                source="app",
                actor="user:ada",
                now=now,
            )
            decided = asyncio.create_task(may(deciding, shop.project_id, purpose, now))
            await wait_until_blocked(observer, deciding.get_server_pid())
        assert not await decided
