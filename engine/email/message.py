"""What a mail is made of: one resolved mail, its stored form, and its bytes for SMTP (RFC 5322, MIME).

`Mail` is what `deliveries.payload` holds: what was, or will be, sent, the same at every attempt. Pure.
"""

from __future__ import annotations

import re
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from uuid import UUID

import msgspec

from engine.email.sender import Mailbox, read_mailbox

_BREAKS = re.compile(r"[\x00-\x1f\x7f\u2028\u2029]+")


class Mail(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One mail to one person. `from_` and `reply_to` are as in RFC 5322; `missing` are paths its template lacked."""

    from_: str = msgspec.field(name="from")
    to: str
    subject: str
    text: str
    html: str | None = None
    reply_to: str | None = None
    message_id: str
    unsubscribe_url: str | None = None
    missing: tuple[str, ...] = ()

    @property
    def headers(self) -> dict[str, str]:
        """Those of one-click unsubscribing, RFC 8058."""
        if self.unsubscribe_url is None:
            return {}
        return {
            "List-Unsubscribe": f"<{self.unsubscribe_url}>",
            "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        }


def message_id_of(delivery_id: UUID, domain: str) -> str:
    """The same for every attempt at a delivery: readers show a mail that came twice once."""
    return f"<{delivery_id.hex}@{domain}>"


def one_line(text: str, limit: int) -> str:
    """For a header: no line breaks, no control characters, cut."""
    return _BREAKS.sub(" ", text).strip()[:limit]


def mail_bytes(mail: Mail, *, date: datetime) -> bytes:
    """With CRLF. In UTF-8 where an address needs it (SMTPUTF8), otherwise ASCII only."""
    message = EmailMessage(policy=SMTP if is_ascii_mail(mail) else SMTPUTF8)
    message["From"] = _header_address(mail.from_)
    message["To"] = _address("", mail.to)
    if mail.reply_to is not None:
        message["Reply-To"] = _header_address(mail.reply_to)
    message["Subject"] = mail.subject
    message["Date"] = date
    message.set_content(mail.text or "\n", cte=_encoding_of(mail.text))
    if mail.html is not None:
        message.add_alternative(mail.html, subtype="html", cte=_encoding_of(mail.html))
    # By hand: the standard library encodes what is longer than a line, and nobody decodes a URL or an id.
    raw = {"Message-ID": mail.message_id, **mail.headers}
    return "".join(f"{name}: {value}\r\n" for name, value in raw.items()).encode("ascii") + bytes(message)


def is_ascii_mail(mail: Mail) -> bool:
    """Whether a relay without SMTPUTF8 takes it."""
    return mail.to.isascii() and _address_of(mail.from_).isascii()


def _address_of(text: str) -> str:
    mailbox = read_mailbox(text)
    return mailbox.address if isinstance(mailbox, Mailbox) else text


def _header_address(text: str) -> Address:
    mailbox = read_mailbox(text)
    if not isinstance(mailbox, Mailbox):
        raise ValueError("not a mailbox")
    return _address(mailbox.name, mailbox.address)


def _address(name: str, address: str) -> Address:
    """In parts: as a whole the standard library takes ASCII only."""
    local, _, domain = address.rpartition("@")
    return Address(display_name=name, username=local, domain=domain)


def _encoding_of(text: str) -> str:
    """Quoted-printable keeps lines short; where most characters would need it, base64 is shorter."""
    encoded = text.encode()
    return "base64" if sum(byte > 127 for byte in encoded) * 3 > len(encoded) else "quoted-printable"
