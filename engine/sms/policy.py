"""Whether a text message may be sent to somebody, and what it says. Pure.

One decision for acceptance, where it makes the answer's counts true, and for dispatch, where it counts.
"""

from __future__ import annotations

import msgspec

from engine.channels.base import Refuse, Suppress
from engine.consent import ConsentState, allows
from engine.dispatch.values import DeliveryError, SmsContent, SuppressedReason
from engine.templates.liquid import CannotRender, TemplateValues, render

MAX_TEXT_CHARACTERS = 1600
"""What Twilio takes, up to ten segments."""
GSM_SEGMENT, GSM_PART = 160, 153
UCS2_SEGMENT, UCS2_PART = 70, 67
"""Characters in one message, and in each part of a longer one (3GPP TS 23.040)."""

_GSM = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿"
    "abcdefghijklmnopqrstuvwxyzäöñüà"
)
_GSM_EXTENDED = frozenset("\f^{}\\[~]|€")
"""These take two places (3GPP TS 23.038)."""

NO_PHONE = DeliveryError(
    code="NO_PHONE",
    message="The person has no valid trait phone.",
    permanent=True,
    hint="Set it with identify, in E.164, e.g. +14155550132.",
)
NOT_CONFIGURED = DeliveryError(
    code="NOT_CONFIGURED",
    message="No provider of text messages is set up.",
    permanent=True,
    hint="Set Twilio up with configureProvider: accountSid, authToken, and from or messagingServiceSid.",
)


class Standing(msgspec.Struct, frozen=True):
    """What is known of a recipient. `consent` is None for a number that no person stands behind, `is_known` says
    whether the person is there; `suppression` is why the number is suppressed, if it is.
    """

    consent: ConsentState | None
    is_known: bool
    suppression: str | None


def held_back(standing: Standing, *, unknown_allowed: bool) -> Suppress | None:
    """Why nothing may be sent, if so. A number without a person has nobody who could have said anything."""
    if standing.consent is not None:
        if not standing.is_known:
            return Suppress(reason=SuppressedReason.ERASED)
        if not allows(standing.consent, unknown_allowed=unknown_allowed):
            return Suppress(reason=SuppressedReason.CONSENT)
    if standing.suppression is not None:
        return Suppress(reason=SuppressedReason(standing.suppression))
    return None


def render_text(content: SmsContent, values: TemplateValues) -> str | Refuse:
    """What is sent."""
    try:
        text = render(content.body, values).text.strip()
    except CannotRender as error:
        return _refuse("TEMPLATE", str(error), "Mend the template, then replay the delivery.")
    if not text:
        return _refuse("EMPTY", "The text is empty for this person.", "Give the template something to fall back on.")
    if len(text) > MAX_TEXT_CHARACTERS:
        return _refuse("TOO_LONG", f"The text has {len(text)} characters.", f"At most {MAX_TEXT_CHARACTERS} are sent.")
    return text


def count_segments(text: str) -> int:
    """How many messages a carrier counts and charges."""
    if all(character in _GSM or character in _GSM_EXTENDED for character in text):
        return _parts(sum(2 if character in _GSM_EXTENDED else 1 for character in text), GSM_SEGMENT, GSM_PART)
    return _parts(len(text.encode("utf-16-be")) // 2, UCS2_SEGMENT, UCS2_PART)


def _parts(length: int, whole: int, part: int) -> int:
    return 1 if length <= whole else -(-length // part)


def _refuse(code: str, message: str, hint: str) -> Refuse:
    return Refuse(error=DeliveryError(code=code, message=message, permanent=True, hint=hint))
