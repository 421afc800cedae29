"""Mail from the mutation to the relay and back: acceptance, dispatch decisions, signatures, outcomes, reports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import dkim
import msgspec
import pytest
from uuid_utils.compat import uuid7

from db.deliveries import read_deliveries
from db.delivery_records import DeliveryRecord, NewDelivery
from db.events import read_event_page
from db.profiles import lock_profiles
from db.records import Lane
from db.send_counters import reserve_sends
from db.suppressions import NewSuppression, insert_suppressions, read_suppressions
from engine.channels.base import Accepted, Outcome, Postpone, Prepared, Ready, Refuse, Rejected, Settled, Suppress
from engine.channels.http import HttpClient
from engine.channels.smtp import SmtpAccount, SmtpSender
from engine.consent import ConsentPurpose, ConsentState, set_consent
from engine.dispatch.ledger import create_deliveries
from engine.dispatch.reports import Reported
from engine.dispatch.values import EmailContent, SuppressedReason
from engine.egress import Egress
from engine.email.callbacks import EmailCallback, EmailReport, apply_email_callback, read_email_callback
from engine.email.domains import txt_look_up
from engine.email.message import Mail
from engine.email.policy import BurstLimits
from engine.email.unsubscribe import UnsubscribeTokens, Unsubscription, unsubscribe
from engine.email.work import EmailWork, MailJob
from engine.node_ids import NodeKind, parse_node_id
from tests.integration.graphql_support import Gateway, Tenant, open_gateway
from tests.peers.dns import DnsPeer, dns_peer
from tests.peers.resend import Reply, ResendPeer, resend_peer
from tests.peers.smtp import SmtpPeer, smtp_peer

SEND = """mutation ($input: SendEmailInput!) {
  sendEmail(input: $input) {
    batchId queued scheduled suppressed
    deliveries { id status suppressedReason userId scheduledFor error { code permanent hint } }
    userErrors { code path message }
  }
}"""
CONFIGURE = """mutation ($input: ConfigureProviderInput!) {
  configureProvider(input: $input) { userErrors { path message } }
}"""
IDENTIFY = "mutation ($input: IdentifyInput!) { identify(input: $input) { userErrors { code } } }"
SAVE = """mutation ($input: SaveTemplateInput!) {
  saveTemplate(input: $input) {
    template { id name channel subject bodyHtml bodyText } userErrors { code path message }
  }
}"""
ADD_DOMAIN = """mutation { addSenderDomain(domain: "shop.example") {
  senderDomain { id dnsRecords { name value } } userErrors { code }
} }"""
VERIFY = """mutation ($id: ID!) { verifySenderDomain(id: $id) { senderDomain { status } userErrors { code } } }"""

FROM = "The Shop <news@shop.example>"
TOKENS = UnsubscribeTokens(b"a secret of tests, long enough for it")


@dataclass
class Shop:
    """A tenant with a verified domain and people, the worker's side of its mail, and the peers."""

    tenant: Tenant
    work: EmailWork
    relay: SmtpPeer
    resend: ResendPeer
    name_server: DnsPeer

    @property
    def gateway(self) -> Gateway:
        return self.tenant.gateway

    @property
    def project_id(self) -> Any:
        return self.tenant.project_id

    async def send(self, **given: Any) -> Any:
        content = {"subject": "Hi {{ trait.name }}", "bodyHtml": "<p>Hello {{ trait.name }}</p>", **given}
        return (await self.tenant.data(SEND, input=content))["sendEmail"]

    async def stored(self, sent: Any) -> list[DeliveryRecord]:
        parsed = [parse_node_id(each["id"]) for each in sent["deliveries"]]
        return await self.read([each.uuid for each in parsed if each is not None])

    async def read(self, delivery_ids: Sequence[Any]) -> list[DeliveryRecord]:
        async with self.gateway.services.database.connection() as connection:
            found = await read_deliveries(connection, project_id=self.project_id, delivery_ids=delivery_ids)
        return sorted(found, key=lambda each: each.delivery_id)

    async def prepare(self, deliveries: Sequence[DeliveryRecord]) -> list[Prepared]:
        services = self.gateway.services
        async with services.database.transaction() as connection:
            prepared = await self.work.prepare(
                connection, project_id=self.project_id, deliveries=deliveries, now=services.clock.now()
            )
        return [prepared[each.delivery_id] for each in deliveries]

    async def attempt(self, delivery: DeliveryRecord) -> Outcome:
        """What a worker does with one delivery, but for the dispatcher's own rows."""
        [prepared] = await self.prepare([delivery])
        assert isinstance(prepared, Ready), prepared
        outcome = await self.work.send(prepared.message)
        await self.settle(Settled(delivery, prepared.message, outcome))
        return outcome

    async def settle(self, settled: Settled) -> list[Any]:
        services = self.gateway.services
        async with services.database.transaction() as connection:
            return list(
                await self.work.settle(
                    connection, project_id=self.project_id, settled=[settled], now=services.clock.now()
                )
            )

    async def say(self, user_id: str, state: ConsentState) -> None:
        services = self.gateway.services
        async with services.database.transaction() as connection:
            await set_consent(
                connection,
                project_id=self.project_id,
                user_id=user_id,
                purpose=ConsentPurpose.EMAIL,
                state=state,
                source="test",
                actor="test",
                now=services.clock.now(),
            )

    async def suppress(self, address: str, reason: str) -> None:
        services = self.gateway.services
        async with services.database.transaction() as connection:
            await insert_suppressions(
                connection,
                project_id=self.project_id,
                channel="EMAIL",
                suppressions=[NewSuppression(address, reason)],
                now=services.clock.now(),
            )

    async def suppressed(self, *addresses: str) -> dict[str, str]:
        async with self.gateway.services.database.connection() as connection:
            found = await read_suppressions(
                connection, project_id=self.project_id, channel="EMAIL", addresses=addresses
            )
        return {each.address: each.reason for each in found}

    async def events(self) -> list[str]:
        async with self.gateway.services.database.connection() as connection:
            page = await read_event_page(connection, project_id=self.project_id, after=0, limit=1000)
        return [each.event_type for each in page.events if each.event_type != "user.identified"]

    async def mark(self, delivery: DeliveryRecord, status: str, message_id: str | None) -> None:
        """As the dispatcher leaves a delivery."""
        async with self.gateway.services.database.connection() as connection:
            await connection.execute(
                """UPDATE deliveries SET status = $3, provider_message_id = $4, attempt_count = 1,
                       next_attempt_at = NULL, sent_at = $5,
                       lease_token = CASE WHEN $3 = 'SENDING' THEN gen_random_uuid() END,
                       lease_until = CASE WHEN $3 = 'SENDING' THEN now() END
                   WHERE project_id = $1 AND delivery_id = $2""",
                self.project_id,
                delivery.delivery_id,
                status,
                message_id,
                datetime(2026, 5, 1, tzinfo=UTC),
            )


