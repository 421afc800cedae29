"""Several lanes of one project in one hub: one subscription, feeds apart, nothing for lanes that nobody watches."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from db.delivery_filters import DeliveryFilter
from db.records import Lane
from engine.announcements import MAX_ANNOUNCEMENT_BYTES, Announcement, channel_of, decode
from engine.cursors import Cursor, CursorKind
from engine.dispatch.ledger import create_deliveries, record
from engine.lanes import DELIVERIES, RUNS
from engine.live import hub
from tests.integration.delivery_support import new_delivery
from tests.integration.log_support import make_project
from tests.integration.run_support import new_run_update
from tests.integration.stream_support import CODEC, Gateway, RecordingSink, open_gateway, until

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


async def send(gateway: Gateway, project_id: UUID, count: int, *, announce: bool = True, **values: Any) -> None:
    """Make deliveries in one commit, and announce them as whoever makes them does."""
    deliveries = [new_delivery(NOON, channel="SMS", delivery_id=uuid7(), **values) for _ in range(count)]
    async with gateway.database.transaction() as connection:
        told = await create_deliveries(connection, project_id=project_id, deliveries=deliveries, now=NOON)
    for announcement in told if announce else ():
        gateway.broadcast.announce(announcement)


def count_subscriptions(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    subscribed: list[str] = []
    subscribe = gateway.broadcast.subscribe

    def counting(channel: str) -> Any:
        subscribed.append(channel)
        return subscribe(channel)

    monkeypatch.setattr(gateway.broadcast, "subscribe", counting)
    return subscribed


async def test_two_lanes_share_a_subscription_and_are_counted_apart(
    module_database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_gateway(module_database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        subscribed = count_subscriptions(gateway, monkeypatch)
        events, transitions = RecordingSink(), RecordingSink()
        one = await gateway.subscribe(project_id, events)
        other = await gateway.subscribe(project_id, transitions, kind=DELIVERIES)

        await gateway.append_many(project_id, 3)
        await send(gateway, project_id, 5)

        await events.until_count(3)
        await transitions.until_count(5)
        assert subscribed == [channel_of(project_id)]
        assert (events.seqs, transitions.seqs) == ([1, 2, 3], [1, 2, 3, 4, 5])
        assert transitions.cursors[-1] == CODEC.encode(Cursor(CursorKind.DELIVERIES, project_id, 1, (5,)))
        stats = gateway.hub.stats()
        assert (stats.watched_projects, stats.streams, stats.heads) == (1, 2, {project_id: 3})

        one.leave()
        await until(lambda: gateway.hub.stats().heads == {})
        assert gateway.hub.stats().watched_projects == 1
        await send(gateway, project_id, 1)
        await transitions.until_count(6)
        other.leave()
        await until(lambda: gateway.hub.stats().watched_projects == 0)


async def test_what_is_told_of_a_lane_that_nobody_watches_is_not_even_decoded(
    module_database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Lane] = []

    def watching(message: bytes) -> Announcement:
        announcement = decode(message)
        decoded.append(announcement.lane)
        return announcement

    monkeypatch.setattr(hub, "decode", watching)
    async with open_gateway(module_database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        events = RecordingSink()
        await gateway.subscribe(project_id, events)

        await send(gateway, project_id, 5)
        await gateway.broadcast.publish_announcements([Announcement(project_id, Lane.RUNS, 1, 10, 9)])
        await gateway.append_many(project_id, 1)

        await events.until_count(1)
        assert decoded == [Lane.EVENTS]


async def test_what_comes_while_a_second_lane_starts_is_not_lost(
    module_database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head is read, then something is committed and announced, and only then the head arrives."""
    async with (
        open_gateway(module_database_url, redis_url) as gateway,
        open_gateway(module_database_url, redis_url) as writer,
    ):
        project_id = await make_project(gateway.database)
        events = RecordingSink()
        await gateway.subscribe(project_id, events)
        read_head = gateway.hub.read_head

        async def slowly(project: UUID, lane: Lane) -> Any:
            head = await read_head(project, lane)
            await send(writer, project_id, 2)
            await writer.append_many(project_id, 1)
            await events.until(lambda sink: len(sink.seqs) > 0)
            return head

        monkeypatch.setattr(gateway.hub, "read_head", slowly)
        watch = await gateway.hub.watch(project_id, DELIVERIES)

        assert watch.feed.last == 2
        assert not watch.feed.behind
        watch.release()


