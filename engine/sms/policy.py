"""What a text message says and how many segments it takes. Pure.

To whom anything may be sent is `engine.dispatch.recipients`.
"""

from __future__ import annotations

from engine.channels.base import Refuse
from engine.dispatch.values import DeliveryError, SmsContent
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
