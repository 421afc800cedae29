"""Whether a push is sent, when, and with which words: one function for direct sends and workflow steps alike. Pure.

In this order: consent, tokens, quiet hours, frequency caps, variant, locale. Whatever says no first is the reason.

- Consent: DENIED and REVOKED always block, tests included; nothing said follows the project's policy.
- Tokens: one decision for each; a person without any gets one decision, NO_TOKENS.
- Quiet hours are those of the device's own time zone, else of the project's. Nothing is sent in them: it is put off to
  their end, or held back, as the project has set. A message that ignores them, and a test, is not.
- Caps count messages per person in the hour and the day before now. A message that counts already (a second device, a
  retry) is not counted again, but a replay is a send of its own. Tests do not count and are not held back.
- Updates and ends of Live Activities skip quiet hours and caps: they change what the person is looking at.
- The variant is chosen by a hash of message and person, so that it is the same on all their devices and at every
  retry; one that was chosen before (`PolicyToken.variant`) stays, whatever the weights say now.
- The locale is the device's: exact tag, then language, then the default text (`engine.push.locales`).

How variants and locales combine: the chosen variant is the text, or the default text where there are no variants; what
the text for the device's locale says (title, body, and whatever else it gives) is laid over it, and what it leaves out
stays. Both are recorded. Without a default text and variants, the first localized text is the default.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import TypeAlias
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec

from engine.consent import ConsentState, allows
from engine.dispatch.values import PushContent, PushNotification, PushVariant, SuppressedReason
from engine.push.locales import choose_locale
from engine.push.quiet_hours import QuietHours, find_zone, quiet_until

DEFAULT_ZONE = "UTC"


class PushRules(msgspec.Struct, frozen=True, kw_only=True):
    """What a project has set. `default_zone` and `default_locale` are for devices that did not say theirs."""

    quiet_hours: QuietHours | None = None
    defers: bool = True
    cap_per_day: int | None = None
    cap_per_hour: int | None = None
    default_zone: str = DEFAULT_ZONE
    default_locale: str | None = None


class PolicyToken(msgspec.Struct, frozen=True, kw_only=True):
    """A device that can be reached. `variant` is what was chosen for this delivery before."""

    timezone: str | None = None
    locale: str | None = None
    variant: str | None = None


class PolicyCase(msgspec.Struct, frozen=True, kw_only=True):
    """One message to one person. `person` is what variants stick to: the user id, or a device nobody is known to use.

    `sent_in_hour` and `sent_in_day` are the messages that count; `is_counted`: this one is among them.
    """

    content: PushContent
    person: str
    consent: ConsentState
    unknown_allowed: bool
    tokens: Sequence[PolicyToken]
    rules: PushRules
    now: datetime
    sent_in_hour: int = 0
    sent_in_day: int = 0
    is_counted: bool = False


class Send(msgspec.Struct, frozen=True):
    """Send these words now. Of a Live Activity `notification` is None."""

    notification: PushNotification | None
    variant: str | None = None
    locale: str | None = None


class HoldBack(msgspec.Struct, frozen=True):
    """Send nothing, for good."""

    reason: SuppressedReason


class PutOff(msgspec.Struct, frozen=True):
    """Decide again at `until`."""

    until: datetime


Decision: TypeAlias = Send | HoldBack | PutOff


def decide(case: PolicyCase) -> tuple[Decision, ...]:
    """One decision per token, in their order; a single one when there are none."""
    if not allows(case.consent, unknown_allowed=case.unknown_allowed):
        return (HoldBack(SuppressedReason.CONSENT),) * max(1, len(case.tokens))
    if not case.tokens:
        return (HoldBack(SuppressedReason.NO_TOKENS),)
    quiet = [_quiet(case, token) for token in case.tokens]
    is_capped = None in quiet and _is_capped(case)
    variant = choose_variant(case.content.variants, message_id=case.content.message_id, person=case.person)
    return tuple(
        held or (HoldBack(SuppressedReason.FREQUENCY_CAP) if is_capped else _send(case, token, variant))
        for held, token in zip(quiet, case.tokens, strict=True)
    )


def counts(content: PushContent) -> bool:
    """Whether a message counts against caps."""
    return not content.is_test and not _is_follow_up(content)


def choose_variant(variants: Sequence[PushVariant], *, message_id: UUID, person: str) -> PushVariant | None:
    """One of the variants, as often as its weight says, and always the same one for a message and a person."""
    total = sum(variant.weight for variant in variants)
    if total == 0:
        return None
    digest = hashlib.blake2b(message_id.bytes + person.encode(), digest_size=8).digest()
    point = int.from_bytes(digest) * total >> 64
    for variant in variants:
        point -= variant.weight
        if point < 0:
            return variant
    raise AssertionError("the point lies below the total")


def _quiet(case: PolicyCase, token: PolicyToken) -> HoldBack | PutOff | None:
    content = case.content
    if content.ignore_quiet_hours or content.is_test or _is_follow_up(content):
        return None
    until = quiet_until(case.rules.quiet_hours, zone=_zone(token, case.rules), now=case.now)
    if until is None:
        return None
    return PutOff(until) if case.rules.defers else HoldBack(SuppressedReason.QUIET_HOURS)


def _zone(token: PolicyToken, rules: PushRules) -> ZoneInfo:
    """A name that is no zone any more is as good as none."""
    for name in (token.timezone, rules.default_zone):
        zone = None if name is None else find_zone(name)
        if zone is not None:
            return zone
    return ZoneInfo(DEFAULT_ZONE)


def _is_capped(case: PolicyCase) -> bool:
    if case.is_counted or not counts(case.content):
        return False
    limits = ((case.rules.cap_per_hour, case.sent_in_hour), (case.rules.cap_per_day, case.sent_in_day))
    return any(cap is not None and sent >= cap for cap, sent in limits)


def _is_follow_up(content: PushContent) -> bool:
    return content.live_activity is not None and content.live_activity.action != "START"


def _send(case: PolicyCase, token: PolicyToken, chosen: PushVariant | None) -> Send:
    content, wanted = case.content, token.locale or case.rules.default_locale
    if content.live_activity is not None:
        return Send(None)
    held = next((variant for variant in content.variants if variant.name == token.variant), chosen)
    locale = choose_locale([each.locale for each in content.localized], wanted)
    base = held.push if held is not None else content.push
    over = next((each.push for each in content.localized if each.locale == locale), None)
    if base is None:
        base = content.localized[0].push
    return Send(_overlay(base, over), held.name if held is not None else None, locale)


def _overlay(base: PushNotification, over: PushNotification | None) -> PushNotification:
    """What `over` gives, and of `base` what it leaves out."""
    if over is None:
        return base
    given = {name: value for name, value in msgspec.structs.asdict(over).items() if value is not None}
    return msgspec.structs.replace(base, **given)
