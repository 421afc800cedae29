"""What the texts of a message may be, whether a send brings them or a template keeps them. Pure."""

from __future__ import annotations

from engine.errors import UserError
from engine.templates.liquid import MAX_TEMPLATE_BYTES, check_template

MAX_SUBJECT_CHARACTERS = 998
"""One line of a mail, RFC 5322 section 2.1.1."""


def check_texts(*, subject: str | None, body_html: str | None, body_text: str | None) -> list[UserError]:
    """What is wrong, each with the path to it."""
    errors = []
    if subject is not None and len(subject) > MAX_SUBJECT_CHARACTERS:
        message = f"A subject has at most {MAX_SUBJECT_CHARACTERS} characters."
        errors.append(UserError(message, "LIMIT_EXCEEDED", ("input", "subject")))
    for name, text in (("subject", subject), ("bodyHtml", body_html), ("bodyText", body_text)):
        error = None if text is None else _check_text(text, name)
        errors += [] if error is None else [error]
    return errors


def _check_text(text: str, name: str) -> UserError | None:
    path = ("input", name)
    if len(text.encode()) > MAX_TEMPLATE_BYTES:
        return UserError(f"{name} has at most {MAX_TEMPLATE_BYTES // 1024} KiB.", "LIMIT_EXCEEDED", path)
    if "\0" in text:
        return UserError(f"{name} cannot hold a NUL character.", "INVALID", path)
    problem = check_template(text)
    return None if problem is None else UserError(problem, "INVALID", path)
