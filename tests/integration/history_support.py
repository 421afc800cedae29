"""Histories of a few people, generated and stored, for tests that compare answers with their references."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
from hypothesis import strategies as st

from tests.reference.history import Event

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu")
COUNTRIES = {"ada": "PT", "bob": "DE", "x": "DE"}
"""Of users whose profile has one."""
CLOCK_CHANGES = (
    datetime(2026, 3, 29, 1, tzinfo=UTC),  # Berlin forward
    datetime(2026, 10, 25, 1, tzinfo=UTC),  # Berlin back
    datetime(2026, 11, 1, 6, tzinfo=UTC),  # New York back
    datetime(2026, 4, 4, 15, tzinfo=UTC),  # Lord Howe back, by half an hour
)


def moments(around: timedelta) -> st.SearchStrategy[datetime]:
    """Instants on quarters of an hour, within `around` after clocks change somewhere."""
    quarters = int(around / timedelta(minutes=15))
    return st.builds(
        lambda change, count: change + timedelta(minutes=15 * count),
        st.sampled_from(CLOCK_CHANGES),
        st.integers(0, max(quarters, 1)),
    )


def histories(since: datetime, until: datetime, *, most: int = 25) -> st.SearchStrategy[list[Event]]:
    """Up to `most` events in the order in which they are stored, at few instants, so that many are ties, or late."""
    places = st.one_of(
        st.sampled_from([0, 240, 480, 720, 960]),  # the ends and the middles, a microsecond before some of them
        st.integers(0, 960),
    )
    event = st.builds(
        lambda place, early, event_type, user_id, anonymous_id, properties: (
            since + (until - since) * place / 960 - timedelta(microseconds=1 if early else 0),
            event_type,
            user_id,
            anonymous_id,
            properties,
        ),
        places,
        st.booleans(),
        st.sampled_from(["order.placed", "order.paid", "app.opened"]),
        st.sampled_from([None, "ada", "bob", "x"]),
        st.sampled_from([None, "phone", "tablet", "x"]),
        st.fixed_dictionaries(
            {},
            optional={
                "plan": st.sampled_from(["pro", "free", 1, True, None, "Ünï", ["pro"]]),
                "amount": st.one_of(st.integers(-3, 9), st.sampled_from([0.1, 2.5, "7", None, True, 10**15])),
            },
        ),
    )
    # By their number first: lists alone are mostly too short for anything to happen in them.
    rows = st.integers(0, most).flatmap(lambda count: st.lists(event, min_size=count, max_size=count))
    return rows.map(lambda found: [Event(seq, *row) for seq, row in enumerate(found, start=1)])


class Histories:
    """Stores one history at a time, in a project of its own whose people have profiles, and forgets it again."""

    countries = COUNTRIES

    def __init__(self, url: str) -> None:
        self._url = url

    async def __aenter__(self) -> Histories:
        self._connection = await asyncpg.connect(self._url)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._connection.close()

    @asynccontextmanager
    async def holding(self, events: list[Event]) -> AsyncIterator[tuple[asyncpg.Connection, UUID]]:
        """A connection that sees a project with these events. They went through the function that appends."""
        project_id = uuid4()
        transaction = self._connection.transaction()
        await transaction.start()
        try:
            await self._store(project_id, events)
            yield self._connection, project_id
        finally:
            await transaction.rollback()

    async def _store(self, project_id: UUID, events: list[Event]) -> None:
        await self._connection.execute(
            "INSERT INTO projects (project_id, organization_id, name, region, salt)"
            " VALUES ($1, '00000000-0000-0000-0000-000000000000', 'p', 'us', '0123456789abcdef')",
            project_id,
        )
        await self._connection.execute("INSERT INTO heads (project_id, lane) VALUES ($1, 1)", project_id)
        if not events:
            return
        users = sorted({event.user_id for event in events if event.user_id is not None})
        await self._connection.execute(
            "SELECT append_events($1, 1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
            project_id,
            [f"key-{event.seq}" for event in events],
            ["analytics"] * len(events),
            [event.event_type for event in events],
            [event.timestamp for event in events],
            [event.user_id for event in events],
            [event.anonymous_id for event in events],
            [json.dumps(event.properties) for event in events],
            ["{}"] * len(events),
            [None] * len(events),
            users,
            [uuid4() for _ in users],
        )
        for user_id in users:
            if user_id in COUNTRIES:
                traits = json.dumps({"country": COUNTRIES[user_id]})
                await self._connection.execute(
                    "UPDATE profiles SET traits = $3::text::jsonb WHERE project_id = $1 AND user_id = $2",
                    project_id,
                    user_id,
                    traits,
                )
