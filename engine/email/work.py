"""Mail, as the dispatcher uses it: who may be sent to, by whom, what is sent, and what outcomes mean for addresses.

Guarantees: consent, suppressions and the sender's domain are those of the transaction that commits SENDING; what was
resolved for a delivery once is what every attempt sends; limits are reserved before a mail goes out, so that two
workers cannot overshoot; an address that came back for good is suppressed in the transaction that records it.
Leaves to others: retries and rows (`engine.dispatch`), the wire (`engine.channels`), reports that come later
(`engine.email.callbacks`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from db.delivery_records import DeliveryRecord
from db.events import read_events_by_seq
from db.profiles import read_profiles_by_user
from db.records import EventRecord, NewEvent, ProfileRecord
from db.sender_domains import SenderDomainRecord, find_sender_domains
from db.suppressions import NewSuppression, insert_suppressions
from db.templates import TemplateRecord, read_templates
from engine.channels.base import (
    Message,
    Outcome,
    Prepared,
    Ready,
    Refuse,
    Rejected,
    Settled,
)
from engine.channels.http import HttpClient
from engine.channels.resend import ResendMessage, ResendSender
from engine.channels.smtp import SmtpAccount, SmtpMessage, SmtpSender
from engine.dispatch.recipients import Standings, lock_standings
from engine.dispatch.status import delivery_event
from engine.dispatch.values import Channel, DeliveryError, EmailContent, SuppressedReason
from engine.email.accounts import MailAccount, ResendAccount, read_mail_account, system_account
from engine.email.bursts import Bursts
from engine.email.dkim_signing import DkimSigner, sign
from engine.email.domains import dkim_purpose
from engine.email.message import Mail, mail_bytes
from engine.email.policy import NO_ADDRESS, BurstLimits, resolve_mail, texts_of
from engine.email.sender import NO_SENDER, Mailbox, decide_sender, read_mailbox
from engine.email.unsubscribe import UnsubscribeTokens, unsubscribe_url, unsubscription_of
from engine.providers.refusals import settle_accounts
from engine.templates.liquid import template_values
from engine.templates.rounds import render_round
from engine.vault import CannotOpen, Vault

if TYPE_CHECKING:
    import asyncpg

DISPATCH_KEY = "email"
_content = msgspec.json.Decoder(EmailContent)
_mail = msgspec.json.Decoder(Mail)


class MailJob(msgspec.Struct, frozen=True, kw_only=True):
    """One mail with everything that sending it takes. Held in memory only."""

    delivery_id: UUID
    account: MailAccount
    mail: Mail
    sender: Mailbox
    signer: DkimSigner | None
    idempotency_key: str
    date: datetime

    @property
    def repeatable(self) -> bool:
        return isinstance(self.account.account, ResendAccount)

    def __repr__(self) -> str:
        return f"MailJob(delivery_id={self.delivery_id})"


class _Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What all deliveries of one round share."""

    now: datetime
    standings: Standings
    profiles: Mapping[str, ProfileRecord]
    events: Mapping[int, EventRecord]
    templates: Mapping[UUID, TemplateRecord]
    domains: Mapping[str, SenderDomainRecord]
    account: MailAccount | None


