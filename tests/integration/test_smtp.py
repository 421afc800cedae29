"""Mail over SMTP, against a relay that speaks it: security, credentials, kept connections, and what refusals mean."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from engine.channels import smtp as smtp_channel
from engine.channels.base import Accepted, Deferred, Rejected, Unknown
from engine.channels.smtp import SmtpAccount, SmtpMessage, SmtpSender
from engine.egress import Egress
from tests.peers.authority import Authority
from tests.peers.smtp import SmtpPeer, smtp_peer

LOOPBACK = Egress(allowed="127.0.0.0/8")
CONTENT = b"From: ada@shop.example\r\nTo: bob@example.com\r\nSubject: Hi\r\n\r\nHello\r\n.\r\n..two dots\r\n"


def message_to(
    peer: SmtpPeer, recipient: str = "bob@example.com", *, host: str = "127.0.0.1", **account: object
) -> SmtpMessage:
    options: dict[str, object] = {"security": "NONE", **account}
    return SmtpMessage(
        account=SmtpAccount(host=host, port=peer.port, **options),  # type: ignore[arg-type]
        sender="ada@shop.example",
        recipient=recipient,
        message_id="<1@shop.example>",
        content=CONTENT,
    )


@asynccontextmanager
async def sending(egress: Egress = LOOPBACK, tls: ssl.SSLContext | None = None) -> AsyncIterator[SmtpSender]:
    sender = SmtpSender(egress, hello_name="gateway.example", tls=tls)
    try:
        yield sender
    finally:
        await sender.close()


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority.ca_pem)


async def test_a_mail_arrives_byte_for_byte() -> None:
    async with smtp_peer() as peer, sending() as sender:
        outcome = await sender.send(message_to(peer))
    assert isinstance(outcome, Accepted)
    assert (outcome.provider_message_id, outcome.is_final, outcome.answer.status_code) == (
        "<1@shop.example>",
        False,
        250,
    )
    [received] = peer.received
    assert (received.sender, received.recipient, received.content) == ("ada@shop.example", "bob@example.com", CONTENT)


@pytest.mark.parametrize("security", ["STARTTLS", "TLS"])
async def test_credentials_travel_over_tls_to_the_host_that_has_the_certificate(
    authority: Authority, security: str
) -> None:
    context = authority.server_context()
    peers = smtp_peer(tls=context, implicit_tls=security == "TLS", users={"shop": "s3cret"})
    async with peers as peer, sending(LOOPBACK, trusting(authority)) as sender:
        given = {"security": security, "username": "shop", "password": "s3cret"}
        assert isinstance(await sender.send(message_to(peer, host="localhost", **given)), Accepted)
        wrong = await sender.send(message_to(peer, host="localhost", **{**given, "password": "guess"}))
    [received] = peer.received
    assert received.user == "shop"
    assert received.over_tls
    assert isinstance(wrong, Deferred)
    assert wrong.is_account
    assert wrong.error.code.startswith("535")
    assert "guess" not in wrong.error.message


async def test_a_relay_with_another_certificate_gets_nothing(authority: Authority) -> None:
    async with smtp_peer(tls=Authority().server_context()) as peer, sending(tls=trusting(authority)) as sender:
        outcome = await sender.send(message_to(peer, security="STARTTLS"))
    assert isinstance(outcome, Deferred)
    assert (outcome.error.code, outcome.is_account, peer.received) == ("TLS", True, [])


async def test_a_relay_without_starttls_gets_nothing() -> None:
    async with smtp_peer() as peer, sending() as sender:
        outcome = await sender.send(message_to(peer, security="STARTTLS", username="shop", password="s3cret"))
    assert isinstance(outcome, Deferred)
    assert (outcome.error.code, peer.received) == ("NOT_SUPPORTED", [])


@pytest.mark.parametrize(
    ("reply", "is_dead"),
    [
        ("550 5.1.1 <bob@example.com>: no such user", True),
        ("550 5.1.2 bob@example.com: no such domain", True),
        ("550 5.2.1 Mailbox disabled", True),
        ("552 5.2.2 Mailbox full", False),
        ("550 5.7.1 Blocked by policy", False),
        # Who knows what an old server means by it.
        ("550 Requested action not taken", False),
    ],
)
async def test_what_is_refused_for_good(reply: str, is_dead: bool) -> None:
    async with smtp_peer() as peer, sending() as sender:
        peer.replies["bob@example.com"] = reply
        outcome = await sender.send(message_to(peer))
        # The connection is good for the next one.
        assert isinstance(await sender.send(message_to(peer, "eve@example.com")), Accepted)
    assert isinstance(outcome, Rejected)
    assert outcome.address_is_dead is is_dead
    assert outcome.error.permanent
    assert outcome.error.code == " ".join(reply.split()[: 2 if reply[4].isdigit() else 1])
    assert "bob@" not in repr(outcome)
    assert peer.connections == 1


async def test_what_is_refused_for_now() -> None:
    async with smtp_peer() as peer, sending() as sender:
        peer.replies["bob@example.com"] = "451 4.7.1 Greylisted, come back"
        peer.data_replies["eve@example.com"] = "452 4.3.1 Out of disk"
        greylisted = await sender.send(message_to(peer))
        full = await sender.send(message_to(peer, "eve@example.com"))
        peer.sender_reply = "450 4.7.0 Slow down"
        throttled = await sender.send(message_to(peer))
    assert isinstance(greylisted, Deferred)
    assert (greylisted.error.code, greylisted.is_account) == ("451 4.7.1", False)
    assert isinstance(full, Deferred)
    assert (full.error.code, full.is_account) == ("452 4.3.1", False)
    assert isinstance(throttled, Deferred)
    assert (throttled.error.code, throttled.is_account) == ("450 4.7.0", True)


async def test_a_body_that_is_refused_is_refused_for_good() -> None:
    async with smtp_peer() as peer, sending() as sender:
        peer.data_replies["bob@example.com"] = "554 5.6.0 Contains a virus"
        outcome = await sender.send(message_to(peer))
    assert isinstance(outcome, Rejected)
    assert (outcome.error.code, outcome.address_is_dead) == ("554 5.6.0", False)


async def test_when_the_relay_vanishes_after_the_body_nobody_knows() -> None:
    async with smtp_peer() as peer, sending() as sender:
        peer.drop_after_data = True
        outcome = await sender.send(message_to(peer))
    assert isinstance(outcome, Unknown)
    assert outcome.error.code == "NO_ANSWER"
    # Once: it is not tried again on another connection.
    assert (len(peer.received), peer.connections) == (1, 1)


async def test_when_no_answer_comes_after_the_body_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smtp_channel, "SEND_TIMEOUT", timedelta(seconds=0.3))
    async with smtp_peer() as peer, sending() as sender:
        never = asyncio.Event()

        async def hang(*_arguments: object) -> str:
            await never.wait()
            return "250 OK"

        monkeypatch.setattr(peer, "handle_DATA", hang)
        outcome = await sender.send(message_to(peer))
    assert isinstance(outcome, Unknown)


async def test_a_connection_is_used_again_and_made_again_when_it_is_gone() -> None:
    async with smtp_peer() as peer, sending() as sender:
        for _ in range(5):
            assert isinstance(await sender.send(message_to(peer)), Accepted)
        assert peer.connections == 1
        peer.drop_connections()
        assert isinstance(await sender.send(message_to(peer)), Accepted)
    assert (len(peer.received), peer.connections) == (6, 2)


async def test_a_relay_that_ends_a_connection_after_some_mails_gets_the_next_on_a_new_one() -> None:
    async with smtp_peer(max_per_connection=2) as peer, sending() as sender:
        for _ in range(5):
            assert isinstance(await sender.send(message_to(peer)), Accepted)
    assert (len(peer.received), peer.connections) == (5, 3)


async def test_many_at_once_share_a_few_connections() -> None:
    async with smtp_peer() as peer, sending() as sender:
        recipients = [f"person{number}@example.com" for number in range(60)]
        outcomes = await asyncio.gather(*(sender.send(message_to(peer, each)) for each in recipients))
    assert all(isinstance(outcome, Accepted) for outcome in outcomes)
    assert sorted(each.recipient for each in peer.received) == sorted(recipients)
    assert 1 <= peer.connections <= smtp_channel.MAX_CONNECTIONS


async def test_accounts_do_not_share_connections(authority: Authority) -> None:
    users = {"shop": "one", "club": "two"}
    async with smtp_peer(users=users) as peer, sending() as sender:
        for name, password in users.items():
            await sender.send(message_to(peer, username=name, password=password))
    assert [each.user for each in peer.received] == ["shop", "club"]


async def test_a_private_relay_is_not_called_unless_the_operator_allows_it() -> None:
    async with smtp_peer() as peer, sending(Egress()) as sender:
        outcome = await sender.send(message_to(peer))
    assert isinstance(outcome, Rejected)
    assert (outcome.error.code, peer.connections) == ("BLOCKED_URL", 0)


async def test_the_address_that_was_checked_is_the_one_that_is_dialled() -> None:
    """A name that answers with a private address the second time gains nothing: it is asked once."""
    asked: list[str] = []

    async def rebinding(name: str) -> list[str]:
        asked.append(name)
        return ["127.0.0.1"] if len(asked) > 1 else ["192.0.2.1", "10.0.0.1"]

    async with smtp_peer() as peer, sending(Egress(resolver=rebinding)) as sender:
        outcome = await sender.send(message_to(peer, host="relay.example.com"))
    assert isinstance(outcome, Rejected)
    assert (outcome.error.code, asked, peer.connections) == ("BLOCKED_URL", ["relay.example.com"], 0)


async def test_on_the_internet_only_the_ports_of_mail_are_called() -> None:
    async def public(_name: str) -> list[str]:
        return ["9.9.9.9"]

    async with sending(Egress(resolver=public)) as sender:
        account = SmtpAccount(host="relay.example.com", port=5432)
        outcome = await sender.send(
            SmtpMessage(account=account, sender="a@b.example", recipient="c@d.example", message_id="", content=b"")
        )
    assert isinstance(outcome, Rejected)
    assert outcome.error.message.startswith("Port 5432 is not one of mail")


async def test_a_relay_that_is_not_there_is_an_account_that_cannot_be_reached() -> None:
    async with smtp_peer() as peer:
        pass
    async with sending() as sender:
        outcome = await sender.send(message_to(peer))
    assert isinstance(outcome, Deferred)
    assert (outcome.error.code, outcome.is_account) == ("CONNECTION_REFUSED", True)


async def test_addresses_beyond_ascii_are_sent_as_they_are() -> None:
    async with smtp_peer() as peer, sending() as sender:
        outcome = await sender.send(message_to(peer, "jürgen@example.com"))
    assert isinstance(outcome, Accepted)
    assert peer.received[0].recipient == "jürgen@example.com"


def test_neither_passwords_nor_people_are_in_what_is_logged() -> None:
    account = SmtpAccount(host="relay.example", port=587, username="shop", password="s3cret")
    text = repr(
        SmtpMessage(account=account, sender="a@b.example", recipient="bob@c.example", message_id="1", content=b"Hi")
    )
    assert "s3cret" not in text
    assert "bob" not in text
