"""What a mail says, whether that may be sent, and how many go out in a minute. Pure.

To whom anything may be sent is `engine.dispatch.recipients`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from db.templates import TemplateRecord
from engine.channels.base import Refuse, Suppress
from engine.dispatch.values import Channel, DeliveryError, EmailContent, SuppressedReason
from engine.email.html import HtmlContent, read_html
from engine.email.message import Mail, message_id_of, one_line
from engine.email.scan import scan
from engine.email.sender import Mailbox
from engine.templates.liquid import CannotRender, TemplateValues, render
from engine.templates.texts import MAX_SUBJECT_CHARACTERS

NO_ADDRESS = DeliveryError(
    code="NO_ADDRESS",
    message="The person has no valid trait email.",
    permanent=True,
    hint="Set it with identify.",
)

WINDOW = timedelta(minutes=1)
"""Sends are counted in windows of this length, from the full minute."""


class BurstLimits(msgspec.Struct, frozen=True):
    """Mails in one window: of a whole project, and of a domain in its first 30 days, whose reputation one bad hour
    would spoil for years."""

    per_project: int = 3000
    per_new_domain: int = 300


class Texts(msgspec.Struct, frozen=True):
    """What a mail is rendered from."""

    subject: str
    html: str | None
    text: str | None


def texts_of(content: EmailContent, templates: Mapping[UUID, TemplateRecord]) -> Texts | Refuse:
    """The texts of a mail. What the send itself says goes before its template."""
    template = None if content.template_id is None else templates.get(content.template_id)
    if content.template_id is not None and (template is None or template.channel != Channel.EMAIL):
        return _refuse("TEMPLATE_NOT_FOUND", "The template is no more.", "Save it again, and send with its new id.")
    subject, html, text = (
        given if given is not None else stored
        for given, stored in (
            (content.subject, template.subject if template else None),
            (content.body_html, template.body_html if template else None),
            (content.body_text, template.body_text if template else None),
        )
    )
    if html is None and text is None:
        return _refuse("EMPTY", "The mail has no body.", "Give the template a body, or the send one of its own.")
    return Texts(subject or "", html, text)


def resolve_mail(
    texts: Texts,
    values: TemplateValues,
    *,
    delivery_id: UUID,
    sender: Mailbox,
    recipient: str,
    reply_to: str | None,
    unsubscribe_url: str | None,
) -> Mail | Refuse | Suppress:
    """Render a mail and look at what it says."""
    with_link = TemplateValues({**values.roots, "unsubscribe_url": unsubscribe_url or ""})
    try:
        subject = render(texts.subject, with_link)
        html = None if texts.html is None else render(texts.html, with_link, html=True)
        text = None if texts.text is None else render(texts.text, with_link)
    except CannotRender as error:
        return _refuse("TEMPLATE", str(error), "Mend the template, then replay the delivery.")
    read = None if html is None else read_html(html.text)
    plain = text.text if text is not None else read.text if read is not None else ""
    if not plain.strip() and html is None:
        return _refuse("EMPTY", "The mail is empty for this person.", "Give the template something to fall back on.")
    line = one_line(subject.text, MAX_SUBJECT_CHARACTERS)
    blocked = _blocked(sender, line, plain, read)
    if blocked is not None:
        return blocked
    missing = [*subject.missing, *(html.missing if html else ()), *(text.missing if text else ())]
    return Mail(
        from_=sender.text,
        to=recipient,
        subject=line,
        text=plain,
        html=None if html is None else html.text,
        reply_to=reply_to,
        message_id=message_id_of(delivery_id, sender.domain),
        unsubscribe_url=unsubscribe_url,
        missing=tuple(dict.fromkeys(missing)),
    )


def window_of(moment: datetime) -> datetime:
    """The start of the window that a moment is in."""
    return moment - timedelta(seconds=moment.timestamp() % WINDOW.total_seconds())


def rate_limited(limit: int) -> DeliveryError:
    """Why a mail waits for a later window."""
    return DeliveryError(
        code="RATE_LIMITED",
        message=f"More than {limit} mails a minute: it is sent later.",
        permanent=False,
        hint="Nothing is to be done: the rest follows minute by minute. New domains get more after 30 days.",
    )


def _blocked(sender: Mailbox, subject: str, plain: str, html: HtmlContent | None) -> Suppress | None:
    found = scan(sender=sender, subject=subject, text=plain, html=html)
    if found is None:
        return None
    return Suppress(
        reason=SuppressedReason.BLOCKED_CONTENT,
        error=DeliveryError(
            code="BLOCKED_CONTENT",
            message=f"{found.rule}: {found.reason}",
            permanent=True,
            hint="Change what the rule names. It looks like phishing to whoever receives it, too.",
        ),
    )


def _refuse(code: str, message: str, hint: str) -> Refuse:
    return Refuse(error=DeliveryError(code=code, message=message, permanent=True, hint=hint))
