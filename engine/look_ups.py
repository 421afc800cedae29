"""Look-ups that are believed for a while.

Guarantees: what was found is looked up again after `max_age`; concurrent look-ups of one key are one; a look-up that
raises is remembered nowhere, so a flood of made-up keys takes no memory; no more than `max_entries` are kept.
Leaves to others: what is found out meanwhile (`forget`). Never stops: it holds no task that nobody waits for.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from datetime import timedelta
from time import monotonic
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LookUps(Generic[K, V]):
    """Values by key, with the time at which each was looked up."""

    def __init__(
        self,
        look_up: Callable[[K], Awaitable[V]],
        *,
        max_age: timedelta,
        max_entries: int,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._look_up = look_up
        self._max_age = max_age.total_seconds()
        self._max_entries = max_entries
        self._clock = clock
        self._known: OrderedDict[K, tuple[float, V]] = OrderedDict()
        self._looking: dict[K, asyncio.Task[V]] = {}

    def known(self, key: K) -> V | None:
        """What is believed still."""
        known = self._known.get(key)
        if known is None or self._clock() - known[0] > self._max_age:
            return None
        return known[1]

    async def find(self, key: K) -> V:
        """Look it up now. Shielded, so that one caller who goes away does not take the answer from the others."""
        task = self._looking.get(key)
        if task is None:
            task = asyncio.create_task(self._find(key), name="look-up")
            self._looking[key] = task
            task.add_done_callback(lambda done: self._found(key, done))
        return await asyncio.shield(task)

    def forget(self, matches: Callable[[V], bool]) -> None:
        """Drop what matches."""
        for key in [each for each, (_, value) in self._known.items() if matches(value)]:
            del self._known[key]

    async def _find(self, key: K) -> V:
        looked_up_at = self._clock()
        try:
            value = await self._look_up(key)
        except Exception:
            self._known.pop(key, None)
            raise
        self._known[key] = (looked_up_at, value)
        self._known.move_to_end(key)
        if len(self._known) > self._max_entries:
            self._known.popitem(last=False)
        return value

    def _found(self, key: K, done: asyncio.Task[V]) -> None:
        """Also takes note of an error that nobody waited for any more."""
        self._looking.pop(key, None)
        if not done.cancelled():
            done.exception()
