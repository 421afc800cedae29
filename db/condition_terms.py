"""What conditions are made of: the grammar of paths, the table of fields they may name, instants and anniversaries.

A path is a root, a field of it and, for JSON fields, the keys that lead inside: `event.properties.items.0.sku`.
Segments are parted by dots; `\\.` is a dot inside a key and `\\\\` a backslash. Nothing here reads a value:
`engine.conditions` follows a path through an event in memory, `db.conditions` writes the same walk as SQL.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from functools import lru_cache

import msgspec

MAX_PATH_CHARACTERS = 512
"""Longer than any real path; it keeps statements and error messages short."""

MAX_PATH_KEYS = 32
"""Keys below a JSON field. Stored JSON may be deeper, but nobody addresses it by hand."""

CONSENT_PURPOSES = ("email", "push", "sms", "analytics", "workflows")


class FieldKind(Enum):
    """What a field holds, which decides how its values are compared."""

    JSON = "JSON"
    STRING = "a string"
    NUMBER = "a number"
    BOOLEAN = "true or false"
    INSTANT = "an instant"
    CONSENT = "a state of consent"


FIELDS: dict[str, dict[str, FieldKind]] = {
    "event": {
        "eventType": FieldKind.STRING,
        "module": FieldKind.STRING,
        "key": FieldKind.STRING,
        "seq": FieldKind.NUMBER,
        "userId": FieldKind.STRING,
        "anonymousId": FieldKind.STRING,
        "timestamp": FieldKind.INSTANT,
        "receivedAt": FieldKind.INSTANT,
        "properties": FieldKind.JSON,
        "context": FieldKind.JSON,
    },
    "profile": {
        "userId": FieldKind.STRING,
        "anonymous": FieldKind.BOOLEAN,
        "createdAt": FieldKind.INSTANT,
        "lastSeenAt": FieldKind.INSTANT,
        "traits": FieldKind.JSON,
        "consent": FieldKind.CONSENT,
    },
    "run": {"vars": FieldKind.JSON},
}


class PathError(ValueError):
    """A path that addresses nothing. Its text completes the sentence `<where> …`."""


class Path(msgspec.Struct, frozen=True):
    """A parsed path. `keys` is empty for every field that is not JSON, and the purpose alone for consent."""

    root: str
    field: str
    keys: tuple[str, ...] = ()

    @property
    def kind(self) -> FieldKind:
        return FIELDS[self.root][self.field]


@lru_cache(maxsize=4096)
def parse_path(text: str) -> Path:
    """Raises `PathError`, whose text says what to write instead."""
    if len(text) > MAX_PATH_CHARACTERS:
        raise PathError(f"is longer than {MAX_PATH_CHARACTERS} characters")
    root, *rest = _segments(text)
    fields = FIELDS.get(root)
    if fields is None:
        raise PathError(f"must start with one of {_listing(FIELDS)}, e.g. event.properties.amount")
    if not rest or rest[0] not in fields:
        raise PathError(f"must name a field of {root}: one of {_listing(fields)}")
    path = Path(root, rest[0], tuple(rest[1:]))
    _check_keys(path)
    return path


def _check_keys(path: Path) -> None:
    if path.kind is FieldKind.CONSENT:
        if len(path.keys) != 1 or path.keys[0] not in CONSENT_PURPOSES:
            raise PathError(f"must name one purpose below profile.consent: one of {_listing(CONSENT_PURPOSES)}")
    elif path.kind is not FieldKind.JSON and path.keys:
        raise PathError(f"goes below {path.root}.{path.field}, which is {path.kind.value} and has nothing below it")
    if len(path.keys) > MAX_PATH_KEYS:
        raise PathError(f"has more than {MAX_PATH_KEYS} keys below {path.root}.{path.field}")


_SEGMENT = re.compile(r"(?:[^.\\]|\\[.\\])+", re.DOTALL)
_STRAY_BACKSLASH = r"a stray backslash: write \. for a dot in a key and \\ for a backslash"
_ESCAPED = re.compile(r"\\([.\\])")


def _segments(text: str) -> list[str]:
    segments: list[str] = []
    position = 0
    while True:
        match = _SEGMENT.match(text, position)
        if match is None:
            raise PathError(f"has an empty key or {_STRAY_BACKSLASH}")
        segments.append(_ESCAPED.sub(r"\1", match.group()))
        position = match.end()
        if position == len(text):
            return segments
        if text[position] != ".":
            raise PathError(f"has {_STRAY_BACKSLASH}")
        position += 1


def parse_instant(text: str) -> datetime | None:
    """An ISO 8601 date and time with an offset, as UTC; None for anything else. Finer than microseconds is cut off."""
    try:
        parsed = datetime.fromisoformat(text)
        return None if parsed.tzinfo is None else parsed.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def anniversary_days(today: date) -> frozenset[str]:
    """The days (MM-DD) whose anniversary is today: 29 February's is 28 February in years that have none."""
    day = today.strftime("%m-%d")
    no_leap_day = day == "02-28" and (today + timedelta(days=1)).day == 1
    return frozenset({day, "02-29"}) if no_leap_day else frozenset({day})


def _listing(names: Iterable[str]) -> str:
    return ", ".join(names)
