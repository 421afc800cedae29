"""Text messages from the mutation to the provider and back: acceptance, dispatch decisions, what outcomes mean."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from db.deliveries import read_deliveries
from db.delivery_records import DeliveryRecord
from engine.channels.base import Prepared, Ready, Refuse, Settled, Suppress
from engine.channels.http import HttpClient
from engine.consent import ConsentPurpose, ConsentState, set_consent
from engine.dispatch.values import SuppressedReason
from engine.node_ids import parse_node_id
from engine.sms.work import SmsWork
from tests.integration.graphql_support import Gateway, Tenant, open_gateway
from tests.integration.log_support import move_to_europe
from tests.integration.sms_support import ADA, BOB, LOOPBACK, open_account, send
from tests.peers.twilio import Refusal, TwilioPeer

IDENTIFY = "mutation ($input: IdentifyInput!) { identify(input: $input) { userErrors { code } } }"


@pytest.fixture
async def peer() -> AsyncIterator[TwilioPeer]:
    async with TwilioPeer.running() as running:
        yield running


@pytest.fixture
async def gateway(module_database_url: str) -> AsyncIterator[Gateway]:
    async with open_gateway(module_database_url, egress=LOOPBACK) as opened:
        yield opened


@pytest.fixture
async def tenant(gateway: Gateway, peer: TwilioPeer) -> Tenant:
    made = await open_account(gateway, peer)
    await made.data(IDENTIFY, input={"userId": "ada", "traits": {"phone": "+1 (415) 555-0132", "name": "Ada"}})
    await made.data(IDENTIFY, input={"userId": "bob", "traits": {"phone": BOB}})
    await made.data(IDENTIFY, input={"userId": "cyd", "traits": {"phone": "none"}})
    return made


@pytest.fixture
async def work(gateway: Gateway) -> AsyncIterator[SmsWork]:
    http = HttpClient(gateway.services.egress)
    yield SmsWork(gateway.services.vault, http, public_url=gateway.services.public_url)
    await http.close()


async def say(tenant: Tenant, user_id: str, state: ConsentState) -> None:
    services = tenant.gateway.services
    async with services.database.transaction() as connection:
        await set_consent(
            connection,
            project_id=tenant.project_id,
            user_id=user_id,
            purpose=ConsentPurpose.SMS,
            state=state,
            source="test",
            actor="test",
            now=services.clock.now(),
        )


async def stored(tenant: Tenant, sent: Any) -> list[DeliveryRecord]:
    parsed = [parse_node_id(each["id"]) for each in sent["deliveries"]]
    async with tenant.gateway.services.database.connection() as connection:
        found = await read_deliveries(
            connection,
            project_id=tenant.project_id,
            delivery_ids=[each.uuid for each in parsed if each is not None],
        )
    return sorted(found, key=lambda each: each.delivery_id)


async def prepare(tenant: Tenant, work: SmsWork, deliveries: Sequence[DeliveryRecord]) -> list[Prepared]:
    services = tenant.gateway.services
    async with services.database.transaction() as connection:
        prepared = await work.prepare(
            connection, project_id=tenant.project_id, deliveries=deliveries, now=services.clock.now()
        )
    return [prepared[each.delivery_id] for each in deliveries]


async def settle(tenant: Tenant, work: SmsWork, delivery: DeliveryRecord, prepared: Prepared) -> None:
    assert isinstance(prepared, Ready)
    services = tenant.gateway.services
    outcome = await work.send(prepared.message)
    async with services.database.transaction() as connection:
        await work.settle(
            connection,
            project_id=tenant.project_id,
            settled=[Settled(delivery, prepared.message, outcome)],
            now=services.clock.now(),
        )


async def test_people_and_numbers_get_one_message_each_and_what_arrives_is_rendered(
    tenant: Tenant, work: SmsWork, peer: TwilioPeer
) -> None:
    sent = await send(tenant, userIds=["ada", "bob", "ada"], to=["+44 20 7946 0958", "+49 30 901820"])

    assert sent["userErrors"] == []
    assert (sent["queued"], sent["scheduled"], sent["suppressed"]) == (3, 0, 0)
    assert [each.kind for each in tenant.gateway.woken] == ["deliveries"]
    deliveries = await stored(tenant, sent)
    assert [(each.user_id, each.recipient) for each in deliveries] == [
        ("ada", ADA),
        ("bob", BOB),
        (None, "+4930901820"),
    ]
    for delivery, prepared in zip(deliveries, await prepare(tenant, work, deliveries), strict=True):
        await settle(tenant, work, delivery, prepared)
    assert {each.form["To"]: each.form["Body"] for each in peer.messages} == {
        ADA: "Hi Ada!",
        BOB: "Hi !",
        "+4930901820": "Hi !",
    }
    assert peer.messages[0].form["StatusCallback"].endswith(f"?delivery={sent['deliveries'][0]['id']}")


async def test_a_payload_shows_what_is_sent_and_no_secret(tenant: Tenant, work: SmsWork, peer: TwilioPeer) -> None:
    [ready] = await prepare(tenant, work, await stored(tenant, await send(tenant, userIds=["ada"])))

    assert isinstance(ready, Ready)
    assert msgspec.json.decode(ready.payload) == {"to": ADA, "from": "+14155550100", "body": "Hi Ada!", "segments": 1}
    assert ready.message.repeatable is False


async def test_who_has_no_number_fails_at_once_and_who_said_no_is_suppressed(tenant: Tenant) -> None:
    await say(tenant, "bob", ConsentState.DENIED)

    sent = await send(tenant, userIds=["ada", "bob", "cyd", "nobody"])

    assert [(each["userId"], each["status"], each["suppressedReason"]) for each in sent["deliveries"]] == [
        ("ada", "QUEUED", None),
        ("bob", "SUPPRESSED", "CONSENT"),
        ("cyd", "FAILED", None),
        ("nobody", "FAILED", None),
    ]
    assert sent["deliveries"][2]["error"]["code"] == "NO_PHONE"
    assert (sent["queued"], sent["suppressed"]) == (1, 1)
    events = await tenant.data('{ events(filter: {eventTypes: ["sms.failed"]}) { edges { node { userId } } } }')
    assert {edge["node"]["userId"] for edge in events["events"]["edges"]} == {"cyd", "nobody"}


async def test_a_revocation_after_acceptance_wins_at_dispatch(tenant: Tenant, work: SmsWork) -> None:
    deliveries = await stored(tenant, await send(tenant, userIds=["ada"]))
    await say(tenant, "ada", ConsentState.REVOKED)

    assert await prepare(tenant, work, deliveries) == [Suppress(reason=SuppressedReason.CONSENT)]


async def test_a_person_erased_meanwhile_gets_nothing(tenant: Tenant, work: SmsWork) -> None:
    deliveries = await stored(tenant, await send(tenant, userIds=["ada"]))
    async with tenant.gateway.services.database.connection() as connection:
        await connection.execute("DELETE FROM profiles WHERE user_id = 'ada' AND project_id = $1", tenant.project_id)

    assert await prepare(tenant, work, deliveries) == [Suppress(reason=SuppressedReason.ERASED)]


async def test_in_europe_nothing_said_is_no(tenant: Tenant, work: SmsWork) -> None:
    async with tenant.gateway.services.database.connection() as connection:
        await move_to_europe(connection, tenant.project_id)
    await say(tenant, "bob", ConsentState.GRANTED)

    sent = await send(tenant, userIds=["ada", "bob"], to=["+49 30 901820"])

    assert [each["status"] for each in sent["deliveries"]] == ["SUPPRESSED", "QUEUED", "QUEUED"]


@pytest.mark.parametrize(("code", "reason"), [(21610, "UNSUBSCRIBED"), (21614, "BOUNCED")])
async def test_a_number_that_said_stop_or_is_dead_is_not_tried_again(
    tenant: Tenant, work: SmsWork, peer: TwilioPeer, code: int, reason: str
) -> None:
    peer.scripts[ADA] = [Refusal(code)]
    [delivery] = await stored(tenant, await send(tenant, userIds=["ada"]))
    [prepared] = await prepare(tenant, work, [delivery])
    await settle(tenant, work, delivery, prepared)

    again = await send(tenant, to=[ADA])

    assert [(each["status"], each["suppressedReason"]) for each in again["deliveries"]] == [("SUPPRESSED", reason)]
    assert await prepare(tenant, work, [delivery]) == [Suppress(reason=SuppressedReason(reason))]
    assert peer.attempts[ADA] == 1


async def test_a_refused_account_is_shown_at_the_provider_until_it_works(
    tenant: Tenant, work: SmsWork, peer: TwilioPeer
) -> None:
    [delivery] = await stored(tenant, await send(tenant, userIds=["ada"]))
    [prepared] = await prepare(tenant, work, [delivery])
    peer.scripts[ADA] = [Refusal(21606)]
    await settle(tenant, work, delivery, prepared)
    [refused] = (await tenant.data("{ providers { lastError } }"))["providers"]
    await settle(tenant, work, delivery, prepared)
    [works] = (await tenant.data("{ providers { lastError } }"))["providers"]

    assert "sender is not one of this account's" in refused["lastError"]
    assert works["lastError"] is None


async def test_somebody_without_a_number_is_not_scheduled_but_fails_at_once(tenant: Tenant) -> None:
    at = tenant.gateway.services.clock.now() + timedelta(hours=1)

    sent = await send(tenant, userIds=["ada", "cyd"], scheduledFor=at.isoformat())

    assert (sent["queued"], sent["scheduled"], sent["suppressed"]) == (0, 1, 0)
    assert [each["status"] for each in sent["deliveries"]] == ["SCHEDULED", "FAILED"]
    assert sent["deliveries"][1]["error"]["code"] == "NO_PHONE"


async def test_what_is_scheduled_is_decided_later(tenant: Tenant) -> None:
    at = tenant.gateway.services.clock.now() + timedelta(hours=1)
    await say(tenant, "ada", ConsentState.DENIED)

    sent = await send(tenant, userIds=["ada"], scheduledFor=at.isoformat())

    assert (sent["queued"], sent["scheduled"], sent["suppressed"]) == (0, 1, 0)
    assert sent["deliveries"][0]["status"] == "SCHEDULED"
    assert tenant.gateway.woken == []


async def test_one_key_is_one_send(tenant: Tenant) -> None:
    first = await send(tenant, userIds=["ada"], idempotencyKey="k")
    second = await send(tenant, userIds=["ada"], idempotencyKey="k")
    other = await send(tenant, userIds=["bob"], idempotencyKey="k")

    assert second == first
    assert [error["code"] for error in other["userErrors"]] == ["CONFLICT"]


@pytest.mark.parametrize(
    ("given", "code", "path"),
    [
        ({"to": ["12"]}, "INVALID", ["input", "to", "0"]),
        ({"to": [ADA], "audienceId": "aud_x"}, "NOT_FOUND", ["input", "audienceId"]),
        ({"audienceId": "aud_x"}, "NOT_FOUND", ["input", "audienceId"]),
        ({"to": [ADA], "idempotencyKey": ""}, "INVALID", ["input", "idempotencyKey"]),
        ({}, "INVALID", ["input", "to"]),
    ],
)
async def test_a_request_that_cannot_work_makes_nothing(
    tenant: Tenant, given: dict[str, Any], code: str, path: list[str]
) -> None:
    refused = await send(tenant, **given)

    assert [(error["code"], error["path"]) for error in refused["userErrors"]] == [(code, path)]
    assert (refused["batchId"], refused["deliveries"]) == (None, [])
    async with tenant.gateway.services.database.connection() as connection:
        made = "SELECT count(*) FROM deliveries WHERE project_id = $1"
        assert await connection.fetchval(made, tenant.project_id) == 0


async def test_without_a_provider_nothing_is_accepted_and_what_waited_is_refused(tenant: Tenant, work: SmsWork) -> None:
    deliveries = await stored(tenant, await send(tenant, userIds=["ada"]))
    async with tenant.gateway.services.database.connection() as connection:
        await connection.execute("DELETE FROM providers WHERE project_id = $1", tenant.project_id)

    refused = await send(tenant, userIds=["ada"])
    [prepared] = await prepare(tenant, work, deliveries)

    assert [error["code"] for error in refused["userErrors"]] == ["NOT_CONFIGURED"]
    assert isinstance(prepared, Refuse)
    assert prepared.error.code == "NOT_CONFIGURED"
