"""The Web Push sender against a push service that verifies VAPID, and a browser that decrypts."""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from engine.channels import web_push
from engine.channels.base import Accepted, Deferred, Outcome, Rejected, Unknown
from engine.channels.http import HttpClient
from engine.channels.push_message import PushAccepted, VapidKeys, WebPushMessage
from engine.channels.web_push import WebPushSender, make_vapid_keys
from engine.dispatch.values import PushNotification
from engine.egress import Egress
from tests.peers.web_push import Answer, HangUp, Subscription, WebPushPeer

HELLO = PushNotification(title="Your order", body="is on its way")
SUBJECT = "mailto:push@shop.example"


class Browsers:
    """A push service, and a sender with its key pair."""

    def __init__(self, peer: WebPushPeer, sender: WebPushSender) -> None:
        self.peer = peer
        self.sender = sender
        self.vapid = make_vapid_keys()
        self.subscription = peer.subscribe(self.vapid.public_key)

    async def send(self, subscription: Subscription | None = None, **fields: Any) -> Outcome:
        subscription = subscription or self.subscription
        message = WebPushMessage(
            delivery_id=fields.pop("delivery_id", None) or uuid4(),
            endpoint=subscription.endpoint,
            p256dh=subscription.p256dh,
            auth=subscription.auth,
            vapid=fields.pop("vapid", self.vapid),
            subject=fields.pop("subject", SUBJECT),
            notification=fields.pop("notification", HELLO),
        )
        return await self.sender.send(message)


@pytest.fixture
async def browsers() -> AsyncIterator[Browsers]:
    http = HttpClient(Egress(allowed="127.0.0.0/8"))
    async with WebPushPeer() as peer:
        yield Browsers(peer, WebPushSender(http))
        await http.close()


async def test_a_push_is_decrypted_by_the_browser(browsers: Browsers) -> None:
    push = PushNotification(
        title="Ваш заказ",
        body="is on its way",
        data={"orderId": 7},
        image_url="https://img.example/1.png",
        badge=2,
        collapse_id="order-7",
        ttl_seconds=0,
        priority="NORMAL",
        url="https://shop.example/orders/7",
    )

    outcome = await browsers.send(delivery_id=UUID("0197b4a2-0000-7000-8000-000000000001"), notification=push)

    assert isinstance(outcome, PushAccepted)
    assert outcome.answer.status_code == 201
    received = browsers.peer.accepted[0]
    assert received.payload == {
        "title": "Ваш заказ",
        "body": "is on its way",
        "deliveryId": "dlv_0197b4a2000070008000000000000001",
        "data": {"orderId": 7},
        "url": "https://shop.example/orders/7",
        "image": "https://img.example/1.png",
        "tag": "order-7",
        "badge": 2,
    }
    names = ("TTL", "Urgency", "Topic", "Content-Encoding", "Content-Type")
    assert {name: received.headers.get(name) for name in names} == {
        "TTL": "0",
        "Urgency": "normal",
        "Topic": "order-7",
        "Content-Encoding": "aes128gcm",
        "Content-Type": "application/octet-stream",
    }


async def test_what_was_not_given_is_left_out(browsers: Browsers) -> None:
    await browsers.send()

    received = browsers.peer.accepted[0]
    assert set(received.payload) == {"title", "body", "deliveryId"}
    assert "Topic" not in received.headers
    assert (received.headers["TTL"], received.headers["Urgency"]) == ("2419200", "high")


async def test_a_collapse_id_that_is_no_topic_becomes_one(browsers: Browsers) -> None:
    for collapse_id in ("order 7", "order 7", "order 8"):
        push = PushNotification(title="a", body="b", collapse_id=collapse_id)
        assert isinstance(await browsers.send(notification=push), Accepted)

    first, again, other = (received.headers["Topic"] for received in browsers.peer.accepted)
    assert first == again
    assert first != other
    assert len(first) == 32


async def test_one_vapid_header_serves_all_sends_to_an_origin_and_no_other(browsers: Browsers) -> None:
    async with WebPushPeer() as other:
        for _ in range(3):
            assert isinstance(await browsers.send(), Accepted)
            assert isinstance(await browsers.send(other.subscribe()), Accepted)
        assert isinstance(await browsers.send(subject="https://shop.example"), Accepted)

        assert sorted(browsers.peer.vapid_tokens.values()) == [1, 3]
        assert list(other.vapid_tokens.values()) == [3]


