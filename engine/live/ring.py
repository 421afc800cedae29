"""The last items of a stream, kept so that who is a little behind needs no database.

Guarantees: holds every item past `floor`, so what it gives is complete; what it cannot give completely it refuses.
Bounded in items and bytes; all rings of one `RingQuota` share its bytes evenly. Belongs to one event loop.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")


class RingQuota:
    """What all rings of a kind may hold together: each at most its share, counted anew when it takes an item."""

    def __init__(self, *, total_bytes: int, ring_bytes: int, ring_items: int) -> None:
        self._total_bytes = total_bytes
        self._ring_bytes = ring_bytes
        self.ring_items = ring_items
        self.rings = 0

    @property
    def share(self) -> int:
        """Bytes that one ring may hold now."""
        return min(self._ring_bytes, self._total_bytes // max(1, self.rings))


class Ring(Generic[T]):
    """Items by rising seq. Close it, or it keeps its share."""

    def __init__(self, quota: RingQuota, *, floor: int) -> None:
        self._quota = quota
        self._items: deque[tuple[int, int, T]] = deque()
        self.floor = floor
        self.bytes = 0
        self._closed = False
        quota.rings += 1

    def __len__(self) -> int:
        return len(self._items)

    def append(self, seq: int, item: T, size: int) -> None:
        """Add the next item; `size` is in bytes. The oldest make room."""
        self._items.append((seq, size, item))
        self.bytes += size
        share = self._quota.share
        while self.bytes > share or len(self._items) > self._quota.ring_items:
            dropped, dropped_size, _ = self._items.popleft()
            self.bytes -= dropped_size
            self.floor = dropped

    def covers(self, position: int) -> bool:
        """Whether everything past a position is held. Never once it has been closed: who reads on asks the log."""
        return position >= self.floor and not self._closed

    def after(self, position: int, limit: int) -> list[T]:
        """Up to `limit` items past a covered position, oldest first."""
        start = bisect_right(self._items, position, key=lambda entry: entry[0])
        return [item for _, _, item in islice(self._items, start, start + limit)]

    def restart(self, floor: int) -> None:
        """Forget all: items are held from `floor` on."""
        self._items.clear()
        self.bytes = 0
        self.floor = floor

    def close(self) -> None:
        """Give the share back, and hold nothing. Call it once."""
        self._items.clear()
        self.bytes = 0
        self._closed = True
        self._quota.rings -= 1
