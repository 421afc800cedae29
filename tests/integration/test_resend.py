"""Mail through Resend's API, against a peer that keeps its documented semantics."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from engine.channels.base import Accepted, Deferred, Rejected, Unknown
from engine.channels.http import HttpClient
from engine.channels.resend import ResendMessage, ResendSender
from engine.egress import Egress
from tests.peers.resend import Reply, ResendPeer, resend_peer

MAIL = {"from": "Ada <ada@shop.example>", "to": ["bob@example.com"], "subject": "Hi", "text": "Hello"}


@asynccontextmanager
async def sending(egress: Egress | None = None) -> AsyncIterator[ResendSender]:
    http = HttpClient(egress or Egress(allowed="127.0.0.0/8"))
    try:
        yield ResendSender(http)
    finally:
        await http.close()


def message_to(peer: ResendPeer, *, key: str = "one", api_key: str = "re_test", subject: str = "Hi") -> ResendMessage:
    return ResendMessage(base_url=peer.url, api_key=api_key, idempotency_key=key, body={**MAIL, "subject": subject})


async def test_a_mail_is_accepted_under_resends_id() -> None:
    async with resend_peer() as peer, sending() as sender:
        outcome = await sender.send(message_to(peer))
    assert isinstance(outcome, Accepted)
    assert peer.accepted == {outcome.provider_message_id: MAIL}
    assert not outcome.is_final


async def test_an_attempt_that_is_made_again_is_sent_once() -> None:
    async with resend_peer() as peer, sending() as sender:
        peer.replies = [Reply(accepts=True, drops=True)]
        lost = await sender.send(message_to(peer))
        again = await sender.send(message_to(peer))
    assert isinstance(lost, Unknown)
    assert message_to(peer).repeatable
    assert isinstance(again, Accepted)
    assert list(peer.accepted) == [again.provider_message_id]


async def test_another_mail_under_a_key_that_was_used_is_refused() -> None:
    async with resend_peer() as peer, sending() as sender:
        await sender.send(message_to(peer))
        outcome = await sender.send(message_to(peer, subject="Other"))
    assert isinstance(outcome, Rejected)
    assert (outcome.error.code, len(peer.accepted)) == ("invalid_idempotent_request", 1)


@pytest.mark.parametrize(
    ("reply", "retry_after", "is_account"),
    [
        (
            Reply(429, "rate_limit_exceeded", "Too many requests", {"Retry-After": "3"}),
            timedelta(seconds=3),
            True,
        ),
        (Reply(429, "rate_limit_exceeded", "", {"ratelimit-reset": "1"}), timedelta(seconds=1), True),
        (Reply(429, "daily_quota_exceeded", "Daily quota"), None, True),
        (Reply(409, "concurrent_idempotent_requests", "Still running"), None, False),
        (Reply(500, "application_error", "Unexpected"), None, False),
        (Reply(503, "", "", {"Retry-After": "a while"}), None, False),
        (Reply(401, "restricted_api_key", "This key may only send"), None, True),
        (Reply(403, "invalid_api_key", "API key is invalid"), None, True),
    ],
)
async def test_what_passes(reply: Reply, retry_after: timedelta | None, is_account: bool) -> None:
    async with resend_peer() as peer, sending() as sender:
        peer.replies = [reply]
        outcome = await sender.send(message_to(peer))
    assert isinstance(outcome, Deferred)
    assert (outcome.error.code, outcome.retry_after, outcome.is_account) == (
        reply.name or f"HTTP_{reply.status}",
        retry_after,
        is_account,
    )
    assert not outcome.error.permanent


@pytest.mark.parametrize(
    "reply",
    [
        Reply(422, "validation_error", "Invalid `to` field: bob@example.com"),
        Reply(403, "validation_error", "The shop.example domain is not verified"),
        Reply(422, "invalid_from_address", "Bad from"),
    ],
)
async def test_what_is_refused_for_good(reply: Reply) -> None:
    async with resend_peer() as peer, sending() as sender:
        peer.replies = [reply]
        outcome = await sender.send(message_to(peer))
    assert isinstance(outcome, Rejected)
    assert (outcome.error.code, outcome.error.permanent) == (reply.name, True)
    assert "bob@" not in repr(outcome)


async def test_a_wrong_key_is_the_accounts_fault() -> None:
    async with resend_peer() as peer, sending() as sender:
        outcome = await sender.send(message_to(peer, api_key="re_guess"))
    assert isinstance(outcome, Deferred)
    assert (outcome.error.code, outcome.is_account) == ("invalid_api_key", True)
    assert "re_guess" not in repr(outcome) + repr(message_to(peer, api_key="re_guess"))


async def test_a_private_address_is_not_called() -> None:
    async with resend_peer() as peer, sending(Egress()) as sender:
        outcome = await sender.send(message_to(peer))
    assert isinstance(outcome, Rejected)
    assert (outcome.error.code, peer.requests) == ("BLOCKED_URL", [])


async def test_who_is_not_there_has_got_nothing() -> None:
    async with resend_peer() as peer:
        pass
    async with sending() as sender:
        outcome = await sender.send(message_to(peer))
    assert isinstance(outcome, Deferred)
    assert outcome.is_account
