"""From the log to a receiver and back: follower, dispatcher and channel over a real database and real sockets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from uuid_utils.compat import uuid7

import engine.webhooks.work as webhook_work
from db.delivery_records import DeliveryRecord, NewDelivery
from db.events import append_events
from db.records import EventRecord, NewEvent
from db.webhook_endpoints import WebhookEndpointRecord, read_webhook_endpoints
from engine.audit import SYSTEM, Audit
from engine.channels.http import HttpClient
from engine.dispatch.dispatcher import Dispatcher
from engine.dispatch.ledger import create_deliveries
from engine.dispatch.replaying import Replays
from engine.dispatch.status import delivery_event
from engine.dispatch.values import Channel, WebhookContent, host_key
from engine.egress import Egress
from engine.events import EventDraft
from engine.lanes import EVENTS
from engine.log import EventLog
from engine.node_ids import NodeKind, write_event_id, write_node_id
from engine.vault import Vault
from engine.webhooks.endpoints import WebhookChange, WebhookEndpoints
from engine.webhooks.follower import NAME, follow
from engine.webhooks.secrets import seal_delivery_secret
from engine.webhooks.signing import make_secret
from engine.webhooks.work import FAILING_REASON, GONE_REASON, WebhookWork
from engine.workers.followers import Follower
from tests.integration.dispatch_support import Desk, new_delivery, open_desk
from tests.integration.log_support import new_event, whole_log
from tests.peers.receiver import HangUp, Reply, WebhookReceiver

LOOPBACK = "127.0.0.0/8"
VAULT = Vault(b"a secret of tests, long enough for it")


@dataclass
class Shop:
    """A project, its receiver, and a worker's parts that carry events from the one to the other."""

    desk: Desk
    receiver: WebhookReceiver
    endpoints: WebhookEndpoints
    work: WebhookWork
    dispatcher: Dispatcher
    project_id: UUID

    @property
    def now(self) -> Any:
        return self.desk.clock.now()

    @property
    def audit(self) -> Audit:
        return Audit(SYSTEM, self.now)

    async def endpoint(self, *, path: str = "/hook", events: Sequence[str] = ("*",), **given: Any) -> UUID:
        """An endpoint at the receiver, which knows its secret."""
        made = await self.endpoints.create(
            project_id=self.project_id,
            given={"url": self.receiver.url + path, "events": events, **given},
            audit=self.audit,
        )
        return self._known(path, made)

    def _known(self, path: str, made: WebhookChange) -> UUID:
        assert made.endpoint is not None, made
        self.receiver.secrets[path] = made.secret or self.receiver.secrets[path]
        return made.endpoint.endpoint_id

    async def change(self, endpoint_id: UUID, **given: Any) -> None:
        changed = await self.endpoints.update(
            project_id=self.project_id, endpoint_id=endpoint_id, given=given, audit=self.audit
        )
        assert changed.errors == ()

    async def read(self, endpoint_id: UUID) -> WebhookEndpointRecord:
        async with self.desk.database.connection() as connection:
            (found,) = await read_webhook_endpoints(connection, project_id=self.project_id, endpoint_ids=[endpoint_id])
        return found

    async def track(self, *types: str) -> None:
        await self.append(*(new_event(f"k-{uuid7()}", event_type=each, user_id="ada") for each in types))

    async def append(self, *events: NewEvent) -> None:
        async with self.desk.database.transaction() as connection:
            await append_events(connection, project_id=self.project_id, batch_token=uuid7().int % 2**63, events=events)

    async def follow(self) -> None:
        """What the follower makes of the log since the last time."""
        follower = Follower(
            NAME,
            EVENTS,
            follow,
            database=self.desk.database,
            clock=self.desk.clock,
            announce=self.desk.announced.append,
            wake=lambda work: None,
        )
        await follower.follow(self.project_id)

    async def drain(self) -> None:
        await self.desk.drain(self.dispatcher, self.project_id)

    async def deliveries(self) -> list[DeliveryRecord]:
        """The oldest first."""
        async with self.desk.database.connection() as connection:
            rows = await connection.fetch(
                "SELECT delivery_id FROM deliveries WHERE project_id = $1 ORDER BY delivery_id", self.project_id
            )
        return [await self.desk.delivery(self.project_id, row["delivery_id"]) for row in rows]

    async def outcomes(self) -> list[tuple[str, str | None]]:
        return [(each.status, each.error_code) for each in await self.deliveries()]

    async def events(self, event_type: str) -> list[EventRecord]:
        async with self.desk.database.connection() as connection:
            return [event for event in await whole_log(connection, self.project_id) if event.event_type == event_type]