@pytest.fixture
async def shop(module_database_url: str) -> AsyncIterator[Shop]:
    async with (
        smtp_peer() as relay,
        resend_peer() as resend,
        dns_peer() as name_server,
        open_gateway(module_database_url) as gateway,
    ):
        egress = Egress(allowed="127.0.0.0/8")
        gateway.services = replace(gateway.services, egress=egress, look_up_txt=txt_look_up(name_server.address))
        http = HttpClient(egress)
        work = EmailWork(
            gateway.services.vault,
            http,
            SmtpSender(egress),
            TOKENS,
            public_url="https://gateway.example",
            system_pool=SmtpAccount(
                host="127.0.0.1", port=relay.port, security="NONE", from_address="Sendora <no-reply@sendora.example>"
            ),
            limits=BurstLimits(per_project=1000, per_new_domain=1000),
        )
        tenant = await gateway.tenant()
        made = Shop(tenant, work, relay, resend, name_server)
        await configure_relay(made)
        await verify_domain(made)
        for user_id, traits in PEOPLE.items():
            await tenant.data(IDENTIFY, input={"userId": user_id, "traits": traits})
        yield made
        await work.close()
        await http.close()


PEOPLE = {
    "ada": {"name": "Ada", "email": "Ada@Example.com"},
    "bob": {"name": "Bob <b>", "email": "bob@example.com"},
    "cyd": {"name": "Cyd", "email": "none"},
}


async def configure_relay(shop: Shop) -> None:
    settings = {"host": "127.0.0.1", "port": shop.relay.port, "security": "NONE", "from": FROM}
    configured = await shop.tenant.data(CONFIGURE, input={"kind": "SMTP", "settings": settings})
    assert configured["configureProvider"]["userErrors"] == []


async def configure_resend(shop: Shop) -> None:
    given = {"settings": {"from": FROM, "baseUrl": shop.resend.url}, "secrets": {"apiKey": "re_test"}}
    configured = await shop.tenant.data(CONFIGURE, input={"kind": "RESEND", **given})
    assert configured["configureProvider"]["userErrors"] == []


async def verify_domain(shop: Shop) -> None:
    domain = (await shop.tenant.data(ADD_DOMAIN))["addSenderDomain"]["senderDomain"]
    for record in domain["dnsRecords"]:
        shop.name_server.txt[record["name"]] = [record["value"]]
    verified = await shop.tenant.data(VERIFY, id=domain["id"])
    assert verified["verifySenderDomain"]["senderDomain"] == {"status": "VERIFIED"}


# ─────────────── acceptance ───────────────


async def test_people_and_addresses_get_one_mail_each(shop: Shop) -> None:
    sent = await shop.send(userIds=["ada", "bob", "ada"], to=["BOB@example.com", "eve@example.com"])
    assert sent["userErrors"] == []
    assert (sent["queued"], sent["scheduled"], sent["suppressed"]) == (3, 0, 0)
    assert [each.kind for each in shop.gateway.woken] == ["deliveries"]
    deliveries = await shop.stored(sent)
    assert [(each.user_id, each.recipient, each.dispatch_key) for each in deliveries] == [
        ("ada", "Ada@example.com", "email"),
        ("bob", "bob@example.com", "email"),
        (None, "eve@example.com", "email"),
    ]


async def test_what_may_not_be_sent_is_known_at_acceptance(shop: Shop) -> None:
    await shop.say("ada", ConsentState.REVOKED)
    await shop.suppress("eve@example.com", "BOUNCED")
    sent = await shop.send(userIds=["ada", "bob", "cyd", "dan"], to=["Eve@Example.com"])
    assert (sent["queued"], sent["suppressed"]) == (1, 2)
    assert [
        (each["userId"], each["status"], each["suppressedReason"], (each["error"] or {}).get("code"))
        for each in sent["deliveries"]
    ] == [
        ("ada", "SUPPRESSED", "CONSENT", None),
        ("bob", "QUEUED", None, None),
        ("cyd", "FAILED", None, "NO_ADDRESS"),
        ("dan", "FAILED", None, "NO_ADDRESS"),
        (None, "SUPPRESSED", "BOUNCED", None),
    ]


