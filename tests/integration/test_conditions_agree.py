"""The condition language gives the same answer in memory and in SQL, for any stored JSON and any condition."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db.conditions import condition_sql
from db.filters import Condition
from db.records import EventRecord
from engine.conditions import matches, parse_conditions, unparse_conditions

PROJECT = UUID(int=7)
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
EVENT = frozenset({"event"})
EXAMPLES = int(os.environ.get("CONDITION_EXAMPLES", "400"))
"""More for a thorough run; each costs a few milliseconds."""

# Few keys and values, so that conditions and events often meet; hostile ones among them.
KEYS = st.sampled_from(
    [
        "a",
        "b",
        "0",
        "-1",
        "1",
        " 1",
        "+0",
        "01",
        "a.b",
        "back\\slash",
        "quo\"te'",
        "$1",
        "{a,b}",
        "é",
        "%",
        "NULL",
        "🎈",
    ]
)
STRINGS = st.sampled_from(
    [
        "",
        "a",
        "A",
        "ab",
        "b",
        "10",
        "9",
        "é",
        "z",
        "'; DROP TABLE events; --",
        "$1",
        "%",
        "_",
        "\\",
        '"',
        "null",
        "true",
    ]
) | st.sampled_from(
    [
        "2024-02-29",
        "1990-05-01",
        "1990-05-01T23:59:00Z",
        "1990-05-01 x",
        "1990-05-011",
        "2000-02-28",
        "\n",
        "a\n",
        "ﬀ🎈",
    ]
)
NUMBERS = st.sampled_from(
    [0, 1, -1, 2, 10, 2**53 + 1, 2**63, 2**64 - 1, -(2**63), 0.0, -0.0, 1.0, 0.1, 0.5, 1e22, 1e300, 5e-324, -1.5]
)
SCALARS = st.none() | st.booleans() | NUMBERS | STRINGS
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)
OBJECTS = st.dictionaries(KEYS, JSON, max_size=4)
INSTANTS = st.sampled_from(
    ["2026-02-28T12:00:00Z", "2024-02-29T00:00:00+00:00", "2026-05-01T01:00:00+02:00", "2026-04-30T23:00:00.000001Z"]
)


def path_of(field: str, keys: list[str]) -> str:
    return ".".join([f"event.{field}", *(key.replace("\\", "\\\\").replace(".", "\\.") for key in keys)])


JSON_PATHS = st.builds(path_of, st.sampled_from(["properties", "context"]), st.lists(KEYS, min_size=0, max_size=3))
STRING_PATHS = st.sampled_from(["event.eventType", "event.module", "event.key", "event.userId", "event.anonymousId"])
INSTANT_PATHS = st.sampled_from(["event.timestamp", "event.receivedAt"])
EQUALITY, MEMBERSHIP = st.sampled_from(["EQ", "NE"]), st.sampled_from(["IN", "NOT_IN"])
ORDER, AFFIX = st.sampled_from(["GT", "GTE", "LT", "LTE"]), st.sampled_from(["STARTS_WITH", "ENDS_WITH"])
EXISTENCE = st.sampled_from(["EXISTS", "NOT_EXISTS"])


def comparisons(
    paths: st.SearchStrategy[str], values: st.SearchStrategy[Any], ordered: st.SearchStrategy[Any]
) -> st.SearchStrategy[dict[str, Any]]:
    """EQ to NOT_EXISTS, which every kind of field has."""
    valued = st.tuples(EQUALITY, values | st.none()) | st.tuples(ORDER, ordered)
    listed = st.tuples(MEMBERSHIP, st.lists(values | st.none(), max_size=4))
    with_value = st.builds(
        lambda path, test: {"path": path, "op": test[0], "value": test[1]}, paths, st.one_of(valued, listed)
    )
    return with_value | st.builds(lambda path, op: {"path": path, "op": op}, paths, EXISTENCE)


JSON_TESTS = st.one_of(
    comparisons(JSON_PATHS, JSON, NUMBERS | STRINGS),
    st.builds(
        lambda path, value: {"path": path, "op": "CONTAINS", "value": value},
        JSON_PATHS,
        JSON.filter(lambda value: value is not None),
    ),
    st.builds(lambda path, op, value: {"path": path, "op": op, "value": value}, JSON_PATHS, AFFIX, STRINGS),
    st.builds(lambda path: {"path": path, "op": "IS_ANNIVERSARY"}, JSON_PATHS | INSTANT_PATHS),
)
COLUMN_TESTS = st.one_of(
    comparisons(STRING_PATHS, STRINGS, STRINGS),
    comparisons(st.just("event.seq"), NUMBERS, NUMBERS),
    comparisons(INSTANT_PATHS, INSTANTS, INSTANTS),
    st.builds(
        lambda path, op, value: {"path": path, "op": op, "value": value},
        STRING_PATHS,
        AFFIX | st.just("CONTAINS"),
        STRINGS,
    ),
)
CONDITIONS = st.recursive(
    JSON_TESTS | COLUMN_TESTS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda some: {"any": some}),
        st.lists(inner, min_size=1, max_size=3).map(lambda some: {"all": some}),
        inner.map(lambda one: {"not": one}),
    ),
    max_leaves=5,
)


@st.composite
def events(draw: st.DrawFn) -> EventRecord:
    names = STRINGS.filter(lambda text: text != "")
    instants = INSTANTS.map(lambda text: datetime.fromisoformat(text).astimezone(UTC))
    return EventRecord(
        project_id=PROJECT,
        seq=draw(st.sampled_from([1, 2, 10, 2**53 + 1])),
        key=draw(names),
        module=draw(names),
        event_type=draw(names),
        timestamp=draw(instants),
        received_at=draw(instants),
        user_id=draw(st.none() | STRINGS),
        anonymous_id=draw(st.none() | STRINGS),
        properties=msgspec.Raw(json.dumps(draw(OBJECTS)).encode()),
        context=msgspec.Raw(json.dumps(draw(OBJECTS)).encode()),
    )


def leaves(value: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every place inside the JSON, with what is there."""
    yield keys, value
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from leaves(item, (*keys, str(key)))


