"""Erased means gone, of somebody who lived: through the API, a real worker, and providers on loopback.

Nothing is written into tables here. Whatever the product itself made of this person, wherever it put it, is gone from a
dump of the whole database, from Redis, and from the memory of a gateway whose streams had all of it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pyotp
from redis.asyncio import Redis

from db.records import Lane
from engine.email.callbacks import EmailCallback, EmailReport, apply_email_callback
from engine.live.forgetting import Forgetting
from engine.node_ids import parse_node_id
from tests.integration.graphql_support import Follower, Tenant
from tests.integration.run_support import SAVE_WORKFLOW
from tests.integration.session_support import ANONYMOUS, PASSWORD, SIGN_IN, SIGN_UP
from tests.integration.stream_support import until
from tests.integration.test_erasure import erase
from tests.integration.test_erasure_dump import dump, traces
from tests.integration.worker_support import CONFIGURE, Store, open_store
from tests.peers.apns import ApnsPeer
from tests.peers.receiver import Reply
from tests.peers.resend import resend_peer
from tests.peers.web_push import WebPushPeer

EMAIL, PHONE, IP = "Ada.Lived-57@life-shop.example", "+14155550157", "203.0.113.57"
PHONE_TOKEN, ROBOT_TOKEN = "57ab12cd" * 8, "robot-57:APA91b" + "y" * 100
TRAIT, PROPERTY, ALONE, SUBJECT, TEXT, PUSH = "trait-57", "property-57", "alone-57", "subject-57", "text-57", "push-57"
DEVICE, OTHER_DEVICE, WEB_ID, SOURCE, ANSWER, KEY = (
    "the-phone-57",
    "the-laptop-57",
    "web-visitor-57",
    "cookie-banner-57",
    "answer-of-a-receiver-57",
    "key-of-event-57",
)
ENROLL = "mutation { enrollTotp { secret userErrors { code } } }"
CONFIRM = "mutation ($code: String!) { confirmTotp(code: $code) { userErrors { code } } }"
REGISTER = (
    """mutation ($input: RegisterPushTokenInput!) { registerPushToken(input: $input) { userErrors { message } } }"""
)
CONSENT = """mutation ($input: SetConsentInput!) { setConsent(input: $input) { userErrors { message } } }"""
SEND_PUSH = """mutation ($input: SendPushInput!) { sendPush(input: $input) { batchId userErrors { message } } }"""
SEND_EMAIL = """mutation ($input: SendEmailInput!) {
  sendEmail(input: $input) { deliveries { id } userErrors { message } }
}"""
SEND_SMS = "mutation ($input: SendSmsInput!) { sendSms(input: $input) { batchId userErrors { message } } }"
ENDPOINT = """mutation ($url: String!) {
  saveWebhookEndpoint(input: {url: $url, events: ["*"], allowPlainHttp: true}) { userErrors { message } }
}"""
AUDIENCE = (
    """mutation { saveAudience(input: {name: "Everybody", where: []}) { audience { id } userErrors { message } } }"""
)
REPLAY = """mutation ($filter: DeliveryFilter!) { replayDeliveries(filter: $filter) { userErrors { message } } }"""
STREAMS = (
    "subscription { eventStream { node { userId properties } } }",
    "subscription { deliveryUpdates { node { delivery { recipient } } } }",
    "subscription { workflowRunUpdates { node { run { id } } } }",
)
CHANGES = "subscription ($id: ID!) { audienceChanges(audienceId: $id) { node { userId } } }"


async def test_nothing_of_a_life_is_left(database_url: str, redis_url: str) -> None:
    async with open_store(database_url, redis_url, has_streams=True) as store:
        gateway = store.tenant.gateway
        streams: Any = gateway.services.streams
        forgetting = Forgetting(streams._hub, streams._hub.forget, streams.forget, again=0.05)
        await forgetting.start()
        audience_id = await open_shop(store)
        followers = [await store.tenant.follow(document) for document in STREAMS]
        followers.append(await store.tenant.follow(CHANGES, id=audience_id))
        values = await live(store)
        held = {value for _, value in traces(await dump(database_url), values)}
        assert held == set(values) - {IP}
        await until(lambda: {name for name, _ in theirs(streams, store, values)} == set(Lane.__members__))

        payload = await erase(store.tenant, values[0])
        assert payload["userErrors"] == []
        # What was under way finds nobody, and what is told of it names nobody.
        await store.pass_time(timedelta(days=30))
        await until(lambda: not theirs(streams, store, values))

        assert traces(await dump(database_url), values) == set()
        async with Redis.from_url(redis_url) as redis:
            kept = {"redis": b"".join([each + (await redis.dump(each) or b"") async for each in redis.scan_iter()])}
        assert traces(kept, values) == set()
        for follower in followers:
            await leave(follower)
        forgetting.stop()


async def open_shop(store: Store) -> str:
    """Every provider; a webhook that always fails; a workflow and an audience, whose id is given."""
    await store.configure()
    store.receiver.scripts["/hook"] = [Reply(500, body=ANSWER.encode())] * 500
    await store.data(ENDPOINT, url=f"{store.receiver.url}/hook")
    config = {"to": "{{ user.email }}", "subject": "{{ event.note }}", "bodyText": "{{ user.note }}"}
    steps = [
        {"label": "mail", "type": "SEND_EMAIL", "config": config},
        {"label": "days", "type": "WAIT", "config": {}, "delayMinutes": 90 * 24 * 60},
    ]
    given = {"name": "Order", "trigger": {"eventType": "order.placed"}, "steps": steps, "isActive": True}
    await store.data(SAVE_WORKFLOW, input=given)
    audience = (await store.data(AUDIENCE))["audience"]["id"]
    await store.work()
    return str(audience)


async def live(store: Store) -> tuple[str, ...]:
    """Gives all that is theirs alone in the world, their user id first."""
    tenant = store.tenant
    user_id, retired, secret = await have_account(tenant)
    traits = {"email": EMAIL, "phone": PHONE, "note": TRAIT}
    await store.track(
        [
            {"eventType": "user.identified", "userId": user_id, "context": {"traits": traits, "ip": IP}},
            {"eventType": "page.viewed", "anonymousId": WEB_ID, "properties": {"note": ALONE}},
            {"eventType": "page.viewed", "userId": user_id, "anonymousId": WEB_ID},
            {"eventType": "order.placed", "userId": user_id, "id": KEY, "properties": {"note": PROPERTY}},
        ]
    )
    for purpose, state in (("EMAIL", "GRANTED"), ("PUSH", "GRANTED"), ("ANALYTICS", "REVOKED")):
        await store.data(CONSENT, input={"userId": user_id, "purpose": purpose, "state": state, "source": SOURCE})
    async with ApnsPeer() as apns, WebPushPeer() as browsers, resend_peer() as resend:
        endpoint = await register_devices(store, user_id, apns, browsers)
        push = {"title": PUSH, "body": "{{ user.note }}"}
        await store.data(SEND_PUSH, input={"userIds": [user_id], "push": push, "idempotencyKey": f"hi-{user_id}"})
        await store.data(SEND_SMS, input={"userIds": [user_id], "body": TEXT})
        mail = {"userIds": [user_id], "subject": SUBJECT, "bodyText": "{{ user.email }}"}
        sent = [await store.data(SEND_EMAIL, input=mail)]
        await store.work()
        settings = {"from": "Shop <hello@shop.example>", "baseUrl": resend.url}
        await store.data(CONFIGURE, input={"kind": "RESEND", "settings": settings, "secrets": {"apiKey": "re_test"}})
        sent.append(await store.data(SEND_EMAIL, input=mail))
        await store.work()
        came = (apns.accepted, store.fcm.accepted, browsers.accepted, store.twilio.messages, store.smtp.received)
        assert all(came)
        assert resend.accepted
    # The webhooks give up.
    await store.pass_time(timedelta(days=5))
    for kind, payload in zip((EmailReport.DELIVERED, EmailReport.BOUNCED), sent, strict=True):
        await report(store, payload["deliveries"][0]["id"], kind)
    await store.data(REPLAY, filter={"userId": user_id, "channels": ["EMAIL"], "statuses": ["FAILED"]})
    await store.work()
    statuses = {row["status"] for row in await store.fetch("SELECT status FROM deliveries WHERE project_id = $1")}
    assert {"SENT", "DEAD_LETTERED", "DELIVERED", "SUPPRESSED"} <= statuses
    # No code is stored; the secret is, sealed.
    assert secret
    return (
        *(user_id, retired, EMAIL, PHONE, IP, PHONE_TOKEN, ROBOT_TOKEN, endpoint),
        *(TRAIT, PROPERTY, ALONE, SUBJECT, TEXT, PUSH, DEVICE, OTHER_DEVICE, WEB_ID, SOURCE, ANSWER, KEY),
    )


async def have_account(tenant: Tenant) -> tuple[str, str, str]:
    """Anonymous, signed up, with a second factor, mistaken in the password, and the next user of another device."""
    gateway = tenant.gateway
    clock = gateway.services.clock
    first = (await tenant.data(ANONYMOUS, input={"deviceId": DEVICE}))["signInAnonymously"]["session"]
    account = {"email": EMAIL, "password": PASSWORD}
    signed_up = await tenant.data(SIGN_UP, input={**account, "anonymousRefreshToken": first["refreshToken"]})
    session = signed_up["signUp"]["session"]
    own = Tenant(
        gateway, await gateway.identities.viewer_of_bearer(session["accessToken"], project=str(tenant.project_id))
    )
    secret: str = (await own.data(ENROLL))["enrollTotp"]["secret"]
    totp = pyotp.TOTP(secret)
    assert (await own.data(CONFIRM, code=totp.at(clock.now())))["confirmTotp"]["userErrors"] == []
    other = (await tenant.data(ANONYMOUS, input={"deviceId": OTHER_DEVICE}))["signInAnonymously"]["session"]
    await tenant.track(userId=other["userId"], properties={"note": PROPERTY})
    await tenant.data(
        REGISTER, input={"platform": "ANDROID", "token": ROBOT_TOKEN, "userId": other["userId"], "locale": "de"}
    )
    await tenant.data(SIGN_IN, input={**account, "password": "not her password"})
    code = totp.at(clock.now() + timedelta(seconds=30))
    taken = await tenant.data(
        SIGN_IN, input={**account, "totpCode": code, "anonymousRefreshToken": other["refreshToken"]}
    )
    assert taken["signIn"]["retiredAnonUserId"] == other["userId"], taken
    return session["userId"], other["userId"], secret


async def register_devices(store: Store, user_id: str, apns: ApnsPeer, browsers: WebPushPeer) -> str:
    """A phone and a browser, beside the robot that they took over; gives where the browser is reached."""
    account = {
        "keyId": apns.key.key_id,
        "teamId": apns.key.team_id,
        "bundleId": apns.bundle_id,
        "productionUrl": apns.url,
        "sandboxUrl": apns.url,
        "caCertificate": apns.ca_pem,
    }
    await store.data(CONFIGURE, input={"kind": "APNS", "settings": account, "secrets": {"privateKey": apns.key.p8}})
    vapid = (await store.tenant.data("{ pushSettings { vapidPublicKey } }"))["pushSettings"]["vapidPublicKey"]
    browser = browsers.subscribe(vapid, name="browser-57")
    await store.data(REGISTER, input={"platform": "IOS", "token": PHONE_TOKEN, "userId": user_id})
    keys = {"p256dh": browser.p256dh, "auth": browser.auth}
    web = {"platform": "WEB", "token": browser.endpoint, "userId": user_id, "webPushKeys": keys}
    await store.data(REGISTER, input=web)
    return browser.endpoint


async def report(store: Store, node_id: str, kind: EmailReport) -> None:
    services, delivery = store.tenant.gateway.services, parse_node_id(node_id)
    assert delivery is not None
    [row] = await store.fetch(
        "SELECT provider_message_id AS id FROM deliveries WHERE project_id = $1 AND delivery_id = $2", delivery.uuid
    )
    callback = EmailCallback(
        callback_id=f"msg-{kind}", kind=kind, provider_message_id=row["id"], delivery_id=delivery.uuid
    )
    await apply_email_callback(
        services.database, services.announce, callback, project_id=store.project_id, now=store.clock.now()
    )


def held_lanes(streams: Any, store: Store) -> dict[Lane, str]:
    """What a gateway has in memory of each lane, as text: recent items, rendered ones, and pages."""
    found: dict[Lane, str] = {}
    subscription = streams._hub._subscriptions.get(store.project_id)
    for lane, state in {} if subscription is None else subscription.lanes.items():
        cohorts = getattr(streams._lanes.get((store.project_id, lane)), "_cohorts", {})
        items = [*state.feed.ring._items, *(item for each in cohorts.values() for item in each.ring._items)]
        if items:
            found[lane] = repr(items)
    pages = [page for (shelf, _), page in streams.pages._kept.items() if shelf[0] == store.project_id]
    return found if not pages else {**found, Lane.EVENTS: found.get(Lane.EVENTS, "") + repr(pages)}


def theirs(streams: Any, store: Store, values: tuple[str, ...]) -> set[tuple[str, str]]:
    """Which of the values are in memory."""
    texts = {lane.name: text.encode() for lane, text in held_lanes(streams, store).items()}
    return traces(texts, values)


async def leave(follower: Follower) -> None:
    assert follower.ended == []
    if follower.membership is not None:
        follower.membership.leave()
