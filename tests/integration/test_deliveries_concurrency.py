"""Everything that touches a project's deliveries at once: every lock order there is, against each other.

Gateways accept, cancel and replay; two workers dispatch and settle; a follower makes webhooks; providers report; people
sign in, change devices and unsubscribe. Nothing but answers may come of it, and in the end the rows, the lanes and what
the providers have taken must tell one story.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from engine.channels.apns import ApnsSender
from engine.channels.fcm import FcmSender
from engine.channels.http import HttpClient
from engine.channels.smtp import SmtpSender
from engine.channels.web_push import WebPushSender
from engine.dispatch.dispatcher import Dispatcher
from engine.dispatch.values import Channel, DeliveryStatus
from engine.egress import Egress
from engine.email.callbacks import EmailCallback, EmailReport, apply_email_callback
from engine.email.domains import txt_look_up
from engine.email.unsubscribe import UnsubscribeTokens, Unsubscription, unsubscribe
from engine.email.work import EmailWork
from engine.lanes import EVENTS
from engine.push.work import PushWork
from engine.sms.callbacks import apply_sms_callback, read_sms_callback
from engine.sms.work import SmsWork
from engine.webhooks import follower as webhooks
from engine.webhooks.work import WebhookWork
from engine.workers.followers import Follower
from tests.integration.graphql_support import Gateway, Tenant, open_gateway
from tests.peers.dns import dns_peer
from tests.peers.fcm import Answer, FcmPeer
from tests.peers.receiver import Reply, WebhookReceiver
from tests.peers.resend import ResendPeer, resend_peer
from tests.peers.twilio import Refusal, TwilioPeer

SEED = 4
ROUNDS = 8
"""Of each act, one after the other, beside those of all others."""
PEOPLE = 5
"""Few, so that everybody meets everybody."""
TOKENS = UnsubscribeTokens(b"a secret of tests, long enough for it")
ERRORS = "userErrors { code message }"
IDENTIFY = f"mutation ($input: IdentifyInput!) {{ identify(input: $input) {{ {ERRORS} }} }}"
TRACK = f"mutation ($input: TrackInput!) {{ track(input: $input) {{ {ERRORS} }} }}"
REGISTER = f"mutation ($input: RegisterPushTokenInput!) {{ registerPushToken(input: $input) {{ {ERRORS} }} }}"
UNREGISTER = f"mutation ($token: String!) {{ unregisterPushToken(token: $token) {{ {ERRORS} }} }}"
PUSH = f"mutation ($input: SendPushInput!) {{ sendPush(input: $input) {{ {ERRORS} }} }}"
EMAIL = f"mutation ($input: SendEmailInput!) {{ sendEmail(input: $input) {{ {ERRORS} }} }}"
SMS = f"mutation ($input: SendSmsInput!) {{ sendSms(input: $input) {{ {ERRORS} }} }}"
CONFIGURE = f"mutation ($input: ConfigureProviderInput!) {{ configureProvider(input: $input) {{ {ERRORS} }} }}"
ENDPOINT = f"""mutation ($input: SaveWebhookEndpointInput!) {{
  saveWebhookEndpoint(input: $input) {{ endpoint {{ id }} {ERRORS} }}
}}"""
ROTATE = f"mutation ($id: ID!) {{ rotateWebhookSecret(id: $id, graceSeconds: 0) {{ {ERRORS} }} }}"
CANCEL = f"mutation ($id: ID!) {{ cancelDelivery(id: $id) {{ {ERRORS} }} }}"
REPLAY = f"mutation ($id: ID!) {{ replayDelivery(id: $id) {{ {ERRORS} }} }}"
REPLAY_ALL = f"mutation ($filter: DeliveryFilter!) {{ replayDeliveries(filter: $filter) {{ {ERRORS} }} }}"
SOME = "{ deliveries { edges { node { id } } } }"
DOMAIN = 'mutation { addSenderDomain(domain: "shop.example") { senderDomain { id dnsRecords { name value } } } }'
VERIFY = "mutation ($id: ID!) { verifySenderDomain(id: $id) { senderDomain { status } } }"

Act = Callable[[random.Random], Awaitable[object]]


@dataclass
class World:
    """A shop, its workers, and everybody they talk to."""

    shop: Tenant
    workers: list[Dispatcher]
    follower: Follower
    resend: ResendPeer
    twilio: TwilioPeer
    firebase: FcmPeer
    receiver: WebhookReceiver
    endpoint_id: str = ""

    @property
    def gateway(self) -> Gateway:
        return self.shop.gateway

    async def fetch(self, text: str) -> list[Any]:
        async with self.gateway.services.database.connection() as connection:
            return list(await connection.fetch(text, self.shop.project_id))

    async def a_delivery(self, chance: random.Random) -> str:
        edges = (await self.shop.data(SOME))["deliveries"]["edges"]
        return chance.choice(edges)["node"]["id"] if edges else f"dlv_{uuid4().hex}"

    def acts(self) -> list[Act]:
        """What everybody does over and over."""
        shop, services = self.shop, self.gateway.services

        def people(chance: random.Random) -> list[str]:
            return chance.sample([f"u{each}" for each in range(PEOPLE)], chance.randint(1, PEOPLE))

        async def identify(chance: random.Random) -> None:
            who = chance.randrange(PEOPLE)
            await shop.data(IDENTIFY, input={**person(who), "anonymousId": f"a{chance.randrange(3)}"})

        async def track(chance: random.Random) -> None:
            event = {"eventType": "order.placed", "userId": people(chance)[0]}
            await shop.data(TRACK, input={"event": event})

        async def register(chance: random.Random) -> None:
            token = f"token-{chance.randrange(8)}"
            await shop.data(REGISTER, input={"platform": "ANDROID", "token": token, "userId": people(chance)[0]})

        async def unregister(chance: random.Random) -> None:
            await shop.data(UNREGISTER, token=f"token-{chance.randrange(8)}")

        async def push(chance: random.Random) -> None:
            await shop.data(PUSH, input={"userIds": people(chance), "push": {"title": "Hi", "body": "you"}})

        async def email(chance: random.Random) -> None:
            await shop.data(EMAIL, input={"userIds": people(chance), "subject": "Hi {{ trait.n }}", "bodyText": "you"})

        async def sms(chance: random.Random) -> None:
            await shop.data(SMS, input={"userIds": people(chance), "body": "Hi {{ trait.n }}"})

        async def leave(chance: random.Random) -> None:
            who = Unsubscription(shop.project_id, "EMAIL", user_id=people(chance)[0])
            await unsubscribe(services.database, services.announce, who, now=services.clock.now())

        async def cancel(chance: random.Random) -> None:
            await shop.data(CANCEL, id=await self.a_delivery(chance))

        async def replay(chance: random.Random) -> None:
            await shop.data(REPLAY, id=await self.a_delivery(chance))

        async def replay_all(chance: random.Random) -> None:
            await shop.data(REPLAY_ALL, filter={"userId": people(chance)[0]})

        async def change_endpoint(chance: random.Random) -> None:
            change = {"id": self.endpoint_id, "enabled": chance.random() < 0.7}
            await shop.data(ENDPOINT, input=change)
            await shop.data(ROTATE, id=self.endpoint_id)

        async def change_provider(_: random.Random) -> None:
            await self.configure_twilio()

        async def dispatch(chance: random.Random) -> None:
            await chance.choice(self.workers).drain(shop.project_id)

        async def follow(_: random.Random) -> None:
            await self.follower.follow(shop.project_id)

        async def report_mail(chance: random.Random) -> None:
            for message_id, mail in list(self.resend.accepted.items())[-3:]:
                callback = EmailCallback(
                    callback_id=f"{message_id}-{chance.randrange(3)}",
                    kind=chance.choice([EmailReport.DELIVERED, EmailReport.OPENED, EmailReport.BOUNCED]),
                    provider_message_id=message_id,
                    delivery_id=UUID(hex=mail["tags"][0]["value"]),
                    is_permanent=False,
                )
                await apply_email_callback(
                    services.database,
                    services.announce,
                    callback,
                    project_id=shop.project_id,
                    now=services.clock.now(),
                    wait_seconds=0,
                )

        async def report_sms(chance: random.Random) -> None:
            for message in self.twilio.messages[-3:]:
                delivery = message.form["StatusCallback"].rpartition("dlv_")[2]
                form = {"MessageSid": message.sid, "MessageStatus": chance.choice(["sent", "delivered", "undelivered"])}
                report = read_sms_callback(form | {"ErrorCode": "30003"}, delivery_id=UUID(hex=delivery))
                assert report is not None
                await apply_sms_callback(
                    services.database,
                    services.announce,
                    report,
                    project_id=shop.project_id,
                    now=services.clock.now(),
                    wait_seconds=0,
                )

        return [
            *(identify, identify, track, register, unregister, push, push, email, email, sms, sms, leave, cancel),
            *(replay, replay_all, change_endpoint, change_provider, dispatch, dispatch, dispatch, follow),
            *(report_mail, report_sms),
        ]

    async def configure_twilio(self) -> None:
        given = {"kind": "TWILIO", "settings": self.twilio.settings(), "secrets": self.twilio.secrets()}
        done = await self.shop.data(CONFIGURE, input=given)
        assert done["configureProvider"]["userErrors"] == []


def person(number: int) -> dict[str, Any]:
    traits = {"n": number, "email": f"u{number}@example.com", "phone": f"+1415555013{number}"}
    return {"userId": f"u{number}", "traits": traits}


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        resend = await stack.enter_async_context(resend_peer())
        twilio = await stack.enter_async_context(TwilioPeer.running())
        firebase = await stack.enter_async_context(FcmPeer())
        receiver = await stack.enter_async_context(WebhookReceiver.running())
        names = await stack.enter_async_context(dns_peer())
        gateway = await stack.enter_async_context(open_gateway(database_url))
        egress = Egress(allowed="127.0.0.0/8")
        gateway.services = replace(gateway.services, egress=egress, look_up_txt=txt_look_up(names.address))
        services, shop = gateway.services, await gateway.tenant()
        workers = []
        for _ in range(2):
            http = HttpClient(egress)
            stack.push_async_callback(http.close)
            apns, fcm = ApnsSender(egress), FcmSender(http)
            push = PushWork(
                services.vault, contact="mailto:a@b.example", apns=apns, fcm=fcm, web_push=WebPushSender(http)
            )
            stack.push_async_callback(push.close)
            email = EmailWork(services.vault, http, SmtpSender(egress), TOKENS, public_url="https://gateway.example")
            works = [push, email, SmsWork(services.vault, http, public_url=services.public_url)]
            every = {work.channel: work for work in (*works, WebhookWork(services.vault, http))}
            worker = Dispatcher(services.database, every, services.clock, services.announce)
            stack.push_async_callback(worker.stop, timedelta(seconds=5))
            workers.append(worker)
        follower = Follower(
            webhooks.NAME,
            EVENTS,
            webhooks.follow,
            database=services.database,
            clock=services.clock,
            announce=services.announce,
            wake=services.wake,
        )
        made = World(shop, workers, follower, resend, twilio, firebase, receiver)
        await set_up(made, names)
        yield made


async def set_up(world: World, names: Any) -> None:
    shop = world.shop
    await world.configure_twilio()
    mail = {"settings": {"from": "a@shop.example", "baseUrl": world.resend.url}, "secrets": {"apiKey": "re_test"}}
    firebase = {
        "settings": {"endpoint": world.firebase.url},
        "secrets": {"serviceAccount": world.firebase.service_account},
    }
    for kind, given in (("RESEND", mail), ("FCM", firebase)):
        done = await shop.data(CONFIGURE, input={"kind": kind, **given})
        assert done["configureProvider"]["userErrors"] == []
    domain = (await shop.data(DOMAIN))["addSenderDomain"]["senderDomain"]
    names.txt |= {record["name"]: [record["value"]] for record in domain["dnsRecords"]}
    assert (await shop.data(VERIFY, id=domain["id"]))["verifySenderDomain"]["senderDomain"]["status"] == "VERIFIED"
    hook = {"url": f"{world.receiver.url}/hook", "events": ["*"], "allowPlainHttp": True, "retrySchedule": []}
    saved = (await shop.data(ENDPOINT, input=hook))["saveWebhookEndpoint"]
    assert saved["userErrors"] == []
    world.endpoint_id = saved["endpoint"]["id"]
    for number in range(PEOPLE):
        await shop.data(IDENTIFY, input=person(number))
    # Some of everything goes wrong in every way there is.
    world.receiver.scripts["/hook"] = [Reply(500)] * 9 + [Reply(410)]
    for number in range(8):
        world.firebase.scripts[f"token-{number}"] = [Answer(404, "UNREGISTERED")]
    world.twilio.scripts["+14155550131"] = [Refusal(21610), Refusal(21211)]


async def test_whoever_meets_whomever_nothing_is_lost_and_nobody_fails(world: World) -> None:
    async def repeat(act: Act, chance: random.Random) -> None:
        for _ in range(ROUNDS):
            await act(chance)

    acts = world.acts()
    await asyncio.gather(*(repeat(act, random.Random(SEED + place)) for place, act in enumerate(acts)))
    await send_to_somebody_new(world)
    await finish(world)

    await check_lanes(world)
    await check_what_was_taken(world)
    [row] = await world.fetch(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database() AND $1::uuid IS NOT NULL"
    )
    assert row["deadlocks"] == 0, "locks are taken in two orders somewhere: trying again hides it"


async def send_to_somebody_new(world: World) -> None:
    """Whom nobody has met before, so that something is taken of each kind."""
    shop, new = world.shop, person(PEOPLE)
    world.receiver.scripts.clear()
    await shop.data(ENDPOINT, input={"id": world.endpoint_id, "enabled": True})
    await shop.data(IDENTIFY, input=new)
    await shop.data(REGISTER, input={"platform": "ANDROID", "token": "of-somebody-new", "userId": new["userId"]})
    await shop.data(PUSH, input={"userIds": [new["userId"]], "push": {"title": "Hi", "body": "you"}})
    await shop.data(EMAIL, input={"userIds": [new["userId"]], "subject": "Hi", "bodyText": "you"})
    await shop.data(SMS, input={"userIds": [new["userId"]], "body": "Hi"})


async def finish(world: World) -> None:
    """Until nothing is due."""
    async with asyncio.timeout(30):
        while True:
            await world.follower.follow(world.shop.project_id)
            for worker in world.workers:
                await worker.drain(world.shop.project_id)
                await worker.settled()
            due = "SELECT count(*) AS n FROM deliveries WHERE project_id = $1 AND status IN ('QUEUED', 'SENDING')"
            if not (await world.fetch(due))[0]["n"]:
                return


async def check_lanes(world: World) -> None:
    """Both lanes are dense, and each delivery's transitions lead from nothing to where its row is."""
    for table in ("events", "delivery_transitions"):
        [row] = await world.fetch(f"SELECT count(*), min(seq), max(seq) FROM {table} WHERE project_id = $1")
        assert (row["min"], row["max"]) == (1, row["count"])
    rows = await world.fetch(
        "SELECT delivery_id, from_status, to_status FROM delivery_transitions WHERE project_id = $1 ORDER BY seq"
    )
    at: dict[UUID, str | None] = {}
    for row in rows:
        assert at.get(row["delivery_id"]) == row["from_status"]
        at[row["delivery_id"]] = row["to_status"]
    stored = await world.fetch("SELECT delivery_id, status FROM deliveries WHERE project_id = $1")
    assert at == {row["delivery_id"]: row["status"] for row in stored}
    assert {row["status"] for row in stored} <= {str(status) for status in DeliveryStatus} - {"QUEUED", "SENDING"}


async def check_what_was_taken(world: World) -> None:
    """Every attempt that was taken is one message at its provider, and none is there twice."""
    rows = await world.fetch(
        "SELECT d.channel, count(*) FROM delivery_attempts AS a JOIN deliveries AS d USING (project_id, delivery_id)"
        " WHERE project_id = $1 AND a.status_code BETWEEN 200 AND 299 GROUP BY d.channel"
    )
    taken = {
        Channel.EMAIL: len(world.resend.accepted),
        Channel.SMS: len(world.twilio.messages),
        Channel.PUSH: len(world.firebase.accepted),
        Channel.WEBHOOK: sum(
            each.action.status == 200 for each in world.receiver.requests if isinstance(each.action, Reply)
        ),
    }
    assert {row["channel"]: row["count"] for row in rows} == taken
    assert all(taken.values())
