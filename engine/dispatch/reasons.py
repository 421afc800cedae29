"""What to do about a delivery that was held back. Pure.

Failures carry the provider's word with a hint of their own; the reasons here are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from engine.dispatch.values import SuppressedReason

_HINTS: Mapping[str, str] = MappingProxyType(
    {
        SuppressedReason.QUIET_HOURS: (
            "It was due in the recipient's quiet hours. Set deferInQuietHours in updatePushSettings to send it later."
        ),
        SuppressedReason.FREQUENCY_CAP: "The person had their share. Send less, or raise the caps of the project.",
        SuppressedReason.CONSENT: "The person has not agreed to it, or no longer. Ask for consent in the app.",
        SuppressedReason.NO_TOKENS: (
            "No device of the person can be reached. Call registerPushToken at each start of the app."
        ),
        SuppressedReason.UNSUBSCRIBED: "The recipient unsubscribed. Nothing more is sent to this address.",
        SuppressedReason.BOUNCED: "Mail to this address came back for good. Ask the person for another one.",
        SuppressedReason.RATE_LIMITED: "More was sent than the project may send. Spread it over time.",
        SuppressedReason.BLOCKED_CONTENT: "The content looks like phishing. Its error names the rule: change the text.",
        SuppressedReason.ERASED: "The person was erased. Nothing more is sent to them.",
    }
)


def hint_of(reason: str) -> str | None:
    """What to do about a reason of ours; None for a provider's word."""
    return _HINTS.get(reason)
