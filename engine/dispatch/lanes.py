"""Who may send how much at once in this process: lanes per host and account, shares per project, a bound for all.

Guarantees: a lane has at most `LANE_LIMIT` attempts under way, the process at most `PROCESS_LIMIT` deliveries that are
claimed and not yet settled; whatever hangs, there is room for others. A lane begins narrow and widens with every
answer, as TCP's window does: a hundred hosts that never answer hold a few hundred places, and a lively one has all it
needs after four round trips. Its bound shrinks too as the process fills up, to a share of what is left (the dynamic
thresholds of shared-memory switches), for hosts that hang all at once. A project may hold as much as is left to others.
Whoever finds a lane full waits in its queue, and is called in turn when there is room; the room is shared out.
Real time only; in memory; not shared between processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Literal
from uuid import UUID

import msgspec

from engine.dispatch.breaker import Breaker, abandoned, began, failed, room, succeeded
from engine.dispatch.values import lane_key

LANE_LIMIT = 64
"""Attempts at once to one host or account: enough for thousands a second at 20 ms, bearable for a small receiver."""
FIRST_WINDOW = 4
"""Attempts at once to a host or account that has not answered yet."""
PROCESS_LIMIT = 1024
"""Deliveries claimed and not settled. Bounds memory: each may carry a body of some hundred KiB."""
LANE_SHARE = 8
"""A lane may have an eighth of what is left."""
MAX_IDLE_LANES = 10_000
"""Lanes remembered although nothing is under way, for what is known of their hosts."""

Answer = Literal["answered", "failed", "unused"]
"""Whether host or account answered, did not, or was never asked."""


class Lane(msgspec.Struct):
    """What goes to one host or through one account."""

    sending: int = 0
    window: int = FIRST_WINDOW
    breaker: Breaker = Breaker()
    waiting: dict[UUID, None] = {}


class Slot(msgspec.Struct, frozen=True, eq=False):
    """A place for one delivery: in its lane until it is answered, in the process until it is settled."""

    project_id: UUID
    lane: str
    is_probe: bool


class Lanes:
    """The lanes of one process. Nothing in here awaits, so every method is atomic."""

    def __init__(
        self,
        *,
        lane_limit: int = LANE_LIMIT,
        process_limit: int = PROCESS_LIMIT,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lane_limit = lane_limit
        self._process_limit = process_limit
        self._monotonic = monotonic
        self._lanes: dict[str, Lane] = {}
        self._held: dict[UUID, int] = {}
        self._waiting: dict[UUID, None] = {}
        self.held = 0
        self.sending = 0

    def room(self, project_id: UUID, dispatch_key: str) -> int:
        """How many deliveries of a project may be claimed for a key now."""
        return min(self._lane_room(project_id, lane_key(project_id, dispatch_key)), self.project_room(project_id))

    def project_room(self, project_id: UUID) -> int:
        """How many deliveries of a project may be claimed now, whatever their lanes."""
        left = self._process_limit - self.held
        own = self._held.get(project_id, 0)
        return max((left - own) // 2, 0) if own else min(left, max(left // 2, 1))

    def reserve(self, project_id: UUID, dispatch_key: str) -> Slot | None:
        """Take a place, or None where there is none."""
        if self.room(project_id, dispatch_key) < 1:
            return None
        key = lane_key(project_id, dispatch_key)
        lane = self._lanes.setdefault(key, Lane())
        is_probe = not lane.breaker.is_closed
        lane.breaker = began(lane.breaker)
        lane.sending += 1
        self.sending += 1
        self.held += 1
        self._held[project_id] = self._held.get(project_id, 0) + 1
        return Slot(project_id, key, is_probe)

    def leave_lane(self, slot: Slot, answer: Answer) -> None:
        """The attempt has ended: its place in the lane is free, the one in the process is not yet."""
        lane = self._lanes[slot.lane]
        lane.sending -= 1
        self.sending -= 1
        match answer:
            case "answered":
                lane.breaker = succeeded()
                lane.window = min(lane.window + 1, self._lane_limit)
            case "failed":
                lane.breaker = failed(lane.breaker, self._monotonic(), was_probe=slot.is_probe)
                lane.window = max(lane.window // 2, FIRST_WINDOW)
            case "unused" if slot.is_probe:
                lane.breaker = abandoned(lane.breaker)
        self._forget_idle(slot.lane)

    def leave_process(self, slot: Slot) -> None:
        """The delivery is settled, or was not claimed."""
        self.held -= 1
        self._held[slot.project_id] -= 1
        if not self._held[slot.project_id]:
            del self._held[slot.project_id]

    def wait(self, project_id: UUID, dispatch_keys: Iterable[str]) -> None:
        """Remember that a project has more for these keys than there was room for; see `called`."""
        if self.project_room(project_id) < 1:
            self._waiting.setdefault(project_id)
        for key in dispatch_keys:
            self._lanes.setdefault(lane_key(project_id, key), Lane()).waiting.setdefault(project_id)
        self._forget_some()

    def called(self, lane: str) -> list[UUID]:
        """The projects whose turn it is now that there may be room, in a lane and in the process; they wait no more."""
        projects = _take(self._waiting, self._process_limit - self.held)
        found = self._lanes.get(lane)
        if found is not None:
            projects += _take(found.waiting, self._room_of(found))
            self._forget_idle(lane)
        return projects

    def open_breakers(self) -> int:
        """How many hosts and accounts are given a rest."""
        return sum(not lane.breaker.is_closed for lane in self._lanes.values())

    def _lane_room(self, project_id: UUID, key: str) -> int:
        lane = self._lanes.get(key)
        if lane is None:
            return min(self._limit(), FIRST_WINDOW)
        whole = self._room_of(lane)
        others = len(lane.waiting.keys() - {project_id})
        return min(whole, max(1, whole // (1 + others)))

    def _room_of(self, lane: Lane) -> int:
        left = max(0, min(self._limit(), lane.window) - lane.sending)
        allowed = room(lane.breaker, self._monotonic())
        return left if allowed is None else min(left, allowed)

    def _limit(self) -> int:
        left = self._process_limit - self.held
        return min(self._lane_limit, max(1, left // LANE_SHARE)) if left > 0 else 0

    def _forget_idle(self, key: str) -> None:
        lane = self._lanes[key]
        if not lane.sending and not lane.waiting and lane.window == FIRST_WINDOW and lane.breaker == Breaker():
            del self._lanes[key]
        self._forget_some()

    def _forget_some(self) -> None:
        """Whoever waits in a forgotten lane is found by the sweeper."""
        while len(self._lanes) > MAX_IDLE_LANES + self.sending:
            del self._lanes[next(key for key, lane in self._lanes.items() if not lane.sending)]


def _take(waiting: dict[UUID, None], count: int) -> list[UUID]:
    taken = list(waiting)[: max(0, count)]
    for project_id in taken:
        del waiting[project_id]
    return taken