async def test_a_gap_is_made_good_in_each_lane(module_database_url: str, redis_url: str) -> None:
    async with open_gateway(module_database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        events, transitions = RecordingSink(), RecordingSink()
        await gateway.subscribe(project_id, events)
        await gateway.subscribe(project_id, transitions, kind=DELIVERIES)

        await send(gateway, project_id, 300, announce=False)
        await gateway.append_many(project_id, 2, announce=False)
        heads = [Announcement(project_id, lane, 1, last + 1, last) for lane, last in ((1, 2), (2, 300))]
        await gateway.broadcast.publish_announcements(heads)

        await events.until_count(2)
        await transitions.until_count(300)
        assert transitions.seqs == list(range(1, 301))


async def test_a_range_and_a_filter_of_the_lane_are_read_from_it(module_database_url: str, redis_url: str) -> None:
    async with open_gateway(module_database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        await send(gateway, project_id, 250, user_id="ann")
        await send(gateway, project_id, 250, user_id="bob")
        live, replayed = RecordingSink(), RecordingSink()
        bob = DeliveryFilter(user_id="bob")
        await gateway.subscribe(project_id, live, kind=DELIVERIES, item_filter=bob)
        # More than an announcement carries: hubs are told of the range, and read it.
        await send(gateway, project_id, 1_500, user_id="bob")
        await live.until_count(1_500)
        start = CODEC.encode(Cursor(CursorKind.HEAD, project_id, 1, (0, 240, 0, 0)))
        await gateway.subscribe(project_id, replayed, kind=DELIVERIES, item_filter=bob, after=start)
        await replayed.until_count(1_750)

        assert live.seqs == list(range(501, 2_001))
        assert replayed.seqs == list(range(251, 2_001))
        assert live.violations == replayed.violations == []


async def change_runs(gateway: Gateway, project_id: UUID, *steps: str | None) -> None:
    """Append to the lane of runs in one commit, and announce it."""
    updates = [new_run_update(NOON, step=step) for step in steps]
    async with gateway.database.transaction() as connection:
        told = await record(connection, project_id=project_id, transitions=(), events=(), run_updates=updates, now=NOON)
    for announcement in told:
        gateway.broadcast.announce(announcement)


async def test_the_lane_of_runs_is_followed_beside_the_others(module_database_url: str, redis_url: str) -> None:
    """What its steps hold may be too much for an announcement: hubs are told of the range, and read it."""
    async with open_gateway(module_database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        transitions, runs = RecordingSink(), RecordingSink()
        await gateway.subscribe(project_id, transitions, kind=DELIVERIES)
        await gateway.subscribe(project_id, runs, kind=RUNS)

        await change_runs(gateway, project_id, None, '{"label": "one"}')
        await send(gateway, project_id, 1)
        await change_runs(gateway, project_id, *[f'{{"label": "{"x" * MAX_ANNOUNCEMENT_BYTES}"}}'] * 2, None)

        await transitions.until_count(1)
        await runs.until_count(5)
        assert (transitions.seqs, runs.seqs) == ([1], [1, 2, 3, 4, 5])
        assert runs.cursors[-1] == CODEC.encode(Cursor(CursorKind.RUNS, project_id, 1, (5,)))
        start = CODEC.encode(Cursor(CursorKind.HEAD, project_id, 1, (0, 1, 3, 0)))
        replayed = RecordingSink()
        await gateway.subscribe(project_id, replayed, kind=RUNS, after=start)
        await replayed.until_count(2)
        assert replayed.seqs == [4, 5]


async def test_an_ended_project_frees_what_it_held(module_database_url: str, redis_url: str) -> None:
    async with open_gateway(module_database_url, redis_url, linger=0.0) as gateway:
        project_id = await make_project(gateway.database)
        for _ in range(3):
            members = await asyncio.gather(
                *(gateway.subscribe(project_id, RecordingSink(), kind=DELIVERIES) for _ in range(5)),
                *(gateway.subscribe(project_id, RecordingSink()) for _ in range(5)),
            )
            for member in members:
                member.leave()
            await until(lambda: gateway.hub.stats().watched_projects == 0)
        assert gateway.hub._quota.rings == 0
        assert gateway.streams._quota.rings == 0
        assert gateway.streams._lanes == {}