@pytest.mark.parametrize("sender", ["a@elsewhere.example", "Shop <a@mail.shop.example>"])
async def test_without_a_verified_domain_the_outcome_is_byod_required(shop: Shop, sender: str) -> None:
    """Not even one below a verified domain will do."""
    sent = await shop.send(userIds=["bob"], **{"from": sender})
    assert (sent["userErrors"], sent["queued"]) == ([], 0)
    [delivery] = sent["deliveries"]
    assert (delivery["status"], delivery["error"]["code"]) == ("FAILED", "BYOD_REQUIRED")
    assert "addSenderDomain" in delivery["error"]["hint"]


async def test_a_domain_that_is_no_longer_verified_sends_nothing_when_it_is_due(shop: Shop) -> None:
    sent = await shop.send(userIds=["bob"])
    shop.name_server.txt.clear()
    domains = await shop.tenant.data("{ senderDomains { id } }")
    await shop.tenant.data(VERIFY, id=domains["senderDomains"][0]["id"])
    [prepared] = await shop.prepare(await shop.stored(sent))
    assert isinstance(prepared, Refuse)
    assert prepared.error.code == "BYOD_REQUIRED"


async def test_without_an_account_nothing_is_accepted(shop: Shop) -> None:
    other = await shop.gateway.tenant("other")
    refused = (await other.data(SEND, input={"to": ["a@b.example"], "subject": "s", "bodyText": "b"}))["sendEmail"]
    assert (refused["batchId"], refused["deliveries"]) == (None, [])
    assert [error["code"] for error in refused["userErrors"]] == ["NOT_CONFIGURED"]


REFUSED: list[tuple[dict[str, Any], str, list[str]]] = [
    ({}, "INVALID", ["input", "to"]),
    ({"to": ["a@b.example"] * 1001}, "LIMIT_EXCEEDED", ["input", "to"]),
    ({"to": ["a@b.example", "not an address"]}, "INVALID", ["input", "to", "1"]),
    ({"to": ["a@b.example\r\nBcc: c@d.example"]}, "INVALID", ["input", "to", "0"]),
    ({"userIds": [""]}, "INVALID", ["input", "userIds", "0"]),
    ({"userIds": ["bob"], "subject": "x" * 999}, "LIMIT_EXCEEDED", ["input", "subject"]),
    ({"userIds": ["bob"], "subject": None}, "INVALID", ["input", "subject"]),
    ({"userIds": ["bob"], "bodyHtml": None}, "INVALID", ["input", "bodyHtml"]),
    ({"userIds": ["bob"], "bodyText": "{% if %}"}, "INVALID", ["input", "bodyText"]),
    ({"userIds": ["bob"], "bodyHtml": "x" * (256 * 1024 + 1)}, "LIMIT_EXCEEDED", ["input", "bodyHtml"]),
    ({"userIds": ["bob"], "from": "nobody"}, "INVALID", ["input", "from"]),
    ({"userIds": ["bob"], "from": "a@b.example\nBcc: c@d.example"}, "INVALID", ["input", "from"]),
    ({"userIds": ["bob"], "replyTo": "<>"}, "INVALID", ["input", "replyTo"]),
    ({"userIds": ["bob"], "vars": [1]}, "INVALID", ["input", "vars"]),
    ({"userIds": ["bob"], "vars": {"a": "x" * 70_000}}, "LIMIT_EXCEEDED", ["input", "vars"]),
    ({"userIds": ["bob"], "scheduledFor": "2999-01-01T00:00:00Z"}, "INVALID", ["input", "scheduledFor"]),
    ({"userIds": ["bob"], "idempotencyKey": ""}, "INVALID", ["input", "idempotencyKey"]),
    ({"audienceId": "aud_x", "userIds": ["bob"]}, "NOT_FOUND", ["input", "audienceId"]),
    ({"audienceId": "aud_x"}, "NOT_FOUND", ["input", "audienceId"]),
    ({"userIds": ["bob"], "templateId": "tpl_" + "0" * 32}, "NOT_FOUND", ["input", "templateId"]),
    ({"userIds": ["bob"], "templateId": "dlv_" + "0" * 32}, "NOT_FOUND", ["input", "templateId"]),
]


async def test_what_can_never_work_is_refused_with_the_path_to_it(shop: Shop) -> None:
    for given, code, path in REFUSED:
        refused = await shop.send(**given)
        assert refused["deliveries"] == [], given
        assert [(each["code"], each["path"]) for each in refused["userErrors"]] == [(code, path)], given
    assert shop.gateway.woken == []


async def test_under_one_key_it_is_accepted_once(shop: Shop) -> None:
    given = {"userIds": ["ada", "bob"], "idempotencyKey": "spring", "vars": {"a": 1}}
    first, again = await shop.send(**given), await shop.send(**given)
    assert again["batchId"] == first["batchId"]
    assert [each["id"] for each in again["deliveries"]] == [each["id"] for each in first["deliveries"]]
    other = await shop.send(**{**given, "vars": {"a": 2}})
    assert [each["code"] for each in other["userErrors"]] == ["CONFLICT"]