@asynccontextmanager
async def open_shop(url: str) -> AsyncIterator[Shop]:
    async with open_desk(url) as desk, WebhookReceiver.running() as receiver:
        work = WebhookWork(VAULT, HttpClient(Egress(allowed=LOOPBACK)))
        dispatcher = Dispatcher(desk.database, {Channel.WEBHOOK: work}, desk.clock, desk.announced.append)
        endpoints = WebhookEndpoints(desk.database, VAULT, Egress(allowed=LOOPBACK))
        try:
            yield Shop(desk, receiver, endpoints, work, dispatcher, await desk.project())
        finally:
            await dispatcher.stop(timedelta(seconds=5))
            await work.close()


@pytest.fixture
async def shop(module_database_url: str) -> AsyncIterator[Shop]:
    async with open_shop(module_database_url) as opened:
        yield opened


async def test_an_event_reaches_whoever_wants_it_signed_and_whole(shop: Shop) -> None:
    orders = await shop.endpoint(path="/orders", events=["order.*"])
    everything = await shop.endpoint(path="/all", events=["*"], signatureScheme="STRIPE", retrySchedule=[7])
    await shop.endpoint(path="/off", events=["*"], enabled=False)
    await shop.track("order.placed", "user.signed_up")
    await shop.follow()
    await shop.drain()
    assert [(each.path, each.verified) for each in shop.receiver.requests].count(("/all", True)) == 2
    (order,) = [each for each in shop.receiver.requests if each.path == "/orders"]
    body = msgspec.json.decode(order.body)
    assert (body["id"], body["type"]) == (write_event_id(shop.project_id, 1), "order.placed")
    assert (body["data"]["seq"], body["data"]["userId"], order.verified) == (1, "ada", True)
    assert order.event_id == body["id"]
    made = await shop.deliveries()
    assert [(each.status, each.endpoint_id, each.event_seq, each.event_type) for each in made] == [
        ("DELIVERED", orders, 1, "order.placed"),
        ("DELIVERED", everything, 1, "order.placed"),
        ("DELIVERED", everything, 2, "user.signed_up"),
    ]
    assert [each.retry_schedule for each in made] == [(2, 8, 30, 90, 1670), (7,), (7,)]
    assert all(each.user_id is None and each.repeatable for each in made)
    assert bytes(made[0].payload or b"")
    assert msgspec.json.decode(made[0].payload or b"") == body
    (attempt,) = await shop.desk.attempts(shop.project_id, made[1].delivery_id)
    assert (attempt.status_code, attempt.response_body) == (200, "ok")
    sent = [each.headers["x-sendora-signature"] for each in shop.receiver.requests if each.path == "/all"]
    assert attempt.signature_header in sent


async def test_what_happened_before_is_not_sent(shop: Shop) -> None:
    await shop.track("order.placed")
    endpoint_id = await shop.endpoint()
    await shop.track("order.paid")
    await shop.change(endpoint_id, enabled=False)
    await shop.track("order.lost")
    await shop.change(endpoint_id, enabled=True)
    await shop.track("order.refunded")
    # All at once, however late the follower is: an endpoint that was switched on again starts there.
    await shop.follow()
    assert [each.event_type for each in await shop.deliveries()] == ["order.refunded"]


