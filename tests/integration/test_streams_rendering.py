"""Renderings that have to be waited for: begun together, handed over in order, and kept only when they are whole."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from uuid import UUID

import msgspec
import pytest

from engine.cursors import Cursor, CursorKind
from engine.live import streams
from engine.live.items import KEPT_BYTES, StreamItem
from engine.live.streams import RENDER_AHEAD
from tests.integration.log_support import make_project
from tests.integration.stream_support import CODEC, RecordingSink, open_gateway, until


class SlowRendering:
    """Waits for each item, the later ones of every ten shorter; counts how many it renders at once."""

    def __init__(self, key: str = "slow", *, room: int = 0, broken: bool = False) -> None:
        self.key = key
        self.broken = broken
        self.calls = self.now = self.most = 0
        self._room = room

    def __call__(self, item: object) -> Awaitable[bytes]:
        assert isinstance(item, StreamItem)
        self.calls += 1
        return self._render(item.record.seq)

    def is_whole(self, response: bytes) -> bool:
        return b"error" not in response

    async def _render(self, seq: int) -> bytes:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0.002 * (10 - seq % 10))
        finally:
            self.now -= 1
        return msgspec.json.encode([seq, "error" if self.broken else "x" * self._room])


class HeldRendering:
    """Keeps every item waiting until it is let go, or fails."""

    key = "held"

    def __init__(self) -> None:
        self.asked: set[int] = set()
        self._held: dict[int, asyncio.Future[bytes]] = {}

    def __call__(self, item: object) -> Awaitable[bytes]:
        assert isinstance(item, StreamItem)
        self.asked.add(item.record.seq)
        return self._of(item.record.seq)

    def is_whole(self, response: bytes) -> bool:
        return response.startswith(b"[")

    def let_go(self, *seqs: int) -> None:
        for seq in seqs:
            self._of(seq).set_result(msgspec.json.encode([seq]))

    def fail(self, seq: int) -> None:
        self._of(seq).set_exception(ArithmeticError(f"{seq} cannot be rendered"))

    def _of(self, seq: int) -> asyncio.Future[bytes]:
        return self._held.setdefault(seq, asyncio.get_running_loop().create_future())


def cursor_of(project_id: UUID, seq: int) -> str:
    return CODEC.encode(Cursor(CursorKind.EVENTS, project_id, 1, (seq,)))


def start_of(project_id: UUID) -> str:
    return cursor_of(project_id, 0)


async def test_renderings_of_a_page_begin_together_and_arrive_in_order(
    module_database_url: str, redis_url: str
) -> None:
    async with open_gateway(module_database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        await gateway.append_many(project_id, 300)
        rendering, sink = SlowRendering(), RecordingSink(bound=45, pause=0.001)

        await gateway.subscribe(project_id, sink, rendering=rendering, after=start_of(project_id))
        await sink.until_count(300)

        assert sink.seqs == list(range(1, 301))
        assert sink.violations == []
        assert 30 < rendering.most <= RENDER_AHEAD + 1
        assert rendering.calls == 300
        assert gateway.hub.counters.rendering == 0


async def test_nobody_renders_ahead_while_too_much_is_rendered(
    module_database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MAX_RENDERING", 5)
    async with open_gateway(module_database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        await gateway.append_many(project_id, 40)
        rendering, sink = SlowRendering(), RecordingSink()

        await gateway.subscribe(project_id, sink, rendering=rendering, after=start_of(project_id))
        await sink.until_count(40)

        assert sink.seqs == list(range(1, 41))
        assert rendering.most == 5


@pytest.mark.parametrize("where", ["ring", "pages"])
async def test_what_came_out_with_errors_is_rendered_anew_for_who_comes_later(
    module_database_url: str, redis_url: str, where: str
) -> None:
    async with open_gateway(module_database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        rendering, first, later, latest = SlowRendering(broken=True), RecordingSink(), RecordingSink(), RecordingSink()
        if where == "ring":
            await gateway.subscribe(project_id, first, rendering=rendering)
            await gateway.append_many(project_id, 5)
        else:
            await gateway.append_many(project_id, 5)
            await gateway.subscribe(project_id, first, rendering=rendering, after=start_of(project_id))
        await first.until_count(5)
        rendering.broken = False
        for sink in (later, latest):
            await gateway.subscribe(project_id, sink, rendering=rendering, after=start_of(project_id))
            await sink.until_count(5)

        assert (first.texts, later.texts, latest.texts) == (["error"] * 5, [""] * 5, [""] * 5)
        # Once with errors, once without: what is whole is kept, and shared.
        assert rendering.calls == 10


async def test_what_is_larger_than_was_reckoned_with_is_not_kept(module_database_url: str, redis_url: str) -> None:
    async with open_gateway(module_database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        await gateway.append_many(project_id, 3)
        small, large = SlowRendering("small", room=KEPT_BYTES - 100), SlowRendering("large", room=KEPT_BYTES)
        for rendering in (small, large):
            for _ in range(2):
                sink = RecordingSink()
                await gateway.subscribe(project_id, sink, rendering=rendering, after=start_of(project_id))
                await sink.until_count(3)
                assert sink.seqs == [1, 2, 3]
        assert (small.calls, large.calls) == (3, 6)


async def test_who_leaves_while_it_is_rendered_for_leaves_nothing_behind(
    module_database_url: str, redis_url: str
) -> None:
    async with open_gateway(module_database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        await gateway.append_many(project_id, 100)
        rendering, sink = SlowRendering(), RecordingSink()
        member = await gateway.subscribe(project_id, sink, rendering=rendering, after=start_of(project_id))
        await until(lambda: rendering.now > 1)

        member.leave()

        received = len(sink.seqs)
        await until(lambda: gateway.hub.counters.rendering == 0)
        assert len(sink.seqs) == received
        assert gateway.hub.stats().catching_up == 0


async def test_what_passes_while_a_reader_is_full_and_older_items_still_wait_is_not_lost(
    module_database_url: str, redis_url: str
) -> None:
    async with open_gateway(module_database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        rendering, sink = HeldRendering(), RecordingSink(bound=3)
        member = await gateway.subscribe(project_id, sink, rendering=rendering)
        await gateway.append_many(project_id, 4)
        rendering.let_go(1, 2, 3)
        await sink.until_count(3)
        # It is full, the fourth is still being rendered, and nobody is live to wait for the fifth.
        await gateway.append_many(project_id, 1)
        await until(lambda: member.cohort.streams.position == 5)

        sink.drain()
        await until(lambda: member.live or 5 in rendering.asked)
        assert member.cursor == cursor_of(project_id, 3)
        rendering.let_go(4, 5, 6)
        await gateway.append_many(project_id, 1)
        await until(lambda: 6 in sink.seqs)

        assert sink.seqs == [1, 2, 3, 4, 5, 6]
        assert member.cursor == cursor_of(project_id, 6)


async def test_what_passes_after_the_last_live_reader_has_left_is_not_lost_to_who_comes_back(
    module_database_url: str, redis_url: str
) -> None:
    async with open_gateway(module_database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        rendering, full, sink, again = HeldRendering(), RecordingSink(bound=1), RecordingSink(), RecordingSink()
        await gateway.subscribe(project_id, full, rendering=rendering)
        member = await gateway.subscribe(project_id, sink, rendering=rendering)
        await gateway.append_many(project_id, 2)
        rendering.let_go(1)
        await sink.until_count(1)
        # The other one is full: it keeps the cohort, and is not live.
        member.leave()
        await gateway.append_many(project_id, 1)
        await until(lambda: member.cohort.streams.position == 3)

        await gateway.subscribe(project_id, again, rendering=rendering, after=member.cursor)
        rendering.let_go(2, 3, 4)
        await gateway.append_many(project_id, 1)
        await until(lambda: 4 in again.seqs)

        assert (sink.seqs, again.seqs) == ([1], [2, 3, 4])


async def test_who_ends_because_an_item_cannot_be_rendered_stands_before_it(
    module_database_url: str, redis_url: str
) -> None:
    async with open_gateway(module_database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        rendering, sinks = HeldRendering(), [RecordingSink(), RecordingSink()]
        members = [await gateway.subscribe(project_id, sink, rendering=rendering) for sink in sinks]
        await gateway.append_many(project_id, 3)
        rendering.let_go(1, 3)
        rendering.fail(2)

        await until(lambda: all(sink.error is not None for sink in sinks))

        assert [sink.seqs for sink in sinks] == [[1], [1]]
        assert [member.cursor for member in members] == [cursor_of(project_id, 1)] * 2


async def test_who_comes_later_does_not_wait_for_a_rendering_that_was_for_others(
    module_database_url: str, redis_url: str
) -> None:
    async with open_gateway(module_database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        rendering, full, sink = HeldRendering(), RecordingSink(bound=1), RecordingSink()
        await gateway.subscribe(project_id, full, rendering=rendering)
        gone = await gateway.subscribe(project_id, RecordingSink(), rendering=rendering)
        rendering.let_go(1)
        await gateway.append_many(project_id, 1)
        await full.until_count(1)
        await gateway.append_many(project_id, 1)
        await until(lambda: 2 in rendering.asked)
        # The one that is full keeps the cohort, and nobody is live.
        gone.leave()
        await gateway.subscribe(project_id, sink, rendering=rendering)

        rendering.let_go(3)
        await gateway.append_many(project_id, 1)
        await sink.until_count(1)
        rendering.fail(2)
        rendering.let_go(4)
        await gateway.append_many(project_id, 1)
        await sink.until_count(2)

        assert (sink.seqs, sink.error) == ([3, 4], None)
        assert (full.seqs, full.error) == ([1], None)