async def test_a_vapid_header_is_made_anew_before_it_expires(
    browsers: Browsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = web_push.time.time()
    await browsers.send()
    monkeypatch.setattr(web_push.time, "time", lambda: now + 11 * 3600 + 60)
    await browsers.send()

    assert len(browsers.peer.vapid_tokens) == 2


async def test_vapid_headers_are_bounded(browsers: Browsers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_push, "MAX_VAPID_HEADERS", 2)
    for number in range(4):
        await browsers.send(subject=f"mailto:push{number}@shop.example")

    assert len(browsers.sender._headers) == 2


@pytest.mark.parametrize(
    ("status", "code", "kind", "is_dead", "is_account"),
    [
        (404, "NotFound", Rejected, True, None),
        (410, "Gone", Rejected, True, None),
        (400, "BadRequest", Rejected, False, None),
        (401, "Unauthorized", Rejected, False, None),
        (403, "Forbidden", Rejected, False, None),
        (413, "PayloadTooLarge", Rejected, False, None),
        (418, "HTTP418", Rejected, False, None),
        (302, "HTTP302", Rejected, False, None),
        (408, "RequestTimeout", Deferred, None, False),
        # the lane is shared by all projects that send to this service: one's limit is not the others'
        (429, "TooManyRequests", Deferred, None, False),
        (500, "InternalServerError", Deferred, None, True),
        (502, "BadGateway", Deferred, None, True),
        (503, "ServiceUnavailable", Deferred, None, True),
        (599, "HTTP599", Deferred, None, True),
    ],
)
async def test_each_status_has_a_word_and_says_what_to_do(
    browsers: Browsers, status: int, code: str, kind: type, is_dead: bool | None, is_account: bool | None
) -> None:
    headers = (("Retry-After", "120"), ("Location", browsers.subscription.endpoint))
    browsers.peer.scripts[browsers.subscription.endpoint] = [Answer(status, "why", headers)]

    outcome = await browsers.send()

    assert isinstance(outcome, kind)
    assert isinstance(outcome, Rejected | Deferred)
    assert outcome.error.code == code
    assert outcome.error.hint
    assert outcome.error.permanent is isinstance(outcome, Rejected)
    assert (outcome.answer.status_code, outcome.answer.response_body) == (status, "why")
    assert getattr(outcome, "address_is_dead", None) is is_dead
    assert getattr(outcome, "is_account", None) is is_account
    if isinstance(outcome, Deferred):
        assert outcome.retry_after == timedelta(seconds=120)
    assert browsers.peer.requests == 1


async def test_a_subscription_that_the_browser_ended_is_dead(browsers: Browsers) -> None:
    browsers.peer.unsubscribe(browsers.subscription)
    unknown = msgspec.structs.replace(browsers.subscription, endpoint=f"{browsers.peer.url}/push/unknown")

    ended, never = await browsers.send(), await browsers.send(unknown)

    assert isinstance(ended, Rejected)
    assert isinstance(never, Rejected)
    assert (ended.address_is_dead, ended.error.code) == (True, "Gone")
    assert (never.address_is_dead, never.error.code) == (True, "NotFound")


async def test_a_subscription_of_another_key_pair_says_how_to_subscribe(browsers: Browsers) -> None:
    outcome = await browsers.send(vapid=make_vapid_keys())

    assert isinstance(outcome, Rejected)
    assert outcome.error.code == "Forbidden"
    assert "vapidPublicKey" in str(outcome.error.hint)


@pytest.mark.parametrize(
    "changes",
    [
        {"p256dh": ""},
        {"p256dh": "AAAA"},
        {"p256dh": "B" * 87},  # no point on the curve
        {"p256dh": "ключ"},
        {"auth": ""},
        {"auth": "AAAA"},
        {"endpoint": "nonsense"},
        {"endpoint": "ftp://push.example/1"},
        {"endpoint": "https://push.example:99999/1"},
    ],
)
async def test_a_subscription_that_is_none_is_dead(browsers: Browsers, changes: dict[str, str]) -> None:
    outcome = await browsers.send(msgspec.structs.replace(browsers.subscription, **changes))

    assert isinstance(outcome, Rejected)
    assert outcome.address_is_dead
    assert outcome.error.code == "InvalidSubscription"
    assert browsers.peer.requests == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"subject": ""},
        {"subject": "push@shop.example"},
        {"vapid": VapidKeys(private_key="", public_key="")},
        {"vapid": VapidKeys(private_key="A" * 43, public_key="A")},
    ],
)
async def test_without_a_vapid_header_nothing_is_sent(browsers: Browsers, fields: dict[str, Any]) -> None:
    outcome = await browsers.send(**fields)

    assert isinstance(outcome, Deferred)
    assert outcome.error.code == "InvalidVapid"
    assert not outcome.is_account
    assert browsers.peer.requests == 0


