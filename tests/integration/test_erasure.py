"""Erasing a person: what goes, what stays, what is told of it, and that nothing under way writes them back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import msgspec
import pytest

from db.database import Database
from db.deliveries import hold_deliveries
from db.events import append_events, trim_events
from db.followers import ensure_follower
from db.records import EventRecord, Lane
from db.suppressions import NewSuppression, insert_suppressions, read_suppressions
from engine.channels.base import Accepted, Outcome
from engine.dispatch.reports import Reported
from engine.dispatch.values import Channel
from engine.email.callbacks import EmailCallback, EmailReport, apply_email_callback
from engine.erasure.erasing import ErasureRequest, Receipt, _erase, erase_person, hash_person
from engine.errors import UserError
from engine.lanes import EVENTS
from engine.node_ids import NodeKind, write_node_id
from engine.workers.followers import NOTHING, Follower, Reacted
from tests.integration.delivery_support import make_delivery
from tests.integration.dispatch_support import open_desk
from tests.integration.graphql_support import Tenant, open_gateway
from tests.integration.log_support import make_project, new_event, open_database, wait_until_blocked
from tests.peers.memory_channel import MemoryMessage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ERASE = """mutation ($userId: String!, $reason: String!) {
  eraseProfile(input: { userId: $userId, reason: $reason }) {
    receipt { userId profileId erasedAt removed }
    userErrors { code message path }
  }
}"""
RETRY = """mutation ($key: String!) {
  track(input: {event: {id: $key, eventType: "order.placed", userId: "ada"}}) { duplicate event { id } }
}"""
WAITING_FOR_ME = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid)))"
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
async def shop(database_url: str) -> AsyncIterator[Tenant]:
    async with open_gateway(database_url) as gateway:
        yield await gateway.tenant()


async def erase(tenant: Tenant, user_id: str, reason: str = "asked for by mail") -> Any:
    return (await tenant.data(ERASE, userId=user_id, reason=reason))["eraseProfile"]


async def erase_from(database: Database, project_id: UUID, user_id: str = "ada") -> Receipt | UserError:
    request = ErasureRequest(user_id=user_id, reason="asked for", actor="api_key:sk")
    return await erase_person(database, lambda _: None, project_id=project_id, request=request, now=NOW)


async def count(tenant: Tenant, table: str) -> int:
    async with tenant.gateway.services.database.connection() as connection:
        rows: int = await connection.fetchval(f"SELECT count(*) FROM {table} WHERE project_id = $1", tenant.project_id)
    return rows


async def test_a_person_is_erased_with_a_receipt_and_an_event_that_names_nobody(shop: Tenant) -> None:
    await shop.track(userId="ada", anonymousId="phone-1")
    await shop.track(anonymousId="phone-1")
    await shop.track(userId="bob", anonymousId="phone-1")
    profile = (await shop.data('{ profile(userId: "ada") { id } }'))["profile"]["id"]

    payload = await erase(shop, "ada")

    assert payload["userErrors"] == []
    receipt = payload["receipt"]
    assert (receipt["userId"], receipt["profileId"]) == ("ada", profile)
    assert receipt["removed"] == {"events": 2, "identityLinks": 1, "profiles": 1}
    log = await shop.data("{ events(order: OLDEST_FIRST) { edges { node { seq eventType userId properties } } } }")
    assert shop.viewer is not None
    person_hash = hash_person(shop.viewer.project.salt, "ada").hex()
    assert [edge["node"] for edge in log["events"]["edges"]] == [
        {"seq": 3, "eventType": "order.placed", "userId": "bob", "properties": {}},
        {
            "seq": 4,
            "eventType": "consent.erasure_completed",
            "userId": None,
            "properties": {"profileId": profile, "personHash": person_hash},
        },
    ]
    entries = (await shop.data("{ auditLog(first: 1) { edges { node { action subject after } } } }"))["auditLog"]
    assert entries["edges"][0]["node"] == {
        "action": "profile.erased",
        "subject": profile,
        "after": {"reason": "asked for by mail", "personHash": person_hash},
    }


async def test_erasing_again_gives_the_receipt_of_that_time(shop: Tenant) -> None:
    await shop.track(userId="ada")
    first = await erase(shop, "ada")
    assert await erase(shop, "ada", "once more") == first
    assert await count(shop, "erasures") == 1


async def test_nobody_is_not_found(shop: Tenant) -> None:
    payload = await erase(shop, "nobody")
    assert payload["receipt"] is None
    assert [(error["code"], error["path"]) for error in payload["userErrors"]] == [("NOT_FOUND", ["input", "userId"])]


@pytest.mark.parametrize(
    "reason",
    [
        "",
        "x" * 501,
        # An id, an address in another case, a number written otherwise.
        "ada asked",
        "phone-1 is hers",
        "written to ADA@shop.example",
        "called from +1 (415) 555-0132",
    ],
)
async def test_a_reason_must_not_name_the_person(reason: str, shop: Tenant) -> None:
    await shop.track(userId="ada", anonymousId="phone-1")
    await shop.data(
        """mutation { identify(input: {userId: "ada", traits: {email: "Ada@shop.example", phone: "+14155550132"}}) {
          userErrors { code } } }"""
    )
    payload = await erase(shop, "ada", reason)
    assert payload["receipt"] is None
    assert [(error["code"], error["path"]) for error in payload["userErrors"]] == [("INVALID", ["input", "reason"])]
    assert await count(shop, "events") == 2


async def test_a_reason_may_hold_the_id_within_a_word(shop: Tenant) -> None:
    await shop.track(userId="ada")
    assert (await erase(shop, "ada", "by the Canadian office"))["userErrors"] == []


async def test_a_user_who_was_taken_over_goes_with_their_heir(shop: Tenant) -> None:
    await shop.track(userId="anon-1")
    await shop.track(userId="ada")
    async with shop.gateway.services.database.connection() as connection:
        await connection.execute(
            "INSERT INTO identity_links VALUES ($1, 'USER_ID', 'anon-1', 'ada', 2)", shop.project_id
        )
    assert [error["code"] for error in (await erase(shop, "anon-1"))["userErrors"]] == ["STATE"]
    assert (await erase(shop, "ada"))["receipt"]["removed"] == {"events": 2, "identityLinks": 1, "profiles": 2}


async def test_a_retry_of_an_erased_event_brings_nobody_back_and_a_new_event_begins_somebody_new(shop: Tenant) -> None:
    before = (await shop.track(userId="ada", id="order-1"))["id"]
    first = (await erase(shop, "ada"))["receipt"]

    again = await shop.data(
        """mutation { track(input: {event: {eventType: "order.placed", userId: "ada", id: "order-1"}}) {
          duplicate event { id } userErrors { code } } }"""
    )
    assert again["track"] == {"duplicate": True, "event": None, "userErrors": []}
    assert (await count(shop, "profiles"), await count(shop, "events")) == (0, 1)
    assert (await shop.track(userId="ada"))["id"] != before
    second = (await erase(shop, "ada"))["receipt"]
    assert second["removed"] == {"events": 1, "profiles": 1}
    assert second["profileId"] != first["profileId"]


async def test_retention_forgets_what_was_erased_below_the_floor(shop: Tenant) -> None:
    for key in ("one", "two"):
        await shop.track(userId="ada", id=key)
        await shop.track(userId="bob", id=f"bob's {key}")
    await erase(shop, "ada")
    assert [await count(shop, table) for table in ("tombstones", "erased_keys")] == [2, 2]
    async with shop.gateway.services.database.transaction() as connection:
        await trim_events(connection, project_id=shop.project_id, first_seq=3)
    assert [await count(shop, table) for table in ("tombstones", "erased_keys")] == [1, 1]
    assert await shop.data(RETRY, key="two") == {"track": {"duplicate": True, "event": None}}


async def test_an_address_stays_suppressed_and_is_not_kept(shop: Tenant) -> None:
    await shop.data(
        """mutation { identify(input: {userId: "ada", traits: {email: "Ada@shop.example"}}) { userErrors { code } } }"""
    )
    address, services = "ada@shop.example", shop.gateway.services
    async with services.database.connection() as connection:
        await insert_suppressions(
            connection,
            project_id=shop.project_id,
            channel="EMAIL",
            suppressions=[NewSuppression(address, "UNSUBSCRIBED")],
            now=NOW,
        )
    await erase(shop, "ada")
    async with services.database.transaction() as connection:
        kept = await connection.fetchval("SELECT address FROM suppressions WHERE project_id = $1", shop.project_id)
        found = await read_suppressions(
            connection, project_id=shop.project_id, channel="EMAIL", addresses=[address, "bob@shop.example"]
        )
    assert kept.startswith("sha256:")
    # A link to unsubscribe that they still have, or a number that is reported again, does not bring it back.
    async with services.database.transaction() as connection:
        await insert_suppressions(
            connection,
            project_id=shop.project_id,
            channel="EMAIL",
            suppressions=[NewSuppression(address, "BOUNCED")],
            now=NOW,
        )
    assert [(each.address, each.reason) for each in found] == [(address, "UNSUBSCRIBED")]


async def test_a_report_about_an_erased_delivery_writes_nothing(shop: Tenant) -> None:
    await shop.track(userId="ada")
    delivery_id = await make_delivery(
        shop, channel="EMAIL", dispatch_key="email", user_id="ada", recipient="ada@shop.example", status="SENT"
    )
    await erase(shop, "ada")
    services = shop.gateway.services
    callback = EmailCallback(
        callback_id="msg_1", kind=EmailReport.COMPLAINED, provider_message_id="re_1", delivery_id=delivery_id
    )
    reported = await apply_email_callback(
        services.database, services.announce, callback, project_id=shop.project_id, now=NOW
    )
    assert reported is Reported.UNKNOWN
    assert [await count(shop, table) for table in ("suppressions", "consents", "profiles")] == [0, 0, 0]


async def test_a_delivery_that_is_settled_holds_back_its_erasure(shop: Tenant) -> None:
    """Whoever settles holds the row before it writes of addresses and devices, so either comes wholly first."""
    await shop.track(userId="ada")
    delivery_id = await make_delivery(shop, user_id="ada", status="SENDING")
    database = shop.gateway.services.database
    async with database.connection() as connection, connection.transaction():
        await hold_deliveries(connection, project_id=shop.project_id, delivery_ids=[delivery_id])
        erasing = asyncio.create_task(erase_from(database, shop.project_id))
        async with asyncio.timeout(5):
            while not await connection.fetchval(WAITING_FOR_ME):
                pass
        assert not erasing.done()
    assert isinstance(await erasing, Receipt)
    async with database.connection() as connection:
        held = await hold_deliveries(connection, project_id=shop.project_id, delivery_ids=[delivery_id])
    assert held == set()


async def test_an_attempt_on_the_wire_ends_without_an_error_and_writes_nothing(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_desk(database_url, max_size=6) as desk:
        project_id = await desk.project()
        async with desk.database.connection() as connection:
            await append_events(
                connection, project_id=project_id, batch_token=1, events=[new_event("a", user_id="ada")]
            )
        await desk.enqueue(project_id, channel=Channel.PUSH, user_id="ada")

        async def erased_meanwhile(_message: MemoryMessage) -> Outcome:
            await erase_from(desk.database, project_id)
            return Accepted(provider_message_id="apns-1")

        desk.push.script = erased_meanwhile
        desk.push.events_of = lambda _settled: [new_event("b", event_type="push.token_invalidated", user_id="ada")]
        dispatcher = desk.dispatcher()
        await desk.drain(dispatcher, project_id)

        assert dispatcher.stats().late == 1
        assert desk.push.settled == []
        assert await desk.events(project_id) == {"consent.erasure_completed": 1}
        assert await desk.statuses(project_id) == {}
        async with desk.database.connection() as connection:
            left = "SELECT (SELECT count(*) FROM delivery_attempts) + (SELECT count(*) FROM profiles)"
            assert await connection.fetchval(left) == 0
    assert not [each for each in caplog.records if each.levelname in ("ERROR", "WARNING")]


async def test_an_append_that_waited_for_an_erasure_is_made_again_with_a_profile(database_url: str) -> None:
    async with open_database(database_url) as database:
        project_id = await make_project(database)
        async with database.connection() as connection:
            await append_events(
                connection, project_id=project_id, batch_token=1, events=[new_event("a", user_id="ada")]
            )
        async with database.connection() as eraser, database.connection() as writer, database.connection() as watcher:
            pid = await writer.fetchval("SELECT pg_backend_pid()")
            async with eraser.transaction():
                request = ErasureRequest(user_id="ada", reason="asked for", actor="api_key:sk")
                await _erase(eraser, project_id, request, UUID(int=1), NOW)
                appending = asyncio.create_task(
                    append_events(writer, project_id=project_id, batch_token=2, events=[new_event("b", user_id="ada")])
                )
                async with asyncio.timeout(5):
                    await wait_until_blocked(watcher, pid)
            with pytest.raises(asyncpg.SerializationError):
                await appending
            await append_events(writer, project_id=project_id, batch_token=2, events=[new_event("b", user_id="ada")])
            assert await writer.fetchval("SELECT count(*) FROM profiles WHERE project_id = $1", project_id) == 1


async def test_what_a_follower_read_before_an_erasure_is_read_again(database_url: str) -> None:
    """Else a webhook would go out with the body of an event that is no more."""
    seen: list[list[str | None]] = []
    async with open_database(database_url) as database:
        project_id = await make_project(database)
        async with database.connection() as connection:
            await ensure_follower(connection, project_id=project_id, follower="test", lane=Lane.EVENTS)
            events = [new_event("a", user_id="ada"), new_event("b", user_id="bob")]
            await append_events(connection, project_id=project_id, batch_token=1, events=events)

        async def react(
            connection: asyncpg.Connection,
            *,
            project_id: UUID,
            items: Sequence[EventRecord],
            now: datetime,
        ) -> Reacted:
            if not seen:
                await erase_from(database, project_id)
            seen.append([item.user_id for item in items])
            await connection.execute("INSERT INTO tombstones SELECT $1, 4, 1000 + $2", project_id, len(seen))
            return NOTHING

        follower = Follower(
            "test",
            EVENTS,
            react,
            database=database,
            clock=_Clock(),
            announce=lambda _: None,
            wake=lambda _: None,
        )
        await follower.follow(project_id)
        async with database.connection() as connection:
            written = await connection.fetch("SELECT seq FROM tombstones WHERE lane = 4 ORDER BY seq")

    assert seen == [["ada", "bob"], ["bob", None]]
    # What was made of the first page is not there.
    assert [row["seq"] for row in written] == [1002]


class _Clock:
    def now(self) -> datetime:
        return NOW


async def test_an_export_goes_on_page_by_page_and_ends(shop: Tenant) -> None:
    for number in range(5):
        await shop.track(userId="ada", properties={"number": number})
    document = """query ($after: Cursor) { exportProfile(userId: "ada", first: 2, after: $after) {
      lines count endCursor hasNextPage } }"""
    lines, after, pages = "", None, 0
    page: dict[str, Any] = {"hasNextPage": True}
    while page["hasNextPage"]:
        page = (await shop.data(document, after=after))["exportProfile"]
        assert page["count"] == page["lines"].count("\n") <= 2
        lines, after, pages = lines + page["lines"], page["endCursor"], pages + 1
    records = [msgspec.json.decode(line) for line in lines.splitlines()]
    assert pages == 3
    assert [each["kind"] for each in records] == ["profile"] + ["event"] * 5
    assert [each["record"]["properties"]["number"] for each in records[1:]] == [0, 1, 2, 3, 4]
    assert "project_id" not in lines
    assert write_node_id(NodeKind.PROFILE, UUID(records[0]["record"]["profile_id"])).startswith("prf_")
