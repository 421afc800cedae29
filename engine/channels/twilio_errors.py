"""Twilio's error codes: what each means for a message, its number and the account. Pure.

The sentences are ours: Twilio's own quote the number and the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

import msgspec

from engine.dispatch.values import DeliveryError


class Scope(Enum):
    """What an error is about."""

    MESSAGE = "message"
    """This message cannot be sent."""
    NUMBER = "number"
    """Nothing can be sent to this number."""
    UNSUBSCRIBED = "unsubscribed"
    """Its holder has answered STOP."""
    ACCOUNT = "account"
    """Nothing can be sent until somebody mends the account."""
    THROTTLE = "throttle"
    """Too much at once: it may be sent later."""


class Meaning(msgspec.Struct, frozen=True):
    """Of one code."""

    scope: Scope
    message: str
    hint: str


_ACCOUNT_HINT = "Check accountSid and authToken in configureProvider."
_SENDER_HINT = "Check the setting from or messagingServiceSid in configureProvider."
_NUMBER_HINT = "Ask the person for another number: nothing more is sent to this one."
_LATER_HINT = "It is tried again; send less at once, or ask Twilio for a higher limit."

MEANINGS: Mapping[int, Meaning] = MappingProxyType(
    {
        14107: Meaning(Scope.THROTTLE, "Twilio's rate limit for this sender was reached.", _LATER_HINT),
        20003: Meaning(Scope.ACCOUNT, "Twilio refused the credentials.", _ACCOUNT_HINT),
        20005: Meaning(Scope.ACCOUNT, "The Twilio account is not active.", "Look into Twilio's console."),
        20404: Meaning(Scope.ACCOUNT, "Twilio does not know this account.", _ACCOUNT_HINT),
        20429: Meaning(Scope.THROTTLE, "Twilio's limit of requests was reached.", _LATER_HINT),
        21211: Meaning(Scope.NUMBER, "Twilio knows no such number.", _NUMBER_HINT),
        21214: Meaning(Scope.NUMBER, "The number cannot be reached.", _NUMBER_HINT),
        21217: Meaning(Scope.NUMBER, "The number is not valid.", _NUMBER_HINT),
        21408: Meaning(
            Scope.MESSAGE,
            "The account may not send to this country.",
            "Allow the country under Messaging, Geo permissions, in Twilio's console.",
        ),
        21602: Meaning(Scope.MESSAGE, "The message has no text.", "Check what the template gives for this person."),
        21603: Meaning(Scope.ACCOUNT, "There is no sender.", _SENDER_HINT),
        21606: Meaning(Scope.ACCOUNT, "The sender is not one of this account's.", _SENDER_HINT),
        21608: Meaning(
            Scope.MESSAGE,
            "A trial account sends to verified numbers only.",
            "Verify the number in Twilio's console, or upgrade the account.",
        ),
        21610: Meaning(
            Scope.UNSUBSCRIBED,
            "The person has answered STOP to this sender.",
            "Nothing more is sent to the number until the person answers START.",
        ),
        21611: Meaning(Scope.THROTTLE, "Too many messages of this sender wait at Twilio.", _LATER_HINT),
        21612: Meaning(
            Scope.MESSAGE, "This sender cannot reach this number.", "Use a sender that works in its country."
        ),
        21614: Meaning(Scope.NUMBER, "The number cannot receive text messages.", _NUMBER_HINT),
        21617: Meaning(Scope.MESSAGE, "The text is too long.", "Shorten it to 1600 characters."),
        21659: Meaning(Scope.ACCOUNT, "The sender is not a number of this account's.", _SENDER_HINT),
        21703: Meaning(Scope.ACCOUNT, "The messaging service has no sender.", "Add one in Twilio's console."),
        21704: Meaning(Scope.ACCOUNT, "The messaging service has no sender.", "Add one in Twilio's console."),
        21705: Meaning(Scope.ACCOUNT, "There is no such messaging service.", _SENDER_HINT),
        # What only callbacks say.
        30001: Meaning(Scope.MESSAGE, "Twilio's queue was full.", "Send less at once."),
        30002: Meaning(Scope.ACCOUNT, "The Twilio account is suspended.", "Look into Twilio's console."),
        30003: Meaning(Scope.MESSAGE, "The phone could not be reached.", "It may be off: send again later."),
        30004: Meaning(Scope.MESSAGE, "The message was blocked.", "The person or the carrier blocks this sender."),
        30005: Meaning(Scope.NUMBER, "The number does not exist any more.", _NUMBER_HINT),
        30006: Meaning(Scope.NUMBER, "The number is a landline or out of reach.", _NUMBER_HINT),
        30007: Meaning(
            Scope.MESSAGE, "The carrier filtered the message.", "Change its text: carriers take it for spam."
        ),
        30008: Meaning(Scope.MESSAGE, "The carrier did not say why it failed.", "Send again later."),
        30034: Meaning(
            Scope.ACCOUNT,
            "The sender is not registered with carriers.",
            "Register it for A2P 10DLC in Twilio's console.",
        ),
        63038: Meaning(Scope.ACCOUNT, "The account's limit for the day was reached.", "Ask Twilio for a higher one."),
    }
)


def meaning_of(code: int | None) -> Meaning:
    """What is known of a code; of any other, where Twilio explains it."""
    if code is None:
        return Meaning(Scope.MESSAGE, "Twilio refused the message.", "Look into Twilio's console.")
    return MEANINGS.get(code) or Meaning(
        Scope.MESSAGE, f"Twilio refused the message with code {code}.", f"See https://www.twilio.com/docs/errors/{code}"
    )


def error_of(code: int | None, *, permanent: bool = True) -> DeliveryError:
    """As it is shown at the delivery."""
    meaning = meaning_of(code)
    return DeliveryError(
        code="TWILIO" if code is None else str(code), message=meaning.message, permanent=permanent, hint=meaning.hint
    )