class EmailWork:
    """One per worker process. `http` is its owner's to close; `public_url` is where links to unsubscribe lead;
    `system_pool` sends what the platform itself has to say, and has a `from_address`."""

    channel = Channel.EMAIL

    def __init__(
        self,
        vault: Vault,
        http: HttpClient,
        smtp: SmtpSender,
        tokens: UnsubscribeTokens,
        *,
        public_url: str,
        system_pool: SmtpAccount | None = None,
        limits: BurstLimits | None = None,
    ) -> None:
        self._vault = vault
        self._resend = ResendSender(http)
        self._smtp = smtp
        self._tokens = tokens
        self._public_url = public_url
        self._system = None if system_pool is None else system_account(system_pool)
        self._bursts = Bursts(limits or BurstLimits())

    async def prepare(
        self, connection: asyncpg.Connection, *, project_id: UUID, deliveries: Sequence[DeliveryRecord], now: datetime
    ) -> Mapping[UUID, Prepared]:
        """See `ChannelWork`. Limits are reserved last, for what would go out."""
        contents = {each.delivery_id: _content.decode(each.content) for each in deliveries}
        around = await self._surroundings(connection, project_id, deliveries, contents, now)
        rendered = await render_round(
            deliveries, lambda each: self._prepare(each, contents[each.delivery_id], around), now=now
        )
        prepared = {each.delivery_id: made for each, made in zip(deliveries, rendered, strict=True)}
        jobs = {key: each.message for key, each in prepared.items() if isinstance(each, Ready)}
        new = {name for name, domain in around.domains.items() if _is_on_probation(domain, now)}
        wanted = {key: job.sender.domain for key, job in jobs.items() if isinstance(job, MailJob)}
        late = await self._bursts.reserve(connection, project_id=project_id, wanted=wanted, new_domains=new, now=now)
        return {**prepared, **late}

    async def send(self, message: Message) -> Outcome:
        """See `ChannelWork`."""
        if not isinstance(message, MailJob):
            raise TypeError("not a mail")
        account = message.account.account
        if isinstance(account, ResendAccount):
            return await self._resend.send(_for_resend(message, account))
        return await self._smtp.send(_for_smtp(message, account))

    async def settle(
        self, connection: asyncpg.Connection, *, project_id: UUID, settled: Sequence[Settled], now: datetime
    ) -> Sequence[NewEvent]:
        """Suppress addresses that came back for good, with `email.bounced`, and keep what is wrong with the account."""
        bounced = [each for each in settled if isinstance(each.outcome, Rejected) and each.outcome.address_is_dead]
        dead = {
            each.delivery.recipient.lower(): NewSuppression(
                each.delivery.recipient.lower(), SuppressedReason.BOUNCED, each.delivery.delivery_id
            )
            for each in bounced
            if each.delivery.recipient is not None
        }
        if dead:
            await insert_suppressions(
                connection, project_id=project_id, channel=Channel.EMAIL, suppressions=list(dead.values()), now=now
            )
        jobs = [(each.message, each.outcome) for each in settled if isinstance(each.message, MailJob)]
        await settle_accounts(connection, project_id, [(job.account.provider_id, outcome) for job, outcome in jobs])
        return [_bounced_event(each) for each in bounced]

    async def close(self) -> None:
        """Close the connections to relays."""
        await self._smtp.close()

    async def _surroundings(
        self,
        connection: asyncpg.Connection,
        project_id: UUID,
        deliveries: Sequence[DeliveryRecord],
        contents: Mapping[UUID, EmailContent],
        now: datetime,
    ) -> _Surroundings:
        user_ids = sorted({each.user_id for each in deliveries if each.user_id is not None})
        standings = await lock_standings(
            connection,
            Channel.EMAIL,
            project_id=project_id,
            user_ids=user_ids,
            addresses=[each.recipient for each in deliveries],
        )
        seqs = sorted({each.event_seq for each in deliveries if each.event_seq is not None})
        wanted = {each.template_id for each in contents.values() if each.template_id is not None}
        account = await read_mail_account(connection, self._vault, project_id=project_id)
        senders = {each.from_address or (account.default_from if account else None) for each in contents.values()}
        profiles = await read_profiles_by_user(connection, project_id=project_id, user_ids=user_ids)
        events = await read_events_by_seq(connection, project_id=project_id, seqs=seqs)
        templates = await read_templates(connection, project_id=project_id, template_ids=list(wanted))
        domains = await find_sender_domains(connection, project_id=project_id, domains=_domains_of(senders))
        return _Surroundings(
            now=now,
            standings=standings,
            profiles={each.user_id: each for each in profiles},
            events={each.seq: each for each in events},
            templates={each.template_id: each for each in templates},
            domains={each.domain: each for each in domains},
            account=account,
        )

    def _prepare(self, delivery: DeliveryRecord, content: EmailContent, around: _Surroundings) -> Prepared:
        suppressed = around.standings.held_back(delivery.user_id, delivery.recipient, is_system=content.is_system)
        if suppressed is not None:
            return suppressed
        if delivery.recipient is None:
            return Refuse(error=NO_ADDRESS)
        chosen = self._choose_sender(content, around)
        if isinstance(chosen, DeliveryError):
            return Refuse(error=chosen)
        account, sender, signer = chosen
        mail = self._resolve(delivery, delivery.recipient, content, sender, around)
        if not isinstance(mail, Mail):
            return mail
        job = MailJob(
            delivery_id=delivery.delivery_id,
            account=account,
            mail=mail,
            sender=sender,
            signer=signer if isinstance(account.account, SmtpAccount) else None,
            idempotency_key=_idempotency_key(delivery),
            date=around.now,
        )
        return Ready(message=job, payload=msgspec.json.encode(mail).decode())

    def _choose_sender(
        self, content: EmailContent, around: _Surroundings
    ) -> tuple[MailAccount, Mailbox, DkimSigner | None] | DeliveryError:
        if content.is_system:
            default = None if self._system is None else self._system.default_from
            sender = None if default is None else read_mailbox(default)
            if self._system is None or not isinstance(sender, Mailbox):
                return NO_SENDER
            return self._system, sender, None
        default = None if around.account is None else around.account.default_from
        decided = decide_sender(content.from_address, default, around.domains)
        if isinstance(decided, DeliveryError):
            return decided
        if around.account is None:
            return NO_SENDER
        sender, domain = decided
        try:
            return around.account, sender, self._signer(domain)
        except CannotOpen as error:
            return DeliveryError("DKIM_KEY", str(error), permanent=True)

    def _signer(self, domain: SenderDomainRecord) -> DkimSigner:
        private = self._vault.open(
            domain.sealed_dkim_private_key, project_id=domain.project_id, purpose=dkim_purpose(domain.domain)
        )
        return DkimSigner(domain.domain, domain.dkim_selector, private)

    def _resolve(
        self,
        delivery: DeliveryRecord,
        recipient: str,
        content: EmailContent,
        sender: Mailbox,
        around: _Surroundings,
    ) -> Mail | Prepared:
        """What was resolved at an earlier attempt is sent again, word for word: a receiver that deduplicates asks for
        that, and the delivery shows it."""
        if delivery.payload is not None:
            resolved = _mail.decode(delivery.payload)
            if resolved.from_ == sender.text and resolved.to == recipient:
                return resolved
        texts = texts_of(content, around.templates)
        if isinstance(texts, Refuse):
            return texts
        asked = unsubscription_of(project_id=delivery.project_id, user_id=delivery.user_id, address=recipient)
        return resolve_mail(
            texts,
            template_values(
                now=around.now,
                user_id=delivery.user_id,
                profile=around.profiles.get(delivery.user_id or ""),
                event=around.events.get(delivery.event_seq or 0),
                variables=content.vars,
            ),
            delivery_id=delivery.delivery_id,
            sender=sender,
            recipient=recipient,
            reply_to=content.reply_to,
            unsubscribe_url=None if content.is_system else unsubscribe_url(self._public_url, self._tokens, asked),
        )


