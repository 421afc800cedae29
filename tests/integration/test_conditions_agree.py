"""The condition language gives the same answer in memory and in SQL, for any stored JSON and any condition."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import asyncpg
from hypothesis import HealthCheck, given, settings

from db.conditions import condition_sql
from db.filters import Condition
from db.records import EventRecord
from engine.conditions import matches, parse_conditions, unparse_conditions
from tests.integration.condition_strategies import meetings

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