async def test_what_is_for_later_is_scheduled_and_decided_then(shop: Shop) -> None:
    later = shop.gateway.services.clock.now() + timedelta(hours=1)
    sent = await shop.send(userIds=["bob"], scheduledFor=later.isoformat())
    assert (sent["queued"], sent["scheduled"], shop.gateway.woken) == (0, 1, [])
    await shop.say("bob", ConsentState.DENIED)
    [prepared] = await shop.prepare(await shop.stored(sent))
    assert prepared == Suppress(reason=SuppressedReason.CONSENT)


# ─────────────── dispatch: SMTP ───────────────


async def test_a_mail_over_smtp_is_rendered_signed_and_can_be_unsubscribed(shop: Shop) -> None:
    [delivery] = await shop.stored(
        await shop.send(
            userIds=["bob"],
            subject="Hi {{ trait.name }}, {{ code }}",
            bodyHtml="<p>Hello {{ trait.name }}, <a href='https://shop.example/s'>sale</a></p>"
            "<a href='{{ unsubscribe_url }}'>Bye</a>",
            replyTo="help@shop.example",
            vars={"code": "SPRING"},
        )
    )
    outcome = await shop.attempt(delivery)
    assert isinstance(outcome, Accepted)
    [received] = shop.relay.received
    message = received.message
    assert (received.sender, received.recipient) == ("news@shop.example", "bob@example.com")
    assert (message["From"], message["Subject"]) == ("The Shop <news@shop.example>", "Hi Bob <b>, SPRING")
    assert message["Message-ID"] == outcome.provider_message_id == f"<{delivery.delivery_id.hex}@shop.example>"
    plain, html = message.iter_parts()
    assert "Hello Bob &lt;b&gt;," in html.get_payload(decode=True).decode()  # type: ignore[union-attr]
    text = plain.get_payload(decode=True).decode()  # type: ignore[union-attr]
    assert text.startswith("Hello Bob <b>, sale (https://shop.example/s)")
    # RFC 8058.
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    url = message["List-Unsubscribe"].strip("<>")
    assert url.startswith("https://gateway.example/unsubscribe/")
    assert url in html.get_payload(decode=True).decode()  # type: ignore[union-attr]
    asked = TOKENS.read(url.rpartition("/")[2])
    assert asked is not None
    assert (asked.project_id, asked.purpose, asked.user_id) == (shop.project_id, "EMAIL", "bob")
    # The key that the name server has verifies it.
    look_up = {
        name.encode(): "".join(texts).encode() for name, texts in shop.name_server.txt.items() if "_domainkey" in name
    }
    assert dkim.verify(received.content, dnsfunc=lambda name, timeout=5: look_up[name.rstrip(b".")])


async def test_a_payload_shows_what_is_sent_and_no_secret(shop: Shop) -> None:
    await configure_resend(shop)
    [ready] = await shop.prepare(await shop.stored(await shop.send(userIds=["ada"], bodyHtml="<p>{{ trait.x }}</p>")))
    assert isinstance(ready, Ready)
    shown = msgspec.json.decode(ready.payload, type=dict[str, Any])
    assert (shown["from"], shown["to"], shown["subject"]) == (FROM, "Ada@example.com", "Hi Ada")
    assert (shown["html"], shown["missing"]) == ("<p></p>", ["trait.x"])
    assert "re_test" not in ready.payload + repr(ready.message)
    assert "ada" not in repr(ready.message).lower()


async def test_a_revoke_that_committed_before_wins(shop: Shop) -> None:
    [delivery] = await shop.stored(await shop.send(userIds=["bob"]))
    await shop.say("bob", ConsentState.REVOKED)
    assert await shop.prepare([delivery]) == [Suppress(reason=SuppressedReason.CONSENT)]


async def test_an_erased_person_gets_nothing(shop: Shop) -> None:
    [delivery] = await shop.stored(await shop.send(userIds=["bob"]))
    async with shop.gateway.services.database.connection() as connection:
        await connection.execute("DELETE FROM profiles WHERE project_id = $1 AND user_id = 'bob'", shop.project_id)
    assert await shop.prepare([delivery]) == [Suppress(reason=SuppressedReason.ERASED)]


async def test_phishing_is_blocked_with_the_rule_that_fired(shop: Shop) -> None:
    html = "<a href='https://evil.example.net/'>https://www.bank.example/login</a>"
    [prepared] = await shop.prepare(await shop.stored(await shop.send(userIds=["bob"], bodyHtml=html)))
    assert isinstance(prepared, Suppress)
    assert prepared.reason == SuppressedReason.BLOCKED_CONTENT
    assert prepared.error is not None
    assert prepared.error.code == "BLOCKED_CONTENT"
    assert prepared.error.message.startswith("misleading-link: ")


async def test_a_template_that_does_not_render_for_somebody_fails_for_them_alone(shop: Shop) -> None:
    sent = await shop.send(userIds=["ada", "bob"], bodyHtml="<p>{{ trait.total | divided_by: trait.people }}</p>")
    await shop.tenant.data(IDENTIFY, input={"userId": "ada", "traits": {"total": 10, "people": 5}})
    ready, refused = await shop.prepare(await shop.stored(sent))
    assert isinstance(ready, Ready)
    assert isinstance(refused, Refuse)
    assert refused.error.code == "TEMPLATE"


