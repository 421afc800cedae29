"""Sends to audiences: everybody once, page by page, whoever belongs when it is due, through whatever dies."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from db.audience_sends import find_audience_sends
from db.delivery_records import NewDelivery
from db.replays import find_replaying_projects
from engine.audiences.sending import member_pages
from engine.clock import DatabaseClock
from engine.dispatch import audience_sends
from engine.dispatch.audience_sends import MemberPage, PlanPage, continue_audience_sends
from engine.dispatch.values import Channel
from engine.work import Work, WorkKind
from tests.integration.graphql_support import Tenant, open_gateway

SAVE = (
    """mutation ($input: SaveAudienceInput!) { saveAudience(input: $input) { audience { id } userErrors { code } } }"""
)
ANSWER = """{
  batchId queued scheduled suppressed deliveries { userId status error { code } } userErrors { code path }
}"""
SEND = f"mutation ($input: SendSmsInput!) {{ answer: sendSms(input: $input) {ANSWER} }}"
PUSH = f"mutation ($input: SendPushInput!) {{ answer: sendPush(input: $input) {ANSWER} }}"
MAIL = f"mutation ($input: SendEmailInput!) {{ answer: sendEmail(input: $input) {ANSWER} }}"
TEXTS = {"body": "Hi"}
PRO = {"path": "profile.traits.plan", "op": "EQ", "value": "pro"}


@pytest.fixture
async def shop(module_database_url: str) -> AsyncIterator[Tenant]:
    """Five people with a number, all of them pros, and an account to send text messages with."""
    async with open_gateway(module_database_url) as gateway:
        tenant = await gateway.tenant()
        settings = {"accountSid": "AC" + "0" * 32, "from": "Shop"}
        document = """mutation ($settings: JSON, $secrets: JSON) {
          configureProvider(input: {kind: TWILIO, settings: $settings, secrets: $secrets}) { userErrors { code } }
        }"""
        await tenant.data(document, settings=settings, secrets={"authToken": "secret"})
        for number in range(5):
            await identify(tenant, f"user-{number}", plan="pro", phone=f"+1415555013{number}")
        yield tenant


async def identify(tenant: Tenant, user_id: str, **traits: Any) -> None:
    document = "mutation ($input: IdentifyInput!) { identify(input: $input) { userErrors { code } } }"
    assert (await tenant.data(document, input={"userId": user_id, "traits": traits}))["identify"]["userErrors"] == []


async def audience(tenant: Tenant, *where: Any, name: str = "Pros", **values: Any) -> str:
    saved = (await tenant.data(SAVE, input={"name": name, "where": list(where), **values}))["saveAudience"]
    node_id: str = saved["audience"]["id"]
    return node_id


async def send(tenant: Tenant, document: str = SEND, **given: Any) -> Any:
    return (await tenant.data(document, input=given))["answer"]


async def go_on(tenant: Tenant, plans: Mapping[Channel, PlanPage] | None = None) -> bool:
    services = tenant.gateway.services
    pages = member_pages(services.vault) if plans is None else plans
    return await continue_audience_sends(
        services.database, services.clock, services.announce, services.wake, pages, tenant.project_id
    )


async def finish(tenant: Tenant) -> None:
    while await go_on(tenant):
        pass


async def sent(tenant: Tenant) -> Counter[tuple[str | None, str]]:
    """What there is, by person and status."""
    async with tenant.gateway.services.database.connection() as connection:
        rows = await connection.fetch("SELECT user_id, status FROM deliveries WHERE project_id = $1", tenant.project_id)
    return Counter((row["user_id"], row["status"]) for row in rows)


def clock_of(tenant: Tenant) -> DatabaseClock:
    clock = tenant.gateway.services.clock
    assert isinstance(clock, DatabaseClock)
    return clock


def once(*numbers: int, status: str = "QUEUED") -> Counter[tuple[str | None, str]]:
    return Counter({(f"user-{number}", status): 1 for number in numbers})


async def due(tenant: Tenant) -> bool:
    async with tenant.gateway.services.database.connection() as connection:
        return tenant.project_id in await find_audience_sends(connection, now=clock_of(tenant).now())


async def test_a_small_audience_is_made_at_once(shop: Tenant) -> None:
    answer = await send(shop, audienceId=await audience(shop, PRO), **TEXTS)

    assert (answer["queued"], answer["userErrors"]) == (5, [])
    assert [each["userId"] for each in answer["deliveries"]] == [f"user-{number}" for number in range(5)]
    assert not await due(shop)
    assert await sent(shop) == once(0, 1, 2, 3, 4)


async def test_a_large_one_goes_on_page_by_page_and_everybody_gets_it_once(
    shop: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audience_sends, "PAGE_MEMBERS", 2)
    answer = await send(shop, audienceId=await audience(shop, PRO), **TEXTS)

    assert answer["queued"] == 2
    assert Work(WorkKind.AUDIENCE_SENDS, shop.project_id) in shop.gateway.woken
    assert await due(shop)
    async with shop.gateway.services.database.connection() as connection:
        assert shop.project_id not in await find_replaying_projects(connection)
    await finish(shop)
    assert await sent(shop) == once(0, 1, 2, 3, 4)
    assert not await due(shop)


async def test_workers_that_die_or_meet_leave_nobody_out_and_send_nothing_twice(
    shop: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audience_sends, "PAGE_MEMBERS", 1)
    await send(shop, audienceId=await audience(shop, PRO), **TEXTS)
    pages = member_pages(shop.gateway.services.vault)

    async def die(connection: asyncpg.Connection, page: MemberPage) -> Sequence[NewDelivery]:
        await pages[Channel.SMS](connection, page)
        raise RuntimeError("killed before the commit")

    with pytest.raises(RuntimeError, match="killed"):
        await go_on(shop, {Channel.SMS: die})
    assert await sent(shop) == once(0)

    await asyncio.gather(*(go_on(shop) for _ in range(4)))
    await finish(shop)
    assert await sent(shop) == once(0, 1, 2, 3, 4)


async def test_who_was_named_besides_gets_one_and_so_does_their_address(
    shop: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audience_sends, "PAGE_MEMBERS", 2)
    answer = await send(shop, audienceId=await audience(shop, PRO), userIds=["user-1"], to=["+14155550132"], **TEXTS)
    assert answer["queued"] == 2

    await finish(shop)
    # The number that was named is that of user-2.
    assert await sent(shop) == once(0, 1, 3, 4) + Counter({(None, "QUEUED"): 1})


async def test_who_belongs_is_found_when_it_is_due(shop: Tenant) -> None:
    later = clock_of(shop).now() + timedelta(hours=1)
    answer = await send(shop, audienceId=await audience(shop, PRO), scheduledFor=later.isoformat(), **TEXTS)
    assert (answer["queued"], answer["scheduled"], answer["userErrors"]) == (0, 0, [])
    assert not await due(shop)
    assert not await go_on(shop)

    await identify(shop, "user-0", plan="free")
    await identify(shop, "user-9", plan="pro", phone="+14155550139")
    clock_of(shop).advance(timedelta(hours=1, seconds=1))
    assert await due(shop)
    await finish(shop)
    assert await sent(shop) == once(1, 2, 3, 4, 9)


async def test_what_it_asks_for_is_fixed_when_it_begins(shop: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audience_sends, "PAGE_MEMBERS", 2)
    node_id = await audience(shop, PRO)
    await send(shop, audienceId=node_id, **TEXTS)
    await audience(shop, {"not": PRO}, id=node_id)

    await finish(shop)
    assert await sent(shop) == once(0, 1, 2, 3, 4)


async def test_nothing_more_is_made_for_one_that_was_deleted(shop: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audience_sends, "PAGE_MEMBERS", 2)
    node_id = await audience(shop, PRO)
    await send(shop, audienceId=node_id, **TEXTS)
    await shop.data("mutation ($id: ID!) { deleteAudience(id: $id) { userErrors { code } } }", id=node_id)

    await finish(shop)
    assert await sent(shop) == once(0, 1)
    assert not await due(shop)


async def test_one_key_is_one_send_to_one_audience(shop: Tenant) -> None:
    pros, everybody = await audience(shop, PRO), await audience(shop, name="Everybody")
    first = await send(shop, audienceId=pros, idempotencyKey="spring", **TEXTS)
    again = await send(shop, audienceId=pros, idempotencyKey="spring", **TEXTS)
    other = await send(shop, audienceId=everybody, idempotencyKey="spring", **TEXTS)

    assert again == first
    assert [error["code"] for error in other["userErrors"]] == ["CONFLICT"]
    assert await sent(shop) == once(0, 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("document", "content"),
    [
        (SEND, TEXTS),
        (PUSH, {"push": {"title": "Hi", "body": "there"}}),
        (MAIL, {"subject": "Hi", "bodyText": "there"}),
    ],
)
async def test_another_projects_audience_is_none(shop: Tenant, document: str, content: dict[str, Any]) -> None:
    other = await shop.gateway.tenant("other")
    await configure_mail(shop)
    theirs = await audience(other)
    for node_id in (theirs, "aud_x"):
        answer = await send(shop, document, audienceId=node_id, **content)
        assert (answer["batchId"], answer["deliveries"]) == (None, [])
        assert answer["userErrors"] == [{"code": "NOT_FOUND", "path": ["input", "audienceId"]}]
    assert await sent(shop) == Counter()


async def test_so_many_may_be_unfinished(shop: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audience_sends, "MAX_UNFINISHED_SENDS", 1)
    node_id = await audience(shop, PRO)
    later = (clock_of(shop).now() + timedelta(days=1)).isoformat()
    assert (await send(shop, audienceId=node_id, scheduledFor=later, **TEXTS))["userErrors"] == []
    refused = await send(shop, audienceId=node_id, scheduledFor=later, **TEXTS)
    assert refused["userErrors"] == [{"code": "LIMIT_EXCEEDED", "path": ["input", "audienceId"]}]


async def test_pushes_go_to_each_device_of_each_member(shop: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audience_sends, "PAGE_MEMBERS", 2)
    document = "mutation ($input: RegisterPushTokenInput!) { registerPushToken(input: $input) { userErrors { code } } }"
    for token, user_id in (("aa", "user-3"), ("bb", "user-3"), ("cc", "user-4")):
        given = {"platform": "ANDROID", "token": token * 20, "userId": user_id}
        assert (await shop.data(document, input=given))["registerPushToken"]["userErrors"] == []

    push = {"title": "Hi", "body": "there"}
    answer = await send(shop, PUSH, audienceId=await audience(shop, PRO), push=push)
    assert (answer["suppressed"], answer["userErrors"]) == (2, [])
    await finish(shop)
    assert await sent(shop) == once(4) + Counter({("user-3", "QUEUED"): 2}) + once(0, 1, 2, status="SUPPRESSED")


async def configure_mail(shop: Tenant) -> None:
    document = """mutation ($settings: JSON, $secrets: JSON) {
      configureProvider(input: {kind: RESEND, settings: $settings, secrets: $secrets}) { userErrors { code } }
    }"""
    await shop.data(document, settings={"from": "hi@shop.example"}, secrets={"apiKey": "re_secret"})


async def test_two_members_with_one_mailbox_are_two_and_later_pages_say_why_they_cannot_leave(
    shop: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audience_sends, "PAGE_MEMBERS", 2)
    await configure_mail(shop)
    for user_id in ("user-0", "user-4"):
        await identify(shop, user_id, email="ada@example.com")
    content = {"subject": "Hi", "bodyText": "there"}
    answer = await send(shop, MAIL, audienceId=await audience(shop, PRO), **content)
    # The sender's domain is not verified.
    assert [each["error"]["code"] for each in answer["deliveries"]] == ["BYOD_REQUIRED", "NO_ADDRESS"]

    await finish(shop)
    async with shop.gateway.services.database.connection() as connection:
        rows = await connection.fetch(
            "SELECT user_id, error_code FROM deliveries WHERE project_id = $1 ORDER BY user_id", shop.project_id
        )
    assert [row["error_code"] for row in rows] == [
        "BYOD_REQUIRED",
        "NO_ADDRESS",
        "NO_ADDRESS",
        "NO_ADDRESS",
        "BYOD_REQUIRED",
    ]
