"""Conditions over people: traits, consent, anniversaries in their time zone, and counts of their events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from db.conditions import condition_sql
from engine.conditions import parse_conditions

PROJECT, OTHER_PROJECT = UUID(int=7), UUID(int=8)
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
ROOTS = frozenset({"profile", "events"})


class People:
    """A project's people and events, and the question which of the people meet conditions."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._seq = count(1)

    async def add(self, user_id: str, *, created_at: datetime = NOW, project: UUID = PROJECT, **traits: Any) -> None:
        await self._connection.execute(
            "INSERT INTO profiles (project_id, profile_id, user_id, traits, created_at)"
            " VALUES ($1, $2, $3, $4::text::jsonb, $5)",
            project,
            uuid4(),
            user_id,
            json.dumps(traits),
            created_at,
        )

    async def says(self, user_id: str, purpose: str, state: str, *, project: UUID = PROJECT) -> None:
        await self._connection.execute(
            "INSERT INTO consents (project_id, user_id, purpose, state, source, updated_at)"
            " VALUES ($1, $2, $3, $4, 'test', $5)",
            project,
            user_id,
            purpose,
            state,
            NOW,
        )

    async def did(
        self, user_id: str | None, event_type: str, *, ago: int = 0, project: UUID = PROJECT, **properties: Any
    ) -> None:
        await self._connection.execute(
            "INSERT INTO events (project_id, seq, batch_token, timestamp, received_at, key, module, event_type,"
            " user_id, properties, context)"
            " VALUES ($1, $2, 1, $3, $3, $4, 'm', $5, $6, $7::text::jsonb, '{}')",
            project,
            seq := next(self._seq),
            NOW - timedelta(seconds=ago),
            f"key-{seq}",
            event_type,
            user_id,
            json.dumps(properties),
        )

    async def who(self, *conditions: dict[str, Any], now: datetime = NOW) -> list[str]:
        parsed = parse_conditions(conditions, roots=ROOTS, path=("where",))
        parameters: list[Any] = [PROJECT]
        test = condition_sql(parsed, parameters, table="profiles", alias="p", now=now)
        statement = f"SELECT user_id, {test} AS met FROM profiles AS p WHERE project_id = $1 ORDER BY user_id"
        rows = await self._connection.fetch(statement, *parameters)
        assert all(row["met"] is not None for row in rows)
        return [row["user_id"] for row in rows if row["met"]]


@pytest.fixture
async def people(database_url: str) -> AsyncIterator[People]:
    connection = await asyncpg.connect(database_url)
    for project in (PROJECT, OTHER_PROJECT):
        await connection.execute(
            "INSERT INTO projects (project_id, organization_id, name, region, salt)"
            " VALUES ($1, '00000000-0000-0000-0000-000000000000', 'p', 'us', '0123456789abcdef')",
            project,
        )
    yield People(connection)
    await connection.close()


def happened(event_type: str, op: str, value: Any, **count: Any) -> dict[str, Any]:
    return {"events": {"eventType": event_type, **count}, "op": op, "value": value}


async def test_traits_are_tested_like_properties(people: People) -> None:
    await people.add("ada", plan="pro", age=36, tags=["vip", "beta"])
    await people.add("bob", plan="free", age="36", tags="vip")
    await people.add("cy")

    assert await people.who({"path": "profile.traits.plan", "op": "EQ", "value": "pro"}) == ["ada"]
    assert await people.who({"path": "profile.traits.plan", "op": "NE", "value": "pro"}) == ["bob", "cy"]
    assert await people.who({"path": "profile.traits.age", "op": "GTE", "value": 36.0}) == ["ada"]
    assert await people.who({"path": "profile.traits.tags", "op": "CONTAINS", "value": "vip"}) == ["ada", "bob"]
    assert await people.who({"path": "profile.traits.tags.1", "op": "EQ", "value": "beta"}) == ["ada"]
    assert await people.who({"path": "profile.userId", "op": "IN", "value": ["bob", "cy", "dee"]}) == ["bob", "cy"]
    assert await people.who({"path": "profile.anonymous", "op": "EQ", "value": False}) == ["ada", "bob", "cy"]


async def test_consent_nobody_gave_is_unknown(people: People) -> None:
    await people.add("ada")

    assert await people.who({"path": "profile.consent.email", "op": "EQ", "value": "UNKNOWN"}) == ["ada"]
    assert await people.who({"path": "profile.consent.email", "op": "IN", "value": ["GRANTED", "DENIED"]}) == []
    assert await people.who({"path": "profile.consent.push", "op": "EXISTS"}) == ["ada"]


