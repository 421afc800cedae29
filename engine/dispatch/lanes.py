"""Who may send how much at once in this process: lanes per host and account, shares per project, a bound for all.

Guarantees: a lane has at most `LANE_LIMIT` attempts under way, the process at most `PROCESS_LIMIT` deliveries that are
claimed and not yet settled; whatever hangs, there is room for others. A lane begins narrow and widens with every
answer, as TCP's window does: a hundred hosts that never answer hold a few hundred places, and a lively one has all it
needs after four round trips. Its bound shrinks too as the process fills up, to a share of what is left (the dynamic
thresholds of shared-memory switches), for hosts that hang all at once. A project may hold as much as is left to others.
Whoever finds a lane full waits in its queue, and is called in turn when there is room; the room is shared out.
A lane that is all the way open takes some more than may be under way, so that it does not run dry while the next are
claimed: they begin in turns of their projects, and there a newcomer always finds a few places.
Real time only; in memory; not shared between processes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Literal
from uuid import UUID

import msgspec

from engine.dispatch.breaker import Breaker, abandoned, began, failed, room, succeeded
from engine.dispatch.values import lane_key

LANE_LIMIT = 64
"""Attempts at once to one host or account: enough for thousands a second at 20 ms, bearable for a small receiver."""
LANE_AHEAD = 64
"""Claimed for a lane that is all the way open, besides those under way."""
AHEAD_SHARE = 4
"""Nothing is claimed ahead while more than a quarter of the process is taken: the rest is for others."""
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
    held: dict[UUID, int] = {}
    lines: dict[UUID, deque[Slot]] = {}
    waiting: dict[UUID, None] = {}


class Slot(msgspec.Struct, eq=False):
    """A place for one delivery: in its lane until it is answered, in the process until it is settled."""

    project_id: UUID
    lane: str
    is_probe: bool
    is_sending: bool = False


class Lanes:
    """The lanes of one process. Nothing in here awaits, so every method is atomic."""

    def __init__(
        self,
        *,
        lane_limit: int = LANE_LIMIT,
        lane_ahead: int = LANE_AHEAD,
        process_limit: int = PROCESS_LIMIT,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lane_limit = lane_limit
        self._lane_ahead = lane_ahead
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
        lane.held[project_id] = lane.held.get(project_id, 0) + 1
        self.held += 1
        self._held[project_id] = self._held.get(project_id, 0) + 1
        return Slot(project_id, key, is_probe)

    def line_up(self, slot: Slot) -> None:
        """Its delivery is claimed, and may be attempted when it is its turn."""
        self._lanes[slot.lane].lines.setdefault(slot.project_id, deque()).append(slot)

    def begin(self, lane: str, limit: int = LANE_LIMIT) -> list[Slot]:
        """Whose turn it is now: up to `limit` of those that may be under way in a lane, one of each project in turn."""
        begun: list[Slot] = []
        found = self._lanes.get(lane, Lane())
        while found.lines and found.sending < found.window and len(begun) < limit:
            project_id = next(iter(found.lines))
            line = found.lines.pop(project_id)
            begun.append(line.popleft())
            if line:
                found.lines[project_id] = line
            begun[-1].is_sending = True
            found.sending += 1
            self.sending += 1
        return begun

    def may_send(self, slot: Slot) -> bool:
        """Whether its lane does not rest. It may have begun to since the delivery was claimed."""
        return slot.is_probe or self._lanes[slot.lane].breaker.is_closed

    def leave_lane(self, slot: Slot, answer: Answer) -> None:
        """The attempt has ended, or is not made: the place in the lane is free, the one in the process is not yet."""
        lane = self._lanes[slot.lane]
        lane.sending -= slot.is_sending
        self.sending -= slot.is_sending
        _release(lane.held, slot.project_id)
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
        _release(self._held, slot.project_id)

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
        share = min(whole, max(1, whole // (1 + others)))
        return max(share, FIRST_WINDOW - lane.held.get(project_id, 0)) if self._goes_ahead(lane) else share

    def _room_of(self, lane: Lane) -> int:
        ahead = self._lane_ahead if self._goes_ahead(lane) else 0
        left = max(0, min(self._limit(), lane.window) + ahead - sum(lane.held.values()))
        allowed = room(lane.breaker, self._monotonic())
        return left if allowed is None else min(left, allowed)

    def _goes_ahead(self, lane: Lane) -> bool:
        is_open = lane.window == self._lane_limit and lane.breaker.is_closed
        return is_open and self.held * AHEAD_SHARE <= self._process_limit

    def _limit(self) -> int:
        left = self._process_limit - self.held
        return min(self._lane_limit, max(1, left // LANE_SHARE)) if left > 0 else 0

    def _forget_idle(self, key: str) -> None:
        lane = self._lanes[key]
        if not lane.held and not lane.waiting and lane.window == FIRST_WINDOW and lane.breaker == Breaker():
            del self._lanes[key]
        self._forget_some()

    def _forget_some(self) -> None:
        """Whoever waits in a forgotten lane is found by the sweeper."""
        while len(self._lanes) > MAX_IDLE_LANES + self.held:
            del self._lanes[next(key for key, lane in self._lanes.items() if not lane.held)]


def _release(held: dict[UUID, int], project_id: UUID) -> None:
    held[project_id] -= 1
    if not held[project_id]:
        del held[project_id]


def _take(waiting: dict[UUID, None], count: int) -> list[UUID]:
    taken = list(waiting)[: max(0, count)]
    for project_id in taken:
        del waiting[project_id]
    return taken
