"""A run of a workflow as frozen values: where it stands, what its steps did, and what they ask of others.

`RunState` is all that a decision needs to know of a run besides its definition and its surroundings; it stays as small
after a thousand steps as after one, so what the earlier steps did is not part of it: each decision gives the one
`StepTrace` that it began or ended, by `number`, and whoever keeps runs keeps those. An effect says what is to be done,
never how. Pure values; no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

import msgspec

from engine.dispatch.values import DeliveryStatus, EmailContent, PushNotification, SmsContent, SuppressedReason
from engine.workflows.definition import AiFlavor, RunStatus, StepOutcome, StepType

MAX_STEPS = 1_000
"""Steps of one run, those repeated in a circle included: a daily reminder for almost three years."""
WEBHOOK_STEP_SCHEDULE = (30, 120, 600, 3_600, 21_600)
"""Seconds before attempt 2, 3, … of a webhook step: a journey can wait longer for its receiver."""
MAX_ASKED = 5
"""Times that a model is asked in one step before it counts as unavailable."""


class StepTrace(msgspec.Struct, frozen=True, kw_only=True):
    """What one step did. `number` counts the steps of the run from 1, `step` is its index in the definition.

    `input` is the configuration after interpolation, secrets masked and long texts cut. While the step is in progress
    `finished_at` is None, and so is `outcome`, but for AI_PENDING.
    """

    number: int
    step: int
    label: str
    type: StepType
    started_at: datetime
    finished_at: datetime | None = None
    outcome: StepOutcome | None = None
    detail: str | None = None
    input: Any = None
    output: Any = None


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run stands. `step` is the index of the step that is due next or in progress, `graph.FINISHED` at the end.

    `next_step_at` is when there is something to decide; None while deliveries or a model are waited for, and once it is
    over. `open_trace` is the step in progress, `asked` how often that one has asked a model. `depth` counts the runs
    that led to this one, `steps_made` the steps so far, the open one included. `version` is the definition's.
    """

    run_id: UUID
    version: int
    status: RunStatus
    step: int
    started_at: datetime
    next_step_at: datetime | None
    finished_at: datetime | None = None
    vars: Mapping[str, Any] = {}
    depth: int = 0
    steps_made: int = 0
    open_trace: StepTrace | None = None
    asked: int = 0
    error: str | None = None


class DeliverEmail(msgspec.Struct, frozen=True):
    """Make a delivery to one address. Texts are as configured: they are rendered when the mail is sent."""

    recipient: str
    content: EmailContent


class DeliverPush(msgspec.Struct, frozen=True):
    """Make deliveries to all active devices of the person. The text is finished."""

    push: PushNotification
    ignore_quiet_hours: bool


class DeliverSms(msgspec.Struct, frozen=True):
    """Make a delivery to one number. The text is as configured: it is rendered when the message is sent."""

    recipient: str
    content: SmsContent


class DeliverWebhook(msgspec.Struct, frozen=True):
    """Make a signed delivery to a URL. `body` None: the event that started the run, as webhooks carry it."""

    url: str
    method: str
    headers: Mapping[str, str]
    body: str | None
    retry_schedule: tuple[int, ...] = WEBHOOK_STEP_SCHEDULE


class MergeTraits(msgspec.Struct, frozen=True):
    """Merge traits into the person's; one that is null goes."""

    traits: Mapping[str, Any]


class AskModel(msgspec.Struct, frozen=True):
    """Ask a model. `model` None: the project's."""

    flavor: AiFlavor
    prompt: str
    model: str | None
    json_mode: bool


Effect: TypeAlias = DeliverEmail | DeliverPush | DeliverSms | DeliverWebhook | MergeTraits | AskModel


class DeliveryResult(msgspec.Struct, frozen=True, kw_only=True):
    """Where one of the deliveries of the open step stands. `at` is since when."""

    status: DeliveryStatus
    at: datetime
    reason: SuppressedReason | None = None
    error_code: str | None = None
    error_message: str | None = None


class DeliveryReport(msgspec.Struct, frozen=True):
    """All deliveries of the open step."""

    results: tuple[DeliveryResult, ...]


class ModelAnswer(msgspec.Struct, frozen=True):
    """What a model said."""

    text: str


class ModelUnavailable(msgspec.Struct, frozen=True):
    """A model cannot be asked: there is none, or it cannot be reached. `reason` is a sentence."""

    reason: str


class ModelLate(msgspec.Struct, frozen=True):
    """A model did not answer in time; it may be asked again."""


Report: TypeAlias = DeliveryReport | ModelAnswer | ModelUnavailable | ModelLate
"""What became of an effect of the open step."""


class Decision(msgspec.Struct, frozen=True):
    """What one look at a run leads to: its state from now on, the step that this began or ended, what is to be done.

    Nothing was due: the state is the one that was given, and there is neither trace nor effect.
    """

    state: RunState
    trace: StepTrace | None = None
    effects: tuple[Effect, ...] = ()
