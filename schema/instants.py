"""Reading an instant the same way wherever it comes in: through GraphQL's coercion, or through a compiled decoder."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import msgspec

Instant = Annotated[datetime, msgspec.Meta(tz=True)]
"""RFC 3339 with an offset; digits beyond microseconds are rounded."""


def parse_instant(text: str) -> datetime:
    """An instant in UTC, from RFC 3339 or another form of ISO 8601 that has an offset. Raises `ValueError`."""
    try:
        instant = msgspec.convert(text, Instant)
    except msgspec.ValidationError:
        instant = _parse_iso(text)
    return in_utc(instant)


def in_utc(instant: datetime) -> datetime:
    """Raises `ValueError` for an instant that only its offset keeps within the years 1 to 9999."""
    if instant.tzinfo is UTC:
        return instant
    try:
        return instant.astimezone(UTC)
    except OverflowError:
        raise ValueError("DateTime must lie within the years 1 to 9999 in UTC.") from None


def _parse_iso(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("DateTime must be an ISO 8601 instant such as 2026-05-01T12:00:00Z.") from None
    if instant.tzinfo is None:
        raise ValueError("DateTime must have an offset: append Z for UTC, as in 2026-05-01T12:00:00Z.")
    return instant
