"""Pages, lists, counts, look-ups and retention."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from db import events as event_statements
from db.api_keys import find_api_key, insert_api_key, list_api_keys, read_api_keys, revoke_api_key, touch_api_keys
from db.event_types import list_event_types, read_event_types
from db.events import (
    append_events,
    count_events,
    list_events,
    read_event_page,
    read_events_by_key,
    read_events_by_seq,
    trim_events,
)
from db.filters import EventFilter
from db.heads import advance_epoch, read_changed_heads, read_clock, read_head, read_heads
from db.profiles import count_profiles, list_profiles, read_profiles, read_profiles_by_user
from db.projects import list_projects, read_project
from db.records import SYSTEM_PROJECT, CappedCount, Lane, NewEvent
from tests.integration.log_support import make_project, new_event, open_database

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


async def store(connection: asyncpg.Connection, project_id: UUID, *events: NewEvent) -> None:
    await append_events(connection, project_id=project_id, batch_token=1, events=events)


async def test_pages_follow_one_another_to_the_head(database_url: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)
        await store(connection, project, *(new_event(f"k{number}") for number in range(1, 8)))

        first = await read_event_page(connection, project_id=project, after=0, limit=3)
        second = await read_event_page(connection, project_id=project, after=first.reached, until=5, limit=3)
        third = await read_event_page(connection, project_id=project, after=second.reached, limit=3)

        assert [event.seq for event in first.events] == [1, 2, 3]
        assert ([event.seq for event in second.events], second.reached) == ([4, 5], 5)
        assert ([event.seq for event in third.events], third.reached) == ([6, 7], 7)
        assert (third.head.head, third.head.first_seq, third.head.epoch, third.head.lane) == (7, 1, 1, Lane.EVENTS)


async def test_a_page_past_the_head_is_empty_and_reaches_no_further_than_it_was_asked_from(database_url: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)
        await store(connection, project, new_event("a"))

        page = await read_event_page(connection, project_id=project, after=9, limit=3)

        assert (page.events, page.reached, page.head.head) == ((), 9, 1)
        with pytest.raises(LookupError):
            await read_event_page(connection, project_id=uuid4(), after=0, limit=3)


async def test_a_filter_without_an_index_goes_through_the_log_in_windows(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_statements, "MAX_SCANNED", 4)
    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)
        types = ["push.sent", *["a.b"] * 8, "push.failed"]
        await store(connection, project, *(new_event(f"k{n}", event_type=t) for n, t in enumerate(types)))

        # Wildcards: four positions at a time, nothing left out
        wild, after = [], 0
        while after < 10:
            page = await read_event_page(
                connection, project_id=project, after=after, limit=5, event_filter=EventFilter(event_types=("push.*",))
            )
            wild.append(([event.seq for event in page.events], page.reached))
            after = page.reached
        # An exact type has an index, so one page goes through to the end
        exact = await read_event_page(
            connection, project_id=project, after=0, limit=5, event_filter=EventFilter(event_types=("push.failed",))
        )

        assert wild == [([1], 4), ([], 8), ([10], 10)]
        assert ([event.seq for event in exact.events], exact.reached) == ([10], 10)


FILTERS = [
    (EventFilter(event_types=("push.sent",)), "b"),
    # Wildcards at either end, together with an exact name; * is everything, and other signs stand for themselves
    (EventFilter(event_types=("push.*",)), "bc"),
    (EventFilter(event_types=("*.failed", "order.placed")), "acd"),
    (EventFilter(event_types=("*",)), "abcde"),
    (EventFilter(event_types=("p_sh.*", "%.failed", "pu%")), ""),
    (EventFilter(event_types=("a_b.*",)), "e"),
    (EventFilter(event_types=()), ""),
    (EventFilter(modules=("push",)), "bc"),
    (EventFilter(modules=("push", "sms")), "bcd"),
    (EventFilter(user_id="u1"), "ab"),
    (EventFilter(anonymous_id="x"), "c"),
    (EventFilter(keys=("a", "e", "unknown")), "ae"),
    # since is inclusive, until exclusive
    (EventFilter(since=NOON + timedelta(minutes=1), until=NOON + timedelta(minutes=3)), "bc"),
    (EventFilter(modules=("push",), user_id="u1"), "b"),
]


@pytest.mark.parametrize(("event_filter", "expected"), FILTERS)
async def test_a_filter_finds_what_it_describes(event_filter: EventFilter, expected: str, database_url: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)
        described = [
            ("a", "order.placed", "analytics", "u1", None),
            ("b", "push.sent", "push", "u1", None),
            ("c", "push.failed", "push", None, "x"),
            ("d", "sms.failed", "sms", "u2", None),
            ("e", "a_b.done", "analytics", "u2", None),
        ]
        await store(
            connection,
            project,
            *(
                new_event(
                    key,
                    event_type=event_type,
                    module=module,
                    user_id=user,
                    anonymous_id=anonymous,
                    timestamp=NOON + timedelta(minutes=minute),
                )
                for minute, (key, event_type, module, user, anonymous) in enumerate(described)
            ),
        )

        page = await read_event_page(connection, project_id=project, after=0, limit=10, event_filter=event_filter)
        listed = await list_events(connection, project_id=project, limit=10, event_filter=event_filter)
        counted = await count_events(connection, project_id=project, event_filter=event_filter)

        assert "".join(event.key for event in page.events) == expected
        assert "".join(event.key for event in listed.events) == expected[::-1]
        assert counted == CappedCount(len(expected), is_capped=False)


LISTS = [
    # newest first: forwards, then between bounds, then from the end
    ({"newest_first": True, "limit": 2}, [5, 4], True),
    ({"newest_first": True, "limit": 2, "after": 4}, [3, 2], True),
    ({"newest_first": True, "limit": 2, "after": 3}, [2, 1], False),
    ({"newest_first": True, "limit": 3, "after": 5, "before": 2}, [4, 3], False),
    ({"newest_first": True, "limit": 2, "from_end": True}, [2, 1], True),
    ({"newest_first": True, "limit": 2, "before": 3, "from_end": True}, [5, 4], False),
    # oldest first
    ({"newest_first": False, "limit": 2}, [1, 2], True),
    ({"newest_first": False, "limit": 3, "after": 2}, [3, 4, 5], False),
    ({"newest_first": False, "limit": 2, "before": 4, "from_end": True}, [2, 3], True),
    ({"newest_first": False, "limit": 9, "after": 5}, [], False),
]


@pytest.mark.parametrize(("arguments", "seqs", "has_more"), LISTS)
async def test_a_list_is_read_from_either_end(
    arguments: dict[str, int], seqs: list[int], has_more: bool, database_url: str
) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)
        await store(connection, project, *(new_event(f"k{number}") for number in range(5)))

        page = await list_events(connection, project_id=project, **arguments)  # type: ignore[arg-type]

        assert ([event.seq for event in page.events], page.has_more) == (seqs, has_more)


async def test_a_count_stops_at_its_cap(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_statements, "COUNT_CAP", 3)
    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)
        await store(connection, project, *(new_event(f"k{number}") for number in range(3)))
        assert await count_events(connection, project_id=project) == CappedCount(3, is_capped=False)

        await store(connection, project, new_event("one more"))
        assert await count_events(connection, project_id=project) == CappedCount(3, is_capped=True)


async def test_events_are_found_by_position_and_by_key_in_their_project_only(database_url: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        project, other = await make_project(database), await make_project(database)
        await store(connection, project, new_event("a"), new_event("b"))
        await store(connection, other, new_event("x"))

        by_seq = await read_events_by_seq(connection, project_id=project, seqs=[2, 1, 99])
        by_key = await read_events_by_key(connection, project_id=project, keys=["b", "x"])

        assert [event.key for event in by_seq] == ["a", "b"]
        assert [event.seq for event in by_key] == [2]


async def test_retention_moves_the_floor_with_the_rows(database_url: str) -> None:
    async with open_database(database_url) as database:
        project = await make_project(database)
        async with database.connection() as connection:
            await store(connection, project, *(new_event(f"k{number}") for number in range(1, 6)))

        async with database.transaction() as connection:
            assert await trim_events(connection, project_id=project, first_seq=4) == 3
        async with database.transaction() as connection:
            # Never back
            assert await trim_events(connection, project_id=project, first_seq=2) == 0

        async with database.connection() as connection:
            page = await read_event_page(connection, project_id=project, after=0, limit=10)
            assert ([event.seq for event in page.events], page.head.first_seq, page.head.head) == ([4, 5], 4, 5)
        # Never past the head; what is appended then goes on where the log was
        async with database.transaction() as connection:
            assert await trim_events(connection, project_id=project, first_seq=99) == 2
            assert (await read_head(connection, project_id=project, lane=Lane.EVENTS)).first_seq == 6
            await store(connection, project, new_event("k6"))
        async with database.connection() as connection:
            page = await read_event_page(connection, project_id=project, after=5, limit=10)
            assert [event.key for event in page.events] == ["k6"]


async def test_a_trim_that_is_rolled_back_leaves_rows_and_floor(database_url: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)
        await store(connection, project, new_event("a"), new_event("b"))
        transaction = connection.transaction()
        await transaction.start()
        await trim_events(connection, project_id=project, first_seq=2)
        await transaction.rollback()

        page = await read_event_page(connection, project_id=project, after=0, limit=10)
        assert ([event.seq for event in page.events], page.head.first_seq) == ([1, 2], 1)


async def test_heads_tell_what_changed(database_url: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        quiet, busy = await make_project(database), await make_project(database)
        before = await read_clock(connection)

        await store(connection, busy, new_event("a"))

        assert [
            (head.project_id, head.lane, head.head)
            for head in await read_changed_heads(connection, changed_after=before)
        ] == [(busy, Lane.EVENTS, 1)]
        heads = await read_heads(connection, project_ids=[quiet, busy, uuid4()])
        assert sorted((head.project_id, head.lane) for head in heads) == sorted(
            (project, lane) for project in (quiet, busy) for lane in Lane
        )
        with pytest.raises(LookupError):
            await read_head(connection, project_id=uuid4(), lane=Lane.EVENTS)


async def test_a_new_epoch_counts_for_every_lane_and_is_seen_as_a_change(database_url: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)
        before = await read_clock(connection)

        assert await advance_epoch(connection, project_id=project) == 2

        changed = await read_changed_heads(connection, changed_after=before)
        assert [(head.lane, head.epoch) for head in changed] == [(lane, 2) for lane in Lane]


async def test_the_system_project_is_there_and_others_are_found_beside_it(database_url: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        assert (await read_head(connection, project_id=SYSTEM_PROJECT, lane=Lane.EVENTS)).head == 0

        project_id = await make_project(database, name="shop")

        project = await read_project(connection, project_id=project_id)
        assert project is not None
        assert (project.name, project.region, project.organization_name) == ("shop", "us", "Acme")
        assert await list_projects(connection, organization_id=project.organization_id) == [project]
        assert await read_project(connection, project_id=uuid4()) is None


async def test_a_key_is_found_by_its_hash_revoked_once_and_touched_once_a_minute(database_url: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        project, other = await make_project(database), await make_project(database)
        key = await insert_api_key(
            connection,
            api_key_id=uuid4(),
            project_id=project,
            name="server",
            kind="SECRET",
            environment="PROD",
            role="ADMIN",
            prefix="sk_us_prod_abcdef",
            token_hash=bytes(32),
        )
        assert await find_api_key(connection, token_hash=bytes(32)) == key
        assert await find_api_key(connection, token_hash=b"x" * 32) is None
        assert await read_api_keys(connection, project_id=other, api_key_ids=[key.api_key_id]) == []

        await touch_api_keys(connection, api_key_ids=[key.api_key_id])
        (touched,) = await list_api_keys(connection, project_id=project)
        await touch_api_keys(connection, api_key_ids=[key.api_key_id])
        assert touched.last_used_at is not None
        assert await list_api_keys(connection, project_id=project) == [touched]

        assert not await revoke_api_key(connection, project_id=other, api_key_id=key.api_key_id)
        assert await revoke_api_key(connection, project_id=project, api_key_id=key.api_key_id)
        assert not await revoke_api_key(connection, project_id=project, api_key_id=key.api_key_id)
        revoked = await find_api_key(connection, token_hash=bytes(32))
        assert revoked is not None
        assert revoked.revoked_at is not None


async def test_profiles_are_listed_newest_first_and_searched(database_url: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        project, other = await make_project(database), await make_project(database)
        for number in range(5):
            traits = f'{{"email":"User{number}@Example.com"}}'
            await store(connection, project, new_event(f"k{number}", user_id=f"u{number}", traits=traits))
        await store(connection, other, new_event("k", user_id="u1"))

        first = await list_profiles(connection, project_id=project, limit=2)
        key = (first.profiles[-1].created_at, first.profiles[-1].profile_id)
        rest = await list_profiles(connection, project_id=project, limit=5, after=key)
        back = await list_profiles(connection, project_id=project, limit=1, before=key, from_end=True)
        found = await list_profiles(connection, project_id=project, limit=5, search="USER3@")

        assert ([profile.user_id for profile in first.profiles], first.has_more) == (["u4", "u3"], True)
        assert ([profile.user_id for profile in rest.profiles], rest.has_more) == (["u2", "u1", "u0"], False)
        assert ([profile.user_id for profile in back.profiles], back.has_more) == (["u4"], False)
        assert [profile.user_id for profile in found.profiles] == ["u3"]
        assert await count_profiles(connection, project_id=project) == CappedCount(5, is_capped=False)
        assert await count_profiles(connection, project_id=project, search="100%") == CappedCount(0, is_capped=False)


async def test_a_person_was_last_seen_when_their_newest_event_says(database_url: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        project, other = await make_project(database), await make_project(database)
        await store(connection, project, new_event("a", user_id="u1", timestamp=NOON))
        await store(connection, project, new_event("b", user_id="u1", timestamp=NOON + timedelta(hours=1)))

        (profile,) = await read_profiles_by_user(connection, project_id=project, user_ids=["u1", "nobody"])

        assert profile.last_seen_at == NOON + timedelta(hours=1)
        assert not profile.anonymous
        assert await read_profiles(connection, project_id=project, profile_ids=[profile.profile_id]) == [profile]
        assert await read_profiles(connection, project_id=other, profile_ids=[profile.profile_id]) == []


async def test_event_types_are_listed_by_name(database_url: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)
        for number, (event_type, module) in enumerate(
            [("b.one", "m"), ("a.two", "m"), ("a.two", "k"), ("c.three", "m"), ("a.two", "k")]
        ):
            await store(connection, project, new_event(f"k{number}", event_type=event_type, module=module))

        page = await list_event_types(connection, project_id=project, limit=2)
        rest = await list_event_types(connection, project_id=project, limit=9, after=("a.two", "m"))
        searched = await list_event_types(connection, project_id=project, limit=9, search="THREE", module="m")
        named = await read_event_types(connection, project_id=project, event_types=["a.two", "unknown"])

        assert [(each.event_type, each.module, each.count) for each in page.event_types] == [
            ("a.two", "k", 2),
            ("a.two", "m", 1),
        ]
        assert page.has_more
        assert [each.event_type for each in rest.event_types] == ["b.one", "c.three"]
        assert [each.event_type for each in searched.event_types] == ["c.three"]
        assert list(page.event_types) == named
