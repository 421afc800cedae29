"""What would become of a step's effects, as far as that is known without carrying them out. Pure.

The best case that is known: a message that passes its channel's policies, renders, passes the scan of its content and
has an account to leave with counts as sent, a webhook as accepted. A model is not asked: the step says what would be
asked and ends as AI_UNAVAILABLE, so that nobody branches on a made up answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from db.records import ProfileRecord
from engine.channels.base import Refuse, Suppress
from engine.dispatch.values import DeliveryError, DeliveryStatus
from engine.email.policy import resolve_mail, texts_of
from engine.email.sender import decide_sender
from engine.push.policy import HoldBack, PutOff, Send
from engine.push.policy import decide as decide_push
from engine.sms.policy import render_text
from engine.templates.liquid import TemplateValues, template_values
from engine.workflows.state import (
    AskModel,
    DeliverEmail,
    DeliverPush,
    DeliverSms,
    DeliverWebhook,
    DeliveryReport,
    DeliveryResult,
    Effect,
    MergeTraits,
    ModelUnavailable,
    Report,
)
from engine.workflows.steps import push_case
from engine.workflows.surroundings import Surroundings

_LINK = "https://unsubscribe.invalid/"
"""In the place of the link to unsubscribe, which nobody gets."""


def foresee(effect: Effect, around: Surroundings, now: datetime) -> Report | None:
    """What the step would be told; None for what has no outcome of its own."""
    match effect:
        case DeliverEmail():
            return DeliveryReport((_email(effect, around, now),))
        case DeliverPush():
            return DeliveryReport(_push(effect, around, now))
        case DeliverSms():
            text = render_text(effect.content, _values(around, effect.content.vars, now))
            return DeliveryReport((_refused(text.error, now) if isinstance(text, Refuse) else _sent(now),))
        case DeliverWebhook():
            return DeliveryReport((DeliveryResult(status=DeliveryStatus.DELIVERED, at=now),))
        case AskModel():
            model = "the project's model" if effect.model is None else f"the model {effect.model}"
            asked = f"A dry run asks no model. A real run asks {model} to {effect.flavor.value}; input has the prompt."
            return ModelUnavailable(asked)
        case MergeTraits():
            return None


def merged_profile(profile: ProfileRecord, traits: Mapping[str, Any]) -> ProfileRecord:
    """A person with traits merged into theirs; one that is null goes."""
    after = {**msgspec.json.decode(profile.traits), **traits}
    kept = {name: value for name, value in after.items() if value is not None or name not in traits}
    return msgspec.structs.replace(profile, traits=msgspec.Raw(msgspec.json.encode(kept)))


def _email(effect: DeliverEmail, around: Surroundings, now: datetime) -> DeliveryResult:
    content, mail = effect.content, around.mail
    decided = decide_sender(content.from_address, mail.default_from, mail.domains)
    texts = texts_of(content, mail.templates)
    if isinstance(decided, DeliveryError):
        return _refused(decided, now)
    if isinstance(texts, Refuse):
        return _refused(texts.error, now)
    resolved = resolve_mail(
        texts,
        _values(around, content.vars, now),
        delivery_id=UUID(int=0),
        sender=decided[0],
        recipient=effect.recipient,
        reply_to=content.reply_to,
        unsubscribe_url=_LINK,
    )
    if isinstance(resolved, Suppress):
        error = resolved.error
        return DeliveryResult(
            status=DeliveryStatus.SUPPRESSED,
            at=now,
            reason=resolved.reason,
            error_code=None if error is None else error.code,
            error_message=None if error is None else error.message,
        )
    return _refused(resolved.error, now) if isinstance(resolved, Refuse) else _sent(now)


def _push(effect: DeliverPush, around: Surroundings, now: datetime) -> tuple[DeliveryResult, ...]:
    """One for each device. What is put off is sent, or refused, then; the run waits for the last."""
    case = push_case(effect, around, user_id=around.user_id or "", now=now)
    refused = around.push.refused
    results = []
    for place, decision in enumerate(decide_push(case)):
        match decision:
            case Send():
                results.append(_tried(refused.get(place), now))
            case PutOff():
                results.append(_tried(refused.get(place), decision.until))
            case HoldBack():
                results.append(DeliveryResult(status=DeliveryStatus.SUPPRESSED, at=now, reason=decision.reason))
    return tuple(results)


def _values(around: Surroundings, variables: Mapping[str, Any], now: datetime) -> TemplateValues:
    return template_values(
        now=now, user_id=around.user_id, profile=around.profile, event=around.event, variables=variables
    )


def _tried(error: DeliveryError | None, at: datetime) -> DeliveryResult:
    return _sent(at) if error is None else _refused(error, at)


def _sent(at: datetime) -> DeliveryResult:
    return DeliveryResult(status=DeliveryStatus.SENT, at=at)


def _refused(error: DeliveryError, now: datetime) -> DeliveryResult:
    return DeliveryResult(status=DeliveryStatus.FAILED, at=now, error_code=error.code, error_message=error.message)
