"""The append: dense, once per key, in commit order, whatever runs beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest

from db.events import append_events, list_events
from db.heads import read_head
from db.records import AppendResult, Lane, NewEvent
from tests.integration.log_support import (
    keys_by_seq,
    make_project,
    new_event,
    open_database,
    wait_until_blocked,
    whole_log,
)


async def append(
    connection: asyncpg.Connection, project_id: UUID, *events: NewEvent, token: int = 1
) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    result: AppendResult = await append_events(
        connection,
        project_id=project_id,
        batch_token=token,
        events=events,
    )
    return result.seqs, result.fresh


async def test_events_are_numbered_from_one_without_gaps_in_the_order_given(database_url: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)

        assert await append(connection, project, new_event("a"), new_event("b")) == ((1, 2), (True, True))
        assert await append(connection, project, new_event("c"), token=2) == ((3,), (True,))

        assert await keys_by_seq(connection, project) == {1: "a", 2: "b", 3: "c"}


async def test_a_key_is_stored_once_also_within_a_batch_and_the_first_wins(database_url: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)
        await append(connection, project, new_event("a", properties='{"n":1}'))

        answer = await append(
            connection,
            project,
            new_event("b", properties='{"n":2}'),
            new_event("a", properties='{"n":3}'),
            new_event("b", properties='{"n":4}'),
            new_event("c", properties='{"n":5}'),
            token=2,
        )

        assert answer == ((2, 1, 2, 3), (True, False, False, True))
        stored = [(event.key, bytes(event.properties)) for event in await whole_log(connection, project)]
        assert stored == [("a", b'{"n": 1}'), ("b", b'{"n": 2}'), ("c", b'{"n": 5}')]


async def test_a_retry_that_runs_beside_the_first_attempt_leaves_no_gap(database_url: str) -> None:
    async with open_database(database_url) as database:
        project = await make_project(database)
        async with database.connection() as first, _other(database_url) as second, _other(database_url) as observer:
            # Given a first attempt that is still open, and the client's retry, which waits for it
            transaction = first.transaction()
            await transaction.start()
            await append(first, project, new_event("a"), new_event("b"))
            retry = asyncio.create_task(
                append(second, project, new_event("a"), new_event("b"), new_event("c"), token=2)
            )
            await wait_until_blocked(observer, second.get_server_pid())

            # When the first commits
            await transaction.commit()

            # Then the retry finds its events there, and numbers only what is new
            assert await retry == ((1, 2, 3), (False, False, True))
            assert await append(second, project, new_event("d"), token=3) == ((4,), (True,))
            assert await keys_by_seq(second, project) == {1: "a", 2: "b", 3: "c", 4: "d"}


async def test_a_retry_beside_a_first_attempt_that_rolls_back_stores_everything(database_url: str) -> None:
    async with open_database(database_url) as database:
        project = await make_project(database)
        async with database.connection() as first, _other(database_url) as second, _other(database_url) as observer:
            transaction = first.transaction()
            await transaction.start()
            await append(first, project, new_event("a"), new_event("b"))
            retry = asyncio.create_task(append(second, project, new_event("b"), new_event("c"), token=2))
            await wait_until_blocked(observer, second.get_server_pid())

            await transaction.rollback()

            assert await retry == ((1, 2), (True, True))
            assert await keys_by_seq(second, project) == {1: "b", 2: "c"}


async def test_the_same_batch_tried_again_under_its_token_is_still_fresh(database_url: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)
        await append(connection, project, new_event("old"))
        batch = (new_event("a"), new_event("old"), new_event("b"), new_event("a"))

        first = await append(connection, project, *batch, token=7)
        again = await append(connection, project, *batch, token=7)
        later = await append(connection, project, *batch, token=8)

        assert first == again == ((2, 1, 3, 2), (True, False, True, False))
        assert later == ((2, 1, 3, 2), (False, False, False, False))
        assert (await read_head(connection, project_id=project, lane=Lane.EVENTS)).head == 3


async def test_an_append_that_would_change_a_profile_for_an_event_stored_meanwhile_must_be_tried_again(
    database_url: str,
) -> None:
    async with open_database(database_url) as database:
        project = await make_project(database)
        async with database.connection() as first, _other(database_url) as second, _other(database_url) as observer:
            # Given an event without a person on its way, and the same key with one, whose profile is made beside it
            transaction = first.transaction()
            await transaction.start()
            await append(first, project, new_event("a"))
            disguised = new_event("a", user_id="u1", traits='{"plan":"pro"}')
            retry = asyncio.create_task(append(second, project, disguised, token=2))
            await wait_until_blocked(observer, second.get_server_pid())

            # When the first is stored, then the second must not keep what it did to the profile
            await transaction.commit()
            with pytest.raises(asyncpg.SerializationError):
                await retry
            assert await append(second, project, disguised, token=2) == ((1,), (False,))
            assert await second.fetchval("SELECT count(*) FROM profiles WHERE project_id = $1", project) == 0


async def test_projects_have_logs_of_their_own(database_url: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        shop, bank = await make_project(database), await make_project(database)

        await append(connection, shop, new_event("a"), new_event("b"))

        assert await append(connection, bank, new_event("b")) == ((1,), (True,))
        assert await keys_by_seq(connection, shop) == {1: "a", 2: "b"}
        assert await keys_by_seq(connection, bank) == {1: "b"}


async def test_an_unknown_project_is_refused_and_nothing_is_stored(database_url: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        with pytest.raises(asyncpg.ForeignKeyViolationError):
            await append(connection, uuid4(), new_event("a"))
        assert await connection.fetchval("SELECT count(*) FROM events") == 0


async def test_received_at_never_goes_back_even_when_the_clock_does(database_url: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)
        ahead = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
        await connection.execute("UPDATE heads SET changed_at = $2 WHERE project_id = $1", project, ahead)

        await append(connection, project, new_event("a"))

        assert [(e.received_at, e.timestamp) for e in await whole_log(connection, project)] == [(ahead, ahead)]


async def test_types_are_counted_by_module_without_duplicates(database_url: str) -> None:
    noon = datetime(2026, 5, 1, 12, tzinfo=UTC)
    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)
        await append(
            connection,
            project,
            new_event("a", event_type="order.placed", timestamp=noon),
            new_event("b", event_type="order.placed", timestamp=noon - timedelta(hours=1)),
            new_event("c", event_type="order.placed", module="billing", timestamp=noon),
        )
        await append(connection, project, new_event("b"), new_event("d", timestamp=noon), token=2)

        rows = await connection.fetch(
            "SELECT event_type, module, count, last_seen_at FROM event_types WHERE project_id = $1 ORDER BY 2", project
        )

        assert [tuple(row) for row in rows] == [
            ("order.placed", "analytics", 3, noon),
            ("order.placed", "billing", 1, noon),
        ]


async def test_every_person_named_by_a_stored_event_gets_one_profile(database_url: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)
        await append(connection, project, new_event("a", user_id="u1"), new_event("b", user_id="u2"))

        # When more arrive, one of them under a key that is held by another person's event
        await append(connection, project, new_event("c", user_id="u1"), new_event("a", user_id="nobody"), token=2)

        users = await connection.fetch("SELECT user_id FROM profiles WHERE project_id = $1 ORDER BY 1", project)
        assert [row["user_id"] for row in users] == ["u1", "u2"]


async def test_writers_that_name_the_same_people_in_any_order_never_deadlock(database_url: str) -> None:
    people = [f"u{number}" for number in range(12)]
    async with open_database(database_url, max_size=6) as database:
        project = await make_project(database)

        async def write(writer: int) -> None:
            async with database.connection() as connection:
                for turn in range(15):
                    order = people[turn % 12 :] + people[: turn % 12]
                    batch = [
                        new_event(f"{writer}-{turn}-{user}", user_id=user, traits=f'{{"w{writer}":{turn}}}')
                        for user in (order if writer % 2 else order[::-1])
                    ]
                    await append(connection, project, *batch, token=writer * 1000 + turn)

        await asyncio.gather(*(write(writer) for writer in range(6)))

        async with database.connection() as connection:
            assert list(await keys_by_seq(connection, project)) == list(range(1, 6 * 15 * 12 + 1))
            traits = await connection.fetch("SELECT traits FROM profiles WHERE project_id = $1", project)
            expected = {f"w{writer}": 14 for writer in range(6)}
            assert [msgspec.json.decode(row["traits"]) for row in traits] == [expected] * 12


async def test_a_trait_that_is_set_to_null_is_removed_and_an_older_value_does_not_return(database_url: str) -> None:
    noon = datetime(2026, 5, 1, 12, tzinfo=UTC)
    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)
        plan = new_event("a", user_id="u1", timestamp=noon, traits='{"plan":"pro","city":"Graz"}')
        gone = new_event("b", user_id="u1", timestamp=noon + timedelta(hours=2), traits='{"plan":null}')
        late = new_event("c", user_id="u1", timestamp=noon + timedelta(hours=1), traits='{"plan":"basic"}')

        for token, event in enumerate((plan, gone, late)):
            await append(connection, project, event, token=token)

        assert await _traits(connection, project, "u1") == {"city": "Graz"}


async def test_a_timestamp_ahead_of_the_clock_counts_as_five_minutes_ahead_at_most(database_url: str) -> None:
    now = datetime.now(UTC)
    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)
        await append(
            connection,
            project,
            new_event("b", user_id="u1", timestamp=now + timedelta(days=300), traits='{"plan":"far"}'),
        )

        # Then a plain event of now comes too early, and one that is itself six minutes ahead comes later
        await append(connection, project, new_event("c", user_id="u1", traits='{"plan":"now"}'), token=2)
        assert await _traits(connection, project, "u1") == {"plan": "far"}
        ahead = new_event("a", user_id="u1", timestamp=now + timedelta(minutes=6), traits='{"plan":"ahead"}')
        await append(connection, project, ahead, token=3)
        assert await _traits(connection, project, "u1") == {"plan": "ahead"}


async def test_of_equal_timestamps_the_greater_key_wins(database_url: str) -> None:
    noon = datetime(2026, 5, 1, 12, tzinfo=UTC)
    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)
        for token, key in enumerate(("m", "Z", "z", "a")):
            event = new_event(key, user_id="u1", timestamp=noon, traits=f'{{"from":"{key}"}}')
            await append(connection, project, event, token=token)

        assert await _traits(connection, project, "u1") == {"from": "z"}


async def test_the_last_event_of_a_page_is_where_the_log_ends(database_url: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)
        await append(connection, project, *(new_event(f"k{number}") for number in range(5)))

        newest = await list_events(connection, project_id=project, limit=2)

        assert [event.seq for event in newest.events] == [5, 4]
        assert newest.has_more


async def test_an_append_reads_by_index_also_where_nothing_was_ever_analysed(database_url: str) -> None:
    async with open_database(database_url, min_size=1, max_size=2) as database:
        project = await make_project(database)
        async with database.connection() as connection:
            # Given a session whose plans were made while the tables were empty, and tables that have grown since
            for number in range(8):
                await append(
                    connection, project, new_event(f"cold-{number}", user_id="u0", traits='{"n":1}'), token=number
                )
            for start in range(0, 6_000, 2_000):
                many = [new_event(f"k{number}", user_id=f"u{number}") for number in range(start, start + 2_000)]
                await append(connection, project, *many, token=start + 99)

            # When one event comes
            before = await _rows_read(connection)
            await append(connection, project, new_event("warm", user_id="u7", traits='{"n":1}'), token=1)

            # Then it costs a handful of rows, not the project
            assert await _rows_read(connection) - before < 50


@asynccontextmanager
async def _other(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of its own, beside the pool."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def _traits(connection: asyncpg.Connection, project: UUID, user_id: str) -> object:
    text = await connection.fetchval(
        "SELECT traits FROM profiles WHERE project_id = $1 AND user_id = $2", project, user_id
    )
    return msgspec.json.decode(text)


async def _rows_read(connection: asyncpg.Connection) -> int:
    """How many rows of profiles and events all sessions have read from tables and indexes."""
    await connection.execute("SELECT pg_stat_force_next_flush()")
    read: int = await connection.fetchval(
        "SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)) FROM pg_stat_user_tables"
        " WHERE relname = 'profiles' OR relname LIKE 'events\\__'"
    )
    return read
