"""A text message the whole way: the mutation, the dispatcher, Twilio on loopback, and its callbacks over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from engine.channels.http import HttpClient
from engine.dispatch.dispatcher import Dispatcher
from engine.dispatch.values import Channel
from engine.sms.work import SmsWork
from tests.integration.graphql_support import Gateway, Tenant, open_gateway
from tests.integration.inbound_support import PUBLIC_URL, InboundServer
from tests.integration.sms_support import ADA, BOB, LOOPBACK, open_account, send
from tests.peers.twilio import Plain, Refusal, TakeAndHangUp, TwilioPeer

SHOWN = """query ($batch: ID) { deliveries(filter: {batchId: $batch}) {
  edges { node { status error { code permanent } attempts { number statusCode responseBody error { code } } } }
} }"""


@pytest.fixture
async def peer() -> AsyncIterator[TwilioPeer]:
    async with TwilioPeer.running() as running:
        yield running


@pytest.fixture
async def gateway(module_database_url: str) -> AsyncIterator[Gateway]:
    async with open_gateway(module_database_url, egress=LOOPBACK) as opened:
        yield opened


@pytest.fixture
async def tenant(gateway: Gateway, peer: TwilioPeer) -> Tenant:
    return await open_account(gateway, peer)


@pytest.fixture
async def dispatcher(gateway: Gateway) -> AsyncIterator[Dispatcher]:
    services, http = gateway.services, HttpClient(gateway.services.egress)
    work = SmsWork(services.vault, http, public_url=services.public_url)
    running = Dispatcher(services.database, {Channel.SMS: work}, services.clock, services.announce)
    yield running
    await running.stop(timedelta(seconds=5))
    await http.close()


async def dispatch(dispatcher: Dispatcher, tenant: Tenant) -> None:
    await dispatcher.drain(tenant.project_id)
    await dispatcher.settled()


async def shown(tenant: Tenant, sent: Any) -> Any:
    [edge] = (await tenant.data(SHOWN, batch=sent["batchId"]))["deliveries"]["edges"]
    return edge["node"]


async def test_a_message_is_sent_and_then_reported_as_delivered(
    tenant: Tenant, dispatcher: Dispatcher, peer: TwilioPeer, server: InboundServer
) -> None:
    sent = await send(tenant, to=[ADA], body="Your code is 1234.")
    await dispatch(dispatcher, tenant)

    at_twilio = await shown(tenant, sent)
    assert (at_twilio["status"], at_twilio["error"]) == ("SENT", None)
    [message] = peer.messages
    assert (message.form["To"], message.form["Body"]) == (ADA, "Your code is 1234.")
    assert await peer.report(message, "delivered", reach=(PUBLIC_URL, server.url)) == 200
    arrived = await shown(tenant, sent)

    assert arrived["status"] == "DELIVERED"
    [attempt] = arrived["attempts"]
    assert (attempt["number"], attempt["statusCode"]) == (1, 201)
    # What Twilio repeats of number and text is not kept with the answer.
    assert ADA not in attempt["responseBody"]
    assert "1234" not in attempt["responseBody"]
    events = await tenant.data(
        '{ events(filter: {eventTypes: ["sms.*"]}, order: OLDEST_FIRST) { edges { node { eventType } } } }'
    )
    assert [edge["node"]["eventType"] for edge in events["events"]["edges"]] == ["sms.sent", "sms.delivered"]


async def test_a_message_whose_answer_is_lost_is_uncertain_never_repeated_and_found_by_its_callback(
    tenant: Tenant, dispatcher: Dispatcher, peer: TwilioPeer, server: InboundServer
) -> None:
    peer.scripts[ADA] = [TakeAndHangUp()]
    sent = await send(tenant, to=[ADA])
    await dispatch(dispatcher, tenant)
    await dispatch(dispatcher, tenant)

    lost = await shown(tenant, sent)
    assert (lost["status"], peer.attempts[ADA]) == ("UNCERTAIN", 1)
    assert await peer.report(peer.messages[0], "delivered", reach=(PUBLIC_URL, server.url)) == 200
    assert (await shown(tenant, sent))["status"] == "DELIVERED"


@pytest.mark.parametrize(
    ("action", "status", "code"),
    [
        (Refusal(21610), "FAILED", "21610"),
        (Refusal(20429, 429), "RETRYING", "20429"),
        (Refusal(20003, 401), "RETRYING", "20003"),
        (Plain(503), "RETRYING", "TWILIO"),
        (Plain(502), "UNCERTAIN", "HTTP_502"),
    ],
)
async def test_what_twilio_answers_decides_what_happens_next(
    tenant: Tenant, dispatcher: Dispatcher, peer: TwilioPeer, action: Any, status: str, code: str
) -> None:
    peer.scripts[BOB] = [action]
    sent = await send(tenant, to=[BOB])
    await dispatch(dispatcher, tenant)

    delivery = await shown(tenant, sent)
    assert (delivery["status"], delivery["error"]["code"]) == (status, code)
    assert len(peer.messages) == 0