def _for_smtp(job: MailJob, account: SmtpAccount) -> SmtpMessage:
    content = mail_bytes(job.mail, date=job.date)
    return SmtpMessage(
        account=account,
        sender=job.sender.address,
        recipient=job.mail.to,
        message_id=job.mail.message_id,
        content=content if job.signer is None else sign(content, job.signer),
    )


def _for_resend(job: MailJob, account: ResendAccount) -> ResendMessage:
    mail = job.mail
    body: dict[str, Any] = {
        "from": mail.from_,
        "to": [mail.to],
        "subject": mail.subject,
        "html": mail.html,
        "text": mail.text,
        "reply_to": mail.reply_to,
        "headers": {"Message-ID": mail.message_id, **mail.headers},
        # Comes back in Resend's callbacks, also in those that overtake its answer.
        "tags": [{"name": "delivery_id", "value": job.delivery_id.hex}],
    }
    return ResendMessage(
        base_url=account.base_url,
        api_key=account.api_key,
        idempotency_key=job.idempotency_key,
        body={name: value for name, value in body.items() if value is not None},
    )


def _idempotency_key(delivery: DeliveryRecord) -> str:
    """The same for all attempts of a send or replay, taken over ones included; a replay is to be sent again."""
    return f"{delivery.delivery_id}:{delivery.batch_id}"


def _domains_of(senders: set[str | None]) -> list[str]:
    mailboxes = [read_mailbox(each) for each in senders if each is not None]
    return sorted({each.domain for each in mailboxes if isinstance(each, Mailbox)})


def _is_on_probation(domain: SenderDomainRecord, now: datetime) -> bool:
    return domain.probation_until is not None and now < domain.probation_until


def _bounced_event(settled: Settled) -> NewEvent:
    delivery, outcome = settled.delivery, settled.outcome
    said = {} if not isinstance(outcome, Rejected) else {"errorCode": outcome.error.code, "permanent": True}
    return delivery_event(delivery, "email.bounced", number=delivery.attempt_count, properties=said)
