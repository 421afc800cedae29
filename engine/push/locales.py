"""Choosing a text by locale. Pure. Tags are BCP 47; case does not matter, and `_` is as good as `-`."""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_LOCALE_CHARACTERS = 35
"""What RFC 5646 section 4.4.1 says that every implementation takes."""

_TAG = re.compile(r"[A-Za-z]{2,8}(?:[-_][A-Za-z0-9]{1,8})*")


def is_locale(text: str) -> bool:
    """Whether this has the form of a tag: a language, then subtags."""
    return len(text) <= MAX_LOCALE_CHARACTERS and _TAG.fullmatch(text) is not None


def same_form(tag: str) -> str:
    """The form in which two spellings of one tag are the same."""
    return tag.replace("_", "-").lower()


def choose_locale(available: Sequence[str], wanted: str | None) -> str | None:
    """Of the tags that there are texts for, the one for somebody who wants `wanted`; None for the default text.

    The exact tag, then with one subtag less each time, down to the language (RFC 4647 section 3.4, "lookup").
    """
    if wanted is None:
        return None
    by_form = {same_form(tag): tag for tag in reversed(available)}
    form = same_form(wanted)
    while form:
        if form in by_form:
            return by_form[form]
        form = form.rpartition("-")[0]
    return None