async def test_a_hard_bounce_suppresses_the_address_and_says_so(shop: Shop) -> None:
    [delivery] = await shop.stored(await shop.send(userIds=["ada"]))
    shop.relay.replies["Ada@example.com"] = "550 5.1.1 No such user"
    [ready] = await shop.prepare([delivery])
    assert isinstance(ready, Ready)
    outcome = await shop.work.send(ready.message)
    assert isinstance(outcome, Rejected)
    settled = Settled(delivery, ready.message, outcome)
    # It may be settled again, when the answer to a COMMIT was lost: the event has the same key.
    [event], [again] = await shop.settle(settled), await shop.settle(settled)
    assert (event.event_type, event.user_id, event.key) == ("email.bounced", "ada", again.key)
    assert await shop.suppressed("ada@example.com") == {"ada@example.com": "BOUNCED"}
    held = await shop.send(userIds=["ada"], to=["ADA@example.com"])
    assert (held["suppressed"], [each["suppressedReason"] for each in held["deliveries"]]) == (1, ["BOUNCED"])


async def test_a_full_mailbox_suppresses_nothing(shop: Shop) -> None:
    [delivery] = await shop.stored(await shop.send(userIds=["ada"]))
    shop.relay.replies["Ada@example.com"] = "552 5.2.2 Full"
    assert isinstance(await shop.attempt(delivery), Rejected)
    assert await shop.suppressed("ada@example.com") == {}


async def test_what_is_wrong_with_the_account_is_kept_until_it_works(shop: Shop) -> None:
    deliveries = await shop.stored(await shop.send(userIds=["ada", "bob"]))
    shop.relay.sender_reply = "450 4.7.0 Slow down"
    await shop.attempt(deliveries[0])
    [provider] = (await shop.tenant.data("{ providers { lastError } }"))["providers"]
    assert "Slow down" in provider["lastError"]
    shop.relay.sender_reply = None
    await shop.attempt(deliveries[1])
    assert await shop.tenant.data("{ providers { lastError } }") == {"providers": [{"lastError": None}]}


# ─────────────── limits ───────────────


