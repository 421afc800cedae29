"""What holds for the log whatever several writers do at once, and for traits in whatever order events come."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db.database import Database
from db.events import append_events, read_event_page
from db.records import EventRecord, NewEvent
from tests.integration.log_support import make_project, new_event, open_database, whole_log

KEYS = [f"key-{number}" for number in range(8)]
"""Few, so that writers meet."""
USERS = ["u1", "u2", None]
START = datetime(2026, 5, 1, tzinfo=UTC)

examples = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


class Step(msgspec.Struct, frozen=True):
    """One transaction of a writer: an append, a pause before the end, and the end; an append may be sent again."""

    keys: tuple[str, ...]
    pause_ms: float
    commits: bool
    sent_again: bool


steps = st.builds(
    Step,
    keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=5).map(tuple),
    pause_ms=st.sampled_from([0.0, 0.0, 1.0, 4.0]),
    commits=st.booleans(),
    sent_again=st.booleans(),
)
plans = st.lists(st.lists(steps, min_size=1, max_size=5), min_size=2, max_size=4)


@examples
@given(plan=plans, seed=st.integers(0, 2**32))
async def test_any_interleaving_gives_a_dense_log_with_each_key_once_that_a_follower_sees_whole(
    plan: list[list[Step]], seed: int, database_url: str
) -> None:
    async with open_database(database_url, min_size=1, max_size=len(plan) + 1) as database:
        project = await make_project(database)
        done = asyncio.Event()
        follower = asyncio.create_task(_follow(database, project, done))

        writers = [_Writer(database, project, random.Random(seed + number)) for number in range(len(plan))]
        await asyncio.gather(*(writer.run(steps) for writer, steps in zip(writers, plan, strict=True)))
        done.set()
        followed = await follower

        async with database.connection() as connection:
            log = await whole_log(connection, project)
        # Dense, and each key once
        assert [event.seq for event in log] == list(range(1, len(log) + 1))
        assert len({event.key for event in log}) == len(log)
        # Everything committed is there, and nothing else
        committed = {key for writer in writers for key in writer.committed}
        assert {event.key for event in log} == committed
        # Each key was new to exactly one append, and every answer names where it is
        where = {event.key: event.seq for event in log}
        fresh = [key for writer in writers for key in writer.fresh]
        assert sorted(fresh) == sorted(where)
        assert all(where[key] == seq for writer in writers for key, seq in writer.answers)
        # Who asked again and again for what follows got every event, in order: order is the order of commits
        assert followed == log
        assert [event.received_at for event in log] == sorted(event.received_at for event in log)


class _Writer:
    """Runs its steps, and keeps what committed transactions answered."""

    def __init__(self, database: Database, project: UUID, chance: random.Random) -> None:
        self._database = database
        self._project = project
        self._chance = chance
        self.committed: set[str] = set()
        self.fresh: list[str] = []
        self.answers: list[tuple[str, int]] = []

    async def run(self, plan: Sequence[Step]) -> None:
        for step in plan:
            token = self._chance.getrandbits(63)
            events = [new_event(key, user_id=self._chance.choice(USERS)) for key in step.keys]
            await self._until_serialised(token, events, step)
            if step.sent_again and step.commits:
                await self._until_serialised(token, events, step, first=False)

    async def _until_serialised(self, token: int, events: list[NewEvent], step: Step, *, first: bool = True) -> None:
        while True:
            try:
                return await self._transact(token, events, step, first=first)
            except asyncpg.SerializationError:
                continue

    async def _transact(self, token: int, events: list[NewEvent], step: Step, *, first: bool) -> None:
        async with self._database.connection() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                result = await append_events(connection, project_id=self._project, batch_token=token, events=events)
            except asyncpg.PostgresError:
                await transaction.rollback()
                raise
            await asyncio.sleep(step.pause_ms / 1000)
            if not step.commits:
                return await transaction.rollback()
            await transaction.commit()
        fresh = [event.key for event, is_fresh in zip(events, result.fresh, strict=True) if is_fresh]
        if first:
            self.fresh += fresh
        else:
            # The same token again is told the same as before
            assert fresh == self.fresh[len(self.fresh) - len(fresh) :]
        self.committed |= {event.key for event in events}
        self.answers += zip((event.key for event in events), result.seqs, strict=True)
        return None


async def _follow(database: Database, project: UUID, done: asyncio.Event) -> list[EventRecord]:
    """Read what follows the last event seen, until the writers are done and nothing more follows."""
    followed: list[EventRecord] = []
    after = 0
    while True:
        finished = done.is_set()
        async with database.connection() as connection:
            page = await read_event_page(connection, project_id=project, after=after, limit=3)
        followed += page.events
        after = page.reached
        if finished and after == page.head.head:
            return followed
        await asyncio.sleep(0)


traits = st.dictionaries(st.sampled_from(["plan", "city", "age"]), st.sampled_from([1, 2, 3, None]), min_size=1)
identifying = st.lists(st.tuples(st.integers(0, 3), traits), min_size=1, max_size=8)


@examples
@given(told=identifying, seed=st.integers(0, 2**32), batch=st.integers(1, 4))
async def test_traits_are_those_of_the_latest_events_in_whatever_order_they_come(
    told: list[tuple[int, dict[str, int | None]]], seed: int, batch: int, database_url: str
) -> None:
    chance = random.Random(seed)
    events = [
        new_event(
            f"{chance.randrange(100)}-{number}",
            user_id="u1",
            timestamp=START + timedelta(minutes=minute),
            traits=msgspec.json.encode(values).decode(),
        )
        for number, (minute, values) in enumerate(told)
    ]
    # Each event is sent once or twice, in any order, in batches, by several writers at once
    sent = events + chance.sample(events, chance.randrange(len(events) + 1))
    chance.shuffle(sent)
    batches = [sent[start : start + batch] for start in range(0, len(sent), batch)]

    async with open_database(database_url, min_size=1, max_size=4) as database:
        project = await make_project(database)
        await asyncio.gather(*(_append(database, project, number, batch) for number, batch in enumerate(batches)))
        async with database.connection() as connection:
            stored = await connection.fetchval("SELECT traits FROM profiles WHERE project_id = $1", project)

    assert msgspec.json.decode(stored) == _latest(events)


async def _append(database: Database, project: UUID, token: int, events: Sequence[NewEvent]) -> None:
    while True:
        try:
            async with database.connection() as connection:
                await append_events(connection, project_id=project, batch_token=token, events=events)
        except asyncpg.SerializationError:
            continue
        return


def _latest(events: Sequence[NewEvent]) -> dict[str, int]:
    latest: dict[str, int | None] = {}
    for event in sorted(events, key=lambda event: (event.timestamp, event.key)):
        latest.update(msgspec.json.decode(event.traits or "{}"))
    return {name: value for name, value in latest.items() if value is not None}
