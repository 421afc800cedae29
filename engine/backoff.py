"""Waiting between attempts: doubling waits, shortened at random so that many do not come at once."""

from __future__ import annotations

import asyncio
from random import random


class Backoff:
    """The waits of one series of attempts, in seconds. Not shared between tasks."""

    def __init__(self, *, first: float, cap: float) -> None:
        self._first = first
        self._cap = cap
        self._next = first

    def reset(self) -> None:
        """After a success: start again from the first wait."""
        self._next = self._first

    def delay(self) -> float:
        """The next wait: between half and the whole of what doubling gives."""
        whole, self._next = self._next, min(self._next * 2, self._cap)
        return whole * (0.5 + random() / 2)  # noqa: S311

    async def wait(self) -> None:
        """Sleep for the next wait."""
        await asyncio.sleep(self.delay())