async def test_more_than_the_limit_waits_for_the_windows_that_follow(shop: Shop) -> None:
    shop.work = EmailWork(
        shop.gateway.services.vault,
        HttpClient(Egress()),
        SmtpSender(Egress()),
        TOKENS,
        public_url="https://gateway.example",
        limits=BurstLimits(per_project=4, per_new_domain=3),
    )
    sent = await shop.send(to=[f"p{number}@example.com" for number in range(11)])
    prepared = await shop.prepare(await shop.stored(sent))
    # The domain is new: 3 now, and 3 in each of the windows that follow.
    assert [type(each).__name__ for each in prepared] == ["Ready"] * 3 + ["Postpone"] * 8
    late = [each for each in prepared if isinstance(each, Postpone)]
    assert {each.error.code for each in late if each.error is not None} == {"RATE_LIMITED"}
    first = min(each.until for each in late)
    assert (first.second, first.microsecond) == (0, 0)
    assert [(each.until - first) // timedelta(minutes=1) for each in late] == [0, 0, 0, 1, 1, 1, 2, 2]
    # After its probation it has the project's limit; what was sent in this window counts.
    async with shop.gateway.services.database.connection() as connection:
        await connection.execute("UPDATE sender_domains SET probation_until = created_at")
    again = await shop.prepare(await shop.stored(await shop.send(to=["a@example.com", "b@example.com"])))
    assert [type(each).__name__ for each in again] == ["Ready", "Postpone"]


async def test_workers_at_once_do_not_overshoot(shop: Shop) -> None:
    database = shop.gateway.services.database
    window = datetime(2026, 5, 1, tzinfo=UTC)

    async def reserve() -> int:
        async with database.transaction() as connection:
            return await reserve_sends(
                connection, project_id=shop.project_id, scope="email", window_start=window, wanted=7, limit=25
            )

    granted = await asyncio.gather(*(reserve() for _ in range(6)))
    assert sum(granted) == 25
    assert sorted(granted) == [0, 0, 4, 7, 7, 7]


# ─────────────── dispatch: Resend ───────────────


async def test_resend_goes_before_the_relay_and_gets_what_was_resolved_once(shop: Shop) -> None:
    await configure_resend(shop)
    [delivery] = await shop.stored(await shop.send(userIds=["bob"], bodyText="Hello {{ trait.name }}", bodyHtml=None))
    [ready] = await shop.prepare([delivery])
    assert isinstance(ready, Ready)
    assert ready.message.repeatable
    shop.resend.replies = [Reply(accepts=True, drops=True)]
    await shop.work.send(ready.message)
    # A retry after the person has changed says the same: under one key Resend takes one mail only.
    await shop.tenant.data(IDENTIFY, input={"userId": "bob", "traits": {"name": "Robert"}})
    retried = msgspec.structs.replace(delivery, payload=msgspec.Raw(ready.payload.encode()), attempt_count=1)
    assert isinstance(await shop.attempt(retried), Accepted)
    [mail] = shop.resend.accepted.values()
    assert mail["text"] == "Hello Bob <b>"
    assert mail["headers"]["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert mail["tags"] == [{"name": "delivery_id", "value": delivery.delivery_id.hex}]
    assert shop.relay.received == []
    # Whoever replays a delivery wants it sent again.
    replayed = msgspec.structs.replace(retried, batch_id=uuid7())
    assert isinstance(await shop.attempt(replayed), Accepted)
    assert len(shop.resend.accepted) == 2


# ─────────────── system mail ───────────────


async def make_system_mail(shop: Shop) -> DeliveryRecord:
    now = shop.gateway.services.clock.now()
    content = EmailContent(subject="Reset", body_text="Your code", is_system=True)
    made = NewDelivery(
        delivery_id=uuid7(),
        channel="EMAIL",
        status="QUEUED",
        dispatch_key="email",
        content=msgspec.json.encode(content).decode(),
        retry_schedule=(2,),
        created_at=now,
        next_attempt_at=now,
        user_id="ada",
        recipient="ada@example.com",
    )
    async with shop.gateway.services.database.transaction() as connection:
        await create_deliveries(connection, project_id=shop.project_id, deliveries=[made], now=now)
    return (await shop.read([made.delivery_id]))[0]


async def test_mail_of_the_platform_itself_leaves_from_its_own_pool(shop: Shop) -> None:
    await shop.say("ada", ConsentState.REVOKED)
    await shop.suppress("ada@example.com", "UNSUBSCRIBED")
    assert isinstance(await shop.attempt(await make_system_mail(shop)), Accepted)
    [received] = shop.relay.received
    assert received.sender == "no-reply@sendora.example"
    assert received.message["List-Unsubscribe"] is None


async def test_not_even_that_goes_to_an_address_that_bounced(shop: Shop) -> None:
    await shop.suppress("ada@example.com", "BOUNCED")
    [prepared] = await shop.prepare([await make_system_mail(shop)])
    assert prepared == Suppress(reason=SuppressedReason.BOUNCED)


# ─────────────── unsubscribing ───────────────


async def test_one_click_revokes_consent_with_its_event_once(shop: Shop) -> None:
    [ready] = await shop.prepare(await shop.stored(await shop.send(userIds=["bob"])))
    assert isinstance(ready, Ready)
    assert isinstance(ready.message, MailJob)
    url = ready.message.mail.unsubscribe_url
    assert url is not None
    asked = TOKENS.read(url.rpartition("/")[2])
    assert asked is not None
    services = shop.gateway.services
    for _ in range(2):
        assert await unsubscribe(services.database, services.announce, asked, now=services.clock.now())
    assert await shop.events() == ["consent.revoked"]
    sent = await shop.send(userIds=["bob"])
    assert [each["suppressedReason"] for each in sent["deliveries"]] == ["CONSENT"]


async def test_an_address_of_nobody_is_suppressed(shop: Shop) -> None:
    [ready] = await shop.prepare(await shop.stored(await shop.send(to=["Eve@example.com"])))
    assert isinstance(ready, Ready)
    assert isinstance(ready.message, MailJob)
    asked = TOKENS.read((ready.message.mail.unsubscribe_url or "").rpartition("/")[2])
    assert asked is not None
    services = shop.gateway.services
    assert await unsubscribe(services.database, services.announce, asked, now=services.clock.now())
    sent = await shop.send(to=["eve@EXAMPLE.com"])
    assert [each["suppressedReason"] for each in sent["deliveries"]] == ["UNSUBSCRIBED"]


async def test_unsubscribing_does_not_bring_an_erased_person_back(shop: Shop) -> None:
    services = shop.gateway.services
    asked = TOKENS.read(TOKENS.sign(msgspec.structs.replace(ASKED, project_id=shop.project_id, user_id="gone")))
    assert asked is not None
    assert await unsubscribe(services.database, services.announce, asked, now=services.clock.now())
    assert await shop.tenant.data('{ profile(userId: "gone") { id } }') == {"profile": None}
    unknown = msgspec.structs.replace(asked, project_id=uuid7())
    assert not await unsubscribe(services.database, services.announce, unknown, now=services.clock.now())


ASKED = Unsubscription(uuid7(), "EMAIL")


# ─────────────── reports ───────────────


def callback(kind: str, *, delivery: DeliveryRecord | None = None, **data: Any) -> EmailCallback:
    """As Resend sends it."""
    tags = {} if delivery is None else {"tags": {"delivery_id": delivery.delivery_id.hex}}
    body = {"type": f"email.{kind}", "created_at": "2026-05-01T12:00:00Z", "data": {"email_id": "re-1", **tags, **data}}
    read = read_email_callback(msgspec.json.encode(body), callback_id=f"msg_{kind}")
    assert read is not None
    return read


async def report(shop: Shop, said: EmailCallback, **options: Any) -> Reported:
    services = shop.gateway.services
    return await apply_email_callback(
        services.database, services.announce, said, project_id=shop.project_id, now=services.clock.now(), **options
    )


async def sent_mail(shop: Shop, status: str = "SENT", message_id: str | None = "re-1") -> DeliveryRecord:
    [delivery] = await shop.stored(await shop.send(userIds=["bob"]))
    await shop.mark(delivery, status, message_id)
    return delivery


async def test_a_mail_is_delivered_opened_and_clicked(shop: Shop) -> None:
    delivery = await sent_mail(shop)
    click = {"click": {"link": "https://shop.example/s"}}
    for said in (callback("delivered"), callback("opened"), callback("clicked", **click)):
        assert await report(shop, said) is Reported.APPLIED
        # Sent again, as webhooks are.
        assert await report(shop, said) is Reported.NOTHING_NEW
    [after] = await shop.read([delivery.delivery_id])
    assert (after.status, after.delivered_at is None) == ("DELIVERED", False)
    assert after.opened_at is not None
    assert after.clicked_at is not None
    assert await shop.events() == ["email.delivered", "email.opened", "email.clicked"]
    assert shop.gateway.announced[-1].lane is Lane.EVENTS


async def test_a_mail_that_was_delivered_may_still_bounce(shop: Shop) -> None:
    delivery = await sent_mail(shop, "DELIVERED")
    bounce = {"bounce": {"type": "Permanent", "subType": "General", "message": "bob@example.com unknown"}}
    assert await report(shop, callback("bounced", **bounce)) is Reported.APPLIED
    [after] = await shop.read([delivery.delivery_id])
    assert (after.status, after.error_code, after.error_permanent) == ("FAILED", "General", True)
    assert await shop.suppressed("bob@example.com") == {"bob@example.com": "BOUNCED"}
    assert await shop.events() == ["email.bounced"]


async def test_a_bounce_that_may_pass_suppresses_nothing(shop: Shop) -> None:
    await sent_mail(shop)
    assert await report(shop, callback("bounced", bounce={"type": "Transient"})) is Reported.APPLIED
    assert await shop.suppressed("bob@example.com") == {}


async def test_a_complaint_revokes_consent_and_suppresses_the_address(shop: Shop) -> None:
    delivery = await sent_mail(shop)
    assert await report(shop, callback("complained")) is Reported.APPLIED
    assert await report(shop, callback("complained")) is Reported.NOTHING_NEW
    assert await shop.suppressed("bob@example.com") == {"bob@example.com": "UNSUBSCRIBED"}
    assert await shop.events() == ["consent.revoked", "email.complained"]
    [after] = await shop.read([delivery.delivery_id])
    assert after.status == "SENT"


async def test_a_report_finds_its_delivery_by_its_tag_and_waits_for_the_answer_it_overtook(shop: Shop) -> None:
    delivery = await sent_mail(shop, "SENDING", None)
    early = await report(shop, callback("delivered", delivery=delivery), wait_seconds=0.0)
    assert early is Reported.TOO_EARLY
    await shop.mark(delivery, "UNCERTAIN", None)
    assert await report(shop, callback("delivered", delivery=delivery)) is Reported.APPLIED
    [after] = await shop.read([delivery.delivery_id])
    assert (after.status, after.provider_message_id) == ("DELIVERED", "re-1")
    # An earlier attempt's report is nothing to a delivery that was replayed.
    await shop.mark(delivery, "SENT", "re-2")
    assert await report(shop, callback("bounced", delivery=delivery)) is Reported.NOTHING_NEW
    assert await shop.suppressed("bob@example.com") == {}


async def test_a_complaint_about_a_mail_that_is_just_taken_up_again_is_no_less_an_event(shop: Shop) -> None:
    delivery = await sent_mail(shop)
    async with shop.gateway.services.database.transaction() as connection:
        await lock_profiles(connection, project_id=shop.project_id, user_ids=["bob"])
        complaint = asyncio.create_task(report(shop, callback("complained"), wait_seconds=0.0))
        async with asyncio.timeout(5):
            while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                pass
        await shop.mark(delivery, "SENDING", None)
    assert await complaint is Reported.TOO_EARLY
    assert await shop.events() == ["consent.revoked"]
    await shop.mark(delivery, "SENT", "re-1")
    assert await report(shop, callback("complained")) is Reported.APPLIED
    assert await shop.events() == ["consent.revoked", "email.complained"]


async def test_a_report_about_another_projects_mail_is_about_nothing(shop: Shop) -> None:
    delivery = await sent_mail(shop)
    other = await shop.gateway.tenant("other")
    services = shop.gateway.services
    for said in (callback("bounced"), callback("bounced", delivery=delivery)):
        outcome = await apply_email_callback(
            services.database, services.announce, said, project_id=other.project_id, now=services.clock.now()
        )
        assert outcome is Reported.UNKNOWN
    [after] = await shop.read([delivery.delivery_id])
    assert after.status == "SENT"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"type": "email.sent", "data": {"email_id": "x"}}',
        b'{"type": "email.delivery_delayed", "data": {"email_id": "x"}}',
        b'{"type": "email.delivered"}',
        b'{"type": "email.delivered", "data": {"email_id": 7}}',
        b'{"type": "contact.created", "data": {}}',
    ],
)
def test_what_means_nothing_here_is_left_alone(body: bytes) -> None:
    assert read_email_callback(body, callback_id="msg_1") is None


