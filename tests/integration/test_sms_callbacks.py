"""Twilio's status callbacks: believed when Twilio signed them, and then deliveries move on, once and forwards only."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import msgspec
import pytest

import engine.sms.callbacks as callbacks
from db.deliveries import read_deliveries
from db.delivery_records import DeliveryRecord
from engine.dispatch.reports import Report, Reported, judge_report
from engine.dispatch.values import Channel, DeliveryStatus
from engine.node_ids import parse_node_id
from engine.sms.callbacks import STATUSES, read_sms_callback
from tests.integration.graphql_support import Gateway, Tenant, open_gateway
from tests.integration.inbound_support import PUBLIC_URL, InboundServer
from tests.integration.sms_support import ADA, CONFIGURE, LOOPBACK, open_account, send
from tests.peers.twilio import TakenMessage, TwilioPeer

S = DeliveryStatus
UNANSWERED = UUID(int=7)


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


async def taken(
    tenant: Tenant, status: DeliveryStatus, *, sid: str | None = "SM" + "0" * 32
) -> tuple[UUID, TakenMessage]:
    """A delivery that Twilio has, as dispatch leaves it, and the message as Twilio knows it."""
    sent = await send(tenant, to=[ADA])
    node_id = sent["deliveries"][0]["id"]
    parsed = parse_node_id(node_id)
    assert parsed is not None
    [provider] = (await tenant.data("{ providers { callbackUrl } }"))["providers"]
    async with tenant.gateway.services.database.connection() as connection:
        await connection.execute(
            """UPDATE deliveries SET status = $3, attempt_count = 1, provider_message_id = $4, next_attempt_at = NULL,
                 lease_token = CASE WHEN $3 = 'SENDING' THEN gen_random_uuid() END,
                 lease_until = CASE WHEN $3 = 'SENDING' THEN now() + interval '1 minute' END
               WHERE project_id = $1 AND delivery_id = $2""",
            tenant.project_id,
            parsed.uuid,
            status,
            sid,
        )
    form = {"To": ADA, "From": "+14155550100", "StatusCallback": f"{provider['callbackUrl']}?delivery={node_id}"}
    return parsed.uuid, TakenMessage("SM" + "0" * 32, form)


async def stored(tenant: Tenant, delivery_id: UUID) -> DeliveryRecord:
    async with tenant.gateway.services.database.connection() as connection:
        [found] = await read_deliveries(connection, project_id=tenant.project_id, delivery_ids=[delivery_id])
    return found


async def events(tenant: Tenant) -> list[Any]:
    document = """{ events(filter: {eventTypes: ["sms.delivered", "sms.failed"]}, order: OLDEST_FIRST) {
      edges { node { eventType properties } }
    } }"""
    return [edge["node"] for edge in (await tenant.data(document))["events"]["edges"]]


async def report(
    peer: TwilioPeer, server: InboundServer, message: TakenMessage, status: str, code: int | None = None
) -> int:
    """Twilio signs the public URL, and reaches it through whatever stands before the gateway."""
    return await peer.report(message, status, code, reach=(PUBLIC_URL, server.url))


async def test_what_twilio_delivered_is_delivered_once(tenant: Tenant, server: InboundServer, peer: TwilioPeer) -> None:
    delivery_id, message = await taken(tenant, S.SENT)

    answers = [
        await report(peer, server, message, each) for each in ("sent", "delivered", "delivered", "sent", "failed")
    ]

    assert answers == [200] * 5
    delivery = await stored(tenant, delivery_id)
    assert (delivery.status, delivery.error_code) == ("DELIVERED", None)
    assert delivery.delivered_at is not None
    [event] = await events(tenant)
    assert event["eventType"] == "sms.delivered"
    lanes = [each.lane.name for each in tenant.gateway.announced[-2:]]
    assert lanes == ["EVENTS", "DELIVERIES"]


@pytest.mark.parametrize("status", ["undelivered", "failed"])
async def test_what_failed_after_all_says_why_in_our_words(
    tenant: Tenant, server: InboundServer, peer: TwilioPeer, status: str
) -> None:
    delivery_id, message = await taken(tenant, S.SENT)

    assert await report(peer, server, message, status, 30007) == 200

    delivery = await stored(tenant, delivery_id)
    assert (delivery.status, delivery.error_code, delivery.error_permanent) == ("FAILED", "30007", True)
    assert delivery.error_hint
    [event] = await events(tenant)
    assert (event["eventType"], event["properties"]["errorCode"]) == ("sms.failed", "30007")
    # The number itself is not to blame.
    assert (await send(tenant, to=[ADA]))["queued"] == 1


async def test_a_number_that_is_gone_is_not_tried_again(
    tenant: Tenant, server: InboundServer, peer: TwilioPeer
) -> None:
    _, message = await taken(tenant, S.SENT)

    await report(peer, server, message, "undelivered", 30006)

    assert (await send(tenant, to=[ADA]))["deliveries"][0]["suppressedReason"] == "BOUNCED"


@pytest.mark.parametrize(("said", "becomes"), [("queued", S.SENT), ("delivered", S.DELIVERED), ("failed", S.FAILED)])
async def test_a_callback_tells_what_became_of_a_message_whose_answer_was_lost(
    tenant: Tenant, server: InboundServer, peer: TwilioPeer, said: str, becomes: DeliveryStatus
) -> None:
    delivery_id, message = await taken(tenant, S.UNCERTAIN, sid=None)

    assert await report(peer, server, message, said) == 200

    delivery = await stored(tenant, delivery_id)
    assert (delivery.status, delivery.provider_message_id) == (becomes, message.sid)


async def test_a_callback_that_overtakes_the_answer_waits_for_it(
    tenant: Tenant, server: InboundServer, peer: TwilioPeer
) -> None:
    delivery_id, message = await taken(tenant, S.SENDING, sid=None)
    reporting = asyncio.create_task(report(peer, server, message, "delivered"))
    await asyncio.sleep(0.05)
    assert not reporting.done()
    async with tenant.gateway.services.database.connection() as connection:
        await connection.execute(
            "UPDATE deliveries SET status = 'SENT', lease_token = NULL, lease_until = NULL WHERE delivery_id = $1",
            delivery_id,
        )

    assert await reporting == 200
    assert (await stored(tenant, delivery_id)).status == "DELIVERED"


async def test_twilio_is_asked_to_come_again_when_the_worker_takes_too_long(
    tenant: Tenant, server: InboundServer, peer: TwilioPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks.apply_sms_callback, "__kwdefaults__", {"wait_seconds": 0.0})
    delivery_id, message = await taken(tenant, S.SENDING, sid=None)

    assert await report(peer, server, message, "delivered") == 503
    assert (await stored(tenant, delivery_id)).status == "SENDING"


async def test_nobody_else_moves_a_delivery(
    tenant: Tenant, server: InboundServer, peer: TwilioPeer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    delivery_id, message = await taken(tenant, S.SENT)
    url, form = message.form["StatusCallback"], peer.callback(message, "delivered")
    other_delivery = url.replace(delivery_id.hex, UNANSWERED.hex)
    signature = peer.sign(url, form)
    forged = TwilioPeer(auth_token="another").sign(url, form)

    refused = [
        await server.post(url, form),
        await server.post(url, form, {"X-Twilio-Signature": forged}),
        await server.post(url, {**form, "MessageStatus": "failed"}, {"X-Twilio-Signature": signature}),
        await server.post(other_delivery, form, {"X-Twilio-Signature": signature}),
        await server.post(url, b"\xff", {"X-Twilio-Signature": signature}),
        await server.post(url, "&".join(f"a{n}=1" for n in range(101)), {"X-Twilio-Signature": signature}),
    ]

    assert {(each.status, each.body) for each in refused} == {(401, b'{"error":"invalid signature"}')}
    assert (await stored(tenant, delivery_id)).status == "SENT"
    ours = [record.__dict__ for record in caplog.records if record.msg == "callbacks.refused"]
    assert len(ours) == len(refused)
    assert ADA not in repr(ours)
    assert peer.auth_token not in repr(ours)


async def test_another_projects_account_moves_none_of_ours(
    gateway: Gateway, tenant: Tenant, server: InboundServer, peer: TwilioPeer
) -> None:
    delivery_id, message = await taken(tenant, S.SENT)
    attacker = await gateway.tenant("attacker")
    await attacker.data(CONFIGURE, settings=peer.settings(), secrets=peer.secrets())
    [theirs] = (await attacker.data("{ providers { callbackUrl } }"))["providers"]
    url = f"{theirs['callbackUrl']}?{message.form['StatusCallback'].partition('?')[2]}"
    message = TakenMessage(message.sid, {**message.form, "StatusCallback": url})

    assert await report(peer, server, message, "failed", 30006) == 200

    assert (await stored(tenant, delivery_id)).status == "SENT"
    assert (await send(attacker, to=[ADA]))["suppressed"] == 0


async def test_a_callback_that_is_about_nothing_here_is_answered_and_forgotten(
    tenant: Tenant, server: InboundServer, peer: TwilioPeer
) -> None:
    delivery_id, message = await taken(tenant, S.SENT)
    url = message.form["StatusCallback"]
    elsewhere = [url.partition("?")[0], url.replace(delivery_id.hex, UNANSWERED.hex), url.replace("dlv_", "bat_")]

    for each in elsewhere:
        assert (
            await report(peer, server, TakenMessage(message.sid, {**message.form, "StatusCallback": each}), "sent")
            == 200
        )
    assert await report(peer, server, message, "receiving") == 200
    assert await report(peer, server, TakenMessage("SM" + "1" * 32, message.form), "delivered") == 200

    assert (await stored(tenant, delivery_id)).status == "SENT"


async def test_unknown_providers_and_those_that_report_nothing(tenant: Tenant, server: InboundServer) -> None:
    made = await tenant.data(
        'mutation { configureProvider(input: {kind: OLLAMA, settings: {model: "x"}}) { provider { id } } }'
    )
    for name in ("prv_" + "0" * 32, "x", made["configureProvider"]["provider"]["id"]):
        assert (await server.post(f"/callbacks/{name}", b"")).status == 404


@pytest.mark.parametrize("word", sorted(STATUSES))
def test_every_word_of_twilio_is_read(word: str) -> None:
    read = read_sms_callback({"MessageStatus": word, "MessageSid": "SM1", "ErrorCode": "x"}, delivery_id=UNANSWERED)

    assert read is not None
    assert read.status == STATUSES[word]
    assert (read.error is not None) == (read.status is S.FAILED)
    assert read_sms_callback({"MessageStatus": word, "MessageSid": "a b"}, delivery_id=UNANSWERED) is None


async def test_what_a_report_means(tenant: Tenant) -> None:
    delivery_id, _ = await taken(tenant, S.SENT)
    sent = await stored(tenant, delivery_id)
    said = Report(
        delivery_id=delivery_id, channel=Channel.SMS, status=S.SENT, provider_message_id=sent.provider_message_id
    )

    for status, word, expected in REPORTS:
        delivery = msgspec.structs.replace(sent, status=status)
        assert judge_report(delivery, msgspec.structs.replace(said, status=word)) is expected, (status, word)
    delivered = msgspec.structs.replace(said, status=S.DELIVERED)
    earlier = msgspec.structs.replace(delivered, provider_message_id="SM0")
    assert judge_report(sent, earlier) is Reported.NOTHING_NEW
    assert judge_report(sent, msgspec.structs.replace(delivered, channel=Channel.EMAIL)) is Reported.UNKNOWN


REPORTS = [
    (S.SENT, S.DELIVERED, Reported.APPLIED),
    (S.SENT, S.FAILED, Reported.APPLIED),
    (S.SENT, S.SENT, Reported.NOTHING_NEW),
    (S.UNCERTAIN, S.SENT, Reported.APPLIED),
    (S.UNCERTAIN, S.FAILED, Reported.APPLIED),
    (S.SENDING, S.SENT, Reported.TOO_EARLY),
    *((each, S.DELIVERED, Reported.NOTHING_NEW) for each in (S.QUEUED, S.RETRYING, S.DELIVERED, S.FAILED)),
    *((each, S.FAILED, Reported.NOTHING_NEW) for each in (S.CANCELLED, S.DELIVERED, S.FAILED, S.SUPPRESSED)),
]
