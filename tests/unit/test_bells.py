"""Who is told of a commit: every follower of the lane that has grown, of projects that it follows, and nobody else."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest

from db.delivery_records import TransitionRecord
from db.followers import FollowedProject
from db.records import EventRecord, Lane
from engine.announcements import Announcement, bell_of
from engine.dispatch.status import PENDING
from engine.dispatch.values import DeliveryStatus
from engine.live.broadcast import Broadcast
from engine.work import Work, WorkKind
from engine.workers import hints
from engine.workers.hints import Followed, Hints

PROJECT, OTHER, RUN = UUID(int=7), UUID(int=8), UUID(int=9)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def transition(seq: int, status: str, run_id: UUID | None) -> TransitionRecord:
    at = (NOON, None, None, "SMS", "ann", None, run_id, None, None, None, NOON)
    return TransitionRecord(PROJECT, seq, UUID(int=seq), None, status, *at)


def told_of(*transitions: TransitionRecord) -> Announcement:
    return Announcement(PROJECT, Lane.DELIVERIES, 1, 1, len(transitions), transitions)


def test_that_the_log_has_grown_rings_for_all_who_follow_it() -> None:
    event = EventRecord(PROJECT, 1, "k", "shop", "a.b", NOON, NOON, None, None, msgspec.Raw(b"{}"), msgspec.Raw(b"{}"))
    assert bell_of(Announcement(PROJECT, Lane.EVENTS, 1, 1, 1, (event,))) is WorkKind.EVENTS
    # Items that were too many for an announcement ring, too.
    assert bell_of(Announcement(PROJECT, Lane.EVENTS, 1, 1, 1)) is WorkKind.EVENTS
    assert bell_of(Announcement(PROJECT, Lane.RUNS, 1, 1, 1)) is None


@pytest.mark.parametrize("status", DeliveryStatus)
def test_runs_hear_what_their_deliveries_have_come_to(status: DeliveryStatus) -> None:
    is_over = status not in PENDING and status is not DeliveryStatus.SENDING
    others, own = transition(1, status, None), transition(2, status, RUN)

    assert bell_of(told_of(others)) is None
    assert bell_of(told_of(others, own)) is (WorkKind.RUN_REPORTS if is_over else None)


async def test_each_follower_of_a_lane_hears_of_projects_that_it_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    followed = {"webhooks": [PROJECT, OTHER], "workflows": [PROJECT], "reports": [PROJECT]}

    async def read_followed(_connection: Any, *, follower: str, lane: Lane) -> list[FollowedProject]:
        assert lane is (Lane.DELIVERIES if follower == "reports" else Lane.EVENTS)
        return [FollowedProject(project_id, is_behind=project_id == OTHER) for project_id in followed[follower]]

    monkeypatch.setattr(hints, "read_followed_projects", read_followed)
    webhooks = Followed("webhooks", Lane.EVENTS, WorkKind.EVENTS, bell=WorkKind.EVENTS)
    workflows = Followed("workflows", Lane.EVENTS, WorkKind.TRIGGERS, bell=WorkKind.EVENTS)
    reports = Followed("reports", Lane.DELIVERIES, WorkKind.RUN_REPORTS, bell=WorkKind.RUN_REPORTS)
    found = [await each.find_behind(None) for each in (webhooks, workflows, reports)]  # type: ignore[arg-type]
    assert found == [[OTHER], [], []]
    heard: list[Work] = []
    listening = Hints(Broadcast("redis://127.0.0.1:1/0"), [webhooks, workflows, reports], heard.append)

    for project_id in (PROJECT, OTHER, UUID(int=10)):
        for kind in (WorkKind.EVENTS, WorkKind.RUN_REPORTS, WorkKind.DELIVERIES):
            listening.hear(Work(kind, project_id))

    assert heard == [
        Work(WorkKind.EVENTS, PROJECT),
        Work(WorkKind.TRIGGERS, PROJECT),
        Work(WorkKind.RUN_REPORTS, PROJECT),
        Work(WorkKind.DELIVERIES, PROJECT),
        Work(WorkKind.EVENTS, OTHER),
        Work(WorkKind.DELIVERIES, OTHER),
        Work(WorkKind.DELIVERIES, UUID(int=10)),
    ]
