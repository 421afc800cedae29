"""The condition language gives the same answer in memory and in SQL, for any stored JSON and any condition."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import asyncpg
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from db.conditions import condition_sql
from db.filters import Condition
from db.records import EventRecord
from engine.conditions import matches, parse_conditions, unparse_conditions
from tests.integration.condition_strategies import PROJECT, meetings

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
EVENT = frozenset({"event"})
EXAMPLES = int(os.environ.get("CONDITION_EXAMPLES", "300"))
"""More for a thorough run; each costs a few milliseconds."""


class Stored:
    """Puts one event into the table at a time and asks SQL about it."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def __aenter__(self) -> Stored:
        self._connection = await asyncpg.connect(self._url)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._connection.close()

    async def answer(self, event: EventRecord, conditions: tuple[Condition, ...]) -> bool | None:
        parameters: list[Any] = [event.project_id, event.seq]
        test = condition_sql(conditions, parameters, table="events", alias="e", now=NOW)
        statement = f"SELECT {test} FROM events AS e WHERE e.project_id = $1 AND e.seq = $2"
        transaction = self._connection.transaction()
        await transaction.start()
        try:
            await insert(self._connection, event)
            answer = await self._connection.fetchval(statement, *parameters)
            assert answer is None or isinstance(answer, bool)
            return answer
        finally:
            await transaction.rollback()


async def insert(connection: asyncpg.Connection, event: EventRecord) -> None:
    await connection.execute(
        "INSERT INTO events (project_id, seq, batch_token, timestamp, received_at, key, module, event_type, user_id,"
        " anonymous_id, properties, context) VALUES ($1, $2, 1, $3, $4, $5, $6, $7, $8, $9, $10::text::jsonb,"
        " $11::text::jsonb)",
        event.project_id,
        event.seq,
        event.timestamp,
        event.received_at,
        event.key,
        event.module,
        event.event_type,
        event.user_id,
        event.anonymous_id,
        bytes(event.properties).decode(),
        bytes(event.context).decode(),
    )


async def test_memory_and_sql_agree_on_any_event_and_condition(database_url: str) -> None:
    loop = asyncio.get_running_loop()
    answers: Counter[bool] = Counter()

    async with Stored(database_url) as stored:

        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
        @given(meetings())
        def agree(meeting: tuple[EventRecord, list[dict[str, Any]]]) -> None:
            event, conditions = meeting
            parsed = parse_conditions(conditions, roots=EVENT, path=("where",))

            in_memory = matches(parsed, event)
            in_sql = asyncio.run_coroutine_threadsafe(stored.answer(event, parsed), loop).result()

            assert in_sql is in_memory
            assert parse_conditions(unparse_conditions(parsed), roots=EVENT, path=("where",)) == parsed
            answers[in_memory] += 1

        await asyncio.to_thread(agree)

    assert min(answers[True], answers[False]) > EXAMPLES // 10


@pytest.mark.parametrize(
    ("stored_value", "op", "value", "expected"),
    [
        ("true", "EQ", 1, False),  # true is not 1
        ("1", "IN", [True], False),
        ("[true]", "CONTAINS", 1, False),
        ("1.0", "EQ", 1, True),
        ("0.10000000000000001", "EQ", 0.1, False),  # exact, beyond what a float holds
        ("1e400", "GT", 1e300, True),
        ('"Z"', "LT", "a", True),  # by code point, whatever the database's collation
        ('"é"', "GT", "z", True),
        ('"10"', "GT", 9, False),
        ("null", "EQ", None, True),
        ("null", "NE", "x", True),
        ('{"a":null}', "EQ", {}, False),
        ('{"a":1,"b":[2]}', "EQ", {"b": [2.0], "a": 1}, True),
        ("[[1]]", "CONTAINS", 1, False),
        ('[{"a":1,"b":2}]', "CONTAINS", {"a": 1}, False),
        ('"2000-02-29"', "IS_ANNIVERSARY", None, True),  # received on 28 February 2026
        ('"2000-02-28T23:59:59-11:00"', "IS_ANNIVERSARY", None, True),
        ('"2000-03-01"', "IS_ANNIVERSARY", None, False),
        ('"2000-02-281"', "IS_ANNIVERSARY", None, False),
        ('"02-28"', "IS_ANNIVERSARY", None, False),
    ],
)
async def test_the_corners_agree(database_url: str, stored_value: str, op: str, value: Any, expected: bool) -> None:
    received_at = datetime(2026, 2, 28, 12, tzinfo=UTC)
    properties, context = msgspec.Raw(f'{{"x":{stored_value}}}'.encode()), msgspec.Raw(b"{}")
    event = EventRecord(PROJECT, 1, "k", "m", "t", received_at, received_at, None, None, properties, context)
    test = {"path": "event.properties.x", "op": op, **({} if op == "IS_ANNIVERSARY" else {"value": value})}
    conditions = parse_conditions([test], roots=EVENT, path=("where",))

    async with Stored(database_url) as stored:
        assert await stored.answer(event, conditions) is expected
    assert matches(conditions, event) is expected