async def test_a_change_that_does_not_switch_it_on_loses_nothing(shop: Shop) -> None:
    endpoint_id = await shop.endpoint()
    await shop.track("order.placed")
    await shop.change(endpoint_id, enabled=True, description="the same")
    await shop.follow()
    assert [each.event_type for each in await shop.deliveries()] == ["order.placed"]


async def test_a_replayed_page_makes_nothing_twice(shop: Shop) -> None:
    await shop.endpoint()
    await shop.track(*["order.placed"] * 5)
    await asyncio.gather(*(shop.follow() for _ in range(4)))
    await shop.follow()
    assert [each.event_seq for each in await shop.deliveries()] == [1, 2, 3, 4, 5]


async def test_the_event_id_stays_at_every_attempt_and_the_signature_does_not(shop: Shop) -> None:
    await shop.endpoint()
    shop.receiver.scripts["/hook"] = [Reply(500), HangUp("head"), Reply(200)]
    await shop.track("order.placed")
    await shop.follow()
    for wait in (0, 10, 20):
        shop.desk.clock.advance(seconds=wait)
        await shop.drain()
    assert await shop.outcomes() == [("DELIVERED", None)]
    assert len({each.event_id for each in shop.receiver.requests}) == 1
    assert [each.verified for each in shop.receiver.requests] == [True] * 3
    (made,) = await shop.deliveries()
    attempts = await shop.desk.attempts(shop.project_id, made.delivery_id)
    assert [(each.status_code, each.error_code) for each in attempts] == [
        (500, "HTTP_500"),
        (None, "DISCONNECTED"),
        (200, None),
    ]


async def test_after_the_last_attempt_it_is_a_dead_letter_and_nobody_is_told_by_webhook(shop: Shop) -> None:
    await shop.endpoint(retrySchedule=[2])
    shop.receiver.scripts["/hook"] = [Reply(503)] * 2
    await shop.track("order.placed")
    await shop.follow()
    await shop.drain()
    shop.desk.clock.advance(minutes=10)
    await shop.drain()
    assert await shop.outcomes() == [("DEAD_LETTERED", "HTTP_503")]
    (event,) = await shop.events("webhook.delivery_dead_lettered")
    assert msgspec.json.decode(event.context)["depth"] == 1
    await shop.follow()
    assert len(await shop.deliveries()) == 1


async def test_after_a_move_to_another_host_what_waits_leaves_the_lane_of_the_old_one_alone(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_work, "MOVED_AT_ONCE", 5)
    moved = await shop.endpoint(path="/moved", events=["cart.*"])
    await shop.endpoint(path="/stays", events=["order.*"])
    shop.receiver.scripts["/moved"] = [Reply(500)]
    await shop.track("cart.updated")
    await shop.follow()
    await shop.drain()
    await shop.track(*["cart.updated"] * 12, "order.placed")
    await shop.follow()
    async with WebhookReceiver.running() as elsewhere:
        await shop.change(moved, url=f"{elsewhere.url}/moved")
        # As many as it takes for a lane to rest.
        elsewhere.scripts["/moved"] = [Reply(503)] * 12
        await shop.drain()
        assert (len(elsewhere.requests), shop.dispatcher.stats().open_breakers) == (12, 1)
        assert [each.path for each in shop.receiver.requests] == ["/moved", "/stays"]
        await shop.track("order.placed")
        await shop.follow()
        await shop.drain()
        assert [each.path for each in shop.receiver.requests] == ["/moved", "/stays", "/stays"]
    made = await shop.deliveries()
    carts = [each for each in made if each.endpoint_id == moved]
    # The retry that was not due yet is with them.
    assert {(each.status, each.dispatch_key) for each in carts} == {("RETRYING", host_key(elsewhere.url))}
    assert {each.dispatch_key for each in made if each.endpoint_id != moved} == {host_key(shop.receiver.url)}
    steps = await shop.desk.steps(shop.project_id)
    assert {tuple(steps[each.delivery_id]) for each in carts} == {("QUEUED", "SENDING", "RETRYING")}
    assert [each.attempt_count for each in carts] == [1] * 13


