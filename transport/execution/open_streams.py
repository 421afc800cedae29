"""Open subscriptions of this process: how many each holder has, and what their items cost.

Bounded per holder of credentials; sessions without any are bounded by their sockets and responses. What is open pays
for what was delivered in the meantime, every `CHARGED_SECONDS` and when it ends: nothing is counted per item here, the
streams do that for their own sake. A holder without points goes into debt and loses nothing of what is open: it is the
next operation that has to wait.

No task: one timer while anything is open that pays.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

from transport.application import Account

ITEMS_PER_POINT = 100
"""An item of a stream costs a hundredth of what it would cost in a list: it is executed once for many."""

CHARGED_SECONDS = 5.0
"""How long what is delivered may be owed."""

ROUNDS = 20
"""In which all streams are gone through in that time, so that twenty thousand are never looked at in one go."""


class OpenStream(Protocol):
    """A subscription that has begun."""

    @property
    def delivered(self) -> int:
        """How many items so far."""


@dataclass(slots=True)
class _Tab:
    holder: Hashable
    account: Account | None
    points_per_item: float
    paid: int = 0


class OpenStreams:
    """What is open now."""

    def __init__(self, max_per_holder: int) -> None:
        self.max_per_holder = max_per_holder
        self._tabs: dict[OpenStream, _Tab] = {}
        self._held: Counter[Hashable] = Counter()
        self._waiting: deque[OpenStream] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._tabs)

    def enter(self, stream: OpenStream, *, holder: Hashable | None, account: Account | None, cost_of_item: int) -> bool:
        """Take a place. False where this holder has no more. `cost_of_item` is what it would cost in a list."""
        if holder is not None:
            if self._held[holder] >= self.max_per_holder:
                return False
            self._held[holder] += 1
        self._tabs[stream] = _Tab(holder, account, cost_of_item / ITEMS_PER_POINT)
        if account is not None:
            self._waiting.append(stream)
            self._schedule()
        return True

    def leave(self, stream: OpenStream) -> None:
        """Pay what is owed and give the place back. Safe to call for one that never entered."""
        tab = self._tabs.pop(stream, None)
        if tab is None:
            return
        _charge(stream, tab)
        if tab.holder is not None:
            self._held[tab.holder] -= 1
            if not self._held[tab.holder]:
                del self._held[tab.holder]

    def _schedule(self) -> None:
        if self._timer is None and self._waiting:
            self._timer = asyncio.get_running_loop().call_later(CHARGED_SECONDS / ROUNDS, self._go_on)

    def _go_on(self) -> None:
        self._timer = None
        for _ in range(-(-len(self._waiting) // ROUNDS)):
            stream = self._waiting.popleft()
            if (tab := self._tabs.get(stream)) is not None:
                _charge(stream, tab)
                self._waiting.append(stream)
        self._schedule()


def _charge(stream: OpenStream, tab: _Tab) -> None:
    delivered = stream.delivered
    if tab.account is not None and delivered > tab.paid:
        tab.account.charge((delivered - tab.paid) * tab.points_per_item)
        tab.paid = delivered
