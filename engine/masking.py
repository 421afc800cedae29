"""What of a configuration may be shown to whoever reads the audit log: everything but secrets. Pure.

A secret is known by the name that it stands under (password, authToken, privateKey …), by standing among headers, and
by what it looks like: a key of ours, a signing secret, a private key, a JWT, credentials in a URL. This is the second
fence: whoever records a change does not hand its secrets in at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASKED = "***"
"""Stands for a secret."""
MASKED_ANEW = "*** (changed)"
"""Stands for a secret that is another one than before."""

_SECRET_NAMES = re.compile(
    "password|passwd|passphrase|secret|token|apikey|privatekey|accesskey|signingkey|authorization|cookie|credential|"
    "serviceaccount|jwt|bearer"
)
_WHOLE_SECRET_NAMES = frozenset({"auth", "pass", "pwd", "pin", "otp"})
_ABOUT_A_SECRET = frozenset({"id", "ids", "hint", "prefix", "count", "seconds", "at", "name"})
"""The last word of names such as pushTokenId: they tell of a secret and hold none."""
_RULES = frozenset({"max", "min", "has", "is", "require", "requires"})
"""The first word of names such as requireToken."""
_HEADERS = "headers"
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")

_PART = r"[\w.-]{0,64}"
"""Of the name of a parameter. Bounded, like everything here that could be gone through again and again."""
_LOOKS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), MASKED),
    # What of a key may be shown ends before its sixteenth random character.
    (re.compile(r"\b(?:sk|pk|mt|rt)_[a-z]{2}_[A-Za-z0-9_-]{20,}"), MASKED),
    (re.compile(r"\bwhsec_[A-Za-z0-9+/=_-]{16,}"), MASKED),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+"), MASKED),
    (re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9+/._~=-]{16,}", re.IGNORECASE), rf"\1 {MASKED}"),
    (re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]{0,20}://)[^/\s?#@]*@"), rf"\1{MASKED}@"),
    (
        re.compile(rf"([?&]{_PART}(?:token|secret|password|passwd|key|sig|auth|code){_PART}=)[^&\s#]+", re.IGNORECASE),
        rf"\1{MASKED}",
    ),
)


def mask(value: Any) -> Any:
    """The JSON value without its secrets; names, numbers of items and everything else stay."""
    match value:
        case Mapping():
            return {name: _hide(each) if _is_secret(name) else mask(each) for name, each in value.items()}
        case list() | tuple():
            return [mask(each) for each in value]
        case str():
            return _mask_text(value)
    return value


def mask_changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Two states of named secrets, so that one can see which were added, taken away or replaced, and none of them."""
    changed = {name: MASKED if before.get(name) == value else MASKED_ANEW for name, value in after.items()}
    return dict.fromkeys(before, MASKED), changed | {name: MASKED for name in after if name not in before}


def _is_secret(name: str) -> bool:
    words = [word.lower() for word in _WORD.findall(name)]
    if not words or words[-1] in _ABOUT_A_SECRET or words[0] in _RULES:
        return False
    joined = "".join(words)
    return joined == _HEADERS or joined in _WHOLE_SECRET_NAMES or _SECRET_NAMES.search(joined) is not None


def _hide(value: Any) -> Any:
    """Everything below, but for what is only there or not."""
    match value:
        case Mapping():
            return {name: _hide(each) for name, each in value.items()}
        case list() | tuple():
            return [_hide(each) for each in value]
    return value if value is None or isinstance(value, bool) or value == MASKED_ANEW else MASKED


def _mask_text(text: str) -> str:
    for look, replacement in _LOOKS:
        text = look.sub(replacement, text)
    return text
