"""The enums of workflows, described. Whoever uses one in the schema takes it from here, whatever is imported first."""

from __future__ import annotations

from engine.workflows.definition import ReentryPolicy, RunStatus, StepOutcome, StepType
from schema.descriptions import described_enum

__all__ = ["ReentryPolicy", "RunStatus", "StepOutcome", "StepType"]

described_enum(
    StepType,
    "What a step does, and what its config takes. Liquid may be in every text; keys with ? may be left out.",
    SEND_EMAIL="{to, templateId} or {to, subject, bodyHtml, bodyText?}, and from?, replyTo?.",
    SEND_PUSH="{title, body}, what else PushContentInput takes, ignoreQuietHours?: to all of the person's devices.",
    SEND_SMS="{body, to?}: to the person's own number, the trait phone, unless it says.",
    WEBHOOK="{url, method?, headers?, body?}: signed; JSON when the body is no string, the event when there is none.",
    UPDATE_PROFILE="{traits}: merged into the person's; null removes one.",
    WAIT="{reason?}: nothing but delayMinutes.",
    BRANCH=(
        "{condition: {trait or event or path, op?, value}, ifTrue, ifFalse}: two steps, by label or index, or end. op "
        "is EQ unless it says."
    ),
    AI_ACTION=(
        "{flavor: generate, decide or extract, prompt, model?, saveTo?, jsonMode?}: what the model says becomes "
        "run.vars.<saveTo>."
    ),
)
described_enum(
    StepOutcome,
    "How a step ended. May grow.",
    SENT="Handed over: see the delivery.",
    SUPPRESSED="Held back by consent, quiet hours, a cap or a suppression.",
    AI_UNAVAILABLE="The model cannot be reached, or there is none.",
    AI_PENDING="The model took too long: it is asked again.",
    ERROR="It failed: see detail.",
    SKIPPED_MISSING_CONFIG="Something was missing that it needs, e.g. an address: see detail.",
    BYOD_REQUIRED="Mail needs a sender domain of your own.",
    RATE_LIMITED="The provider, or a limit of ours, let no more through.",
    OK="Done.",
    WAITED="The wait is over.",
    BRANCHED="It chose a way: see output.",
    CANCELLED="The run was cancelled meanwhile.",
)
described_enum(
    RunStatus,
    "Where a run stands.",
    QUEUED="Triggered while the workflow was paused.",
    RUNNING="Going on, or waiting for what is due next.",
    PAUSED="Held until it is resumed.",
    COMPLETED="It reached its end.",
    FAILED="A step could not go on.",
    CANCELLED="Somebody stopped it.",
)
described_enum(
    ReentryPolicy,
    "Whether somebody may go through a workflow again.",
    ALWAYS="Every trigger starts a run.",
    ONCE_PER_USER="A person runs through it once, ever.",
    ONE_ACTIVE_RUN="Not while a run of the same person goes on.",
)