async def test_consent_is_what_the_person_said_last_about_that_purpose(people: People) -> None:
    for user in ("ada", "bob", "cy"):
        await people.add(user)
    await people.says("ada", "EMAIL", "GRANTED")
    await people.says("bob", "EMAIL", "REVOKED")
    await people.says("bob", "PUSH", "GRANTED")
    await people.says("cy", "EMAIL", "UNKNOWN")

    assert await people.who({"path": "profile.consent.email", "op": "EQ", "value": "GRANTED"}) == ["ada"]
    assert await people.who({"path": "profile.consent.push", "op": "EQ", "value": "GRANTED"}) == ["bob"]
    assert await people.who({"path": "profile.consent.email", "op": "EQ", "value": "UNKNOWN"}) == ["cy"]
    assert await people.who({"path": "profile.consent.email", "op": "NOT_IN", "value": ["GRANTED"]}) == ["bob", "cy"]
    assert await people.who({"path": "profile.consent.sms", "op": "EQ", "value": "UNKNOWN"}) == ["ada", "bob", "cy"]


async def test_instants_of_a_person_compare_as_instants(people: People) -> None:
    await people.add("old", created_at=NOW - timedelta(days=2))
    await people.add("new", created_at=NOW)
    await people.did("old", "seen", ago=3600)

    noon_in_berlin = "2026-05-01T14:00:00+02:00"
    assert await people.who({"path": "profile.createdAt", "op": "EQ", "value": noon_in_berlin}) == ["new"]
    assert await people.who({"path": "profile.createdAt", "op": "LT", "value": noon_in_berlin}) == ["old"]
    assert await people.who({"path": "profile.lastSeenAt", "op": "GTE", "value": "2026-05-01T11:00:00Z"}) == ["old"]
    assert await people.who({"path": "profile.lastSeenAt", "op": "NOT_EXISTS"}) == ["new"]


async def test_events_are_counted_per_person_and_project(people: People) -> None:
    for user in ("none", "once", "thrice"):
        await people.add(user)
    await people.add("once", project=OTHER_PROJECT)
    for user in ("once", "thrice", "thrice", "thrice", None):
        await people.did(user, "order.placed")
    for _ in range(5):
        await people.did("once", "order.placed", project=OTHER_PROJECT)
        await people.did("none", "order_placed")

    assert await people.who(happened("order.placed", "GTE", 1)) == ["once", "thrice"]
    assert await people.who(happened("order.placed", "EQ", 0)) == ["none"]
    assert await people.who(happened("order.placed", "EQ", 1)) == ["once"]
    assert await people.who(happened("order.placed", "NE", 1)) == ["none", "thrice"]
    assert await people.who(happened("order.placed", "LT", 2.5)) == ["none", "once"]
    assert await people.who(happened("order.placed", "GT", 2.5)) == ["thrice"]
    assert await people.who(happened("order.placed", "LTE", -1)) == []
    assert await people.who(happened("order.placed", "IN", [0, 3])) == ["none", "thrice"]
    assert await people.who(happened("order.placed", "NOT_IN", [])) == ["none", "once", "thrice"]
    assert await people.who(happened("order.placed", "LT", 2**64 - 1)) == ["none", "once", "thrice"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("order.*", ["a"]),
        ("order_*", ["b"]),  # an underscore is an underscore
        ("*", ["a", "b", "c", "d"]),
        ("100%*", ["c"]),  # and a per cent sign a per cent sign
        ("auth.signed_up", ["d"]),  # sent under its older name
        ("user.*", ["d"]),
    ],
)
async def test_event_types_of_counts_may_be_wildcards_and_aliases(
    people: People, pattern: str, expected: list[str]
) -> None:
    for user, event_type in (("a", "order.paid"), ("b", "order_paid"), ("c", "100%.sure"), ("d", "user.signed_up")):
        await people.add(user)
        await people.did(user, event_type)

    assert await people.who(happened(pattern, "GTE", 1)) == expected


async def test_counts_look_back_from_now_including_the_first_moment(people: People) -> None:
    await people.add("ada")
    await people.did("ada", "seen", ago=60)

    assert await people.who(happened("seen", "GTE", 1, withinSeconds=60)) == ["ada"]
    assert await people.who(happened("seen", "GTE", 1, withinSeconds=59)) == []
    assert await people.who(happened("seen", "GTE", 1, withinSeconds=60), now=NOW + timedelta(seconds=1)) == []
    assert await people.who(happened("seen", "GTE", 1, withinSeconds=2**31 - 1)) == ["ada"]


