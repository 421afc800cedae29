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


def start_of(project_id: UUID) -> str:
    return CODEC.encode(Cursor(CursorKind.EVENTS, project_id, 1, (0,)))


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