async def test_what_comes_back_after_a_move_goes_by_the_new_host(shop: Shop) -> None:
    """A retry of an attempt that was under way, or a replay: both still know the old one."""
    endpoint_id = await shop.endpoint()
    shop.receiver.scripts["/hook"] = [Reply(404), Reply(500)]
    await shop.track("order.placed", "order.paid")
    await shop.follow()
    await shop.drain()
    async with WebhookReceiver.running() as elsewhere:
        elsewhere.secrets["/hook"] = shop.receiver.secrets["/hook"]
        await shop.change(endpoint_id, url=f"{elsewhere.url}/hook")
        replays = Replays(shop.desk.database, shop.desk.clock, shop.desk.announced.append, lambda work: None)
        (failed,) = [each.delivery_id for each in await shop.deliveries() if each.status == "FAILED"]
        await replays.replay_one(project_id=shop.project_id, delivery_id=failed, audit=shop.audit)
        shop.desk.clock.advance(minutes=1)
        await shop.drain()
        assert [each.verified for each in elsewhere.requests] == [True, True]
    assert await shop.outcomes() == [("DELIVERED", None)] * 2
    assert {each.dispatch_key for each in await shop.deliveries()} == {host_key(elsewhere.url)}


async def test_derived_events_are_sent_until_they_are_too_far_from_what_a_client_sent(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await shop.endpoint(events=["push.*"])
    for event_type, depth in (("push.sent", 8), ("push.sent", 9), ("email.sent", 9)):
        await shop.append(delivery_event(new_delivery(shop.now, depth=depth - 1), event_type))
    await shop.follow()
    assert [(each.event_seq, each.depth) for each in await shop.deliveries()] == [(1, 8)]
    said = [vars(record) for record in caplog.records if record.message == "webhook.too_deep"]
    assert [(each["project_id"], each["seq"]) for each in said] == [(str(shop.project_id), 2)]


async def test_a_client_cannot_have_its_events_taken_for_derived_ones(shop: Shop) -> None:
    await shop.endpoint()
    log = EventLog(shop.desk.database, shop.desk.announced.append)
    await log.append(shop.project_id, [EventDraft("order.placed", context=b'{"depth":9,"cause":"dlv_1"}')])
    await log.close()
    await shop.follow()
    assert [(each.event_type, each.depth) for each in await shop.deliveries()] == [("order.placed", 0)]


class TestSwitchingOff:
    async def test_410_switches_the_endpoint_off_and_the_log_says_so(self, shop: Shop) -> None:
        endpoint_id = await shop.endpoint()
        shop.receiver.scripts["/hook"] = [Reply(410)]
        await shop.track("order.placed", "order.paid")
        await shop.follow()
        await shop.drain()
        found = await shop.read(endpoint_id)
        assert (found.enabled, found.disabled_reason) == (False, GONE_REASON)
        (event,) = await shop.events("webhook.endpoint_disabled")
        properties = msgspec.json.decode(event.properties)
        assert properties["endpointId"] == write_node_id(NodeKind.WEBHOOK_ENDPOINT, endpoint_id)
        assert properties["reason"] == GONE_REASON
        async with shop.desk.database.connection() as connection:
            made, switched_off = await connection.fetch(
                "SELECT * FROM audit_entries WHERE project_id = $1 ORDER BY audit_entry_id", shop.project_id
            )
        assert (made["action"], made["subject"]) == ("webhook_endpoint.created", properties["endpointId"])
        assert (switched_off["actor"], switched_off["action"]) == ("system", "webhook_endpoint.disabled")
        assert (switched_off["subject"], switched_off["at"]) == (properties["endpointId"], shop.now)
        assert msgspec.json.decode(switched_off["before"]) == {"enabled": True, "disabledReason": None}
        assert msgspec.json.decode(switched_off["after"]) == {"enabled": False, "disabledReason": GONE_REASON}
        assert ("FAILED", "HTTP_410") in await shop.outcomes()

    async def test_switched_on_again_it_forgets_why_it_was_off(self, shop: Shop) -> None:
        endpoint_id = await shop.endpoint()
        for _ in range(2):
            shop.receiver.scripts["/hook"] = [Reply(410)]
            await shop.track("order.placed")
            await shop.follow()
            await shop.drain()
            assert not (await shop.read(endpoint_id)).enabled
            await shop.change(endpoint_id, enabled=True)
            found = await shop.read(endpoint_id)
            assert (found.enabled, found.disabled_reason) == (True, None)
        assert len(await shop.events("webhook.endpoint_disabled")) == 2

    async def test_five_days_without_a_success_switch_it_off(self, shop: Shop) -> None:
        endpoint_id = await shop.endpoint(events=["order.*"], retrySchedule=[])
        for hours, status, enabled in ((0, 500, True), (119, 404, True), (1, 500, False)):
            shop.desk.clock.advance(hours=hours)
            shop.receiver.scripts["/hook"] = [Reply(status)]
            await shop.track("order.placed")
            await shop.follow()
            await shop.drain()
            assert (await shop.read(endpoint_id)).enabled is enabled
        assert (await shop.read(endpoint_id)).disabled_reason == FAILING_REASON
        assert len(await shop.events("webhook.endpoint_disabled")) == 1

    async def test_one_success_starts_the_five_days_anew(self, shop: Shop) -> None:
        endpoint_id = await shop.endpoint(events=["order.*"], retrySchedule=[])
        for hours, status in ((0, 500), (119, 200), (2, 500), (119, 500)):
            shop.desk.clock.advance(hours=hours)
            shop.receiver.scripts["/hook"] = [Reply(status)]
            await shop.track("order.placed")
            await shop.follow()
            await shop.drain()
        assert (await shop.read(endpoint_id)).enabled

    async def test_an_old_answer_does_not_switch_a_new_url_off(self, shop: Shop) -> None:
        endpoint_id = await shop.endpoint()
        shop.receiver.scripts["/hook"] = [Reply(410)]
        await shop.track("order.placed")
        await shop.follow()
        changing = asyncio.Event()
        received = shop.receiver.on_request

        def change_first(request: Any) -> None:
            received(request)
            changing.set()

        shop.receiver.on_request = change_first
        settle = shop.work.settle

        async def settle_later(connection: Any, **values: Any) -> Any:
            await changing.wait()
            await shop.change(endpoint_id, url=shop.receiver.url + "/moved")
            return await settle(connection, **values)

        shop.work.settle = settle_later  # type: ignore[method-assign]
        await shop.drain()
        assert (await shop.read(endpoint_id)).enabled


class TestWhatCannotBeSent:
    async def test_to_an_endpoint_that_is_off_or_gone(self, shop: Shop) -> None:
        off, gone = await shop.endpoint(path="/off"), await shop.endpoint(path="/gone")
        await shop.track("order.placed")
        await shop.follow()
        await shop.change(off, enabled=False)
        async with shop.desk.database.connection() as connection:
            await connection.execute(
                "DELETE FROM webhook_endpoints WHERE project_id = $1 AND endpoint_id = $2", shop.project_id, gone
            )
        await shop.drain()
        assert await shop.outcomes() == [("FAILED", "ENDPOINT_DISABLED"), ("FAILED", "ENDPOINT_DELETED")]
        assert shop.receiver.connections == 0

    async def test_under_a_secret_key_that_was_lost(self, shop: Shop) -> None:
        shop.endpoints = WebhookEndpoints(shop.desk.database, Vault(b"another secret"), Egress(allowed=LOOPBACK))
        await shop.endpoint()
        await shop.track("order.placed")
        await shop.follow()
        await shop.drain()
        assert await shop.outcomes() == [("FAILED", "SECRET_UNREADABLE")]

    async def test_to_an_address_that_is_not_allowed_any_more(self, shop: Shop) -> None:
        await shop.endpoint()
        await shop.track("order.placed")
        await shop.follow()
        work = WebhookWork(VAULT, HttpClient(Egress()))
        dispatcher = Dispatcher(
            shop.desk.database, {Channel.WEBHOOK: work}, shop.desk.clock, shop.desk.announced.append
        )
        await shop.desk.drain(dispatcher, shop.project_id)
        await dispatcher.stop(timedelta(seconds=5))
        await work.close()
        assert await shop.outcomes() == [("FAILED", "BLOCKED_URL")]
        assert shop.receiver.connections == 0


class TestBareUrls:
    async def _send(self, shop: Shop, **content: Any) -> str:
        delivery_id, secret = uuid7(), make_secret()
        url = f"{shop.receiver.url}/bare"
        known: dict[str, Any] = {
            "event_id": "test_1",
            "body": '{"a":1}',
            "url": url,
            "sealed_secret": seal_delivery_secret(VAULT, secret, project_id=shop.project_id, delivery_id=delivery_id),
        }
        shop.receiver.secrets["/bare"] = secret
        delivery = NewDelivery(
            delivery_id=delivery_id,
            channel=Channel.WEBHOOK,
            status="QUEUED",
            dispatch_key=host_key(url),
            content=msgspec.json.encode(WebhookContent(**{**known, **content})).decode(),
            retry_schedule=(2,),
            created_at=shop.now,
            next_attempt_at=shop.now,
        )
        async with shop.desk.database.transaction() as connection:
            await create_deliveries(connection, project_id=shop.project_id, deliveries=[delivery], now=shop.now)
        await shop.drain()
        return secret

    async def test_are_signed_with_the_deliverys_own_secret(self, shop: Shop) -> None:
        await self._send(shop)
        (request,) = shop.receiver.requests
        assert (request.body, request.verified, request.event_id) == (b'{"a":1}', True, "test_1")

    async def test_take_any_text_method_and_header(self, shop: Shop) -> None:
        await self._send(shop, body="naïve text", method="PUT", headers={"Content-Type": "text/plain"})
        (request,) = shop.receiver.requests
        assert (request.method, request.body.decode(), request.verified) == ("PUT", "naïve text", True)
        (made,) = await shop.deliveries()
        assert bytes(made.payload or b"").decode() == '"naïve text"'

    @pytest.mark.parametrize(
        ("content", "code"),
        [
            ({"method": "TRACE"}, "INVALID_REQUEST"),
            ({"headers": {"Host": "elsewhere"}}, "INVALID_REQUEST"),
            ({"sealed_secret": None}, "SECRET_UNREADABLE"),
            ({"url": "http://10.0.0.1/"}, "BLOCKED_URL"),
        ],
    )
    async def test_that_can_never_be_sent(self, shop: Shop, content: dict[str, Any], code: str) -> None:
        await self._send(shop, **content)
        assert await shop.outcomes() == [("FAILED", code)]
        assert shop.receiver.connections == 0


async def test_during_a_rotation_the_older_secret_signs_what_has_room_for_one(shop: Shop) -> None:
    endpoint_id = await shop.endpoint()
    old = shop.receiver.secrets["/hook"]
    rotated = await shop.endpoints.rotate(
        project_id=shop.project_id, endpoint_id=endpoint_id, grace_seconds=60, audit=shop.audit
    )
    for secret, wait in ((old, 0), (rotated.secret or "", 61)):
        shop.receiver.secrets["/hook"] = secret
        shop.desk.clock.advance(seconds=wait)
        await shop.track("order.placed")
        await shop.follow()
        await shop.drain()
    first, second = shop.receiver.requests
    assert (first.verified, second.verified) == (True, True)
    assert first.headers["webhook-signature"].count("v1,") == 2
    assert second.headers["webhook-signature"].count("v1,") == 1
