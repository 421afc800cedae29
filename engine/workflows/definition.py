"""What a workflow is, as frozen values: its trigger, its steps, and what each step is configured to do.

Guarantees: a `Definition` that `engine.workflows.validation` made can be run: labels are unique, every step's `next`
and every branch leads to a step or to the end, no circle goes round without a wait, every text is a Liquid template.
Leaves to others: whether the templates and audiences that it names exist (they may be deleted at any time), and running
it. Values of type `Any` and `dict` are JSON, held immutable by convention. No I/O.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, TypeAlias
from uuid import UUID

import msgspec

from db.filters import Condition
from engine.dispatch.values import PushNotification

END = "end"
"""As the target of a step or of a branch: the run is complete."""


class StepType(StrEnum):
    """What a step does."""

    SEND_EMAIL = "SEND_EMAIL"
    SEND_PUSH = "SEND_PUSH"
    SEND_SMS = "SEND_SMS"
    WEBHOOK = "WEBHOOK"
    UPDATE_PROFILE = "UPDATE_PROFILE"
    WAIT = "WAIT"
    BRANCH = "BRANCH"
    AI_ACTION = "AI_ACTION"


class StepOutcome(StrEnum):
    """How a step ended."""

    SENT = "SENT"
    SUPPRESSED = "SUPPRESSED"
    AI_UNAVAILABLE = "AI_UNAVAILABLE"
    AI_PENDING = "AI_PENDING"
    ERROR = "ERROR"
    SKIPPED_MISSING_CONFIG = "SKIPPED_MISSING_CONFIG"
    BYOD_REQUIRED = "BYOD_REQUIRED"
    RATE_LIMITED = "RATE_LIMITED"
    OK = "OK"
    WAITED = "WAITED"
    BRANCHED = "BRANCHED"
    CANCELLED = "CANCELLED"

    @property
    def code(self) -> str:
        """The literal outcome, as the documents spell it: `ai_unavailable`, but `skipped-missing-config`."""
        lower = self.value.lower()
        return lower.replace("_", "-") if self in _SPELT_WITH_DASHES else lower


_SPELT_WITH_DASHES = frozenset(
    {StepOutcome.SKIPPED_MISSING_CONFIG, StepOutcome.BYOD_REQUIRED, StepOutcome.RATE_LIMITED}
)


class RunStatus(StrEnum):
    """Where a run stands."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class ReentryPolicy(StrEnum):
    """Whether somebody may go through a workflow again."""

    ALWAYS = "ALWAYS"
    ONCE_PER_USER = "ONCE_PER_USER"
    ONE_ACTIVE_RUN = "ONE_ACTIVE_RUN"


class AiFlavor(StrEnum):
    """What a model is asked for."""

    GENERATE = "generate"
    DECIDE = "decide"
    EXTRACT = "extract"


class ConditionSource(StrEnum):
    """What the name in a branch's condition is looked up in."""

    TRAIT = "trait"
    EVENT = "event"
    PATH = "path"


Target: TypeAlias = str | int
"""Where a step leads to, as it was written: a label, an index from 0 (a number, or its digits), or `END`."""


class SendEmail(msgspec.Struct, frozen=True):
    """A template, or a subject with one or both bodies. Liquid in all texts; `to` becomes one address."""

    to: str
    template_id: UUID | None = None
    subject: str | None = None
    body_html: str | None = None
    body_text: str | None = None
    from_address: str | None = None
    reply_to: str | None = None


class SendPush(msgspec.Struct, frozen=True):
    """To all active devices of the person. Liquid in every text of `push`, also inside its `data`."""

    push: PushNotification
    ignore_quiet_hours: bool = False


class SendSms(msgspec.Struct, frozen=True):
    """`to` becomes a phone number; None: the person's own."""

    body: str
    to: str | None = None


class Webhook(msgspec.Struct, frozen=True):
    """A signed call. `body` is sent as JSON, a string as it is; None: the event that started the run."""

    url: str
    method: str = "POST"
    headers: dict[str, str] = {}
    body: Any = None


class UpdateProfile(msgspec.Struct, frozen=True):
    """Traits to merge into the person's. Liquid in every text, also inside."""

    traits: dict[str, Any]


class Wait(msgspec.Struct, frozen=True):
    """Nothing but the step's delay. `reason` is for people."""

    reason: str | None = None


class BranchCondition(msgspec.Struct, frozen=True):
    """One test. `op` is a ConditionOperator's name; `value` may hold Liquid.

    `name`: TRAIT, keys below profile.traits; EVENT, keys below event.properties, else a field of the envelope; PATH, a
    whole path of the condition language (event, profile or run). Keys are written as in such a path.
    """

    source: ConditionSource
    name: str
    op: str
    value: Any = None


class Branch(msgspec.Struct, frozen=True):
    """Two ways on."""

    condition: BranchCondition
    if_true: Target
    if_false: Target


class AiAction(msgspec.Struct, frozen=True):
    """A question to a model. `model` None: the project's. `save_to` names a variable of the run: run.vars.<save_to>."""

    flavor: AiFlavor
    prompt: str
    model: str | None = None
    save_to: str | None = None
    json_mode: bool = False


StepConfig: TypeAlias = SendEmail | SendPush | SendSms | Webhook | UpdateProfile | Wait | Branch | AiAction


class Step(msgspec.Struct, frozen=True):
    """One step. It runs `delay_minutes` after the one before it has ended. `next` None: the next one in the list."""

    label: str
    type: StepType
    config: StepConfig
    delay_minutes: float = 0
    next: Target | None = None


class Schedule(msgspec.Struct, frozen=True):
    """When a workflow starts by itself: five fields of cron, read in an IANA time zone."""

    cron: str
    timezone: str = "UTC"


class Trigger(msgspec.Struct, frozen=True):
    """What starts a run: an event, or a schedule for every member of an audience. Exactly one of the two is set.

    `event_type` is a name or a wildcard, as it was written: aliases are for whoever matches it. `filters` test the
    event and the person (the person alone, with a schedule); `audience_id` also narrows an event down to its members.
    """

    event_type: str | None = None
    schedule: Schedule | None = None
    filters: tuple[Condition, ...] = ()
    audience_id: UUID | None = None
    reentry: ReentryPolicy = ReentryPolicy.ALWAYS


class Definition(msgspec.Struct, frozen=True):
    """A workflow, as one version of it is kept."""

    name: str
    trigger: Trigger
    steps: tuple[Step, ...]
    description: str | None = None
