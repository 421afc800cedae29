"""What one gateway knows of one lane of a project's log: the decisions, without any I/O.

A `Feed` hands every item past its `last` to its followers, once and in order, whatever order, doubling or loss the
announcements suffer: one that is next is delivered, one that was seen is dropped, one that is ahead waits for what lies
between, and a page read from the log settles everything. Its answers (`Need`) say what has to be read, and how soon;
`hub` does the reading.

A page's `reached` counts, not its rows: an erased item is a hole, never a loss.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from enum import Enum
from typing import Any, Protocol
from uuid import UUID

from db.records import HeadRecord
from engine.announcements import Announcement
from engine.lanes import LaneKind, LanePage, LaneRecord
from engine.live.ring import Ring, RingQuota

MAX_EARLY = 64
"""Announcements kept while one before them is missing; beyond it the log is read instead."""

_logger = logging.getLogger(__name__)


class Need(Enum):
    """What has to be read from the log so that a feed is whole again."""

    NOTHING = "nothing"
    GAP_SOON = "gap, unless what is missing comes by itself first"
    GAP_LATER = "gap, unless announcements with items come first"
    GAP_NOW = "gap"
    HEAD = "head: this is another epoch's news"


class Follower(Protocol):
    """Who is told what happens in a lane. Called synchronously; must not raise."""

    def advance(self, records: Sequence[Any], reached: int) -> None:
        """The next items, oldest first; everything up to and including `reached` is in them or does not exist."""

    def expire(self) -> None:
        """The log is another one now (a restore): what was followed cannot be followed further."""


class Feed:
    """One lane of one project. Starts at the head, see `start`."""

    def __init__(self, project_id: UUID, kind: LaneKind[Any, Any], quota: RingQuota) -> None:
        self.project_id = project_id
        self.kind = kind
        self.last = 0
        self.announced = 0
        self.first_seq = 1
        self.epoch = 0
        self.ring: Ring[LaneRecord] = Ring(quota, floor=0)
        self.followers: list[Follower] = []
        self._early: dict[int, Announcement] = {}

    @property
    def behind(self) -> bool:
        """Whether the log is known to hold more than was delivered."""
        return self.announced > self.last

    def start(self, head: HeadRecord) -> None:
        """Begin after `head`."""
        self.last = self.announced = head.head
        self.first_seq, self.epoch = head.first_seq, head.epoch
        self.ring.restart(head.head)
        self._early.clear()

    def forget(self) -> None:
        """Hold no item any more: somebody was erased. What waits for its turn is read from the log instead."""
        self.ring.restart(self.last)
        self._early.clear()

    def observe(self, announcement: Announcement) -> Need:
        """An announcement of this lane has come: deliver what is next."""
        if announcement.epoch != self.epoch:
            return Need.HEAD
        if announcement.last <= self.last:
            return Need.NOTHING
        self.announced = max(self.announced, announcement.last)
        if len(announcement.items) != announcement.last - announcement.first + 1 or not announcement.items:
            return Need.GAP_NOW if announcement.first <= self.last + 1 else Need.GAP_LATER
        if announcement.first > self.last + 1:
            if len(self._early) < MAX_EARLY:
                self._early[announcement.first] = announcement
            return Need.GAP_SOON
        self._deliver(announcement.items, announcement.last)
        self._deliver_early()
        return Need.GAP_SOON if self.behind else Need.NOTHING

    def observe_head(self, head: HeadRecord, *, since: int) -> Need:
        """The head row as read just now; `since` is what `last` was when the reading began."""
        if self._is_another_log(head, since):
            self._begin_again(head)
            return Need.NOTHING
        self.first_seq = head.first_seq
        self.announced = max(self.announced, head.head)
        return Need.GAP_NOW if self.behind else Need.NOTHING

    def accept(self, page: LanePage[Any], *, since: int, announced: int) -> None:
        """A page after `since` has been read; `announced` is what was known when the reading began."""
        if self._is_another_log(page.head, since) or page.head.first_seq > since + 1:
            self._begin_again(page.head)
            return
        self.first_seq = page.head.first_seq
        if page.reached > self.last:
            self._deliver(page.items, page.reached)
            self._deliver_early()
        # What was announced before the reading is in the page's snapshot, or was never true.
        later = self.announced if self.announced > announced else 0
        self.announced = max(page.head.head, self.last, later)

    def _is_another_log(self, head: HeadRecord, since: int) -> bool:
        """Heads only grow, and what was delivered had been committed: a head below it has lost its tail."""
        return head.epoch != self.epoch or head.head < since

    def _begin_again(self, head: HeadRecord) -> None:
        _logger.warning(
            "feed.log_replaced",
            extra={"project_id": str(self.project_id), "lane": self.kind.lane.name, "epoch": head.epoch},
        )
        self.start(head)
        for follower in list(self.followers):
            follower.expire()

    def _deliver(self, records: Sequence[LaneRecord], reached: int) -> None:
        if records and records[0].seq <= self.last:
            records = [record for record in records if record.seq > self.last]
        self.last = reached
        for record in records:
            self.ring.append(record.seq, record, self.kind.record_bytes(record))
        for follower in list(self.followers):
            follower.advance(records, reached)

    def _deliver_early(self) -> None:
        while self._early:
            first = min(self._early)
            if first > self.last + 1:
                return
            early = self._early.pop(first)
            if early.last > self.last:
                self._deliver(early.items, early.last)