@pytest.mark.parametrize(
    "endpoint", ["http://169.254.169.254/latest", "https://10.0.0.1/push", "https://localhost:9/", "http://[::1]/x"]
)
async def test_the_guard_stands_before_endpoints(endpoint: str, browsers: Browsers) -> None:
    http = HttpClient(Egress())
    subscription = msgspec.structs.replace(browsers.subscription, endpoint=endpoint)

    outcome = await Browsers(browsers.peer, WebPushSender(http)).send(subscription)
    await http.close()

    assert isinstance(outcome, Rejected | Deferred)
    assert outcome.error.code in {"BLOCKED_URL", "InvalidVapid"}


async def test_a_service_that_is_not_reached_got_nothing(browsers: Browsers) -> None:
    subscription = msgspec.structs.replace(browsers.subscription, endpoint="http://127.0.0.1:1/push/x")

    outcome = await browsers.send(subscription)

    assert isinstance(outcome, Deferred)
    assert outcome.is_account
    assert outcome.error.code == "CONNECTION_REFUSED"


async def test_a_connection_that_ends_is_unknown(browsers: Browsers) -> None:
    browsers.peer.scripts[browsers.subscription.endpoint] = [HangUp()]

    outcome = await browsers.send()

    assert isinstance(outcome, Unknown)
    assert browsers.peer.requests == 1
    assert isinstance(await browsers.send(), Accepted)


@pytest.mark.parametrize(("size", "is_taken"), [(3993, True), (3994, False)])
async def test_a_text_fills_the_record_and_no_more(browsers: Browsers, size: int, is_taken: bool) -> None:
    message = WebPushMessage(
        delivery_id=UUID(int=1),
        endpoint=browsers.subscription.endpoint,
        p256dh=browsers.subscription.p256dh,
        auth=browsers.subscription.auth,
        vapid=browsers.vapid,
        subject=SUBJECT,
        notification=PushNotification(title="é", body="x"),
    )
    text = "x" * (size - len(web_push.text_of(message)) + 1)

    outcome = await browsers.send(delivery_id=UUID(int=1), notification=PushNotification(title="é", body=text))

    assert isinstance(outcome, Accepted) is is_taken
    assert browsers.peer.requests == int(is_taken)
    if isinstance(outcome, Rejected):
        assert outcome.error.code == "PayloadTooLarge"


async def test_padded_keys_are_keys_too(browsers: Browsers) -> None:
    padded = msgspec.structs.replace(
        browsers.subscription, p256dh=browsers.subscription.p256dh + "=", auth=browsers.subscription.auth + "=="
    )

    assert isinstance(await browsers.send(padded), Accepted)


async def test_a_cancelled_send_disturbs_nobody(browsers: Browsers) -> None:
    sends = [asyncio.create_task(browsers.send()) for _ in range(20)]
    await asyncio.sleep(0)
    for send in sends[::2]:
        send.cancel()

    outcomes = await asyncio.gather(*sends[1::2])

    assert {type(outcome) for outcome in outcomes} == {PushAccepted}


def test_key_pairs_are_points_of_p256_and_differ() -> None:
    first, second = make_vapid_keys(), make_vapid_keys()

    assert first != second
    assert len(urlsafe_b64decode(first.private_key + "=")) == 32
    public = urlsafe_b64decode(first.public_key + "=")
    assert (len(public), public[0]) == (65, 4)
    assert first.private_key not in repr(first)