async def test_sums_take_numbers_only_and_are_exact(people: People) -> None:
    await people.add("ada")
    await people.add("bob")
    for amount in (0.1, 0.2, "1000", None, [5], True, {"a": 1}):
        await people.did("ada", "paid", amount=amount, currency="EUR" if amount == 0.1 else "USD")

    amounts = {"sum": "event.properties.amount"}
    assert await people.who(happened("paid", "EQ", 0.3, **amounts)) == ["ada"]
    assert await people.who(happened("paid", "EQ", 0, **amounts)) == ["bob"]
    in_euro = {"where": [{"path": "event.properties.currency", "op": "EQ", "value": "EUR"}]}
    assert await people.who(happened("paid", "EQ", 0.1, **amounts, **in_euro)) == ["ada"]
    assert await people.who(happened("paid", "EQ", 6, **{"where": [{"not": in_euro["where"][0]}]})) == ["ada"]


async def test_an_anniversary_is_judged_in_the_persons_time_zone(people: People) -> None:
    late_on_30_april = datetime(2026, 4, 30, 23, tzinfo=UTC)
    await people.add("berlin", timezone="Europe/Berlin", birthday="1990-05-01")
    await people.add("nowhere", timezone="Mars/Olympus", birthday="1990-04-30")
    await people.add("utc", birthday="1990-04-30T23:59:00-11:00")
    await people.add("wrong", birthday="30 April")
    await people.add("zoned", timezone=["Europe/Berlin"], birthday=19900430)

    birthday = {"path": "profile.traits.birthday", "op": "IS_ANNIVERSARY"}
    assert await people.who(birthday, now=late_on_30_april) == ["berlin", "nowhere", "utc"]
    assert await people.who({"not": birthday}, now=late_on_30_april) == ["wrong", "zoned"]


@pytest.mark.parametrize(
    ("today", "expected"),
    [
        (datetime(2026, 2, 28, 12, tzinfo=UTC), ["eve", "leap"]),
        (datetime(2026, 3, 1, 12, tzinfo=UTC), []),
        (datetime(2024, 2, 28, 12, tzinfo=UTC), ["eve"]),
        (datetime(2024, 2, 29, 12, tzinfo=UTC), ["leap"]),
    ],
)
async def test_29_february_is_kept_on_the_28th_in_years_without_it(
    people: People, today: datetime, expected: list[str]
) -> None:
    await people.add("leap", birthday="2000-02-29", created_at=datetime(2000, 2, 29, tzinfo=UTC))
    await people.add("eve", birthday="2000-02-28", created_at=datetime(2000, 2, 28, tzinfo=UTC))

    assert await people.who({"path": "profile.traits.birthday", "op": "IS_ANNIVERSARY"}, now=today) == expected
    assert await people.who({"path": "profile.createdAt", "op": "IS_ANNIVERSARY"}, now=today) == expected


async def test_events_can_be_filtered_by_whose_they_are(people: People, database_url: str) -> None:
    await people.add("ada", plan="pro")
    await people.add("bob", plan="free")
    for user in ("ada", "bob", None):
        await people.did(user, "seen")
    conditions = parse_conditions(
        [{"path": "profile.traits.plan", "op": "EQ", "value": "pro"}, happened("seen", "EQ", 1)],
        roots=frozenset({"event", "profile", "events"}),
        path=("filter", "where"),
    )

    parameters: list[Any] = []
    test = condition_sql(conditions, parameters, table="events", alias="e", now=NOW)
    connection = await asyncpg.connect(database_url)
    rows = await connection.fetch(f"SELECT user_id FROM events AS e WHERE {test}", *parameters)
    await connection.close()

    assert [row["user_id"] for row in rows] == ["ada"]


async def test_equality_of_a_column_can_use_its_index(people: People, database_url: str) -> None:
    conditions = parse_conditions(
        [{"path": "event.userId", "op": "EQ", "value": "ada"}], roots=frozenset({"event"}), path=("where",)
    )
    parameters: list[Any] = [PROJECT]
    test = condition_sql(conditions, parameters, table="events", alias="e", now=NOW)
    connection = await asyncpg.connect(database_url)
    await connection.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
    statement = f"EXPLAIN SELECT seq FROM events AS e WHERE project_id = $1 AND {test} ORDER BY seq"
    plan = "\n".join(row[0] for row in await connection.fetch(statement, *parameters))
    await connection.close()

    assert "user_id" in plan.split("Index Cond:")[1].splitlines()[0]
