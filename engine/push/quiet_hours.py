"""Quiet hours: whether it is night where a device is, and when that ends. Pure.

A window is two hours of the device's own wall clock, the first in it and the second not; it may pass midnight. Its end
is the first instant at which the wall clock shows an hour outside of it, so that changes of the clock are right by
definition: an hour that the clock skips ends the window at the moment it is skipped, and an hour that the clock shows
twice is quiet both times.
"""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

MAX_ZONE_CHARACTERS = 64
"""The longest name of the IANA's has 32."""
_DAYS_AHEAD = 3
"""Where a calendar skips a day, the window that began before it ends two days on."""


class QuietHours(msgspec.Struct, frozen=True):
    """Hours of the day, 0 to 23. Equal ones are no window."""

    start: int
    end: int

    def holds(self, hour: int) -> bool:
        """Whether an hour of the wall clock is in the window."""
        if self.start <= self.end:
            return self.start <= hour < self.end
        return hour >= self.start or hour < self.end


def quiet_until(window: QuietHours | None, *, zone: ZoneInfo, now: datetime) -> datetime | None:
    """The instant at which the quiet that lasts now ends, in UTC; None when it is not quiet."""
    if window is None or not window.holds(now.astimezone(zone).hour):
        return None
    ends = (end.astimezone(UTC) for end in _ends(window, zone, now))
    return min(end for end in ends if end > now and not window.holds(end.astimezone(zone).hour))


@lru_cache(maxsize=1024)
def find_zone(name: str) -> ZoneInfo | None:
    """A zone of the IANA's by its name; None for anything else."""
    if not 1 <= len(name) <= MAX_ZONE_CHARACTERS or not name.isascii():
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def _ends(window: QuietHours, zone: ZoneInfo, now: datetime) -> list[datetime]:
    """Whenever the wall clock shows, or skips, the window's last moment on this and the next days.

    A time that is skipped is read with the offset before the change (fold 0): the moment of the change, or later. One
    that comes twice is tried both times.
    """
    today = now.astimezone(zone).date()
    return [
        datetime.combine(today + timedelta(days), time(window.end), zone).replace(fold=fold)
        for days in range(_DAYS_AHEAD)
        for fold in (0, 1)
    ]
