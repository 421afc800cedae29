"""Streams of a gateway that stops: each stands where it was, and nobody is told of items that they never got."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from engine.cursors import Cursor, CursorKind
from engine.errors import Unavailable
from tests.integration.log_support import make_project
from tests.integration.stream_support import CODEC, RecordingSink, Rendering, open_gateway, until


def cursor_of(project_id: UUID, seq: int) -> str:
    return CODEC.encode(Cursor(CursorKind.EVENTS, project_id, 1, (seq,)))


async def test_who_reads_on_after_the_hub_has_stopped_reads_the_log(module_database_url: str, redis_url: str) -> None:
    async with open_gateway(module_database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        live, sink = RecordingSink(), RecordingSink()
        await gateway.subscribe(project_id, live)
        await gateway.append_many(project_id, 3)
        await live.until_count(3)

        member = await gateway.subscribe(
            project_id, sink, rendering=Rendering("another"), after=cursor_of(project_id, 0)
        )
        assert (member.live, sink.seqs) == (False, [])
        await gateway.hub.stop()

        await until(lambda: member.cursor == cursor_of(project_id, 3))
        assert sink.seqs == [1, 2, 3]


async def test_once_streams_have_stopped_a_reader_that_is_full_stays_where_it_is(
    module_database_url: str, redis_url: str
) -> None:
    async with open_gateway(module_database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        live, full = RecordingSink(), RecordingSink(bound=1)
        members = [await gateway.subscribe(project_id, sink) for sink in (live, full)]

        await gateway.streams.stop()
        await gateway.append_many(project_id, 3)
        await live.until_count(3)
        full.drain()
        await asyncio.sleep(0)

        assert full.seqs == [1]
        assert [member.cursor for member in members] == [cursor_of(project_id, 3), cursor_of(project_id, 1)]
        assert gateway.hub.stats().catching_up == 0


async def test_nobody_joins_a_gateway_that_is_stopping(module_database_url: str, redis_url: str) -> None:
    async with open_gateway(module_database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        sink = RecordingSink()
        # One is on its way in when it stops, one comes after.
        joining = asyncio.create_task(gateway.subscribe(project_id, sink))
        await asyncio.sleep(0)

        await gateway.streams.stop()
        for joined in (joining, gateway.subscribe(project_id, sink)):
            with pytest.raises(Unavailable):
                await joined

        assert (sink.announced, sink.seqs) == ([], [])
        assert gateway.hub.stats().streams == 0
