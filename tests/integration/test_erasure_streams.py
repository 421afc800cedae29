"""Streams while people are erased: what remains comes exactly once and in order, live and resumed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db.erasure import find_tombstones
from db.heads import read_head
from db.records import Lane
from engine.erasure.erasing import ErasureRequest, erase_person
from engine.lanes import EVENTS
from engine.live.forgetting import Forgetting
from tests.integration.log_support import make_project, whole_log
from tests.integration.stream_support import Gateway, RecordingSink, open_gateway, until

STEPS = st.lists(st.sampled_from(["ada", "bob", "both", "erase", "resume"]), min_size=3, max_size=12)


async def erase(gateway: Gateway, project_id: UUID, user_id: str) -> None:
    """With its announcement, if there is anybody."""
    await erase_person(
        gateway.database,
        gateway.broadcast.announce,
        project_id=project_id,
        request=ErasureRequest(user_id=user_id, reason="asked for", actor="api_key:sk"),
        now=datetime.now(UTC),
    )


def held(gateway: Gateway, project_id: UUID) -> set[int]:
    """Which items a gateway has in memory: recent ones, rendered ones, pages."""
    found: set[int] = set()
    subscription = gateway.hub._subscriptions.get(project_id)
    if subscription is not None and Lane.EVENTS in subscription.lanes:
        found |= {seq for seq, _, _ in subscription.lanes[Lane.EVENTS].feed.ring._items}
    streams = gateway.streams._lanes.get((project_id, Lane.EVENTS))
    for cohort in () if streams is None else streams._cohorts.values():
        found |= {seq for seq, _, _ in cohort.ring._items}
    pages = [page for (shelf, _), page in gateway.streams.pages._kept.items() if shelf[0] == project_id]
    return found | {record.seq for page in pages for record in page.records}


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_what_remains_comes_once_and_in_order(steps: list[str], module_database_url: str, redis_url: str) -> None:
    asyncio.run(_play(steps, module_database_url, redis_url))


async def _play(steps: list[str], database_url: str, redis_url: str) -> None:
    async with open_gateway(database_url, redis_url) as gateway, open_gateway(database_url, redis_url) as other:
        forgetting = [
            Forgetting(each.hub, each.hub.forget, each.streams.forget, again=0.05) for each in (gateway, other)
        ]
        for each in forgetting:
            await each.start()
        project_id = await make_project(gateway.database)
        sinks = [RecordingSink(), RecordingSink(bound=1, pause=0.002)]
        await gateway.subscribe(project_id, sinks[0])
        await other.subscribe(project_id, sinks[1])
        beginning = sinks[0].announced[0]
        for step in [*steps, "erase"]:
            match step:
                case "erase":
                    await erase(other, project_id, "ada")
                case "resume":
                    sinks.append(RecordingSink())
                    await other.subscribe(project_id, sinks[-1], after=beginning)
                case _:
                    people = ("ada", "bob") if step == "both" else (step,)
                    for person in people:
                        await gateway.append_many(project_id, 2, user_id=person)
        erased = await _erased(gateway, project_id)
        await until(lambda: not erased & (held(gateway, project_id) | held(other, project_id)))
        await gateway.append_many(project_id, 1, user_id="carl")
        late = RecordingSink()
        await gateway.subscribe(project_id, late, after=beginning)
        await _check(gateway, project_id, sinks, late)
        for each in forgetting:
            each.stop()


async def _erased(gateway: Gateway, project_id: UUID) -> set[int]:
    async with gateway.database.connection() as connection:
        head = (await read_head(connection, project_id=project_id, lane=Lane.EVENTS)).head
        seqs = list(range(1, head + 1))
        return set(await find_tombstones(connection, project_id=project_id, lane=Lane.EVENTS, seqs=seqs))


async def _check(gateway: Gateway, project_id: UUID, sinks: list[RecordingSink], late: RecordingSink) -> None:
    erased = await _erased(gateway, project_id)
    async with gateway.database.connection() as connection:
        remaining = [event.seq for event in await whole_log(connection, project_id)]
    assert sorted({*remaining, *erased}) == list(range(1, remaining[-1] + 1))
    for sink in (*sinks, late):
        await sink.until(lambda each: each.seqs[-1:] == remaining[-1:])
        assert sink.error is None
        assert not sink.violations
        assert sink.seqs == sorted(set(sink.seqs))
        # What was delivered before its erasure was there then; nothing else is missing or too much.
        assert [seq for seq in sink.seqs if seq not in erased] == remaining
    assert late.seqs == remaining


async def test_a_gateway_that_follows_another_lane_forgets_too(database_url: str, redis_url: str) -> None:
    """It never sees the project's own event: the log of the system project tells it."""
    forgotten: list[UUID] = []
    async with open_gateway(database_url, redis_url) as gateway:
        forgetting = Forgetting(gateway.hub, forgotten.append, again=0.01)
        await forgetting.start()
        project_id = await make_project(gateway.database)
        await gateway.append_many(project_id, 1, user_id="ada")
        await erase(gateway, project_id, "ada")
        # At once, and again for what was on its way.
        await until(lambda: forgotten == [project_id, project_id])
        forgetting.stop()


async def test_the_page_that_a_slow_reader_asks_for_is_not_of_before(database_url: str, redis_url: str) -> None:
    async with open_gateway(database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        watch: Any = await gateway.hub.watch(project_id, EVENTS)
        await gateway.append_many(project_id, 3, user_id="ada")
        await until(lambda: len(watch.feed.ring) == 3)
        gateway.hub.forget(project_id)
        assert len(watch.feed.ring) == 0
        assert not watch.feed.ring.covers(2)
        assert watch.feed.ring.covers(3)
        watch.release()
