"""What a mail is made of: one resolved mail, its stored form, and its bytes for SMTP (RFC 5322, MIME).

`Mail` is what `deliveries.payload` holds: what was, or will be, sent, the same at every attempt. Pure.

Headers are written here. The standard library reads what it is given as if it came from a mail, decodes the encoded
words in it (RFC 2047) and writes the result as it is: a person whose name is `=?utf-8?q?=0D=0ABcc:…?=` would write
headers, and whole bodies, under the sender's signature.
"""

from __future__ import annotations

import re
from datetime import datetime
from email.header import Header
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from uuid import UUID

import msgspec

from engine.email.sender import Mailbox, read_mailbox

_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
MAX_LINE_CHARACTERS = 76
"""Of a header's line, where it can be broken (RFC 2047 section 2)."""
MAX_PLAIN_CHARACTERS = 60
"""Of what is written as it is, behind a header's name."""


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
    message = EmailMessage(policy=SMTP)
    message.set_content(mail.text or "\n", cte=_encoding_of(mail.text))
    if mail.html is not None:
        message.add_alternative(mail.html, subtype="html", cte=_encoding_of(mail.html))
    headers = {
        "Message-ID": mail.message_id,
        **mail.headers,
        "From": _mailbox_header(mail.from_),
        "To": mail.to,
        **({} if mail.reply_to is None else {"Reply-To": _mailbox_header(mail.reply_to)}),
        "Subject": _text_header(mail.subject, "Subject"),
        "Date": format_datetime(date),
    }
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode() + bytes(message)


def _mailbox_header(text: str) -> str:
    mailbox = read_mailbox(text)
    if not isinstance(mailbox, Mailbox):
        raise ValueError("not a mailbox")
    if _is_plain(mailbox.name):
        return mailbox.text
    return f"{_encoded(mailbox.name, 'Reply-To')}\r\n <{mailbox.address}>"


def _text_header(text: str, name: str) -> str:
    return text if _is_plain(text) else _encoded(text, name)


def _is_plain(text: str) -> bool:
    """Whether it can stand in a header as it is. What looks like an encoded word cannot: it would be decoded."""
    return text.isascii() and text.isprintable() and "=?" not in text and len(text) <= MAX_PLAIN_CHARACTERS


def _encoded(text: str, name: str) -> str:
    """As encoded words, folded to go behind a header's name."""
    return Header(text, "utf-8", maxlinelen=MAX_LINE_CHARACTERS, header_name=name).encode(linesep="\r\n")


def _encoding_of(text: str) -> str:
    """Quoted-printable keeps lines short; where most characters would need it, base64 is shorter."""
    encoded = text.encode()
    return "base64" if sum(byte > 127 for byte in encoded) * 3 > len(encoded) else "quoted-printable"