def test_what_a_report_says() -> None:
    body = b"""{"type": "email.bounced", "data": {
        "email_id": "x", "bounce": {"type": "Transient", "subType": "MailboxFull"},
        "tags": [{"name": "delivery_id", "value": "00000000000000000000000000000001"}]}}"""
    read = read_email_callback(body, callback_id="msg_1")
    assert read is not None
    assert (read.kind, read.is_permanent, read.reason) == (EmailReport.BOUNCED, False, "MailboxFull")
    assert read.delivery_id is not None
    assert read.delivery_id.int == 1


# ─────────────── templates ───────────────


async def save(shop: Shop, **given: Any) -> Any:
    return (await shop.tenant.data(SAVE, input=given))["saveTemplate"]


async def test_a_template_is_made_changed_cleared_listed_and_deleted(shop: Shop) -> None:
    made = await save(shop, name="Welcome", channel="EMAIL", subject="Hi {{ trait.name }}", bodyText="Hello")
    template = made["template"]
    assert (made["userErrors"], template["bodyHtml"]) == ([], None)
    changed = (await save(shop, id=template["id"], bodyHtml="<p>Hello</p>", bodyText=None))["template"]
    assert changed == {**template, "bodyHtml": "<p>Hello</p>", "bodyText": None}
    await save(shop, name="Alert", channel="SMS", bodyText="x")
    await save(shop, name="Älter", channel="EMAIL", bodyText="x")
    listed = await shop.tenant.data(
        "{ templates(first: 2) { edges { cursor node { name } } pageInfo { hasNextPage } } }"
    )
    assert [edge["node"]["name"] for edge in listed["templates"]["edges"]] == ["Alert", "Welcome"]
    assert listed["templates"]["pageInfo"]["hasNextPage"]
    after = "query ($after: Cursor) { templates(after: $after, channel: EMAIL) { edges { node { name } } } }"
    rest = await shop.tenant.data(after, after=listed["templates"]["edges"][0]["cursor"])
    assert [edge["node"]["name"] for edge in rest["templates"]["edges"]] == ["Welcome", "Älter"]
    node = "query ($id: ID!) { node(id: $id) { ... on Template { name channel } } }"
    assert await shop.tenant.data(node, id=template["id"]) == {"node": {"name": "Welcome", "channel": "EMAIL"}}
    delete = "mutation ($id: ID!) { deleteTemplate(id: $id) { deletedId userErrors { code } } }"
    assert (await shop.tenant.data(delete, id=template["id"]))["deleteTemplate"]["deletedId"] == template["id"]
    assert await shop.tenant.data(node, id=template["id"]) == {"node": None}


