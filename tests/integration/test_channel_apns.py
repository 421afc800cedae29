"""The APNs sender against a push service that speaks Apple's protocol."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from h2.errors import ErrorCodes

from engine.channels import apns, apns_connection, apns_pool
from engine.channels.apns import ApnsSender
from engine.channels.apns_connection import ApnsConnection
from engine.channels.apns_pool import ApnsPool
from engine.channels.apns_reasons import REASONS, Blame
from engine.channels.base import Accepted, Deferred, Outcome, Rejected, Unknown
from engine.channels.push_message import (
    ApnsCredentials,
    ApnsMessage,
    PushAccepted,
    PushEnvironment,
    PushRejected,
)
from engine.dispatch.values import LiveActivity, PushNotification
from engine.egress import Egress
from tests.peers.apns import ApnsPeer, Flood, GoAway, HangUp, Hold, Reply, Reset, Stall
from tests.peers.authority import Authority

MADE_AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
TOKEN = "ab" * 32
AUTHORITY = Authority()
TLS = cache(apns.trusting)
"""Reading the public authorities takes a while: once is enough for all tests."""
HELLO = PushNotification(title="Your order", body="is on its way")
STATUSES = {
    "ExpiredToken": 410,
    "Unregistered": 410,
    "PayloadTooLarge": 413,
    "TooManyProviderTokenUpdates": 429,
    "TooManyRequests": 429,
    "InternalServerError": 500,
    "ServiceUnavailable": 503,
    "Shutdown": 503,
    "BadPath": 404,
    "MethodNotAllowed": 405,
} | dict.fromkeys(
    (
        "BadCertificate",
        "BadCertificateEnvironment",
        "BadEnvironmentKeyIdInToken",
        "ExpiredProviderToken",
        "Forbidden",
        "InvalidProviderToken",
        "MissingProviderToken",
        "UnrelatedKeyIdInToken",
    ),
    403,
)


class Apple:
    """Both environments, and a sender that trusts them."""

    def __init__(self, production: ApnsPeer, sandbox: ApnsPeer, sender: ApnsSender) -> None:
        self.production = production
        self.sandbox = sandbox
        self.sender = sender
        self.credentials = ApnsCredentials(
            key=production.key.p8,
            key_id=production.key.key_id,
            team_id=production.key.team_id,
            bundle_id=production.bundle_id,
            production_url=production.url,
            sandbox_url=sandbox.url,
            ca_certificate=production.ca_pem,
        )

    def message(self, token: str = TOKEN, **fields: Any) -> ApnsMessage:
        if "live_activity" not in fields:
            fields.setdefault("notification", HELLO)
        fields.setdefault("credentials", self.credentials)
        return ApnsMessage(
            delivery_id=fields.pop("delivery_id", None) or uuid4(),
            device_token=token,
            environment=fields.pop("environment", PushEnvironment.PRODUCTION),
            made_at=MADE_AT,
            **fields,
        )

    async def send(self, token: str = TOKEN, **fields: Any) -> Outcome:
        return await self.sender.send(self.message(token, **fields))


Opener = Callable[..., Any]


@pytest.fixture
async def opened() -> AsyncIterator[Opener]:
    async with AsyncExitStack() as stack:

        async def open_apple(**settings: Any) -> Apple:
            production = await stack.enter_async_context(ApnsPeer(authority=AUTHORITY, **settings))
            sandbox = await stack.enter_async_context(ApnsPeer(key=production.key, authority=AUTHORITY))
            sender = ApnsSender(Egress(allowed="127.0.0.0/8"), tls=TLS)
            stack.push_async_callback(sender.close)
            return Apple(production, sandbox, sender)

        yield open_apple


@pytest.fixture
async def apple(opened: Opener) -> Apple:
    return await opened()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_a_push_is_taken_with_the_deliverys_id(apple: Apple) -> None:
    delivery_id = UUID("0197b4a2-0000-7000-8000-000000000001")
    push = PushNotification(
        title="Your order",
        body="is on its way",
        data={"orderId": 7, "aps": "not ours", "deliveryId": "not theirs"},
        image_url="https://img.example/1.png",
        sound="ping.caf",
        badge=0,
        collapse_id="order-7",
        ttl_seconds=0,
        priority="NORMAL",
        category="ORDER",
        thread_id="orders",
        url="https://shop.example/orders/7",
    )

    outcome = await apple.send(delivery_id=delivery_id, notification=push)

    assert isinstance(outcome, PushAccepted)
    assert outcome.environment is PushEnvironment.PRODUCTION
    assert outcome.provider_message_id == str(delivery_id)
    assert outcome.answer.status_code == 200
    received = apple.production.accepted[0]
    assert received.payload == {
        "aps": {
            "alert": {"title": "Your order", "body": "is on its way"},
            "badge": 0,
            "sound": "ping.caf",
            "category": "ORDER",
            "thread-id": "orders",
            "mutable-content": 1,
        },
        "orderId": 7,
        "deliveryId": "dlv_0197b4a2000070008000000000000001",
        "url": "https://shop.example/orders/7",
        "imageUrl": "https://img.example/1.png",
    }
    headers = {name: value for name, value in received.headers.items() if name.startswith("apns-")}
    assert headers == {
        "apns-id": str(delivery_id),
        "apns-topic": "com.example.shop",
        "apns-push-type": "alert",
        "apns-priority": "5",
        "apns-expiration": "0",
        "apns-collapse-id": "order-7",
    }


async def test_a_ttl_counts_from_now(apple: Apple) -> None:
    await apple.send(notification=PushNotification(title="a", body="b", ttl_seconds=60))
    await apple.send()

    expiration = int(apple.production.accepted[0].headers["apns-expiration"])
    assert expiration == pytest.approx(time.time() + 60, abs=5)
    assert "apns-expiration" not in apple.production.accepted[1].headers


async def test_a_push_without_text_is_a_background_push(apple: Apple) -> None:
    outcome = await apple.send(notification=PushNotification(title="", body="", data={"sync": True}))

    assert isinstance(outcome, Accepted)
    received = apple.production.accepted[0]
    assert received.payload["aps"] == {"content-available": 1}
    assert received.payload["sync"] is True
    assert received.headers["apns-push-type"] == "background"
    assert received.headers["apns-priority"] == "5"


async def test_a_live_activity_starts_changes_and_ends(apple: Apple) -> None:
    alert = PushNotification(title="Ride", body="arrives in 3 min", sound="default", ttl_seconds=0)
    for activity in (
        LiveActivity("START", "Ride", attributes={"car": "blue"}, content_state={"eta": 3}, alert=alert),
        LiveActivity("UPDATE", "Ride", activity_id="r1", content_state={"eta": 1}, stale_date=1772366700),
        LiveActivity("END", "Ride", activity_id="r1", dismissal_date=1772366800),
    ):
        assert isinstance(await apple.send(live_activity=activity), PushAccepted)

    at = int(MADE_AT.timestamp())
    assert [received.payload["aps"] for received in apple.production.accepted] == [
        {
            "timestamp": at,
            "event": "start",
            "content-state": {"eta": 3},
            "attributes-type": "Ride",
            "attributes": {"car": "blue"},
            "input-push-token": 1,
            "alert": {"title": "Ride", "body": "arrives in 3 min", "sound": "default"},
        },
        {"timestamp": at, "event": "update", "content-state": {"eta": 1}, "stale-date": 1772366700},
        {"timestamp": at, "event": "end", "content-state": {}, "dismissal-date": 1772366800},
    ]
    for received in apple.production.accepted:
        assert received.headers["apns-topic"] == "com.example.shop.push-type.liveactivity"
        assert received.headers["apns-push-type"] == "liveactivity"
        assert received.headers["apns-priority"] == "10"


@pytest.mark.parametrize("reason", sorted(REASONS))
async def test_each_of_apples_reasons_keeps_its_word_and_says_what_to_do(apple: Apple, reason: str) -> None:
    status = STATUSES.get(reason, 400)
    apple.production.scripts[TOKEN] = [Reply(status, reason), Reply(status, reason)]
    apple.sandbox.scripts[TOKEN] = [Reply(status, reason)]

    outcome = await apple.send()

    assert isinstance(outcome, Rejected | Deferred)
    assert outcome.error.code == reason
    assert f"{status} {reason}" in outcome.error.message
    assert outcome.error.hint
    assert outcome.answer.status_code == status
    assert outcome.answer.response_body == f'{{"reason": "{reason}"}}'
    blame = REASONS[reason].blame
    assert outcome.error.permanent is (blame in {Blame.ADDRESS, Blame.MESSAGE})
    assert isinstance(outcome, Rejected) is outcome.error.permanent
    if isinstance(outcome, Rejected):
        assert outcome.address_is_dead is (blame is Blame.ADDRESS)
    else:
        assert outcome.is_account is (blame is Blame.ACCOUNT or status >= 500)


@pytest.mark.parametrize(
    ("reply", "kind", "code"),
    [
        (Reply(413), Rejected, "PayloadTooLarge"),  # no body
        (Reply(410), Rejected, "Unregistered"),
        (Reply(503), Deferred, "ServiceUnavailable"),
        (Reply(403), Deferred, "Forbidden"),
        (Reply(400), Rejected, "HTTP400"),
        (Reply(502, body=b"<html>bad gateway</html>"), Deferred, "HTTP502"),  # no JSON
        (Reply(400, "NewInNextYear"), Rejected, "NewInNextYear"),  # an unknown word
        (Reply(500, "NewInNextYear"), Deferred, "NewInNextYear"),
        (Reply(400, "BadPriority", with_apns_id=False), Rejected, "BadPriority"),  # matched by stream
        (Reply(400, body=b"\xff\xfe"), Rejected, "HTTP400"),
        (Reply(400, body=b"x" * 12_000), Rejected, "HTTP400"),
    ],
)
async def test_odd_answers_end_the_send_too(apple: Apple, reply: Reply, kind: type, code: str) -> None:
    apple.production.scripts[TOKEN] = [reply]

    outcome = await apple.send()

    assert isinstance(outcome, kind)
    assert not isinstance(outcome, Accepted)
    assert outcome.error.code == code
    assert outcome.error.hint
    assert isinstance(await apple.send(), Accepted)
    assert apple.production.connections_made == 1


async def test_a_success_without_apns_id_is_a_success(apple: Apple) -> None:
    apple.production.scripts[TOKEN] = [Reply(with_apns_id=False)]
    delivery_id = uuid4()

    outcome = await apple.send(delivery_id=delivery_id)

    assert isinstance(outcome, Accepted)
    assert outcome.provider_message_id == str(delivery_id)


async def test_an_unregistered_token_says_since_when(apple: Apple) -> None:
    apple.production.scripts[TOKEN] = [Reply(410, "Unregistered", timestamp=1_772_366_400_000)]

    outcome = await apple.send()

    assert isinstance(outcome, PushRejected)
    assert outcome.address_is_dead
    assert outcome.dead_since == datetime(2026, 3, 1, 12, tzinfo=UTC)


async def test_retry_after_is_passed_on(apple: Apple) -> None:
    apple.production.scripts[TOKEN] = [Reply(429, "TooManyRequests", headers=(("retry-after", "37"),))]

    outcome = await apple.send()

    assert isinstance(outcome, Deferred)
    assert outcome.retry_after == timedelta(seconds=37)
    assert not outcome.is_account


async def test_a_token_of_the_other_environment_is_sent_there_and_said_so(apple: Apple) -> None:
    apple.production.scripts[TOKEN] = [Reply(400, "BadDeviceToken")]

    outcome = await apple.send()

    assert isinstance(outcome, PushAccepted)
    assert outcome.environment is PushEnvironment.SANDBOX
    assert (apple.production.requests, apple.sandbox.requests) == (1, 1)
    assert apple.sandbox.apns_ids == apple.production.apns_ids


@pytest.mark.parametrize(
    ("other", "code", "is_dead"),
    [
        (Reply(400, "BadDeviceToken"), "BadDeviceToken", True),
        (Reply(410, "Unregistered"), "Unregistered", True),
        # the key is for one environment only: what the first one said stands
        (Reply(403, "BadEnvironmentKeyIdInToken"), "BadDeviceToken", True),
        (Reply(400, "BadPriority"), "BadPriority", False),
    ],
)
async def test_what_the_other_environment_refuses(apple: Apple, other: Reply, code: str, is_dead: bool) -> None:
    apple.production.scripts[TOKEN] = [Reply(400, "BadDeviceToken")]
    apple.sandbox.scripts[TOKEN] = [other]

    outcome = await apple.send()

    assert isinstance(outcome, Rejected)
    assert outcome.error.code == code
    assert outcome.address_is_dead is is_dead
    assert (apple.production.requests, apple.sandbox.requests) == (1, 1)


async def test_an_outage_of_the_other_environment_is_not_held_against_the_account(apple: Apple) -> None:
    apple.production.scripts[TOKEN] = [Reply(400, "BadDeviceToken")]
    apple.sandbox.scripts[TOKEN] = [Reply(503, "Shutdown")]

    outcome = await apple.send()

    assert isinstance(outcome, Deferred)
    assert not outcome.is_account


async def test_three_thousand_errors_on_one_connection_do_not_stall_it(apple: Apple) -> None:
    places = asyncio.Semaphore(200)

    async def send(number: int) -> Outcome:
        token = f"{number:064x}"
        apple.production.scripts[token] = [Reply(400, "DeviceTokenNotForTopic")]
        async with places:
            return await apple.send(token)

    async with asyncio.timeout(20):
        outcomes = await asyncio.gather(*(send(number) for number in range(3000)))

    assert {type(outcome) for outcome in outcomes} == {PushRejected}
    assert apple.production.connections_made == 1
    assert len(apple.production.apns_ids) == apple.production.requests == 3000


@pytest.mark.parametrize(
    ("action", "kind", "requests"),
    [
        (Reset(), Unknown, 1),
        (Reset(ErrorCodes.REFUSED_STREAM), Accepted, 2),  # certainly not processed: once more
        (HangUp(), Unknown, 1),
        (Flood(), Unknown, 1),  # a customer's own URL leads anywhere: a worker must not be kept busy
        (GoAway(includes_this=True), Accepted, 1),  # answered after the GOAWAY
        (GoAway(includes_this=False), Accepted, 2),
    ],
)
async def test_what_ends_without_an_answer_is_repeated_only_if_it_was_not_processed(
    apple: Apple, action: Any, kind: type, requests: int
) -> None:
    apple.production.scripts[TOKEN] = [action]

    async with asyncio.timeout(5):
        outcome = await apple.send()

    assert isinstance(outcome, kind)
    assert apple.production.requests == requests
    assert isinstance(await apple.send("cd" * 32), Accepted)


async def test_what_is_never_taken_is_sent_twice_and_no_more(apple: Apple) -> None:
    apple.production.scripts[TOKEN] = [GoAway(), GoAway(), GoAway(), GoAway()]

    outcome = await apple.send()

    assert isinstance(outcome, Deferred)
    assert outcome.is_account
    assert apple.production.requests == 2


async def test_goaway_in_the_middle_loses_and_repeats_nothing(apple: Apple) -> None:
    tokens = [f"{number:064x}" for number in range(60)]
    for token in tokens[:20]:
        apple.production.scripts[token] = [Hold()]
    apple.production.scripts[tokens[20]] = [GoAway()]
    sends = [asyncio.create_task(apple.send(token)) for token in tokens]
    await until(lambda: len(apple.production.held) == 20 and len(apple.production.accepted) >= 60)
    apple.production.release()

    outcomes = await asyncio.gather(*sends)

    assert {type(outcome) for outcome in outcomes} == {PushAccepted}
    assert (
        sorted(push.device_token for push in apple.production.accepted if push.device_token in tokens[:20])
        == tokens[:20]
    )
    assert apple.production.connections_made == 2
    await until(lambda: len(apple.production.connections) == 1)


async def test_goaway_with_what_it_counts_as_processed_unanswered_is_unknown(apple: Apple) -> None:
    apple.production.scripts[TOKEN] = [Hold()]
    sending = asyncio.create_task(apple.send())
    await until(lambda: len(apple.production.held) == 1)
    apple.production.scripts["cd" * 32] = [GoAway()]
    assert isinstance(await apple.send("cd" * 32), Accepted)
    apple.production.held[0][0].hang_up()

    outcome = await sending

    assert isinstance(outcome, Unknown)
    assert apple.production.requests == 3


async def test_a_cancelled_send_disturbs_nobody(apple: Apple) -> None:
    tokens = [f"{number:064x}" for number in range(40)]
    for token in tokens:
        apple.production.scripts[token] = [Hold()]
    sends = [asyncio.create_task(apple.send(token)) for token in tokens]
    await until(lambda: len(apple.production.held) == 40)
    for cancelled in sends[::2]:
        cancelled.cancel()
    await asyncio.wait(sends[::2])
    apple.production.release()

    outcomes = await asyncio.gather(*sends[1::2])

    assert {type(outcome) for outcome in outcomes} == {PushAccepted}
    assert isinstance(await apple.send(), Accepted)
    assert apple.production.connections_made == 1
    assert set(apple.production.apns_ids.values()) == {1}


async def test_a_cancelled_send_gives_its_stream_back(opened: Opener) -> None:
    apple = await opened(max_streams=2)
    for token in ("cd" * 32, "ef" * 32):
        apple.production.scripts[token] = [Stall()]
    stalled = [asyncio.create_task(apple.send(token)) for token in ("cd" * 32, "ef" * 32)]
    await until(lambda: apple.production.requests == 2)
    waiting = asyncio.create_task(apple.send())
    await asyncio.sleep(0)
    for send in stalled:
        send.cancel()

    assert isinstance(await waiting, Accepted)
    assert apple.production.connections_made == 1


async def test_what_found_no_stream_in_time_was_not_sent(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apns, "SEND_SECONDS", 0.1)
    apple = await opened(max_streams=0)

    outcome = await apple.send()

    assert isinstance(outcome, Deferred)
    assert apple.production.requests == 0


async def test_a_refused_send_that_could_not_be_repeated_in_time_was_not_sent(
    apple: Apple, monkeypatch: pytest.MonkeyPatch
) -> None:
    await apple.send("cd" * 32)
    monkeypatch.setattr(apns, "SEND_SECONDS", 0.5)
    apple.production.scripts[TOKEN] = [Reply(403, "ExpiredProviderToken", max_streams=0)]

    outcome = await apple.send()

    assert isinstance(outcome, Deferred)
    assert apple.production.requests == 2


async def test_no_answer_in_time_is_unknown_and_others_get_another_connection(
    apple: Apple, monkeypatch: pytest.MonkeyPatch
) -> None:
    apple.production.scripts[TOKEN] = [Stall()]
    assert isinstance(await apple.send("cd" * 32), Accepted)
    monkeypatch.setattr(apns, "SEND_SECONDS", 0.3)
    monkeypatch.setattr(apns_pool, "STALL_SECONDS", 0.1)

    outcome = await apple.send()
    monkeypatch.undo()

    assert isinstance(outcome, Unknown)
    assert outcome.error.code == "NoAnswer"
    assert isinstance(await apple.send(), Accepted)
    assert apple.production.connections_made == 2


async def test_more_sends_than_streams_wait_for_their_turn(opened: Opener) -> None:
    apple = await opened(max_streams=3)

    outcomes = await asyncio.gather(*(apple.send(f"{number:064x}") for number in range(100)))

    assert {type(outcome) for outcome in outcomes} == {PushAccepted}
    assert apple.production.requests == 100
    assert apple.production.connections_made == 1


async def test_a_send_waits_for_the_flow_control_window(opened: Opener) -> None:
    apple = await opened(withholds_window=True)
    long = PushNotification(title="a", body="b" * 3000)
    sends = [asyncio.create_task(apple.send(f"{number:064x}", notification=long)) for number in range(40)]
    await until(lambda: apple.production.requests >= 20)
    assert apple.production.requests < 40

    apple.production.give_window()
    outcomes = await asyncio.gather(*sends)

    assert {type(outcome) for outcome in outcomes} == {PushAccepted}
    assert apple.production.connections_made == 1
    assert apple.production.requests == 40


async def test_one_provider_token_serves_all_connections_and_both_environments(apple: Apple) -> None:
    apple.production.scripts["cd" * 32] = [GoAway()]
    await apple.send()
    await apple.send("cd" * 32)
    await apple.send(environment=PushEnvironment.SANDBOX)

    assert apple.production.connections_made == 2
    assert len(set(apple.production.provider_tokens) | set(apple.sandbox.provider_tokens)) == 1


async def test_a_refused_provider_token_is_renewed_once_for_everybody(apple: Apple) -> None:
    await apple.send()
    apple.production.refuse_provider_tokens()

    outcomes = await asyncio.gather(*(apple.send(f"{number:064x}") for number in range(20)))

    assert {type(outcome) for outcome in outcomes} == {PushAccepted}
    assert len(apple.production.provider_tokens) == 2

    apple.production.refuse_provider_tokens()
    outcome = await apple.send()

    assert isinstance(outcome, Deferred)
    assert outcome.is_account
    assert outcome.error.code == "ExpiredProviderToken"
    assert len(apple.production.provider_tokens) == 2  # not so soon again: Apple would refuse the key for it


@pytest.mark.parametrize(("body", "is_taken"), [(4096, True), (4097, False)])
async def test_a_payload_has_at_most_4096_bytes(apple: Apple, body: int, is_taken: bool) -> None:
    empty = apns.request_of(apple.message(notification=PushNotification(title="é", body="x")), 0)
    text = "x" * (body - len(empty.body) + 1)

    outcome = await apple.send(notification=PushNotification(title="é", body=text))

    assert isinstance(outcome, Accepted) is is_taken
    assert apple.production.requests == int(is_taken)
    if isinstance(outcome, Rejected):
        assert outcome.error.code == "PayloadTooLarge"
        assert not outcome.address_is_dead


@pytest.mark.parametrize("token", ["", "zz" * 32, "abc", "../../3/device/" + TOKEN, TOKEN + "\r\nx: y"])
async def test_what_is_no_device_token_is_not_sent(apple: Apple, token: str) -> None:
    outcome = await apple.send(token)

    assert isinstance(outcome, Rejected)
    assert outcome.address_is_dead
    assert outcome.error.code == "BadDeviceToken"
    assert apple.production.requests == 0


async def test_an_expo_token_is_refused_with_both_ways_out(apple: Apple) -> None:
    outcome = await apple.send("ExponentPushToken[xxxxxxxxxxxxxxxxxxxxxx]")

    assert isinstance(outcome, Rejected)
    assert not outcome.address_is_dead
    assert outcome.error.hint is not None
    assert "getDevicePushTokenAsync" in outcome.error.hint
    assert "Expo's own push service" in outcome.error.hint


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"key": "no key"}, "InvalidProviderToken"),
        ({"key_id": "WRONGKEYID"}, "InvalidProviderToken"),
        ({"bundle_id": "com.example.other"}, "TopicDisallowed"),
        ({"ca_certificate": None}, "Unreachable"),
        ({"ca_certificate": "no certificate"}, "Unreachable"),
        ({"production_url": "https://127.0.0.1:1"}, "Unreachable"),
        ({"production_url": "https://10.0.0.1"}, "Unreachable"),
        ({"production_url": "ftp://127.0.0.1"}, "Unreachable"),
    ],
)
async def test_wrong_settings_are_about_the_account(apple: Apple, changes: dict[str, Any], code: str) -> None:
    outcome = await apple.send(credentials=msgspec.structs.replace(apple.credentials, **changes))

    assert isinstance(outcome, Deferred)
    assert outcome.is_account
    assert not outcome.error.permanent
    assert outcome.error.code == code
    assert outcome.error.hint
    assert apple.production.accepted == []


async def test_the_guard_is_asked_before_anything_is_dialled(apple: Apple) -> None:
    sender = ApnsSender(Egress())

    outcome = await sender.send(apple.message())
    await sender.close()

    assert isinstance(outcome, Deferred)
    assert apple.production.connections_made == 0


async def test_a_dead_host_is_not_hammered(apple: Apple) -> None:
    accepted = 0

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(hang_up, "127.0.0.1")
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    credentials = msgspec.structs.replace(apple.credentials, production_url=url)

    outcomes = await asyncio.gather(*(apple.send(credentials=credentials) for _ in range(50)))
    server.close()
    await server.wait_closed()

    assert {type(outcome) for outcome in outcomes} == {Deferred}
    assert accepted == 1


async def test_a_server_without_http2_is_not_waited_for(apple: Apple) -> None:
    class Silent(asyncio.Protocol):
        pass

    context = apple.production.authority.server_context()
    server = await asyncio.get_running_loop().create_server(Silent, "127.0.0.1", ssl=context)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async with asyncio.timeout(apns_pool.CONNECT_SECONDS / 2):
        outcome = await apple.send(credentials=msgspec.structs.replace(apple.credentials, production_url=url))
    server.close()
    await server.wait_closed()

    assert isinstance(outcome, Deferred)


async def test_a_connection_lost_before_it_was_kept_is_not_kept(apple: Apple, monkeypatch: pytest.MonkeyPatch) -> None:
    create = ApnsPool.create_connection

    async def create_and_lose(pool: ApnsPool) -> ApnsConnection:
        connection = await create(pool)
        for accepted in list(apple.production.connections):
            accepted.hang_up()
        await connection.lost
        return connection

    monkeypatch.setattr(ApnsPool, "create_connection", create_and_lose)
    assert isinstance(await apple.send(), Deferred)
    monkeypatch.undo()
    monkeypatch.setattr(apns_pool, "RECONNECT_PAUSE_SECONDS", 0)

    assert isinstance(await apple.send(), Accepted)
    client = next(iter(apple.sender._clients.values()))
    assert len(client._pools[PushEnvironment.PRODUCTION].connections) == 1


async def test_an_idle_connection_is_closed_and_made_anew(apple: Apple, monkeypatch: pytest.MonkeyPatch) -> None:
    await apple.send()
    connection = next(iter(next(iter(apple.sender._clients.values()))._pools.values())).connections[0]
    monkeypatch.setattr(apns_connection, "IDLE_SECONDS", 0.0)
    connection.refresh_inactivity_timer()
    await until(lambda: not apple.production.connections)
    monkeypatch.undo()

    assert isinstance(await apple.send(), Accepted)
    assert apple.production.connections_made == 2


async def test_clients_that_are_not_used_are_closed(apple: Apple, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apns, "MAX_CLIENTS", 2)
    for number in range(4):
        sandbox_url = f"https://127.0.0.1:{number + 1}"
        await apple.send(credentials=msgspec.structs.replace(apple.credentials, sandbox_url=sandbox_url))

    await until(lambda: len(apple.production.connections) == 2)
    assert len(apple.production.provider_tokens) == 4


async def test_closing_leaves_nothing_open(apple: Apple) -> None:
    await apple.send()
    await apple.send(environment=PushEnvironment.SANDBOX)

    await apple.sender.close()

    await until(lambda: not apple.production.connections and not apple.sandbox.connections)
