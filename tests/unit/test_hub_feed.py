"""The feed's decisions: whatever order announcements and pages come in, each item goes out once and in order."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from db.records import EventRecord, HeadRecord, Lane
from engine.announcements import Announcement
from engine.lanes import EVENTS, LanePage
from engine.live.feed import MAX_EARLY, Feed, Need
from engine.live.ring import Ring, RingQuota

PROJECT = UUID(int=7)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def make_event(seq: int) -> EventRecord:
    empty = msgspec.Raw(b"{}")
    return EventRecord(PROJECT, seq, f"k{seq}", "shop", "order.placed", NOON, NOON, None, None, empty, empty)


def head(position: int, *, first_seq: int = 1, epoch: int = 1) -> HeadRecord:
    return HeadRecord(PROJECT, Lane.EVENTS, position, first_seq, epoch)


def told(first: int, last: int, *, epoch: int = 1) -> Announcement:
    """With its items."""
    return Announcement(
        PROJECT, Lane.EVENTS, epoch, first, last, tuple(make_event(seq) for seq in range(first, last + 1))
    )


def quota() -> RingQuota:
    return RingQuota(total_bytes=1_000_000, ring_bytes=1_000_000, ring_items=1_000)


class Recorder:
    def __init__(self) -> None:
        self.seqs: list[int] = []
        self.reached = 0
        self.expired = 0

    def advance(self, events: Sequence[EventRecord], reached: int) -> None:
        self.seqs += [event.seq for event in events]
        self.reached = reached

    def expire(self) -> None:
        self.expired += 1


def start_feed(position: int = 0) -> tuple[Feed, Recorder]:
    feed, recorder = Feed(PROJECT, EVENTS, quota()), Recorder()
    feed.start(head(position))
    feed.followers.append(recorder)
    return feed, recorder


def test_the_next_announcement_is_delivered_at_once() -> None:
    feed, recorder = start_feed(4)
    assert feed.observe(told(5, 6)) is Need.NOTHING
    assert (recorder.seqs, recorder.reached, feed.last) == ([5, 6], 6, 6)


def test_what_was_seen_is_dropped_also_in_part() -> None:
    feed, recorder = start_feed(4)
    feed.observe(told(5, 7))
    assert feed.observe(told(5, 6)) is Need.NOTHING
    assert feed.observe(told(6, 9)) is Need.NOTHING
    assert recorder.seqs == [5, 6, 7, 8, 9]


def test_two_announcements_in_the_wrong_order_need_no_reading() -> None:
    feed, recorder = start_feed()
    assert feed.observe(told(3, 4)) is Need.GAP_SOON
    assert recorder.seqs == []
    assert feed.observe(told(1, 2)) is Need.NOTHING
    assert recorder.seqs == [1, 2, 3, 4]
    assert not feed.behind


def test_a_head_alone_that_is_behind_is_dropped_and_ahead_is_read_later() -> None:
    feed, _ = start_feed(5)
    assert feed.observe(Announcement(PROJECT, Lane.EVENTS, 1, 6, 5)) is Need.NOTHING
    assert feed.observe(Announcement(PROJECT, Lane.EVENTS, 1, 9, 8)) is Need.GAP_LATER
    assert feed.behind


def test_a_range_that_is_next_is_read_at_once() -> None:
    feed, _ = start_feed(5)
    assert feed.observe(Announcement(PROJECT, Lane.EVENTS, 1, 6, 8)) is Need.GAP_NOW


def test_an_announcement_that_holds_fewer_items_than_its_range_is_not_believed() -> None:
    feed, recorder = start_feed(5)
    assert feed.observe(Announcement(PROJECT, Lane.EVENTS, 1, 6, 8, (make_event(6), make_event(8)))) is Need.GAP_NOW
    assert recorder.seqs == []


def test_a_page_with_a_hole_is_no_loss() -> None:
    feed, recorder = start_feed(5)
    feed.observe(Announcement(PROJECT, Lane.EVENTS, 1, 10, 9))
    feed.accept(LanePage((make_event(7),), 9, head(9)), since=5, announced=9)
    assert (recorder.seqs, recorder.reached, feed.behind) == ([7], 9, False)


def test_a_page_read_before_newer_announcements_takes_nothing_back() -> None:
    feed, recorder = start_feed(5)
    feed.observe(told(7, 7))
    feed.observe(told(6, 6))
    feed.observe(told(8, 8))
    feed.accept(LanePage((make_event(6),), 6, head(6)), since=5, announced=7)
    assert (recorder.seqs, feed.last, feed.behind) == ([6, 7, 8], 8, False)


def test_an_announcement_that_was_never_true_is_forgotten_after_a_page() -> None:
    feed, _ = start_feed(5)
    feed.observe(Announcement(PROJECT, Lane.EVENTS, 1, 1_001, 1_000))
    feed.accept(LanePage((make_event(6),), 6, head(6)), since=5, announced=1_000)
    assert not feed.behind


def test_another_epoch_needs_the_head_and_then_expires_the_followers() -> None:
    feed, recorder = start_feed(5)
    assert feed.observe(told(6, 6, epoch=2)) is Need.HEAD
    assert recorder.seqs == []
    assert feed.observe_head(head(3, epoch=2), since=5) is Need.NOTHING
    assert (recorder.expired, feed.last, feed.epoch) == (1, 3, 2)


def test_a_head_below_what_was_delivered_has_lost_its_tail() -> None:
    feed, recorder = start_feed(5)
    feed.observe_head(head(4), since=5)
    assert recorder.expired == 1


def test_a_head_read_before_a_delivery_is_only_old() -> None:
    feed, recorder = start_feed(5)
    feed.observe(told(6, 9))
    assert feed.observe_head(head(7), since=5) is Need.NOTHING
    assert (recorder.expired, feed.last) == (0, 9)


def test_a_gap_that_retention_removed_ends_its_followers() -> None:
    feed, recorder = start_feed(5)
    feed.accept(LanePage((make_event(20),), 20, head(20, first_seq=20)), since=5, announced=20)
    assert (recorder.expired, recorder.seqs) == (1, [])


def test_early_announcements_are_bounded() -> None:
    feed, recorder = start_feed()
    for seq in range(2, MAX_EARLY + 50):
        feed.observe(told(seq, seq))
    assert len(feed._early) == MAX_EARLY
    feed.observe(told(1, 1))
    assert recorder.seqs == list(range(1, MAX_EARLY + 2))
    assert feed.behind


@given(st.data())
def test_any_order_doubling_and_loss_ends_complete_once_and_in_order(data: st.DataObject) -> None:
    ends = sorted(data.draw(st.sets(st.integers(1, 40), min_size=1, max_size=12)))
    ranges = list(zip([1, *[end + 1 for end in ends]], ends, strict=False))
    chosen = data.draw(st.lists(st.sampled_from(ranges), max_size=30))
    feed, recorder = start_feed()

    for first, last in chosen:
        form = data.draw(st.sampled_from(["items", "range", "head"]))
        if form == "items":
            feed.observe(told(first, last))
        else:
            feed.observe(Announcement(PROJECT, Lane.EVENTS, 1, first if form == "range" else last + 1, last))
        assert recorder.seqs == list(range(1, feed.last + 1))

    feed.observe_head(head(ends[-1]), since=feed.last)
    while feed.behind:
        since = feed.last
        reached = min(since + data.draw(st.integers(1, 9)), ends[-1])
        page = LanePage(tuple(make_event(seq) for seq in range(since + 1, reached + 1)), reached, head(ends[-1]))
        feed.accept(page, since=since, announced=feed.announced)
    assert recorder.seqs == list(range(1, ends[-1] + 1))


def test_a_ring_gives_all_or_says_that_it_cannot() -> None:
    ring: Ring[str] = Ring(RingQuota(total_bytes=100, ring_bytes=100, ring_items=3), floor=10)
    for seq in (11, 13, 15, 17):
        ring.append(seq, f"item {seq}", 10)

    assert (ring.floor, ring.bytes) == (11, 30)
    assert not ring.covers(10)
    assert ring.after(11, 9) == ["item 13", "item 15", "item 17"]
    assert ring.after(14, 1) == ["item 15"]
    assert ring.after(17, 9) == []


def test_a_closed_ring_covers_nothing_whatever_it_is_still_given() -> None:
    ring: Ring[int] = Ring(RingQuota(total_bytes=100, ring_bytes=100, ring_items=2), floor=10)
    ring.append(11, 11, 10)

    ring.close()

    assert not ring.covers(11)
    for seq in (12, 13, 14):
        ring.append(seq, seq, 10)
    assert not ring.covers(14)


def test_rings_share_their_bytes_and_give_them_back() -> None:
    shared = RingQuota(total_bytes=100, ring_bytes=80, ring_items=99)
    first: Ring[int] = Ring(shared, floor=0)
    for seq in range(1, 9):
        first.append(seq, seq, 10)
    assert first.bytes == 80
    others: list[Ring[int]] = [Ring(shared, floor=0) for _ in range(4)]

    first.append(9, 9, 10)
    assert first.bytes == 20
    for other in others:
        other.close()
    first.append(10, 10, 50)
    assert first.bytes == 70
