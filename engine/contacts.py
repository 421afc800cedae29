"""Phone numbers and email addresses in the one form that they are stored and sent in. Pure; asks no network.

What two spellings mean the same number or mailbox by the rules of their networks, become the same text: suppressions,
counters and look-ups compare texts.
"""

from __future__ import annotations

import msgspec
import phonenumbers
from email_validator import EmailNotValidError, validate_email
from phonenumbers import NumberParseException, PhoneNumberFormat

MAX_PHONE_CHARACTERS = 64
"""Fifteen digits with any punctuation around them."""
MAX_EMAIL_CHARACTERS = 320
"""64 before the @ and 255 after it (RFC 5321, section 4.5.3.1)."""

_PHONE_HELP = "Write it with + and the country code, e.g. +14155550132."


class Malformed(msgspec.Struct, frozen=True):
    """Why a text is no such address, in a sentence for whoever wrote it. Does not repeat the text."""

    message: str


def parse_phone(text: str, *, region: str | None = None) -> str | Malformed:
    """A number in E.164. Without `region` (ISO 3166, two letters) it has to begin with + and the country code.

    Only numbers that the numbering plan of their country has: others cost money and reach nobody.
    """
    if len(text) > MAX_PHONE_CHARACTERS:
        return Malformed(f"A phone number has at most {MAX_PHONE_CHARACTERS} characters.")
    try:
        number = phonenumbers.parse(text, region)
    except NumberParseException:
        return Malformed(f"This is no phone number. {_PHONE_HELP}")
    if number.extension:
        return Malformed("A message cannot be sent to an extension: leave it out.")
    if not phonenumbers.is_valid_number(number):
        return Malformed(f"No country has this phone number. {_PHONE_HELP}")
    return phonenumbers.format_number(number, PhoneNumberFormat.E164)


def parse_email(text: str) -> str | Malformed:
    """An address whose domain is in lower case and, where it was written in another script, in IDNA's ASCII.

    The part before the @ stays as it is, but for Unicode's normal form C: only its own server knows what case means.
    Whether the domain exists is not asked.
    """
    if len(text) > MAX_EMAIL_CHARACTERS:
        return Malformed(f"An email address has at most {MAX_EMAIL_CHARACTERS} characters.")
    try:
        valid = validate_email(text, check_deliverability=False)
    except EmailNotValidError as error:
        return Malformed(f"This is no email address. {error}")
    return f"{valid.local_part}@{valid.ascii_domain}"