AIMED_OPERATORS = st.sampled_from(
    ["EQ", "NE", "GT", "GTE", "LT", "LTE", "IN", "NOT_IN", "CONTAINS", "EXISTS", "STARTS_WITH", "ENDS_WITH"]
)


@st.composite
def aimed_tests(draw: st.DrawFn, event: EventRecord) -> dict[str, Any]:
    """A test of something that is in the event, mostly with a value that is there or nearly."""
    field = draw(st.sampled_from(["properties", "context"]))
    keys, found = draw(st.sampled_from(list(leaves(json.loads(bytes(getattr(event, field)))))))
    path = path_of(field, list(keys))
    values = st.just(found) | SCALARS
    if isinstance(found, str):
        values |= st.sampled_from([found[:1], found[1:], found[-1:], found + "a", found.swapcase()])
    op = draw(
        st.sampled_from(["EQ", "NE", "GT", "GTE", "LT", "LTE", "IN", "NOT_IN", "CONTAINS", "EXISTS", "ENDS_WITH"])
    )
    match op:
        case "EXISTS":
            return {"path": path, "op": op}
        case "IN" | "NOT_IN":
            return {"path": path, "op": op, "value": draw(st.lists(values, max_size=3))}
        case "GT" | "GTE" | "LT" | "LTE":
            return {"path": path, "op": op, "value": draw(values.filter(is_ordered) | NUMBERS | STRINGS)}
        case "ENDS_WITH":
            return {
                "path": path,
                "op": op,
                "value": draw(values.filter(lambda value: isinstance(value, str)) | STRINGS),
            }
        case "CONTAINS" if isinstance(found, list) and found:
            return {"path": path, "op": op, "value": draw(st.sampled_from([*found, 1]).filter(is_something))}
        case "CONTAINS":
            return {"path": path, "op": op, "value": draw(values.filter(is_something) | STRINGS)}
        case _:
            return {"path": path, "op": op, "value": draw(values)}


def is_ordered(value: Any) -> bool:
    return isinstance(value, int | float | str) and not isinstance(value, bool)


def is_something(value: Any) -> bool:
    return value is not None


@st.composite
def meetings(draw: st.DrawFn) -> tuple[EventRecord, list[dict[str, Any]]]:
    event = draw(events())
    aimed = st.lists(aimed_tests(event), min_size=1, max_size=2)
    return event, draw(aimed | st.lists(CONDITIONS, max_size=2))


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
