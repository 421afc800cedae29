"""Streams on a real PostgreSQL and a real Valkey: attach, resume, share, fall behind, expire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import asyncpg
import pytest

from db.events import trim_events
from db.filters import EventFilter
from db.heads import advance_epoch, read_heads
from db.records import Lane
from engine.cursors import Cursor, CursorCodec, CursorKind
from engine.errors import CursorExpired, CursorInvalid, NotFound, RateLimited
from engine.live import pages
from tests.integration.log_support import make_project, new_event
from tests.integration.stream_support import CODEC, RecordingSink, Rendering, open_gateway, until


@asynccontextmanager
async def open_statement_watch(database_url: str) -> AsyncIterator[Callable[[], Awaitable[int]]]:
    """A number that changes with every statement of any other connection, as the server saw it."""
    connection = await asyncpg.connect(database_url)

    async def last_starts() -> int:
        return int(
            await connection.fetchval(
                "SELECT sum(extract(epoch FROM query_start) * 1000000)::bigint FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
        )

    try:
        yield last_starts
    finally:
        await connection.close()


async def test_a_stream_without_cursor_starts_now_and_says_where_at_once(database_url: str, redis_url: str) -> None:
    async with open_gateway(database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        await gateway.append_many(project_id, 3)
        sink = RecordingSink()

        member = await gateway.subscribe(project_id, sink)

        assert sink.announced == [CODEC.encode(Cursor(CursorKind.EVENTS, project_id, 1, (3,)))]
        assert member.cursor == sink.announced[0]
        await gateway.append_many(project_id, 2)
        await sink.until_count(2)
        assert sink.seqs == [4, 5]
        assert sink.cursors == [CODEC.encode(Cursor(CursorKind.EVENTS, project_id, 1, (seq,))) for seq in (4, 5)]


async def test_an_append_reaches_the_streams_of_another_gateway(database_url: str, redis_url: str) -> None:
    async with open_gateway(database_url, redis_url) as one, open_gateway(database_url, redis_url) as other:
        project_id = await make_project(one.database)
        sink = RecordingSink()
        await other.subscribe(project_id, sink)

        await one.append_many(project_id, 5)

        await sink.until_count(5)
        assert sink.seqs == [1, 2, 3, 4, 5]


async def test_a_resumed_stream_replays_across_pages_and_goes_on_live(database_url: str, redis_url: str) -> None:
    async with open_gateway(database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        await gateway.append_many(project_id, 950)
        sink = RecordingSink()

        after = CODEC.encode(Cursor(CursorKind.EVENTS, project_id, 1, (100,)))
        await gateway.subscribe(project_id, sink, after=after)
        await gateway.append_many(project_id, 10)

        await sink.until_count(860)
        await asyncio.sleep(0.05)
        assert sink.seqs == list(range(101, 961))
        assert sink.violations == []


async def test_a_project_head_is_a_valid_start(database_url: str, redis_url: str) -> None:
    async with open_gateway(database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        await gateway.append_many(project_id, 4)
        sink = RecordingSink()

        await gateway.subscribe(
            project_id, sink, after=CODEC.encode(Cursor(CursorKind.HEAD, project_id, 1, (2, 0, 0, 0)))
        )

        await sink.until_count(2)
        assert sink.seqs == [3, 4]


@pytest.mark.parametrize(
    ("position", "epoch"),
    [
        (11, 1),  # beyond the head
        (5, 2),  # of an epoch that never was
        (3, 1),  # the fifth is the first that retention left
    ],
)
async def test_a_cursor_that_cannot_be_continued_expires_before_anything_is_delivered(
    database_url: str, redis_url: str, position: int, epoch: int
) -> None:
    async with open_gateway(database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        await gateway.append_many(project_id, 10)
        async with gateway.database.transaction() as connection:
            await trim_events(connection, project_id=project_id, first_seq=5)
        sink = RecordingSink()

        with pytest.raises(CursorExpired):
            await gateway.subscribe(
                project_id, sink, after=CODEC.encode(Cursor(CursorKind.EVENTS, project_id, epoch, (position,)))
            )

        assert (sink.announced, sink.seqs) == ([], [])
        assert gateway.hub.stats().streams == 0


async def test_the_last_position_before_retention_is_still_good(database_url: str, redis_url: str) -> None:
    async with open_gateway(database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        await gateway.append_many(project_id, 10)
        async with gateway.database.transaction() as connection:
            await trim_events(connection, project_id=project_id, first_seq=5)
        sink = RecordingSink()

        await gateway.subscribe(project_id, sink, after=CODEC.encode(Cursor(CursorKind.EVENTS, project_id, 1, (4,))))

        await sink.until_count(6)
        assert sink.seqs == [5, 6, 7, 8, 9, 10]


async def test_forged_foreign_and_unsuitable_cursors_are_refused(database_url: str, redis_url: str) -> None:
    async with open_gateway(database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        sink = RecordingSink()
        cursors = [
            CursorCodec(b"another secret").encode(Cursor(CursorKind.EVENTS, project_id, 1, (0,))),
            CODEC.encode(Cursor(CursorKind.EVENTS, uuid4(), 1, (0,))),
            CODEC.encode(Cursor(CursorKind.PROFILES, project_id, 1, ("x",))),
            "not a cursor",
        ]

        for cursor in cursors:
            with pytest.raises(CursorInvalid):
                await gateway.subscribe(project_id, sink, after=cursor)

        assert sink.announced == []


async def test_a_stream_of_an_unknown_project_is_not_found(database_url: str, redis_url: str) -> None:
    async with open_gateway(database_url, redis_url) as gateway:
        with pytest.raises(NotFound):
            await gateway.subscribe(uuid4(), RecordingSink())
        await until(lambda: gateway.hub.stats().watched_projects == 0)


async def test_a_cohort_renders_each_item_once_for_all_its_members(database_url: str, redis_url: str) -> None:
    async with open_gateway(database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        rendering = Rendering()
        sinks = [RecordingSink() for _ in range(50)]
        for sink in sinks:
            await gateway.subscribe(project_id, sink, rendering=rendering)

        await gateway.append_many(project_id, 7)

        await sinks[-1].until_count(7)
        assert rendering.calls == 7
        assert [sink.seqs for sink in sinks] == [list(range(1, 8))] * 50
        stats = gateway.hub.stats()
        assert (stats.cohorts, stats.streams, stats.delivered) == (1, 50, 350)


async def test_cohorts_that_differ_only_in_their_filter_share_the_rendered_item(
    database_url: str, redis_url: str
) -> None:
    async with open_gateway(database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        rendering = Rendering()
        everything, orders, nothing = RecordingSink(), RecordingSink(), RecordingSink()
        await gateway.subscribe(project_id, everything, rendering=rendering)
        await gateway.subscribe(
            project_id, orders, rendering=rendering, item_filter=EventFilter(event_types=("order.*",))
        )
        quiet = await gateway.subscribe(
            project_id, nothing, rendering=rendering, item_filter=EventFilter(user_id="nobody")
        )

        await gateway.append(project_id, new_event("a"), new_event("b", event_type="page.viewed"), new_event("c"))

        await everything.until_count(3)
        assert (everything.seqs, orders.seqs, nothing.seqs) == ([1, 2, 3], [1, 3], [])
        assert rendering.calls == 3
        # A filter that nothing matched moves on all the same.
        assert quiet.cursor == CODEC.encode(Cursor(CursorKind.EVENTS, project_id, 1, (3,)))


async def test_audiences_do_not_share(database_url: str, redis_url: str) -> None:
    async with open_gateway(database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        rendering = Rendering()
        viewer, admin = RecordingSink(), RecordingSink()
        await gateway.subscribe(project_id, viewer, rendering=rendering, audience="viewer")
        await gateway.subscribe(project_id, admin, rendering=rendering, audience="admin")

        await gateway.append_many(project_id, 1)

        await admin.until_count(1)
        assert rendering.calls == 2


async def test_items_whose_rendering_has_to_wait_keep_their_order(database_url: str, redis_url: str) -> None:
    async with open_gateway(database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)

        class Uneven(Rendering):
            async def _later(self, payload: bytes, delay: float) -> bytes:
                await asyncio.sleep(delay / self.calls)
                return payload

        first, late = RecordingSink(), RecordingSink()
        rendering = Uneven(delay=0.1)
        await gateway.subscribe(project_id, first, rendering=rendering)
        await gateway.append_many(project_id, 6)
        await asyncio.sleep(0.02)
        await gateway.subscribe(project_id, late, rendering=rendering)
        await gateway.append_many(project_id, 6)

        await first.until_count(12)
        await late.until_count(6)
        assert first.seqs == list(range(1, 13))
        assert late.seqs == list(range(7, 13))
        assert rendering.calls == 12


async def test_a_rendering_that_cannot_keep_up_is_read_from_the_log_and_loses_nothing(
    database_url: str, redis_url: str
) -> None:
    async with open_gateway(database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        sink = RecordingSink()
        await gateway.subscribe(project_id, sink, rendering=Rendering(delay=0.001))

        await gateway.append_many(project_id, 900)

        await sink.until_count(900)
        assert sink.seqs == list(range(1, 901))


async def test_a_full_sink_leaves_catches_up_and_comes_back(database_url: str, redis_url: str) -> None:
    async with open_gateway(database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        slow, quick = RecordingSink(bound=10), RecordingSink()
        member = await gateway.subscribe(project_id, slow)
        await gateway.subscribe(project_id, quick)

        await gateway.append_many(project_id, 700)

        await quick.until_count(700)
        assert slow.seqs == list(range(1, 11))
        assert gateway.hub.stats().catching_up == 1
        assert member.cursor == slow.cursors[-1]
        while len(slow.seqs) < 700:
            slow.drain()
            await asyncio.sleep(0)
        slow.drain()
        await until(lambda: gateway.hub.stats().catching_up == 0)
        await gateway.append_many(project_id, 3)
        await slow.until_count(703)
        assert slow.seqs == list(range(1, 704))
        assert slow.violations == []


async def test_a_reader_that_retention_overtakes_is_told_so(database_url: str, redis_url: str) -> None:
    async with open_gateway(database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        await gateway.append_many(project_id, 1_000)
        sink = RecordingSink(bound=5)
        await gateway.subscribe(project_id, sink, after=CODEC.encode(Cursor(CursorKind.EVENTS, project_id, 1, (0,))))
        await sink.until_count(5)

        async with gateway.database.transaction() as connection:
            await trim_events(connection, project_id=project_id, first_seq=900)
        gateway.streams.pages.forget(project_id, Lane.EVENTS)
        sink.drain()

        await sink.until(lambda sink: sink.error is not None)
        assert isinstance(sink.error, CursorExpired)
        assert sink.seqs == [1, 2, 3, 4, 5]
        assert gateway.hub.stats().streams == 0


async def test_a_log_that_was_replaced_ends_its_streams(database_url: str, redis_url: str) -> None:
    async with open_gateway(database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        await gateway.append_many(project_id, 3)
        sink = RecordingSink()
        await gateway.subscribe(project_id, sink)

        async with gateway.database.connection() as connection:
            await advance_epoch(connection, project_id=project_id)
        await gateway.append_many(project_id, 1)

        await sink.until(lambda sink: sink.error is not None)
        assert isinstance(sink.error, CursorExpired)
        assert sink.seqs == []


async def test_a_member_that_has_left_is_not_touched_again(database_url: str, redis_url: str) -> None:
    async with open_gateway(database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        live, catching_up, other = RecordingSink(), RecordingSink(bound=1), RecordingSink()
        members = [await gateway.subscribe(project_id, sink) for sink in (live, catching_up)]
        await gateway.subscribe(project_id, other)
        await gateway.append_many(project_id, 3)
        await other.until_count(3)

        for member in members:
            member.leave()
            member.leave()
        catching_up.drain()
        await gateway.append_many(project_id, 2)

        await other.until_count(5)
        assert (live.seqs, catching_up.seqs) == ([1, 2, 3], [1])
        assert members[1].cursor == catching_up.cursors[-1]
        assert gateway.hub.stats().streams == 1


async def test_a_sink_may_make_others_leave_while_it_is_delivered_to(database_url: str, redis_url: str) -> None:
    async with open_gateway(database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        victim = RecordingSink()

        class Closing(RecordingSink):
            def deliver(self, payload: bytes, cursor: str) -> bool:
                for member in members:
                    member.leave()
                return super().deliver(payload, cursor)

        closing = Closing()
        members = [await gateway.subscribe(project_id, sink) for sink in (closing, victim)]

        await gateway.append_many(project_id, 3)

        await closing.until_count(1)
        await asyncio.sleep(0.05)
        assert (closing.seqs, victim.seqs) == ([1], [])
        assert gateway.hub.stats().streams == 0


async def test_streams_per_project_are_limited(database_url: str, redis_url: str) -> None:
    async with open_gateway(database_url, redis_url, max_streams_per_project=2) as gateway:
        project_id = await make_project(gateway.database)
        first = await gateway.subscribe(project_id, RecordingSink())
        await gateway.subscribe(project_id, RecordingSink())

        with pytest.raises(RateLimited):
            await gateway.subscribe(project_id, RecordingSink())

        first.leave()
        await gateway.subscribe(project_id, RecordingSink())
        assert gateway.hub.stats().streams == 2


async def test_a_thousand_slow_readers_share_pages(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # How often pages are read anew because they have grown old is the machine's speed.
    monkeypatch.setattr(pages, "PAGE_AGE", 600.0)
    async with open_gateway(database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        await gateway.append_many(project_id, 2_000)
        rendering = Rendering()
        sinks = [RecordingSink(bound=50, pause=0.01) for _ in range(1_000)]
        after = CODEC.encode(Cursor(CursorKind.EVENTS, project_id, 1, (0,)))

        for sink in sinks:
            await gateway.subscribe(project_id, sink, after=after, rendering=rendering)

        for sink in sinks:
            await sink.until_count(2_000, within=60)
        assert all(sink.seqs == list(range(1, 2_001)) for sink in sinks)
        # 2,000 events are ten pages, read anew for who falls far behind; a thousand readers apart would need 10,000.
        assert gateway.streams.pages.queries <= 100
        assert rendering.calls <= 4_000


async def test_streams_at_rest_cost_no_sql(database_url: str, redis_url: str) -> None:
    async with open_gateway(database_url, redis_url) as gateway, open_statement_watch(database_url) as count:
        projects = [await make_project(gateway.database) for _ in range(5)]
        for project_id in projects * 20:
            await gateway.subscribe(project_id, RecordingSink(), item_filter=EventFilter(user_id="somebody"))
        before = await count()

        await asyncio.sleep(1.5)

        assert await count() == before


async def test_the_last_stream_to_leave_ends_the_subscription_after_a_while(database_url: str, redis_url: str) -> None:
    async with open_gateway(database_url, redis_url, linger=0.1) as gateway:
        project_id = await make_project(gateway.database)
        member = await gateway.subscribe(project_id, RecordingSink())
        member.leave()
        assert gateway.hub.stats().watched_projects == 1
        again = await gateway.subscribe(project_id, RecordingSink())
        await asyncio.sleep(0.2)
        assert gateway.hub.stats().watched_projects == 1

        again.leave()

        await until(lambda: gateway.hub.stats().watched_projects == 0)


async def test_every_statement_is_of_the_projects_asked_for(database_url: str, redis_url: str) -> None:
    async with open_gateway(database_url, redis_url) as gateway:
        mine, theirs = await make_project(gateway.database), await make_project(gateway.database)
        sink = RecordingSink()
        await gateway.subscribe(mine, sink)

        await gateway.append_many(theirs, 3)
        await gateway.append_many(mine, 1)

        await sink.until_count(1)
        async with gateway.database.connection() as connection:
            heads = await read_heads(connection, project_ids=[mine])
        assert [head.head for head in heads if head.lane == Lane.EVENTS] == [1]
        assert sink.seqs == [1]
