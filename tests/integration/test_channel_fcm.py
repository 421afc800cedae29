"""The FCM sender against a Firebase that verifies assertions, tokens and messages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from aiohttp import web

from engine.channels import fcm
from engine.channels.base import Accepted, Deferred, Outcome, Rejected, Unknown
from engine.channels.fcm import FcmSender
from engine.channels.http import HttpClient
from engine.channels.push_message import FcmCredentials, FcmMessage, PushAccepted
from engine.dispatch.values import PushNotification
from engine.egress import Egress
from tests.peers.fcm import Answer, FcmPeer, HangUp, Stall

TOKEN = "eXAmPle:APA91b" + "x" * 120
HELLO = PushNotification(title="Your order", body="is on its way")


class Firebase:
    """The peer, and a sender that knows its service account."""

    def __init__(self, peer: FcmPeer, sender: FcmSender) -> None:
        self.peer = peer
        self.sender = sender
        self.credentials = FcmCredentials(service_account=peer.service_account, endpoint=peer.url)

    async def send(self, token: str = TOKEN, **fields: Any) -> Outcome:
        fields.setdefault("notification", HELLO)
        fields.setdefault("credentials", self.credentials)
        delivery_id = fields.pop("delivery_id", None) or uuid4()
        return await self.sender.send(FcmMessage(delivery_id=delivery_id, registration_token=token, **fields))


@pytest.fixture
async def firebase() -> AsyncIterator[Firebase]:
    http = HttpClient(Egress(allowed="127.0.0.0/8"))
    async with FcmPeer() as peer:
        sender = FcmSender(http)
        yield Firebase(peer, sender)
        await sender.close()
        await http.close()


async def test_a_push_is_taken_with_everything_that_android_knows(firebase: Firebase) -> None:
    push = PushNotification(
        title="Your order",
        body="is on its way",
        data={"orderId": 7, "name": "Zoë", "lines": [1, 2], "gift": True, "deliveryId": "not theirs"},
        image_url="https://img.example/1.png",
        sound="ping",
        badge=3,
        collapse_id="order-7",
        ttl_seconds=3600,
        priority="NORMAL",
        category="orders",
        url="https://shop.example/orders/7",
    )

    outcome = await firebase.send(delivery_id=UUID("0197b4a2-0000-7000-8000-000000000001"), notification=push)

    assert isinstance(outcome, PushAccepted)
    assert outcome.provider_message_id == "projects/demo-shop/messages/0:1"
    assert outcome.answer.status_code == 200
    assert firebase.peer.accepted == [
        {
            "token": TOKEN,
            "notification": {"title": "Your order", "body": "is on its way", "image": "https://img.example/1.png"},
            "data": {
                "orderId": "7",
                "name": "Zoë",
                "lines": "[1,2]",
                "gift": "true",
                "deliveryId": "dlv_0197b4a2000070008000000000000001",
                "url": "https://shop.example/orders/7",
                "imageUrl": "https://img.example/1.png",
            },
            "android": {
                "priority": "NORMAL",
                "ttl": "3600s",
                "collapse_key": "order-7",
                "notification": {"sound": "ping", "tag": "order-7", "channel_id": "orders", "notification_count": 3},
            },
        }
    ]


async def test_a_push_without_text_is_data_only(firebase: Firebase) -> None:
    await firebase.send(notification=PushNotification(title="", body="", data=["a"], sound="x", ttl_seconds=10**9))

    message = firebase.peer.accepted[0]
    assert "notification" not in message
    assert message["data"]["data"] == '["a"]'
    assert message["android"] == {"priority": "HIGH", "ttl": "2419200s"}


@pytest.mark.parametrize(
    ("answer", "code", "kind", "is_dead", "is_account"),
    [
        (Answer(404, "UNREGISTERED"), "Unregistered", Rejected, True, None),
        (Answer(403, "SENDER_ID_MISMATCH"), "MismatchSenderId", Rejected, False, None),
        (
            Answer(400, "INVALID_ARGUMENT", "The registration token is not a valid FCM registration token"),
            "InvalidRegistration",
            Rejected,
            True,
            None,
        ),
        # about the message, not about the token: the token lives
        (Answer(400, fields=("message.data[0].value",)), "InvalidArgument", Rejected, False, None),
        (Answer(400, "INVALID_ARGUMENT", "Invalid data payload key: gcm.x"), "InvalidArgument", Rejected, False, None),
        (Answer(400, "INVALID_ARGUMENT", "Android message is too big"), "PayloadTooLarge", Rejected, False, None),
        (Answer(429, "QUOTA_EXCEEDED"), "QuotaExceeded", Deferred, None, True),
        (Answer(401, "THIRD_PARTY_AUTH_ERROR"), "ThirdPartyAuthError", Deferred, None, False),
        (Answer(503, "UNAVAILABLE"), "Unavailable", Deferred, None, True),
        (Answer(500, "INTERNAL"), "Internal", Deferred, None, True),
        (Answer(500, "UNSPECIFIED_ERROR"), "Unspecified", Deferred, None, False),
        # no code of FCM's
        (Answer(403, rpc_status="PERMISSION_DENIED"), "PermissionDenied", Deferred, None, True),
        (Answer(404, rpc_status="NOT_FOUND"), "NotFound", Deferred, None, True),
        (Answer(429, rpc_status="RESOURCE_EXHAUSTED"), "QuotaExceeded", Deferred, None, True),
        (Answer(502, body="<html>"), "HTTP502", Deferred, None, True),
        (Answer(503, body="[]"), "Unavailable", Deferred, None, True),
        (Answer(302, body="", headers=(("Location", "/"),)), "HTTP302", Deferred, None, True),
        (Answer(409, "NEW_IN_NEXT_YEAR"), "NEW_IN_NEXT_YEAR", Rejected, False, None),
    ],
)
async def test_each_of_googles_codes_has_its_name_and_says_what_to_do(
    firebase: Firebase, answer: Answer, code: str, kind: type, is_dead: bool | None, is_account: bool | None
) -> None:
    firebase.peer.scripts[TOKEN] = [answer]

    outcome = await firebase.send()

    assert isinstance(outcome, kind)
    assert isinstance(outcome, Rejected | Deferred)
    assert outcome.error.code == code
    assert outcome.error.hint
    assert outcome.error.permanent is isinstance(outcome, Rejected)
    assert outcome.answer.status_code == answer.status
    assert str(answer.status) in outcome.error.message
    if answer.code is not None:
        assert answer.code in outcome.error.message
    for field in answer.fields:
        assert field in outcome.error.message
    assert getattr(outcome, "address_is_dead", None) is is_dead
    assert getattr(outcome, "is_account", None) is is_account
    assert firebase.peer.requests == 1


async def test_retry_after_is_passed_on(firebase: Firebase) -> None:
    firebase.peer.scripts[TOKEN] = [Answer(429, "QUOTA_EXCEEDED", headers=(("Retry-After", "61"),))]

    outcome = await firebase.send()

    assert isinstance(outcome, Deferred)
    assert outcome.retry_after == timedelta(seconds=61)
    assert firebase.peer.requests == 1


async def test_many_sends_share_one_access_token(firebase: Firebase) -> None:
    outcomes = await asyncio.gather(*(firebase.send(f"{TOKEN}{number}") for number in range(200)))

    assert {type(outcome) for outcome in outcomes} == {PushAccepted}
    assert firebase.peer.token_requests == 1


async def test_a_revoked_access_token_is_fetched_anew_once_for_everybody(firebase: Firebase) -> None:
    await firebase.send()
    firebase.peer.revoke_access_tokens()

    outcomes = await asyncio.gather(*(firebase.send(f"{TOKEN}{number}") for number in range(50)))

    assert {type(outcome) for outcome in outcomes} == {PushAccepted}
    assert firebase.peer.token_requests == 2
    assert len(firebase.peer.accepted) == 51


async def test_a_token_that_stays_refused_is_tried_twice_and_is_about_the_account(firebase: Firebase) -> None:
    unauthenticated = Answer(401, rpc_status="UNAUTHENTICATED")
    firebase.peer.scripts[TOKEN] = [unauthenticated] * 5

    outcome = await firebase.send()

    assert isinstance(outcome, Deferred)
    assert outcome.is_account
    assert outcome.error.code == "Unauthenticated"
    assert (firebase.peer.requests, firebase.peer.token_requests) == (2, 2)


async def test_a_token_about_to_expire_is_not_used(firebase: Firebase) -> None:
    firebase.peer.expires_in = 299
    await firebase.send()
    firebase.peer.expires_in = 3600
    await firebase.send()
    await firebase.send()

    assert firebase.peer.token_requests == 2


async def test_token_endpoints_that_hang_delay_nobody_else(firebase: Firebase) -> None:
    """A customer names his own: more of them than the process has threads to lend."""
    async with FcmPeer(project_id="elsewhere") as hanging:
        hanging.token_gate = asyncio.Event()
        account = json.loads(hanging.service_account)
        sends = [
            asyncio.create_task(
                firebase.send(
                    credentials=FcmCredentials(service_account=json.dumps(account | {"client_id": str(each)}))
                )
            )
            for each in range(40)
        ]
        async with asyncio.timeout(10):
            await hanging.token_arrivals(40)
            assert await asyncio.to_thread(lambda: "a thread") == "a thread"
            assert isinstance(await firebase.send(), Accepted | PushAccepted)
        assert not any(send.done() for send in sends)
        hanging.token_gate.set()
        await asyncio.gather(*sends)
    assert len(firebase.peer.accepted) == 1


async def test_a_cancelled_send_does_not_take_the_token_from_the_others(firebase: Firebase) -> None:
    firebase.peer.token_gate = asyncio.Event()
    sends = [asyncio.create_task(firebase.send(f"{TOKEN}{number}")) for number in range(10)]
    async with asyncio.timeout(5):
        while not firebase.peer.token_requests:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    sends[0].cancel()
    await asyncio.wait(sends[:1])
    firebase.peer.token_gate.set()

    outcomes = await asyncio.gather(*sends[1:])

    assert {type(outcome) for outcome in outcomes} == {PushAccepted}
    assert firebase.peer.token_requests == 1
    assert len(firebase.peer.accepted) == 9


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (web.json_response({"error": "invalid_grant"}, status=400), "InvalidCredentials"),
        (web.json_response({"error": "internal_failure"}, status=503), "Unavailable"),
        (web.json_response({}), "InvalidCredentials"),
        (web.json_response(["access_token"]), "InvalidCredentials"),
        (web.json_response({"access_token": "a\r\nb"}), "InvalidCredentials"),
        (web.json_response({"access_token": "a", "expires_in": "soon"}), "InvalidCredentials"),
        (web.Response(text="<html>", status=200), "InvalidCredentials"),
        (web.Response(status=302, headers={"Location": "/token"}), "InvalidCredentials"),
    ],
)
async def test_without_an_access_token_nothing_is_sent(firebase: Firebase, answer: web.Response, code: str) -> None:
    firebase.peer.token_answers = [answer]

    outcome = await firebase.send()

    assert isinstance(outcome, Deferred)
    assert outcome.is_account
    assert outcome.error.code == code
    assert outcome.error.hint
    assert (firebase.peer.requests, firebase.peer.token_requests) == (0, 1)
    assert isinstance(await firebase.send(), Accepted)


def changed(service_account: str, **changes: str | None) -> str:
    info = json.loads(service_account) | changes
    return json.dumps({key: value for key, value in info.items() if value is not None})


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"private_key": "no key"}, "InvalidCredentials"),
        ({"private_key": None}, "InvalidCredentials"),
        ({"token_uri": None}, "InvalidCredentials"),
        ({"project_id": "../x"}, "InvalidCredentials"),
        ({"client_email": "somebody@else.example"}, "InvalidCredentials"),
        ({"project_id": "another"}, "PermissionDenied"),
        # the guard stands before the token endpoint too
        ({"token_uri": "http://169.254.169.254/token"}, "Unreachable"),
        ({"token_uri": "file:///etc/passwd"}, "Unreachable"),
        ({"token_uri": "http://127.0.0.1:1/token"}, "Unreachable"),
    ],
)
async def test_wrong_service_accounts_are_about_the_account(
    firebase: Firebase, changes: dict[str, str | None], code: str
) -> None:
    service_account = changed(firebase.peer.service_account, **changes)

    outcome = await firebase.send(
        credentials=FcmCredentials(service_account=service_account, endpoint=firebase.peer.url)
    )

    assert isinstance(outcome, Deferred)
    assert outcome.is_account
    assert outcome.error.code == code
    assert "private" not in outcome.error.message.lower()
    assert firebase.peer.accepted == []


async def test_no_json_is_no_service_account(firebase: Firebase) -> None:
    outcome = await firebase.send(credentials=FcmCredentials(service_account="nonsense", endpoint=firebase.peer.url))

    assert isinstance(outcome, Deferred)
    assert outcome.error.code == "InvalidCredentials"


@pytest.mark.parametrize("endpoint", ["http://10.0.0.1", "http://127.0.0.1:1", "nonsense"])
async def test_an_endpoint_that_is_not_reached_got_nothing(firebase: Firebase, endpoint: str) -> None:
    outcome = await firebase.send(credentials=msgspec.structs.replace(firebase.credentials, endpoint=endpoint))

    assert isinstance(outcome, Deferred)
    assert outcome.is_account
    assert firebase.peer.requests == 0


async def test_a_connection_that_ends_is_unknown(firebase: Firebase) -> None:
    firebase.peer.scripts[TOKEN] = [HangUp()]

    outcome = await firebase.send()

    assert isinstance(outcome, Unknown)
    assert firebase.peer.requests == 1
    assert isinstance(await firebase.send(), Accepted)


async def test_no_answer_in_time_is_unknown(firebase: Firebase, monkeypatch: pytest.MonkeyPatch) -> None:
    await firebase.send()
    monkeypatch.setattr(fcm, "SEND_SECONDS", 0.5)
    firebase.peer.scripts[TOKEN] = [Stall()]

    assert isinstance(await firebase.send(), Unknown)


async def test_no_token_in_time_is_not_unknown(firebase: Firebase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcm, "SEND_SECONDS", 0.2)
    firebase.peer.token_gate = asyncio.Event()

    outcome = await firebase.send()
    firebase.peer.token_gate.set()

    assert isinstance(outcome, Deferred)
    assert firebase.peer.requests == 0


async def test_a_refused_send_that_could_not_be_repeated_in_time_was_not_sent(
    firebase: Firebase, monkeypatch: pytest.MonkeyPatch
) -> None:
    await firebase.send()
    firebase.peer.revoke_access_tokens()
    monkeypatch.setattr(fcm, "SEND_SECONDS", 0.5)
    firebase.peer.token_gate = asyncio.Event()

    outcome = await firebase.send()
    firebase.peer.token_gate.set()

    assert isinstance(outcome, Deferred)
    assert len(firebase.peer.accepted) == 1


@pytest.mark.parametrize(("size", "is_taken"), [(4096, True), (4097, False)])
async def test_a_payload_has_at_most_4096_bytes(firebase: Firebase, size: int, is_taken: bool) -> None:
    def message(body: str) -> FcmMessage:
        return FcmMessage(
            delivery_id=UUID(int=1),
            registration_token=TOKEN,
            credentials=firebase.credentials,
            notification=PushNotification(title="é", body=body, data={"ключ": "значение"}),
        )

    text = "x" * (size - fcm.payload_size(message("x")) + 1)

    outcome = await firebase.sender.send(message(text))

    assert isinstance(outcome, Accepted) is is_taken
    assert firebase.peer.requests == int(is_taken)
    if isinstance(outcome, Rejected):
        assert outcome.error.code == "PayloadTooLarge"
        assert not outcome.address_is_dead


async def test_an_answer_without_a_name_is_an_acceptance(firebase: Firebase) -> None:
    firebase.peer.scripts[TOKEN] = [Answer(200, body="OK")]

    outcome = await firebase.send()

    assert isinstance(outcome, Accepted)
    assert outcome.provider_message_id is None


async def test_an_expo_token_is_refused_with_both_ways_out(firebase: Firebase) -> None:
    outcome = await firebase.send("ExponentPushToken[xxxxxxxxxxxxxxxxxxxxxx]")

    assert isinstance(outcome, Rejected)
    assert outcome.error.code == "ExpoPushToken"
    assert not outcome.address_is_dead
    assert firebase.peer.requests == 0


async def test_accounts_that_are_not_used_are_forgotten(firebase: Firebase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcm, "MAX_ACCOUNTS", 2)
    for number in range(3):
        service_account = changed(firebase.peer.service_account, client_id=str(number))
        await firebase.send(credentials=FcmCredentials(service_account=service_account, endpoint=firebase.peer.url))

    assert len(firebase.sender._accounts) == 2
    assert firebase.peer.token_requests == 3


async def test_closing_ends_the_fetching_of_a_token(firebase: Firebase) -> None:
    firebase.peer.token_gate = asyncio.Event()
    sending = asyncio.create_task(firebase.send())
    async with asyncio.timeout(5):
        while not firebase.peer.token_requests:  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    sending.cancel()
    await firebase.sender.close()
    firebase.peer.token_gate.set()

    assert not [task for task in asyncio.all_tasks() if task.get_name() == "fcm access token"]
