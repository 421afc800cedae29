"""Text messages, as the dispatcher uses them: who may be sent to, what is sent, and what outcomes mean for numbers.

Guarantees: consent and suppressions are those of the transaction that commits SENDING; a number that answered STOP, or
that does not exist, is suppressed in the transaction that records it; what is wrong with the account is kept at the
provider. Leaves to others: retries and rows (`engine.dispatch`), the wire (`engine.channels.twilio`), callbacks.
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
from db.suppressions import NewSuppression, insert_suppressions
from engine.channels.base import Message, Outcome, Prepared, Ready, Refuse, Rejected, Settled
from engine.channels.http import HttpClient
from engine.channels.twilio import DEFAULT_BASE_URL, TwilioMessage, send_sms
from engine.channels.twilio_errors import Scope, meaning_of
from engine.dispatch.recipients import Standings, lock_standings
from engine.dispatch.values import Channel, SmsContent, SuppressedReason
from engine.providers.configuring import delivery_callback_url
from engine.providers.credentials import ProviderCredentials, read_credentials
from engine.providers.refusals import settle_accounts
from engine.providers.shapes import missing
from engine.providers.values import ProviderKind
from engine.sms.policy import NO_PHONE, NOT_CONFIGURED, count_segments, render_text
from engine.templates.liquid import template_values
from engine.templates.rounds import render_round
from engine.vault import CannotOpen, Vault

if TYPE_CHECKING:
    import asyncpg

DISPATCH_KEY = "sms"
_content = msgspec.json.Decoder(SmsContent)


class _Surroundings(msgspec.Struct, frozen=True):
    """What all deliveries of one round share."""

    standings: Standings
    profiles: Mapping[str, ProfileRecord]
    events: Mapping[int, EventRecord]
    account: ProviderCredentials | None


class SmsWork:
    """One per worker process. `public_url` is where Twilio's callbacks reach this deployment."""

    channel = Channel.SMS

    def __init__(self, vault: Vault, http: HttpClient, *, public_url: str) -> None:
        self._vault = vault
        self._http = http
        self._public_url = public_url

    async def prepare(
        self, connection: asyncpg.Connection, *, project_id: UUID, deliveries: Sequence[DeliveryRecord], now: datetime
    ) -> Mapping[UUID, Prepared]:
        """See `ChannelWork`."""
        around = await self._surroundings(connection, project_id, deliveries)
        rendered = await render_round(deliveries, lambda each: self._prepare(each, around, now), now=now)
        return {each.delivery_id: made for each, made in zip(deliveries, rendered, strict=True)}

    async def send(self, message: Message) -> Outcome:
        """See `ChannelWork`."""
        if not isinstance(message, TwilioMessage):
            raise TypeError("not a text message")
        return await send_sms(self._http, message)

    async def settle(
        self, connection: asyncpg.Connection, *, project_id: UUID, settled: Sequence[Settled], now: datetime
    ) -> Sequence[NewEvent]:
        """Suppress numbers that are gone or said no, and keep what is wrong with the account. No events."""
        dead = _dead_numbers(settled)
        if dead:
            await insert_suppressions(
                connection, project_id=project_id, channel=Channel.SMS, suppressions=dead, now=now
            )
        messages = [(each.message, each.outcome) for each in settled if isinstance(each.message, TwilioMessage)]
        await settle_accounts(connection, project_id, [(each.provider_id, outcome) for each, outcome in messages])
        return ()

    async def close(self) -> None:
        """Nothing to close: the session is its owner's."""

    async def _surroundings(
        self, connection: asyncpg.Connection, project_id: UUID, deliveries: Sequence[DeliveryRecord]
    ) -> _Surroundings:
        user_ids = sorted({each.user_id for each in deliveries if each.user_id is not None})
        seqs = sorted({each.event_seq for each in deliveries if each.event_seq is not None})
        standings = await lock_standings(
            connection,
            Channel.SMS,
            project_id=project_id,
            user_ids=user_ids,
            addresses=[each.recipient for each in deliveries],
        )
        profiles = await read_profiles_by_user(connection, project_id=project_id, user_ids=user_ids)
        events = await read_events_by_seq(connection, project_id=project_id, seqs=seqs)
        return _Surroundings(
            standings,
            profiles={each.user_id: each for each in profiles},
            events={each.seq: each for each in events},
            account=await read_account(connection, self._vault, project_id=project_id),
        )

    def _prepare(self, delivery: DeliveryRecord, around: _Surroundings, now: datetime) -> Prepared:
        suppressed = around.standings.held_back(delivery.user_id, delivery.recipient)
        if suppressed is not None:
            return suppressed
        if delivery.recipient is None:
            return Refuse(error=NO_PHONE)
        if around.account is None:
            return Refuse(error=NOT_CONFIGURED)
        content = _content.decode(delivery.content)
        values = template_values(
            now=now,
            user_id=delivery.user_id,
            profile=around.profiles.get(delivery.user_id or ""),
            event=around.events.get(delivery.event_seq or 0),
            variables=content.vars,
        )
        text = render_text(content, values)
        if isinstance(text, Refuse):
            return text
        message = self._message(around.account, delivery, delivery.recipient, text)
        return Ready(message=message, payload=_payload(message))

    def _message(self, account: ProviderCredentials, delivery: DeliveryRecord, to: str, text: str) -> TwilioMessage:
        settings = account.settings
        return TwilioMessage(
            provider_id=account.provider_id,
            base_url=settings.get("baseUrl", DEFAULT_BASE_URL),
            account_sid=settings["accountSid"],
            auth_token=account.secrets["authToken"],
            to=to,
            body=text,
            callback_url=delivery_callback_url(self._public_url, account.provider_id, delivery.delivery_id),
            sender=settings.get("from"),
            service_sid=settings.get("messagingServiceSid"),
        )


async def read_account(connection: asyncpg.Connection, vault: Vault, *, project_id: UUID) -> ProviderCredentials | None:
    """The project's Twilio account; None unless everything that sending needs is there and can be read."""
    try:
        found = await read_credentials(connection, vault, project_id=project_id, kinds=[ProviderKind.TWILIO])
    except CannotOpen:
        return None
    account = found.get(ProviderKind.TWILIO)
    if account is None or missing(account.kind, account.settings, account.secrets):
        return None
    return account


def suppression_for(code: int | None) -> SuppressedReason | None:
    """Why nothing more is sent to a number after an error; None when it says nothing about the number."""
    match meaning_of(code).scope:
        case Scope.UNSUBSCRIBED:
            return SuppressedReason.UNSUBSCRIBED
        case Scope.NUMBER:
            return SuppressedReason.BOUNCED
    return None


def _dead_numbers(settled: Sequence[Settled]) -> list[NewSuppression]:
    dead: dict[str, NewSuppression] = {}
    for each in settled:
        number, outcome = each.delivery.recipient, each.outcome
        if number is None or not isinstance(outcome, Rejected) or not outcome.address_is_dead:
            continue
        reason = suppression_for(int(outcome.error.code)) or SuppressedReason.BOUNCED
        dead.setdefault(number, NewSuppression(number, reason, each.delivery.delivery_id))
    return list(dead.values())


def _payload(message: TwilioMessage) -> str:
    shown: dict[str, Any] = {
        "to": message.to,
        "from": message.sender,
        "messagingServiceSid": message.service_sid,
        "body": message.body,
        "segments": count_segments(message.body),
    }
    return msgspec.json.encode({name: value for name, value in shown.items() if value is not None}).decode()
