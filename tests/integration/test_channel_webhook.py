"""One attempt at a time against a receiver that verifies, answers, stalls, hangs up and streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

import engine.channels.http as http
from engine.channels.base import Accepted, Deferred, Outcome, Rejected
from engine.channels.http import HttpClient
from engine.channels.webhook import WebhookMessage, WebhookSender, request_refusal
from engine.egress import Egress
from engine.webhooks.signing import SignatureScheme, make_secret
from tests.peers.receiver import HangUp, NotHttp, Raw, Reply, Stall, StreamForever, WebhookReceiver

SECRET, NEWER = make_secret(), make_secret()
BODY = '{"id":"evt_1","type":"order.placed","data":{"näme":"Zoë"}}'.encode()


@pytest.fixture
async def receiver() -> AsyncIterator[WebhookReceiver]:
    async with WebhookReceiver.running() as running:
        running.secrets["/hook"] = SECRET
        yield running


@pytest.fixture
async def sender() -> AsyncIterator[WebhookSender]:
    client = HttpClient(Egress(allowed="127.0.0.0/8"))
    yield WebhookSender(client)
    await client.close()


def message(receiver: WebhookReceiver, **values: Any) -> WebhookMessage:
    known: dict[str, Any] = {"url": f"{receiver.url}/hook", "body": BODY, "event_id": "evt_1", "active": (SECRET,)}
    return WebhookMessage(**{**known, **values})


async def send(sender: WebhookSender, receiver: WebhookReceiver, *actions: Any, **values: Any) -> Outcome:
    receiver.scripts["/hook"] = list(actions)
    return await sender.send(message(receiver, **values))


async def test_what_is_stored_arrives_byte_for_byte_and_every_verifier_accepts_it(
    sender: WebhookSender, receiver: WebhookReceiver
) -> None:
    outcome = await send(sender, receiver, Reply(202, b"thanks"))
    (request,) = receiver.requests
    assert (request.method, request.path, request.body, request.verified) == ("POST", "/hook", BODY, True)
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"] == "Sendora-Webhooks/1.0"
    assert request.headers["x-sendora-event-id"] == request.event_id == "evt_1"
    assert isinstance(outcome, Accepted)
    assert outcome.is_final
    assert (outcome.answer.status_code, outcome.answer.response_body) == (202, "thanks")
    assert outcome.answer.signature_header == request.headers["x-sendora-signature"]
    assert message(receiver).repeatable


async def test_during_a_rotation_both_secrets_verify(sender: WebhookSender, receiver: WebhookReceiver) -> None:
    for scheme in SignatureScheme:
        await send(sender, receiver, active=(SECRET, NEWER), scheme=scheme)
    assert [request.verified for request in receiver.requests] == [True] * 3
    assert len(receiver.requests[0].headers["webhook-signature"].split(" ")) == 2


async def test_each_attempt_is_signed_for_its_own_moment(receiver: WebhookReceiver) -> None:
    client, times = HttpClient(Egress(allowed="127.0.0.0/8")), iter((1_000_000_000.9, 1_000_000_002.0))
    sender = WebhookSender(client, now=lambda: next(times))
    await sender.send(message(receiver))
    await sender.send(message(receiver))
    await client.close()
    first, second = receiver.requests
    assert (first.headers["x-sendora-timestamp"], second.headers["x-sendora-timestamp"]) == ("1000000000", "1000000002")
    assert first.headers["webhook-signature"] != second.headers["webhook-signature"]
    assert first.event_id == second.event_id


@pytest.mark.parametrize("status", [200, 201, 204, 299])
async def test_2xx_is_delivered(sender: WebhookSender, receiver: WebhookReceiver, status: int) -> None:
    outcome = await send(sender, receiver, Reply(status, b""))
    assert isinstance(outcome, Accepted)
    assert outcome.is_final


@pytest.mark.parametrize("in_two_packets", [False, True])
@pytest.mark.parametrize(
    ("head", "rest", "body"),
    [
        (b"204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", b"0\r\n\r\n", ""),
        (b"204 No Content\r\nContent-Length: 2\r\n\r\n", b"ok", ""),
        (b"204 No Content\r\n\r\n", b"ok", ""),
        # lines that end as they should not
        (b"204 No Content\nContent-Length: 2\n\n", b"ok", ""),
        # an answer that nobody asked for
        (b"204 No Content\r\n\r\n", b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", ""),
        (b"200 OK\r\nContent-Length: 0\r\n\r\n", b"\r\nok", ""),
        (b"200 OK\r\nContent-Length: 2\r\n\r\n", b"ok, and more", "ok"),
        (b"200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"nonsense\r\n", ""),
        (b"100 Continue\r\n\r\n", b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok", ""),
    ],
)
async def test_2xx_is_delivered_whatever_follows_and_its_connection_is_not_used_again(
    sender: WebhookSender, receiver: WebhookReceiver, head: bytes, rest: bytes, body: str, in_two_packets: bool
) -> None:
    head = b"HTTP/1.1 " + head
    outcome = await send(sender, receiver, Raw(head, rest) if in_two_packets else Raw(head + rest))
    assert isinstance(outcome, Accepted)
    assert outcome.answer.response_body == body
    # The surplus may come after the answer was read.
    await asyncio.sleep(0.1 if in_two_packets else 0)
    again = await send(sender, receiver, Reply(200, b"thanks"))
    assert isinstance(again, Accepted)
    assert (again.answer.response_body, receiver.connections) == ("thanks", 2)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        # a head whose end comes in two packets
        (b"HTTP/1.1 204 No Content\r\nx: 1\r\n", b"\r\n"),
        (b"HTTP/1.1 204 No Content\r\nx: 1\r\n\r", b"\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n", b"o\r\n0\r\n\r\n"),
    ],
)
async def test_a_connection_whose_answer_has_ended_is_used_again(
    sender: WebhookSender, receiver: WebhookReceiver, first: bytes, second: bytes
) -> None:
    assert isinstance(await send(sender, receiver, Raw(first, second)), Accepted)
    assert isinstance(await send(sender, receiver), Accepted)
    assert receiver.connections == 1


@pytest.mark.parametrize(
    ("status", "of_the_host"),
    [(408, False), (425, False), (429, False), (500, False), (501, False), (502, True), (503, True), (504, True)],
)
async def test_what_may_pass_is_tried_again(
    sender: WebhookSender, receiver: WebhookReceiver, status: int, of_the_host: bool
) -> None:
    outcome = await send(sender, receiver, Reply(status, b"later"))
    assert isinstance(outcome, Deferred)
    assert (outcome.error.code, outcome.error.permanent) == (f"HTTP_{status}", False)
    assert (outcome.retry_after, outcome.is_account) == (None, of_the_host)
    assert (outcome.answer.status_code, outcome.answer.response_body) == (status, "later")


async def test_a_throttling_receiver_says_for_how_long(sender: WebhookSender, receiver: WebhookReceiver) -> None:
    outcome = await send(sender, receiver, Reply(429, b"", (("Retry-After", "120"),)))
    assert isinstance(outcome, Deferred)
    assert outcome.retry_after == timedelta(seconds=120)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 413, 422, 451])
async def test_other_4xx_fail_at_once(sender: WebhookSender, receiver: WebhookReceiver, status: int) -> None:
    outcome = await send(sender, receiver, Reply(status, b"no"))
    assert isinstance(outcome, Rejected)
    assert (outcome.error.code, outcome.error.permanent) == (f"HTTP_{status}", True)
    assert not outcome.address_is_dead


async def test_410_is_the_end_of_the_endpoint(sender: WebhookSender, receiver: WebhookReceiver) -> None:
    outcome = await send(sender, receiver, Reply(410))
    assert isinstance(outcome, Rejected)
    assert outcome.address_is_dead


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
async def test_a_redirect_is_never_followed(sender: WebhookSender, receiver: WebhookReceiver, status: int) -> None:
    outcome = await send(sender, receiver, Reply(status, b"", (("Location", f"{receiver.url}/elsewhere"),)))
    assert isinstance(outcome, Rejected)
    assert (outcome.error.code, outcome.error.permanent) == ("REDIRECT", True)
    assert [request.path for request in receiver.requests] == ["/hook"]


@pytest.mark.parametrize(
    ("action", "code"),
    [
        (HangUp("read"), "DISCONNECTED"),
        (HangUp("reading"), "DISCONNECTED"),
        (HangUp("head"), "DISCONNECTED"),
        (NotHttp(), "INVALID_RESPONSE"),
    ],
)
async def test_a_receiver_that_breaks_off_is_tried_again(
    sender: WebhookSender, receiver: WebhookReceiver, action: Any, code: str
) -> None:
    outcome = await send(sender, receiver, action)
    assert isinstance(outcome, Deferred)
    assert (outcome.error.code, outcome.error.permanent, outcome.is_account) == (code, False, True)
    assert outcome.answer.status_code is None
    assert outcome.answer.signature_header is not None
    assert isinstance(await send(sender, receiver), Accepted)


@pytest.mark.parametrize("where", ["answer", "head"])
async def test_a_receiver_that_stalls_is_given_up_and_tried_again(
    receiver: WebhookReceiver, where: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "SEND_TIMEOUT", timedelta(seconds=0.1))
    client = HttpClient(Egress(allowed="127.0.0.0/8"))
    outcome = await send(WebhookSender(client), receiver, Stall(where))
    assert isinstance(outcome, Deferred)
    assert (outcome.error.code, outcome.is_account) == ("TIMEOUT", True)
    await client.close()


async def test_a_receiver_that_streams_for_ever_has_accepted(sender: WebhookSender, receiver: WebhookReceiver) -> None:
    outcome = await send(sender, receiver, StreamForever())
    assert isinstance(outcome, Accepted)
    assert outcome.answer.response_body == "x" * 4096


async def test_nobody_there_is_tried_again_without_a_signature_in_the_log(sender: WebhookSender) -> None:
    async with WebhookReceiver.running() as gone:
        pass
    outcome = await sender.send(message(gone))
    assert isinstance(outcome, Deferred)
    assert (outcome.error.code, outcome.is_account) == ("CONNECTION_REFUSED", True)
    assert outcome.answer.signature_header is None


async def test_what_the_guard_refuses_fails_for_good_and_is_not_sent(receiver: WebhookReceiver) -> None:
    client = HttpClient(Egress())
    for plain_http in (False, True):
        outcome = await WebhookSender(client).send(message(receiver, plain_http=plain_http))
        assert isinstance(outcome, Rejected)
        assert (outcome.error.code, outcome.error.permanent) == ("BLOCKED_URL", True)
        assert not outcome.address_is_dead
    await client.close()
    assert receiver.connections == 0


async def test_no_outcome_names_the_address_or_the_secret(sender: WebhookSender, receiver: WebhookReceiver) -> None:
    actions = [Reply(500), Reply(404), Reply(301), HangUp(), NotHttp()]
    for action in actions:
        outcome = await send(sender, receiver, action)
        assert not isinstance(outcome, Accepted)
        text = repr(outcome.error)
        assert "127.0.0.1" not in text
        assert str(receiver.port) not in text
        assert SECRET not in repr(outcome)


async def test_headers_of_the_customers_own_never_say_who_signed_it(
    sender: WebhookSender, receiver: WebhookReceiver
) -> None:
    own = {
        "Content-Type": "text/plain",
        "Authorization": "Bearer x",
        "WEBHOOK-ID": "forged",
        "x-sendora-signature": "f",
    }
    await send(sender, receiver, method="PUT", headers=own)
    (request,) = receiver.requests
    assert (request.method, request.verified) == ("PUT", True)
    assert request.headers["content-type"] == "text/plain"
    assert request.headers["authorization"] == "Bearer x"
    assert request.event_id == "evt_1"


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("TRACE", {}),
        ("post", {}),
        ("POST", {"Host": "127.0.0.1"}),
        ("POST", {"content-LENGTH": "0"}),
        ("POST", {"Transfer-Encoding": "chunked"}),
        ("POST", {"x": "a\r\nHost: b"}),
        ("POST", {"x": "\0"}),
        ("POST", {"x": "ü✓"}),
        ("POST", {"x y": "1"}),
        ("POST", {"": "1"}),
        ("POST", {"x": "a" * 4097}),
        ("POST", {f"x-{number}": "1" for number in range(51)}),
    ],
)
def test_what_cannot_be_sent_is_refused_before(method: str, headers: dict[str, str]) -> None:
    assert request_refusal(method, headers) is not None


def test_what_can_be_sent_is_not_refused() -> None:
    assert request_refusal("PATCH", {"X-Api-Key": "a b\tc", "accept": "*/*", "x-latin": "ü"}) is None
