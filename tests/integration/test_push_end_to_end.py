"""A push from the mutation to the device and back: gateway, dispatcher, senders, and push services that speak the real
protocols."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from engine.channels.apns import ApnsSender
from engine.channels.fcm import FcmSender
from engine.channels.http import HttpClient
from engine.channels.web_push import WebPushSender
from engine.dispatch.dispatcher import Dispatcher
from engine.dispatch.values import Channel
from engine.egress import Egress
from engine.push.work import PushWork
from tests.integration.graphql_support import Tenant, open_gateway
from tests.peers.apns import ApnsPeer, Reply
from tests.peers.fcm import FcmPeer
from tests.peers.web_push import WebPushPeer

PHONE = "ab" * 32
ROBOT = "eXAmPle:APA91b" + "x" * 120
CONFIGURE = """mutation ($kind: ProviderKind!, $settings: JSON, $secrets: JSON) {
  configureProvider(input: {kind: $kind, settings: $settings, secrets: $secrets}) { userErrors { path message } }
}"""
REGISTER = """mutation ($input: RegisterPushTokenInput!) {
  registerPushToken(input: $input) { pushToken { id } userErrors { path message } }
}"""
SEND = """mutation ($input: SendPushInput!) { sendPush(input: $input) { queued userErrors { path message } } }"""
DELIVERIES = """{ deliveries(first: 50) { edges { node {
  id status variant locale payload error { code hint } pushToken { platform }
} } } }"""
HELLO = {"title": "Your order", "body": "is on its way", "data": {"orderId": 7}}


@dataclass
class World:
    """A shop whose person has a phone, a robot and a browser, and everybody who brings pushes to them."""

    shop: Tenant
    dispatcher: Dispatcher
    production: ApnsPeer
    sandbox: ApnsPeer
    firebase: FcmPeer
    browsers: WebPushPeer

    async def configure(self, kind: str, settings: Any, secrets: Any) -> None:
        data = await self.shop.data(CONFIGURE, kind=kind, settings=settings, secrets=secrets)
        assert data["configureProvider"]["userErrors"] == []

    async def register(self, **fields: Any) -> str:
        registered = (await self.shop.data(REGISTER, input={"userId": "ada", **fields}))["registerPushToken"]
        assert registered["userErrors"] == []
        token_id: str = registered["pushToken"]["id"]
        return token_id

    async def send(self, **fields: Any) -> dict[str, Any]:
        """Send, dispatch, settle; the deliveries by platform, of this send and of those before it the newest."""
        sent = (await self.shop.data(SEND, input={"userIds": ["ada"], "push": HELLO, **fields}))["sendPush"]
        assert sent["userErrors"] == []
        await self.dispatcher.drain(self.shop.project_id)
        await self.dispatcher.settled()
        edges = (await self.shop.data(DELIVERIES))["deliveries"]["edges"]
        return {edge["node"]["pushToken"]["platform"]: edge["node"] for edge in reversed(edges)}

    async def event_types(self) -> list[str]:
        data = await self.shop.data("{ events(first: 100) { edges { node { eventType } } } }")
        return [edge["node"]["eventType"] for edge in data["events"]["edges"]]


@pytest.fixture
async def world(module_database_url: str) -> AsyncIterator[World]:
    egress = Egress(allowed="127.0.0.0/8")
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(open_gateway(module_database_url, egress=egress))
        production = await stack.enter_async_context(ApnsPeer())
        sandbox = await stack.enter_async_context(ApnsPeer(key=production.key, authority=production.authority))
        firebase = await stack.enter_async_context(FcmPeer())
        browsers = await stack.enter_async_context(WebPushPeer())
        http = HttpClient(egress)
        stack.push_async_callback(http.close)
        services = gateway.services
        work = PushWork(
            services.vault,
            contact="mailto:ops@shop.example",
            apns=ApnsSender(egress),
            fcm=FcmSender(http),
            web_push=WebPushSender(http),
        )
        stack.push_async_callback(work.close)
        dispatcher = Dispatcher(services.database, {Channel.PUSH: work}, services.clock, services.announce)
        stack.push_async_callback(dispatcher.stop, timedelta(seconds=1))
        world = World(await gateway.tenant(), dispatcher, production, sandbox, firebase, browsers)
        apns = {
            "keyId": production.key.key_id,
            "teamId": production.key.team_id,
            "bundleId": production.bundle_id,
            "productionUrl": production.url,
            "sandboxUrl": sandbox.url,
            "caCertificate": production.ca_pem,
        }
        await world.configure("APNS", apns, {"privateKey": production.key.p8})
        await world.configure("FCM", {"endpoint": firebase.url}, {"serviceAccount": firebase.service_account})
        yield world


async def test_a_push_reaches_every_device_and_comes_back_opened(world: World) -> None:
    key = (await world.shop.data("{ pushSettings { vapidPublicKey } }"))["pushSettings"]["vapidPublicKey"]
    subscription = world.browsers.subscribe(key)
    await world.register(platform="IOS", token=PHONE, locale="de-AT")
    await world.register(platform="ANDROID", token=ROBOT)
    keys = {"p256dh": subscription.p256dh, "auth": subscription.auth}
    await world.register(platform="WEB", token=subscription.endpoint, webPushKeys=keys)

    german = {"locale": "de", "push": {"title": "Ihre Bestellung", "body": "ist unterwegs"}}
    found = await world.send(localized=[german])
    assert {platform: each["status"] for platform, each in found.items()} == dict.fromkeys(
        ("IOS", "ANDROID", "WEB"), "SENT"
    )
    [to_phone] = world.production.accepted
    assert to_phone.payload["aps"]["alert"] == {"title": "Ihre Bestellung", "body": "ist unterwegs"}
    assert (to_phone.payload["orderId"], to_phone.payload["deliveryId"]) == (7, found["IOS"]["id"])
    assert found["IOS"]["payload"]["title"] == "Ihre Bestellung"
    [to_robot] = world.firebase.accepted
    assert to_robot["notification"]["title"] == "Your order"
    [to_browser] = world.browsers.accepted
    assert (to_browser.payload["title"], to_browser.payload["deliveryId"]) == ("Your order", found["WEB"]["id"])

    document = """mutation ($id: ID!) {
      trackPush(input: {deliveryId: $id, interaction: OPENED}) { userErrors { code } }
    }"""
    reported = await world.shop.data(document, id=to_phone.payload["deliveryId"])
    assert reported == {"trackPush": {"userErrors": []}}
    data = await world.shop.data(
        "query ($id: ID!) { node(id: $id) { ... on Delivery { status } } }", id=found["IOS"]["id"]
    )
    assert data["node"]["status"] == "DELIVERED"
    assert [name for name in await world.event_types() if name != "push.send_requested"] == [
        "push.delivered",
        "push.opened",
        *["push.sent"] * 3,
    ]


async def test_a_token_of_the_other_environment_is_found_there_and_kept(world: World) -> None:
    token_id = await world.register(platform="IOS", token=PHONE)
    world.production.scripts[PHONE] = [Reply(400, "BadDeviceToken")]
    assert (await world.send())["IOS"]["status"] == "SENT"
    document = "query ($id: ID!) { node(id: $id) { ... on PushToken { environment lastUsedAt } } }"
    token = (await world.shop.data(document, id=token_id))["node"]
    assert token["environment"] == "SANDBOX"
    assert token["lastUsedAt"] is not None
    await world.send()
    assert (world.production.requests, len(world.sandbox.accepted)) == (1, 2)


async def test_a_token_that_is_gone_is_given_up_with_apples_word(world: World) -> None:
    token_id = await world.register(platform="IOS", token=PHONE)
    world.production.scripts[PHONE] = [Reply(410, "Unregistered")]
    delivery = (await world.send())["IOS"]
    assert (delivery["status"], delivery["error"]["code"]) == ("FAILED", "Unregistered")
    assert delivery["error"]["hint"]
    document = "query ($id: ID!) { node(id: $id) { ... on PushToken { active invalidatedReason } } }"
    token = (await world.shop.data(document, id=token_id))["node"]
    assert token == {"active": False, "invalidatedReason": "Unregistered"}
    assert sorted(await world.event_types()) == ["push.failed", "push.send_requested", "push.token_invalidated"]


async def test_an_expo_token_and_a_missing_provider_fail_with_what_to_do(world: World) -> None:
    await world.register(platform="IOS", token="ExponentPushToken[xxxxxxxxxxxxxxxxxxxxxx]")
    delivery = (await world.send())["IOS"]
    assert (delivery["status"], delivery["error"]["code"]) == ("FAILED", "ExpoPushToken")
    assert "getDevicePushTokenAsync" in delivery["error"]["hint"]
    await world.shop.data(
        "mutation ($kind: ProviderKind!, $p: JSON) { configureProvider(input: {kind: $kind, secrets: $p}) "
        "{ userErrors { code } } }",
        kind="FCM",
        p={"serviceAccount": None},
    )
    await world.register(platform="ANDROID", token=ROBOT)
    delivery = (await world.send())["ANDROID"]
    assert (delivery["status"], delivery["error"]["code"]) == ("FAILED", "NOT_CONFIGURED")
    assert "configureProvider" in delivery["error"]["hint"]
    assert world.firebase.requests == 0


async def test_a_live_activity_from_its_start_to_its_end(world: World) -> None:
    await world.register(platform="IOS", token=PHONE)
    given = {"deviceToken": PHONE, "attributesType": "Ride"}

    async def register(**fields: Any) -> None:
        document = """mutation ($input: RegisterLiveActivityTokenInput!) {
          registerLiveActivityToken(input: $input) { userErrors { code } }
        }"""
        data = await world.shop.data(document, input={**given, **fields})
        assert data["registerLiveActivityToken"]["userErrors"] == []

    async def change(**fields: Any) -> None:
        document = """mutation ($input: SendLiveActivityInput!) {
          sendLiveActivity(input: $input) { queued userErrors { path message } }
        }"""
        named = {"userIds": ["ada"], "attributesType": "Ride", "activityId": "ride-1"}
        data = await world.shop.data(document, input={**named, **fields})
        assert data["sendLiveActivity"] == {"queued": 1, "userErrors": []}
        await world.dispatcher.drain(world.shop.project_id)
        await world.dispatcher.settled()

    await register(token="aa" * 40)
    await change(action="START", attributes={"driver": "Bo"}, contentState={"minutes": 9}, alert=HELLO)
    await register(token="bb" * 40, activityId="ride-1")
    await change(action="UPDATE", contentState={"minutes": 5})
    await change(action="END")
    assert [
        (each.device_token, each.payload["aps"]["event"], each.headers["apns-push-type"])
        for each in world.production.accepted
    ] == [
        ("aa" * 40, "start", "liveactivity"),
        ("bb" * 40, "update", "liveactivity"),
        ("bb" * 40, "end", "liveactivity"),
    ]
    names = [name for name in reversed(await world.event_types()) if name.startswith("push.live_activity")]
    assert names == ["push.live_activity_started", "push.live_activity_updated", "push.live_activity_ended"]
