"""Reading what a run's steps are decided from, without locks and without writing: for runs that are none.

Guarantees: everything comes from the caller's transaction, so one that is read-only and repeatable sees one moment; a
thing is read when a step first needs it, and once. Leaves to others: real runs, which read under locks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

import msgspec

from db.filters import Condition, ConditionOperator
from db.profiles import count_profiles, read_profiles_by_user
from db.push_reservations import SendCount, count_sends
from db.push_settings import read_push_settings
from db.push_tokens import read_tokens_by_user
from db.records import EventRecord, ProfileRecord, ProjectRecord
from db.sender_domains import find_sender_domains
from db.standings import read_as_stored, read_held, read_said
from db.templates import read_templates
from engine.audiences.conditions import conditions_of
from engine.audiences.membership import find_audience
from engine.consent import ConsentPurpose, ConsentState
from engine.dispatch.values import Channel, DeliveryError
from engine.email.accounts import read_mail_account
from engine.project_settings import read_settings
from engine.push.accounts import account_for, find_accounts
from engine.push.policy import PolicyToken
from engine.push.standing import rules_of
from engine.sms.work import read_account
from engine.vault import Vault
from engine.workflows.conditions import Subject, count_passes, counts_in, without_event
from engine.workflows.surroundings import MailStanding, PushStanding, SmsStanding, Surroundings, Wanted

if TYPE_CHECKING:
    import asyncpg

R = TypeVar("R", EventRecord, ProfileRecord)


class Lookup:
    """Reads for one run of one project, through one connection."""

    def __init__(self, connection: asyncpg.Connection, vault: Vault, project: ProjectRecord) -> None:
        self._connection = connection
        self._vault = vault
        self._project = project
        self._project_id = project.project_id
        self._has_devices = False
        self._has_profile = False

    async def profile(self, user_id: str | None) -> ProfileRecord | None:
        """The person, if they are there."""
        if user_id is None:
            return None
        found = await read_profiles_by_user(self._connection, project_id=self._project_id, user_ids=[user_id])
        self._has_profile = bool(found)
        return found[0] if found else None

    async def begin(
        self,
        *,
        event: EventRecord | None,
        user_id: str | None,
        profile: ProfileRecord | None,
        refuse_url: Callable[[str], str | None],
    ) -> Surroundings:
        """What every step has around it: the person's word, and the accounts there are to send with."""
        said = (
            {} if user_id is None else await read_said(self._connection, project_id=self._project_id, user_id=user_id)
        )
        settings = await read_settings(self._connection, project_id=self._project_id)
        mail = await read_mail_account(self._connection, self._vault, project_id=self._project_id)
        sms = await read_account(self._connection, self._vault, project_id=self._project_id)
        return Surroundings(
            event=event,
            user_id=user_id,
            profile=profile,
            unknown_allowed=settings.unknown_allowed,
            default_zone=settings.default_timezone,
            refuse_url=refuse_url,
            consents={ConsentPurpose(purpose): ConsentState(state) for purpose, state in said.items()},
            mail=MailStanding(has_account=mail is not None, default_from=None if mail is None else mail.default_from),
            sms=SmsStanding(has_account=sms is not None),
        )

    async def add(self, around: Surroundings, wanted: Wanted, now: datetime) -> Surroundings:
        """The surroundings with what the next step wants besides."""
        mail = await self._add_mail(around.mail, wanted)
        sms = await self._add_numbers(around.sms, wanted)
        push = await self._push(around, now) if wanted.devices else around.push
        return msgspec.structs.replace(around, mail=mail, sms=sms, push=push)

    async def members(self, audience_id: UUID) -> tuple[Condition, ...] | None:
        """What an audience asks of its members; None for one that was deleted."""
        audience = await find_audience(self._connection, project_id=self._project_id, audience_id=audience_id)
        return None if audience is None else conditions_of(audience)

    async def counted(self, conditions: Sequence[Condition], subject: Subject) -> tuple[tuple[Condition, bool], ...]:
        """The counts of events in conditions, the event in hand counted as if it were stored."""
        return tuple([(test, await self._passes(test, subject)) for test in counts_in(conditions)])

    async def as_stored(self, record: R) -> R:
        """An event or a profile, its JSON as it reads once stored: texts may write objects and numbers out."""
        names = [name for name in ("traits", "properties", "context") if hasattr(record, name)]
        texts = [bytes(getattr(record, name)).decode() for name in names]
        kept = await read_as_stored(self._connection, texts=texts)
        return msgspec.structs.replace(record, **dict(zip(names, kept, strict=True)))

    async def _add_mail(self, mail: MailStanding, wanted: Wanted) -> MailStanding:
        domains = sorted(wanted.domains - mail.domains.keys())
        templates = [each for each in wanted.templates if each not in mail.templates]
        if domains:
            found = await find_sender_domains(self._connection, project_id=self._project_id, domains=domains)
            mail = msgspec.structs.replace(mail, domains={**mail.domains, **{each.domain: each for each in found}})
        if templates:
            read = await read_templates(self._connection, project_id=self._project_id, template_ids=templates)
            by_id = {each.template_id: each for each in read}
            mail = msgspec.structs.replace(mail, templates={**mail.templates, **by_id})
        if wanted.addresses:
            held = await self._held(Channel.EMAIL, wanted.addresses)
            mail = msgspec.structs.replace(mail, held={**mail.held, **held})
        return mail

    async def _add_numbers(self, sms: SmsStanding, wanted: Wanted) -> SmsStanding:
        if not wanted.numbers:
            return sms
        return msgspec.structs.replace(sms, held={**sms.held, **await self._held(Channel.SMS, wanted.numbers)})

    async def _held(self, channel: Channel, addresses: frozenset[str]) -> dict[str, str]:
        held = await read_held(
            self._connection, project_id=self._project_id, channel=channel, addresses=sorted(addresses)
        )
        return dict(held)

    async def _push(self, around: Surroundings, now: datetime) -> PushStanding:
        """The devices once; what counts against the caps as of `now`."""
        if around.user_id is None:
            return around.push
        push = around.push if self._has_devices else await self._devices(around.user_id)
        self._has_devices = True
        if push.rules.cap_per_hour is None and push.rules.cap_per_day is None:
            return push
        counts = await count_sends(
            self._connection, project_id=self._project_id, user_ids=[around.user_id], message_ids=[], now=now
        )
        sent = counts.get(around.user_id, SendCount())
        return msgspec.structs.replace(push, sent_in_hour=sent.in_hour, sent_in_day=sent.in_day)

    async def _devices(self, user_id: str) -> PushStanding:
        settings = await read_push_settings(self._connection, project_id=self._project_id)
        project = await read_settings(self._connection, project_id=self._project_id)
        found = await read_tokens_by_user(self._connection, project_id=self._project_id, user_ids=[user_id])
        active = sorted((each for each in found if each.active), key=lambda each: each.push_token_id)
        accounts = await find_accounts(
            self._connection, self._vault, project_id=self._project_id, platforms={each.platform for each in active}
        )
        accounts_of = [account_for(each, accounts.get(each.platform)) for each in active]
        return PushStanding(
            tokens=tuple(PolicyToken(timezone=each.timezone, locale=each.locale) for each in active),
            refused={place: each for place, each in enumerate(accounts_of) if isinstance(each, DeliveryError)},
            rules=rules_of(settings, project),
        )

    async def _passes(self, test: Condition, subject: Subject) -> bool:
        before = without_event(test, subject)
        if subject.profile is None or not self._has_profile:
            return count_passes(before, 0)
        person = Condition(path="profile.userId", op=ConditionOperator.EQ, value=subject.profile.user_id)
        found = await count_profiles(
            self._connection, project_id=self._project_id, where=(person, before), now=subject.now
        )
        return found.total > 0
