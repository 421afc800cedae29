"""Twilio's channel against a Twilio on loopback, through the real session."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import msgspec
import pytest

import engine.channels.http as http_module
from engine.channels.base import Accepted, Deferred, Rejected, Unknown
from engine.channels.http import HttpClient
from engine.channels.twilio import TwilioMessage, send_sms
from engine.egress import Egress
from tests.peers.twilio import Action, Plain, Refusal, TakeAndHangUp, TakeAndStall, TwilioPeer

TO = "+14155550132"
CALLBACK = "https://gateway.test/callbacks/prv_1?delivery=dlv_1"
BODY = "Grüße & 100 % von uns +1=2"


@pytest.fixture
async def peer() -> AsyncIterator[TwilioPeer]:
    async with TwilioPeer.running() as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    client = HttpClient(Egress(allowed="127.0.0.0/8"))
    yield client
    await client.close()


def message(peer: TwilioPeer, **changes: Any) -> TwilioMessage:
    given = TwilioMessage(
        provider_id=uuid4(),
        base_url=peer.url,
        account_sid=peer.account_sid,
        auth_token=peer.auth_token,
        to=TO,
        body=BODY,
        callback_url=CALLBACK,
        sender="+14155550100",
    )
    return msgspec.structs.replace(given, **changes)


async def test_a_message_arrives_as_it_was_written(peer: TwilioPeer, http: HttpClient) -> None:
    outcome = await send_sms(http, message(peer))

    [taken] = peer.messages
    assert taken.form == {"To": TO, "From": "+14155550100", "Body": BODY, "StatusCallback": CALLBACK}
    assert isinstance(outcome, Accepted)
    assert (outcome.provider_message_id, outcome.is_final) == (taken.sid, False)
    assert outcome.answer.status_code == 201
    shown = outcome.answer.response_body
    assert shown is not None
    assert msgspec.json.decode(shown) == {"sid": taken.sid, "status": "queued", "num_segments": "1"}


async def test_a_messaging_service_takes_the_place_of_a_sender(peer: TwilioPeer, http: HttpClient) -> None:
    service = "MG" + "0" * 32
    await send_sms(http, message(peer, sender=None, service_sid=service))

    [taken] = peer.messages
    assert (taken.form.get("From"), taken.form["MessagingServiceSid"]) == (None, service)


REFUSALS = [
    # code, HTTP status, what becomes of the message, whether the number is dead, whether the account is meant
    (21211, 400, Rejected, True),
    (21214, 400, Rejected, True),
    (21610, 400, Rejected, True),
    (21614, 400, Rejected, True),
    (21408, 403, Rejected, False),
    (21617, 400, Rejected, False),
    # one that we know nothing of
    (21999, 400, Rejected, False),
    (20003, 401, Deferred, None),
    (20404, 404, Deferred, None),
    (21606, 400, Deferred, None),
    (20429, 429, Deferred, None),
    (21611, 429, Deferred, None),
    (20500, 500, Deferred, None),
    (20503, 503, Deferred, None),
]


@pytest.mark.parametrize(("code", "status", "kind", "is_dead"), REFUSALS)
async def test_an_error_of_twilio_becomes_an_outcome_that_quotes_no_number(
    peer: TwilioPeer, http: HttpClient, code: int, status: int, kind: type, is_dead: bool | None
) -> None:
    peer.scripts[TO] = [Refusal(code, status)]

    outcome = await send_sms(http, message(peer))

    assert type(outcome) is kind
    assert isinstance(outcome, Rejected | Deferred)
    assert outcome.error.code == str(code)
    assert outcome.error.hint
    assert outcome.error.permanent == (kind is Rejected)
    assert (outcome.address_is_dead if isinstance(outcome, Rejected) else None) == is_dead
    assert not isinstance(outcome, Deferred) or outcome.is_account
    assert TO not in repr(outcome)
    assert peer.messages == []


async def test_what_twilio_asks_to_wait_is_passed_on(peer: TwilioPeer, http: HttpClient) -> None:
    peer.scripts[TO] = [Refusal(20429, 429, (("Retry-After", "17"),)), Refusal(20429, 429, (("Retry-After", "soon"),))]

    first, second = await send_sms(http, message(peer)), await send_sms(http, message(peer))

    assert isinstance(first, Deferred)
    assert isinstance(second, Deferred)
    assert (first.retry_after, second.retry_after) == (timedelta(seconds=17), None)


async def test_a_wrong_token_is_about_the_account(peer: TwilioPeer, http: HttpClient) -> None:
    outcome = await send_sms(http, message(peer, auth_token="wrong"))

    assert isinstance(outcome, Deferred)
    assert (outcome.error.code, outcome.is_account) == ("20003", True)


@pytest.mark.parametrize("action", [TakeAndHangUp(), TakeAndStall(), Plain(502), Plain(504), Plain(500)])
async def test_without_an_answer_of_twilio_nobody_knows(
    peer: TwilioPeer, http: HttpClient, action: Action, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_module, "SEND_TIMEOUT", timedelta(seconds=0.3))
    peer.scripts[TO] = [action]

    outcome = await send_sms(http, message(peer))

    assert isinstance(outcome, Unknown)
    assert peer.attempts[TO] == 1


async def test_a_proxy_that_is_overloaded_has_not_passed_it_on(peer: TwilioPeer, http: HttpClient) -> None:
    peer.scripts[TO] = [Plain(503)]

    assert isinstance(await send_sms(http, message(peer)), Deferred)


async def test_nobody_listening_and_a_blocked_address_are_told_apart(peer: TwilioPeer, http: HttpClient) -> None:
    nobody = await send_sms(http, message(peer, base_url="http://127.0.0.1:1"))
    inside = await send_sms(http, message(peer, base_url="https://10.0.0.1"))

    assert isinstance(nobody, Deferred)
    assert (nobody.error.code, nobody.is_account) == ("CONNECTION_REFUSED", True)
    assert isinstance(inside, Rejected)
    assert (inside.error.code, inside.error.permanent) == ("BLOCKED_URL", True)


async def test_a_message_shows_neither_its_token_nor_its_text(peer: TwilioPeer) -> None:
    shown = repr(message(peer))
    assert peer.auth_token not in shown
    assert TO not in shown
    assert BODY not in shown
    assert message(peer).repeatable is False
