"""Who a mail is from, and whether it may be. Pure.

Mail of customers leaves only under a domain of theirs that was found verified in DNS: the very domain, not one below
it. Mail of the platform itself leaves from the system pool.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parseaddr, quote

import msgspec

from db.sender_domains import SenderDomainRecord
from engine.contacts import Malformed, parse_email
from engine.dispatch.values import DeliveryError

VERIFIED = "VERIFIED"
MAX_MAILBOX_CHARACTERS = 998
"""One line of a mail (RFC 5322 section 2.1.1)."""

BYOD_REQUIRED = DeliveryError(
    code="BYOD_REQUIRED",
    message="The sender's domain is not a verified one of this project.",
    permanent=True,
    hint="Add the domain with addSenderDomain, publish its DNS records, then call verifySenderDomain.",
)
"""Bring your own domain."""
NO_SENDER = DeliveryError(
    code="NOT_CONFIGURED",
    message="There is no account to send email with.",
    permanent=True,
    hint="Configure SMTP or RESEND with configureProvider.",
)


_PLAIN_NAME = re.compile(r"[\w!#$%&'*+/=?^`{|}~-]+(?: [\w!#$%&'*+/=?^`{|}~-]+)*")
"""Atoms, RFC 5322 section 3.2.3 and RFC 6532: anything else is quoted."""


class Mailbox(msgspec.Struct, frozen=True):
    """Who writes: a name, which may be empty, and an address. `text` is both, as in RFC 5322, not encoded."""

    name: str
    address: str

    @property
    def domain(self) -> str:
        return self.address.rpartition("@")[2].lower()

    @property
    def text(self) -> str:
        if not self.name:
            return self.address
        name = self.name if _PLAIN_NAME.fullmatch(self.name) else f'"{quote(self.name)}"'
        return f"{name} <{self.address}>"


def read_mailbox(text: str) -> Mailbox | Malformed:
    """`Ada <ada@example.com>` or an address alone."""
    if len(text) > MAX_MAILBOX_CHARACTERS or any(character in text for character in "\r\n\0"):
        return Malformed("A sender is one line: an address, or a name and an address in angle brackets.")
    name, written = parseaddr(text)
    address = parse_email(written)
    return address if isinstance(address, Malformed) else Mailbox(name.strip(), address)


def decide_sender(
    wanted: str | None, default: str | None, domains: Mapping[str, SenderDomainRecord]
) -> tuple[Mailbox, SenderDomainRecord] | DeliveryError:
    """Who a customer's mail is from, with the domain that lets it, or why it is not sent."""
    text = wanted or default
    if text is None:
        return NO_SENDER
    mailbox = read_mailbox(text)
    if isinstance(mailbox, Malformed):
        return DeliveryError("INVALID_SENDER", mailbox.message, permanent=True)
    domain = domains.get(mailbox.domain)
    if domain is None or domain.status != VERIFIED:
        return BYOD_REQUIRED
    return mailbox, domain