NO_TEMPLATES: list[tuple[dict[str, Any], str, str]] = [
    ({"channel": "EMAIL", "bodyText": "x"}, "INVALID", "name"),
    ({"name": " ", "channel": "EMAIL", "bodyText": "x"}, "INVALID", "name"),
    ({"name": "x" * 101, "channel": "EMAIL", "bodyText": "x"}, "INVALID", "name"),
    ({"name": "New", "bodyText": "x"}, "INVALID", "channel"),
    ({"name": "New", "channel": "EMAIL"}, "INVALID", "bodyText"),
    ({"name": "New", "channel": "EMAIL", "subject": "{{", "bodyText": "x"}, "INVALID", "subject"),
    ({"name": "New", "channel": "EMAIL", "subject": "x" * 999, "bodyText": "x"}, "LIMIT_EXCEEDED", "subject"),
    ({"name": "New", "channel": "EMAIL", "bodyHtml": "{% for %}"}, "INVALID", "bodyHtml"),
    ({"name": "New", "channel": "EMAIL", "bodyText": "{{ x | shout }}"}, "INVALID", "bodyText"),
    ({"name": "Taken", "channel": "EMAIL", "bodyText": "x"}, "CONFLICT", "name"),
]


async def test_what_is_no_template_is_not_saved(shop: Shop) -> None:
    taken = (await save(shop, name="Taken", channel="EMAIL", bodyText="x"))["template"]
    other = (await save(shop, name="Other", channel="EMAIL", bodyText="x"))["template"]
    given_ids = [({"id": other["id"], "name": "Taken"}, "CONFLICT", "name")]
    given_ids += [({"id": taken["id"], name: None}, "INVALID", name) for name in ("name", "channel", "bodyText")]
    given_ids += [({"id": "tpl_" + "0" * 32, "name": "x"}, "NOT_FOUND", "id")]
    for given, code, path in [*NO_TEMPLATES, *given_ids]:
        refused = await save(shop, **given)
        assert refused["template"] is None, given
        assert [(each["code"], each["path"]) for each in refused["userErrors"]] == [(code, ["input", path])], given
    listed = await shop.tenant.data("{ templates { edges { node { name } } } }")
    assert [edge["node"]["name"] for edge in listed["templates"]["edges"]] == ["Other", "Taken"]


async def test_a_template_is_read_when_the_mail_is_due(shop: Shop) -> None:
    template = (await save(shop, name="Welcome", channel="EMAIL", subject="Old", bodyText="{{ code }}"))["template"]
    given = {"userIds": ["bob"], "templateId": template["id"], "subject": None, "bodyHtml": None, "vars": {"code": 7}}
    deliveries = await shop.stored(await shop.send(**given)) + await shop.stored(await shop.send(**given))
    await save(shop, id=template["id"], subject="New")
    [ready] = await shop.prepare(deliveries[:1])
    assert isinstance(ready, Ready)
    assert isinstance(ready.message, MailJob)
    mail: Mail = ready.message.mail
    assert (mail.subject, mail.text, mail.html) == ("New", "7", None)
    delete = "mutation ($id: ID!) { deleteTemplate(id: $id) { userErrors { code } } }"
    await shop.tenant.data(delete, id=template["id"])
    [refused] = await shop.prepare(deliveries[1:])
    assert isinstance(refused, Refuse)
    assert refused.error.code == "TEMPLATE_NOT_FOUND"


async def test_a_template_for_another_channel_is_no_mail(shop: Shop) -> None:
    template = (await save(shop, name="Text", channel="SMS", bodyText="x"))["template"]
    assert parse_node_id(template["id"]).kind is NodeKind.TEMPLATE  # type: ignore[union-attr]
    refused = await shop.send(userIds=["bob"], templateId=template["id"], subject=None, bodyHtml=None)
    assert [(each["code"], each["path"]) for each in refused["userErrors"]] == [("INVALID", ["input", "templateId"])]
