"""A filter selects the same events in memory and in SQL: a stream must not change when it falls back to the log."""

from __future__ import annotations

import random
import secrets
from datetime import UTC, datetime, timedelta

import msgspec

from db.events import read_event_page
from db.filters import Condition, EventFilter
from engine.conditions import EventView
from engine.filters import compile_filter
from tests.integration.log_support import make_project, new_event
from tests.integration.stream_support import open_gateway

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
TYPES = ("order.placed", "order.paid", "push.sent", "push.failed", "a.b.failed", "order", "x_y.z%", "xay.zb")
PATTERNS = (*TYPES, "order.*", "*.failed", "*", "*.*", "a.*.failed", "*d", "o*", "**", "x_y.*", "*z%", "")
WORDS = ("x", "y", "z")


def random_filter(choice: random.Random) -> EventFilter:
    def sometimes(values: tuple[str, ...]) -> tuple[str, ...] | None:
        return tuple(choice.choices(values, k=choice.randrange(0, 3))) if choice.random() < 0.4 else None

    amount = Condition(path="event.properties.amount", op=choice.choice(["GT", "LTE", "EQ", "NE"]), value=5)
    return EventFilter(
        event_types=sometimes(PATTERNS),
        modules=sometimes(WORDS),
        user_id=choice.choice([None, None, *WORDS]),
        anonymous_id=choice.choice([None, None, None, *WORDS]),
        keys=None if choice.random() < 0.9 else tuple(f"k{choice.randrange(200)}" for _ in range(30)),
        since=choice.choice([None, None, NOON, NOON + timedelta(microseconds=1)]),
        until=choice.choice([None, None, NOON, NOON + timedelta(microseconds=1)]),
        where=() if choice.random() < 0.7 else (amount,),
    )


async def test_memory_and_sql_select_the_same_events(database_url: str, redis_url: str) -> None:
    seed = secrets.randbits(32)
    choice = random.Random(seed)
    async with open_gateway(database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        records = await gateway.append(
            project_id,
            *(
                new_event(
                    f"k{number}",
                    event_type=choice.choice(TYPES),
                    module=choice.choice(WORDS),
                    timestamp=NOON + timedelta(microseconds=choice.randrange(-1, 2)),
                    user_id=choice.choice([None, *WORDS]),
                    anonymous_id=choice.choice([None, *WORDS]),
                    properties=msgspec.json.encode({"amount": choice.randrange(10)}).decode(),
                )
                for number in range(200)
            ),
        )
        matched = 0
        async with gateway.database.connection() as connection:
            for _ in range(300):
                event_filter = random_filter(choice)
                matches = compile_filter(event_filter)
                page = await read_event_page(
                    connection, project_id=project_id, after=0, limit=1_000, event_filter=event_filter
                )
                in_sql = [event.seq for event in page.events]
                assert [event.seq for event in records if matches(EventView(event))] == in_sql, (seed, event_filter)
                matched += len(in_sql)
        assert matched > 0
