"""What travels through Redis after a commit: the items of one lane, or only where it stands."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import msgspec
import pytest

from db.delivery_records import TransitionRecord
from db.records import EventRecord, Lane
from db.workflow_records import RunUpdateRecord
from engine.announcements import MAX_ANNOUNCEMENT_BYTES, Announcement, decode, encode, lane_of

PROJECT = UUID(int=7)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def make_event(seq: int, properties: bytes = b'{"a":1}') -> EventRecord:
    return EventRecord(
        PROJECT, seq, f"k{seq}", "shop", "a.b", NOON, NOON, None, None, msgspec.Raw(properties), msgspec.Raw(b"{}")
    )


def make_transition(seq: int) -> TransitionRecord:
    return TransitionRecord(
        PROJECT, seq, UUID(int=seq), None, "QUEUED", NOON, None, None, "PUSH", "ann", None, None, None, None, None, NOON
    )


def make_run_update(seq: int, step: bytes = b'{"label":"one"}') -> RunUpdateRecord:
    return RunUpdateRecord(PROJECT, seq, UUID(int=seq), UUID(int=1), "ann", "RUNNING", msgspec.Raw(step), NOON, NOON)


@pytest.mark.parametrize(
    "announcement",
    [
        Announcement(PROJECT, Lane.EVENTS, 1, 4, 5, (make_event(4), make_event(5))),
        Announcement(PROJECT, Lane.DELIVERIES, 1, 4, 5, (make_transition(4), make_transition(5))),
        Announcement(PROJECT, Lane.DELIVERIES, 1, 4, 5),
        Announcement(PROJECT, Lane.RUNS, 1, 4, 5, (make_run_update(4), make_run_update(5, b"null"))),
        Announcement(PROJECT, Lane.RUNS, 1, 6, 5),  # a head, from the relay
        Announcement(PROJECT, Lane.AUDIENCES, 1, 6, 5),
    ],
)
def test_what_was_announced_is_heard_with_the_items_of_its_lane(announcement: Announcement) -> None:
    message = encode(announcement)
    assert lane_of(message) is announcement.lane
    assert decode(message) == announcement


def test_what_would_be_too_large_is_announced_as_a_range() -> None:
    large = make_event(2, b'"' + b"x" * MAX_ANNOUNCEMENT_BYTES + b'"')
    many = tuple(make_transition(seq) for seq in range(1, 2_001))
    long = make_run_update(2, b'"' + b"x" * MAX_ANNOUNCEMENT_BYTES + b'"')
    told = ((Lane.EVENTS, (make_event(1), large)), (Lane.DELIVERIES, many), (Lane.RUNS, (make_run_update(1), long)))
    for lane, items in told:
        announcement = Announcement(PROJECT, lane, 1, 1, len(items), items)
        assert decode(encode(announcement)) == Announcement(PROJECT, lane, 1, 1, len(items))
        assert len(encode(announcement)) < 100


@pytest.mark.parametrize("message", [b"", b"\xff\x00", b"[]", b'{"a":1}', b"[" * 5_000, b"1" * 60, b'["x",1,1,1,1]'])
def test_anything_else_is_no_announcement(message: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(message)
