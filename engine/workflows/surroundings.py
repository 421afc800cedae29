"""What a step is decided from besides the run: the event, the person, and how things stand with each channel. Pure.

Guarantees: `wanted` says what has to be looked up for the step that is due, so that whoever runs steps reads that and
nothing else, and under the locks that it needs. Leaves to others: reading (`engine.workflows.dry_run` does so without
locks, for a run that is none).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from db.records import EventRecord, ProfileRecord
from db.sender_domains import SenderDomainRecord
from db.templates import TemplateRecord
from engine.consent import ConsentPurpose, ConsentState
from engine.contacts import parse_email, parse_phone
from engine.dispatch.recipients import Standings
from engine.dispatch.values import DeliveryError
from engine.email.sender import Mailbox, read_mailbox
from engine.node_ids import NodeKind, write_node_id
from engine.push.policy import PolicyToken, PushRules
from engine.templates.liquid import CannotRender, TemplateValues, template_values
from engine.workflows.conditions import Subject
from engine.workflows.definition import Definition, SendEmail, SendPush, SendSms, StepConfig
from engine.workflows.interpolation import Interpolator
from engine.workflows.state import RunState

PHONE_TRAIT = "phone"
"""Where a text message goes that does not say."""
UNSUBSCRIBE_LINK = "[unsubscribe link]"
"""What a trace shows in its place: the link itself is made when the mail is sent."""


class PushStanding(msgspec.Struct, frozen=True, kw_only=True):
    """The person's active devices, the project's rules, and the messages that count against the caps.

    `refused` says of devices, by their place in `tokens`, why nothing can be sent to them. Real runs leave it to the
    dispatcher.
    """

    tokens: tuple[PolicyToken, ...] = ()
    refused: Mapping[int, DeliveryError] = {}
    rules: PushRules = PushRules()
    sent_in_hour: int = 0
    sent_in_day: int = 0


class MailStanding(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to send mail with. `domains` and `held` hold at least what the step needs, by name and address."""

    has_account: bool = False
    default_from: str | None = None
    domains: Mapping[str, SenderDomainRecord] = {}
    templates: Mapping[UUID, TemplateRecord] = {}
    held: Mapping[str, str] = {}


class SmsStanding(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to send text messages with. `held` as with mail."""

    has_account: bool = False
    held: Mapping[str, str] = {}


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is known when a step is decided.

    `user_id` is whom the run is about; `profile` is None for nobody, and for somebody who was erased. `refuse_url` says
    why a URL may not be called (`Egress.refusal`). `default_zone` is the project's, for a person who has none.
    """

    event: EventRecord | None
    user_id: str | None
    profile: ProfileRecord | None
    unknown_allowed: bool
    refuse_url: Callable[[str], str | None]
    consents: Mapping[ConsentPurpose, ConsentState] = {}
    push: PushStanding = PushStanding()
    mail: MailStanding = MailStanding()
    sms: SmsStanding = SmsStanding()
    default_zone: str = "UTC"

    def consent(self, purpose: ConsentPurpose) -> ConsentState:
        """What the person said."""
        return self.consents.get(purpose, ConsentState.UNKNOWN)

    def subject(self, state: RunState, now: datetime) -> Subject:
        """As conditions take it."""
        said = {purpose.lower(): consent for purpose, consent in self.consents.items()}
        return Subject(
            event=self.event,
            profile=self.profile,
            now=now,
            consents=said,
            vars=state.vars,
            default_zone=self.default_zone,
        )

    def standings(self, purpose: ConsentPurpose, held: Mapping[str, str]) -> Standings:
        """As the policy of addresses takes them: of this one person."""
        if self.user_id is None:
            return Standings(self.unknown_allowed, frozenset(), {}, held)
        known = frozenset() if self.profile is None else frozenset({self.user_id})
        return Standings(self.unknown_allowed, known, {self.user_id: self.consent(purpose)}, held)


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What the step that is due has to know of: addresses (in lower case) and numbers that may be suppressed, domains
    that a sender may use, templates; whether the person's devices matter."""

    addresses: frozenset[str] = frozenset()
    numbers: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset()
    templates: frozenset[UUID] = frozenset()
    devices: bool = False


def wanted(definition: Definition, state: RunState, around: Surroundings, now: datetime) -> Wanted:
    """What to read before the next decision; `around` has the event, the person and `mail.default_from`."""
    if not 0 <= state.step < len(definition.steps):
        return Wanted()
    config = definition.steps[state.step].config
    try:
        return _wanted(config, Interpolator(values_of(definition, state, around, now)), around)
    except CannotRender:
        # The decision finds the same, and says so.
        return Wanted()


def values_of(definition: Definition, state: RunState, around: Surroundings, now: datetime) -> TemplateValues:
    """What the texts of a step see."""
    values = template_values(
        now=now, user_id=around.user_id, profile=around.profile, event=around.event, run=run_root(definition, state)
    )
    return TemplateValues({"unsubscribe_url": UNSUBSCRIBE_LINK, **values.roots})


def run_root(definition: Definition, state: RunState) -> dict[str, Any]:
    """The root `run` of templates."""
    return {
        "id": write_node_id(NodeKind.WORKFLOW_RUN, state.run_id),
        "workflow": definition.name,
        "startedAt": state.started_at.isoformat().replace("+00:00", "Z"),
        "vars": state.vars,
    }


def mailbox_domain(written: str | None) -> frozenset[str]:
    """The domain that a sender would use, if it has one."""
    mailbox = None if written is None else read_mailbox(written)
    return frozenset({mailbox.domain}) if isinstance(mailbox, Mailbox) else frozenset()


def _wanted(config: StepConfig, fill: Interpolator, around: Surroundings) -> Wanted:
    match config:
        case SendEmail():
            address = parse_email(fill.text(config.to).strip())
            sender = fill.optional(config.from_address) or around.mail.default_from
            return Wanted(
                addresses=frozenset({address.lower()}) if isinstance(address, str) else frozenset(),
                domains=mailbox_domain(sender),
                templates=frozenset() if config.template_id is None else frozenset({config.template_id}),
            )
        case SendSms():
            number = parse_phone(number_text(config, fill, around))
            return Wanted(numbers=frozenset({number}) if isinstance(number, str) else frozenset())
        case SendPush():
            return Wanted(devices=True)
        case _:
            return Wanted()


def number_text(config: SendSms, fill: Interpolator, around: Surroundings) -> str:
    """Where a text message goes, as it is written: by default to the person's own number. Raises `CannotRender`."""
    if config.to is not None:
        return fill.text(config.to).strip()
    traits = {} if around.profile is None else msgspec.json.decode(around.profile.traits)
    written = traits.get(PHONE_TRAIT)
    return written.strip() if isinstance(written, str) else ""
