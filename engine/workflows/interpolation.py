"""Filling in a step's configuration for one run, and what of it may be shown.

Guarantees: a text is rendered once, whatever its values hold, so that nobody's data is ever read as a template; what is
missing is empty, and its path is noted; what all texts of a step take together is bounded. A text inside JSON (traits,
the body of a webhook) that is one placeholder and nothing else becomes the value itself: `"{{ event.amount }}"` is the
number 42, not the string "42".
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from engine.json_limits import MAX_INTEGER, MIN_INTEGER
from engine.templates.liquid import MAX_MISSING, CannotRender, TemplateValues, render

MAX_TEXTS = 1_000
"""Texts with markup in one step."""
MAX_BYTES = 512 * 1024
"""Of all finished texts of one step together."""
MAX_CPU_SECONDS = 1.0
"""Of all texts of one step together: an ordinary one takes a few milliseconds, and a round holds locks meanwhile."""
MAX_SHOWN_CHARACTERS = 4_096
"""Of one text in a trace, which is for looking at."""
MASK = "••••"

_MARKUP = re.compile(r"\{[{%]")
_PLACEHOLDER = re.compile(r"\{\{\s*([A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*)*)\s*\}\}")
_NOT_THERE = object()
_LARGEST_FLOAT = int(sys.float_info.max)

_SECRET_NAME = re.compile(
    r"authori[sz]ation|cookie|passw(or)?d|passphrase|secret|credential|signature|bearer|token"
    r"|(api|access|auth|account|private|signing|master)[\W_]*key|(^|[\W_])(pwd|pin|jwt|otp|cvv|cvc|iban|ssn)($|[\W_])",
    re.IGNORECASE,
)
_USER_INFO = re.compile(r"(?<=://)[^/?#@\s]*@")
_PARAMETER = re.compile(r"([?&#;])([^=&#;\s]{1,128})=([^&#;\s]*)")


class Interpolator:
    """Fills in the texts of one step. `missing` holds what was written out and is not there, each path once."""

    def __init__(self, values: TemplateValues) -> None:
        self._values = values
        self._missing: dict[str, None] = {}
        self._texts = 0
        self._seconds = 0.0
        self._bytes = 0

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(self._missing)[:MAX_MISSING]

    def text(self, template: str, *, html: bool = False) -> str:
        """A finished text. Raises `CannotRender`."""
        if _MARKUP.search(template) is None:
            return template
        self._texts += 1
        if self._texts > MAX_TEXTS:
            raise CannotRender(f"The step has more than {MAX_TEXTS:,} texts to fill in.")
        if self._seconds > MAX_CPU_SECONDS:
            raise CannotRender("The texts of the step take too long to fill in.")
        started = time.thread_time()
        rendered = render(template, self._values, html=html)
        self._seconds += time.thread_time() - started
        self._missing |= dict.fromkeys(rendered.missing)
        self._take(len(rendered.text.encode(errors="replace")))
        return rendered.text

    def optional(self, template: str | None, *, html: bool = False) -> str | None:
        """The same for a text that may not be there. Raises `CannotRender`."""
        return None if template is None else self.text(template, html=html)

    def value(self, value: Any) -> Any:
        """JSON with every text in it filled in; names of members stay as they are. Raises `CannotRender`."""
        match value:
            case str():
                found = self._look_up(value)
                if isinstance(found, list | Mapping):
                    self._take(len(msgspec.json.encode(found)))
                return self.text(value) if found is _NOT_THERE else _within_64_bits(found)
            case Mapping():
                return {name: self.value(each) for name, each in value.items()}
            case list() | tuple():
                return [self.value(each) for each in value]
            case _:
                return value

    def _take(self, size: int) -> None:
        self._bytes += size
        if self._bytes > MAX_BYTES:
            raise CannotRender(f"The texts of the step take more than {MAX_BYTES // 1024} KiB together.")

    def _look_up(self, template: str) -> Any:
        """What the only placeholder of a text stands for; `_NOT_THERE` when rendering has to decide."""
        placeholder = _PLACEHOLDER.fullmatch(template)
        if placeholder is None:
            return _NOT_THERE
        found: Any = self._values.roots
        for key in placeholder[1].split("."):
            if not isinstance(found, Mapping) or key not in found:
                return _NOT_THERE
            found = found[key]
        return found if found is None or isinstance(found, bool | int | float | list | Mapping) else _NOT_THERE


def _within_64_bits(value: Any) -> Any:
    """JSON as it can be sent: what came as 1e22 is stored written out, as an integer that no JSON of ours may hold."""
    match value:
        case int() if not MIN_INTEGER <= value <= MAX_INTEGER:
            return float(value) if abs(value) <= _LARGEST_FLOAT else value
        case Mapping():
            return {name: _within_64_bits(each) for name, each in value.items()}
        case list():
            return [_within_64_bits(each) for each in value]
        case _:
            return value


def shown(value: Any) -> Any:
    """JSON as a trace shows it: secrets masked by the names that they go under, in URLs too, and long texts cut."""
    match value:
        case str():
            return _cut(_masked_url(value) if "://" in value else value)
        case Mapping():
            return {name: MASK if _is_secret(name, each) else shown(each) for name, each in value.items()}
        case list() | tuple():
            return [shown(each) for each in value]
        case _:
            return value


def _is_secret(name: Any, value: Any) -> bool:
    return value is not None and isinstance(name, str) and _SECRET_NAME.search(name) is not None


def _masked_url(text: str) -> str:
    text = _USER_INFO.sub(f"{MASK}@", text)
    return _PARAMETER.sub(lambda found: f"{found[1]}{found[2]}={MASK}" if _is_secret(found[2], "") else found[0], text)


def _cut(text: str) -> str:
    left_out = len(text) - MAX_SHOWN_CHARACTERS
    return text if left_out <= 0 else f"{text[:MAX_SHOWN_CHARACTERS]}… ({left_out:,} characters more)"
