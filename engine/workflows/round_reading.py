"""What the runs of one round have around them, read in bulk, each thing once and only when a step needs it.

Guarantees: no statement per run; what a decision hangs on stays as it was read until the transaction ends, under the
locks that sending takes too (people, consents, suppressions, devices). What nobody locks (accounts, templates, domains)
is looked at again when a delivery is dispatched. Leaves to others: what a step needs (`surroundings.wanted`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.consents import read_consents
from db.events import read_events_by_seq
from db.profiles import read_profiles_by_user
from db.records import EventRecord, ProfileRecord, ProjectRecord
from db.sender_domains import find_sender_domains
from db.suppressions import read_suppressions
from db.templates import read_templates
from db.workflow_records import RunRecord
from engine.consent import ConsentPurpose, ConsentState
from engine.dispatch.values import Channel
from engine.email.accounts import read_mail_account
from engine.project_settings import ProjectSettings, read_settings
from engine.push.desk import PushDesk
from engine.sms.work import read_account
from engine.vault import Vault
from engine.workflows.definition import Definition, SendEmail, SendPush, SendSms
from engine.workflows.state import RunState
from engine.workflows.surroundings import MailStanding, PushStanding, SmsStanding, Surroundings, wanted

if TYPE_CHECKING:
    import asyncpg


class Needs:
    """What steps that are due have to know and nobody has read yet."""

    def __init__(self) -> None:
        self.accounts = False
        self.addresses: set[str] = set()
        self.numbers: set[str] = set()
        self.domains: set[str] = set()
        self.templates: set[UUID] = set()
        self.people: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self.accounts or self.addresses or self.numbers or self.domains or self.templates or self.people)

    def add(self, other: Needs) -> None:
        """Of several runs."""
        self.accounts |= other.accounts
        self.addresses |= other.addresses
        self.numbers |= other.numbers
        self.domains |= other.domains
        self.templates |= other.templates
        self.people |= other.people


class Reading:
    """What one round has read. `desk` plans its pushes; `refuse_url` is `Egress.refusal`."""

    def __init__(
        self, vault: Vault, project: ProjectRecord, refuse_url: Callable[[str], str | None], *, now: datetime
    ) -> None:
        self.desk = PushDesk(project.project_id, now)
        self._vault = vault
        self._project_id = project.project_id
        self._refuse_url = refuse_url
        self._now = now
        self._settings: ProjectSettings | None = None
        self._has_accounts = False
        self._mail = MailStanding()
        self._sms = SmsStanding()
        self._known = Needs()
        self._events: dict[int, EventRecord] = {}
        self._profiles: dict[str, ProfileRecord] = {}
        self._consents: defaultdict[str, dict[ConsentPurpose, ConsentState]] = defaultdict(dict)

    async def begin(self, connection: asyncpg.Connection, runs: Iterable[RunRecord], people: Iterable[str]) -> None:
        """Read the events that started the runs, and the people that are there, whose profiles are locked."""
        self._settings = await read_settings(connection, project_id=self._project_id)
        seqs = sorted({run.event_seq for run in runs if run.event_seq is not None})
        present = sorted(people)
        if seqs:
            events = await read_events_by_seq(connection, project_id=self._project_id, seqs=seqs)
            self._events = {each.seq: each for each in events}
        if present:
            profiles = await read_profiles_by_user(connection, project_id=self._project_id, user_ids=present)
            self._profiles = {each.user_id: each for each in profiles}
            for said in await read_consents(
                connection, project_id=self._project_id, user_ids=present, purposes=list(ConsentPurpose)
            ):
                self._consents[said.user_id][ConsentPurpose(said.purpose)] = ConsentState(said.state)

    def around(self, run: RunRecord) -> Surroundings:
        """What a run has around it, as far as it was read. Only once something was (`begin`)."""
        if self._settings is None:
            raise LookupError("nothing was read yet")
        return Surroundings(
            event=self._events.get(run.event_seq or 0),
            user_id=run.user_id,
            profile=self._profiles.get(run.user_id or ""),
            unknown_allowed=self._settings.unknown_allowed,
            default_zone=self._settings.default_timezone,
            refuse_url=self._refuse_url,
            consents=self._consents.get(run.user_id or "", {}),
        )

    def add(self, around: Surroundings) -> Surroundings:
        """The same with everything that sending takes."""
        push = PushStanding()
        if around.user_id is not None and self.desk.knows(around.user_id):
            seat = self.desk.seat(around.user_id)
            push = PushStanding(
                tokens=seat.tokens,
                rules=seat.rules,
                sent_in_hour=seat.sent.in_hour,
                sent_in_day=seat.sent.in_day,
            )
        return msgspec.structs.replace(around, mail=self._mail, sms=self._sms, push=push)

    def lacking(self, definition: Definition, state: RunState, around: Surroundings, now: datetime) -> Needs:
        """What has to be read before the step that is due is decided; `around` has what was read before."""
        needs, config = Needs(), definition.steps[state.step].config
        if isinstance(config, SendPush):
            if around.profile is not None and not self.desk.knows(around.profile.user_id):
                needs.people.add(around.profile.user_id)
            return needs
        if not isinstance(config, SendEmail | SendSms):
            return needs
        if not self._has_accounts:
            # Which domain a mail is from depends on the account.
            needs.accounts = True
            return needs
        asked = wanted(definition, state, around, now)
        needs.addresses |= asked.addresses - self._known.addresses
        needs.numbers |= asked.numbers - self._known.numbers
        needs.domains |= asked.domains - self._known.domains
        needs.templates |= asked.templates - self._known.templates
        return needs

    async def read(self, connection: asyncpg.Connection, needs: Needs) -> None:
        """Read what is lacking, for all runs that lack it."""
        if needs.accounts:
            await self._read_accounts(connection)
        await self.desk.read(connection, needs.people)
        await self._read_mail(connection, needs)
        if needs.numbers:
            held = await self._held(connection, Channel.SMS, needs.numbers)
            self._sms = msgspec.structs.replace(self._sms, held={**self._sms.held, **held})
        self._known.add(needs)

    async def _read_accounts(self, connection: asyncpg.Connection) -> None:
        mail = await read_mail_account(connection, self._vault, project_id=self._project_id)
        sms = await read_account(connection, self._vault, project_id=self._project_id)
        self._mail = MailStanding(
            has_account=mail is not None, default_from=None if mail is None else mail.default_from
        )
        self._sms = SmsStanding(has_account=sms is not None)
        self._has_accounts = True

    async def _read_mail(self, connection: asyncpg.Connection, needs: Needs) -> None:
        domains, templates, held = dict(self._mail.domains), dict(self._mail.templates), dict(self._mail.held)
        if needs.domains:
            found = await find_sender_domains(connection, project_id=self._project_id, domains=sorted(needs.domains))
            domains |= {each.domain: each for each in found}
        if needs.templates:
            read = await read_templates(connection, project_id=self._project_id, template_ids=sorted(needs.templates))
            templates |= {each.template_id: each for each in read}
        if needs.addresses:
            held |= await self._held(connection, Channel.EMAIL, needs.addresses)
        self._mail = msgspec.structs.replace(self._mail, domains=domains, templates=templates, held=held)

    async def _held(self, connection: asyncpg.Connection, channel: Channel, addresses: Iterable[str]) -> dict[str, str]:
        found = await read_suppressions(
            connection, project_id=self._project_id, channel=channel, addresses=sorted(addresses)
        )
        return {each.address: each.reason for each in found}
