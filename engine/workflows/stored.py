"""Definitions as they are kept: JSON that is written once and read for as long as a run is on that version.

Guarantees: `decode_definition(encode_definition(d)) == d` for every definition that validation makes. Reading never
validates anew, so that a version stays readable when the rules become stricter; what a later release adds has a
default, and what an earlier one does not know is skipped. Leaves to others: what clients write and are shown
(`engine.workflows.validation`). Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from engine.workflows.definition import (
    AiAction,
    Branch,
    Definition,
    SendEmail,
    SendPush,
    SendSms,
    Step,
    StepConfig,
    StepType,
    Target,
    Trigger,
    UpdateProfile,
    Wait,
    Webhook,
)

_CONFIGS: Mapping[StepType, msgspec.json.Decoder[StepConfig]] = {
    StepType.SEND_EMAIL: msgspec.json.Decoder(SendEmail),
    StepType.SEND_PUSH: msgspec.json.Decoder(SendPush),
    StepType.SEND_SMS: msgspec.json.Decoder(SendSms),
    StepType.WEBHOOK: msgspec.json.Decoder(Webhook),
    StepType.UPDATE_PROFILE: msgspec.json.Decoder(UpdateProfile),
    StepType.WAIT: msgspec.json.Decoder(Wait),
    StepType.BRANCH: msgspec.json.Decoder(Branch),
    StepType.AI_ACTION: msgspec.json.Decoder(AiAction),
}


class _StoredStep(msgspec.Struct, frozen=True):
    """`Step`, whose config is read once its type is known."""

    label: str
    type: StepType
    config: msgspec.Raw
    delay_minutes: float = 0
    next: Target | None = None


class _StoredDefinition(msgspec.Struct, frozen=True):
    """`Definition`, with such steps."""

    name: str
    trigger: Trigger
    steps: tuple[_StoredStep, ...]
    description: str | None = None


_definition = msgspec.json.Decoder(_StoredDefinition)
_trigger = msgspec.json.Decoder(Trigger)


def encode_definition(definition: Definition) -> str:
    """JSON with the fields' own names."""
    return msgspec.json.encode(definition).decode()


def decode_definition(text: bytes | str) -> Definition:
    """What was encoded. Raises `msgspec.DecodeError` for anything else."""
    stored = _definition.decode(text)
    return Definition(
        name=stored.name,
        trigger=stored.trigger,
        steps=tuple(_step(each) for each in stored.steps),
        description=stored.description,
    )


def decode_trigger(text: bytes | str) -> Trigger:
    """The member `trigger` of an encoded definition, alone."""
    return _trigger.decode(text)


def _step(stored: _StoredStep) -> Step:
    return Step(
        label=stored.label,
        type=stored.type,
        config=_CONFIGS[stored.type].decode(stored.config),
        delay_minutes=stored.delay_minutes,
        next=stored.next,
    )
