"""Group commit: what callers are told, when, and what is on disk then."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest

from db.database import Database
from db.heads import read_head
from db.records import EventRecord, Lane
from engine.announcements import Announcement
from engine.errors import NotFound, RateLimited, Unavailable, UserError
from engine.events import EventDraft
from engine.log import EventLog, Outcome, Rejected, Stored
from launch.embedded import EmbeddedPostgres
from tests.integration.log_support import keys_by_seq, make_project, open_database, wait_until_blocked, whole_log
from tests.integration.postgres_proxy import open_proxy


def draft(key: str | None = None, **fields: Any) -> EventDraft:
    return EventDraft(key=key, event_type=fields.pop("event_type", "order.placed"), **fields)


def seqs_of(outcomes: tuple[Outcome, ...]) -> list[int]:
    return [outcome.event.seq for outcome in outcomes if isinstance(outcome, Stored)]


def is_append(sent: bytes) -> bool:
    """Whether bytes on the wire carry the arguments of an append in these tests."""
    return b"order.placed" in sent


def with_json(event: EventRecord) -> dict[str, object]:
    """The event with its JSON read: PostgreSQL writes the same value with other spaces and another order of names."""
    fields = msgspec.structs.asdict(event)
    return {
        name: msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value for name, value in fields.items()
    }


async def test_an_answer_holds_the_event_as_it_is_on_disk(database_url: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)
        log = EventLog(database, _silent)

        (outcome,) = await log.append(
            project, [draft("a", user_id="u1", properties=b'{"amount": 12.50}', context=b'{"ip": "203.0.113.7"}')]
        )

        (stored,) = await whole_log(connection, project)
        assert with_json(outcome.event) == with_json(stored)
        assert not outcome.duplicate
        assert b"203.0.113" not in bytes(outcome.event.context)


async def test_callers_that_come_together_share_transactions_and_each_gets_its_own_answer(database_url: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)
        log = EventLog(database, _silent)

        answers = await asyncio.gather(
            *(log.append(project, [draft(f"{call}-{part}") for part in range(3)]) for call in range(100))
        )

        stored = {key: seq for seq, key in (await keys_by_seq(connection, project)).items()}
        for call, outcomes in enumerate(answers):
            first = stored[f"{call}-0"]
            assert seqs_of(outcomes) == [first, first + 1, first + 2]
            assert [outcome.event.key for outcome in outcomes] == [f"{call}-{part}" for part in range(3)]
        assert sorted(stored.values()) == list(range(1, 301))
        assert log.stats().commits <= 5
        assert log.stats().rows == 300
        assert log.stats().waiting_bytes == 0
        assert log.stats().busy_projects == 0


async def test_a_duplicate_is_answered_with_what_is_stored(database_url: str) -> None:
    async with open_database(database_url) as database:
        project = await make_project(database)
        log = EventLog(database, _silent)
        (first,) = await log.append(project, [draft("a", properties=b'{"n":1}')])

        again, new, twice = await log.append(
            project, [draft("a", properties=b'{"n":2}'), draft("b"), draft("b", properties=b'{"n":3}')]
        )

        assert (again.duplicate, again.event.seq, bytes(again.event.properties)) == (True, 1, b'{"n": 1}')
        assert (new.duplicate, new.event.seq) == (False, 2)
        assert twice == Stored(new.event, duplicate=True)
        assert not first.duplicate


async def test_events_that_are_refused_do_not_touch_their_neighbours(database_url: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)
        announced: list[Announcement] = []
        log = EventLog(database, announced.append)
        drafts = [draft(f"k{number}") for number in range(40)]
        # Given one that is refused before the database, and one that only the database refuses
        drafts[7] = draft("nul", properties=b'{"name":"a\\u0000b"}')
        drafts[23] = draft("malformed", properties=b'{"name":}')

        outcomes = await log.append(project, drafts)

        assert outcomes[7] == Rejected(
            UserError("A string contains a NUL character.", "INVALID", ("properties", "name"))
        )
        assert outcomes[23] == Rejected(UserError("The event holds a value that cannot be stored.", "INVALID", ()))
        kept = [draft.key for number, draft in enumerate(drafts) if number not in (7, 23)]
        assert list((await keys_by_seq(connection, project)).values()) == kept
        assert seqs_of(outcomes) == list(range(1, 39))
        assert [event.key for announcement in announced for event in announcement.items] == kept


async def test_one_bad_event_fails_alone_among_the_callers_of_one_transaction(database_url: str) -> None:
    async with open_database(database_url) as database:
        project = await make_project(database)
        log = EventLog(database, _silent)

        answers = await asyncio.gather(
            *(log.append(project, [draft(f"k{n}", properties=b"{]" if n == 13 else b"{}")]) for n in range(30))
        )

        refused = [number for number, (outcome,) in enumerate(answers) if isinstance(outcome, Rejected)]
        assert refused == [13]
        assert sorted(seqs_of(tuple(outcome for (outcome,) in answers))) == list(range(1, 30))


async def test_traits_without_bound_are_refused_and_the_profile_stays(database_url: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)
        log = EventLog(database, _silent)

        outcomes = [
            (
                await log.append(
                    project, [draft(f"k{n}", user_id="u1", traits=msgspec.json.encode({f"t{n}": "x" * 60_000}))]
                )
            )[0]
            for n in range(6)
        ]

        assert [isinstance(outcome, Stored) for outcome in outcomes] == [True] * 4 + [False] * 2
        assert outcomes[4].error.code == "LIMIT_EXCEEDED"
        assert outcomes[4].error.path == ("traits",)
        traits = await connection.fetchval("SELECT traits FROM profiles WHERE project_id = $1", project)
        assert sorted(msgspec.json.decode(traits)) == ["t0", "t1", "t2", "t3"]


async def test_what_was_stored_is_announced_once_in_order_and_duplicates_are_not(database_url: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)
        announced: list[Announcement] = []
        log = EventLog(database, announced.append)

        for _ in range(3):
            await asyncio.gather(*(log.append(project, [draft(f"k{n}"), draft()]) for n in range(20)))

        stored = await whole_log(connection, project)
        assert len(stored) == 20 + 60
        assert [event for announcement in announced for event in announcement.items] == stored
        for announcement in announced:
            assert [event.seq for event in announcement.items] == list(range(announcement.first, announcement.last + 1))
            assert (announcement.project_id, announcement.lane, announcement.epoch) == (project, Lane.EVENTS, 1)


async def test_an_announcement_that_fails_does_not_fail_the_append(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_announcement: Announcement) -> None:
        raise RuntimeError("redis is away")

    async with open_database(database_url) as database:
        project = await make_project(database)
        assert seqs_of(await EventLog(database, fail).append(project, [draft("a")])) == [1]
    assert [record.message for record in caplog.records] == ["announce_failed"]


async def test_callers_that_go_away_lose_nothing_and_leak_nothing(database_url: str) -> None:
    async with open_database(database_url, min_size=1, max_size=3) as database:
        project = await make_project(database)
        log = EventLog(database, _silent)
        chance = random.Random(5)
        accepted: set[str] = set()

        async def call(key: str) -> None:
            accepted.add(key)
            await log.append(project, [draft(key)])

        await log.append(project, [draft("first")])
        for turn in range(20):
            callers = [asyncio.create_task(call(f"{turn}-{number}")) for number in range(10)]
            await asyncio.sleep(chance.uniform(0.001, 0.006))
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)
        await log.close()

        async with database.connection() as connection:
            assert set((await keys_by_seq(connection, project)).values()) == accepted | {"first"}
        assert log.stats().waiting_bytes == 0
        assert await _free_slots(database, 3) == 3


async def test_when_the_answer_to_a_commit_is_lost_the_first_answer_is_not_duplicate(
    database_url: str, tmp_path: Path
) -> None:
    async with open_proxy(tmp_path, database_url) as proxy, open_database(proxy.url, max_size=3) as database:
        project = await make_project(database)
        announced: list[Announcement] = []
        log = EventLog(database, announced.append)
        await log.append(project, [draft("old")])

        # When the server commits two appends, and the client learns of neither
        proxy.lose_answers_to(is_append, times=2)
        outcomes = await log.append(project, [draft("a", user_id="u1", traits=b'{"n":1}'), draft("old"), draft("b")])

        assert proxy.lost == 2
        assert [(outcome.event.seq, outcome.duplicate) for outcome in outcomes] == [(2, False), (1, True), (3, False)]
        assert log.stats().retries == 2
        async with database.connection() as connection:
            assert await keys_by_seq(connection, project) == {1: "old", 2: "a", 3: "b"}
        assert [(each.first, each.last) for each in announced] == [(1, 1), (2, 3)]


async def test_terminated_backends_cost_nothing_but_time(database_url: str, postgres_server: EmbeddedPostgres) -> None:
    admin = await asyncpg.connect(postgres_server.url_of("postgres"))
    async with open_database(database_url, max_size=4) as database:
        project = await make_project(database)
        log = EventLog(database, _silent)
        async with database.connection() as connection:
            name = await connection.fetchval("SELECT current_database()")

        async def write(writer: int) -> list[Outcome]:
            return [
                (await log.append(project, [draft(f"{writer}-{turn}", user_id=f"u{turn}")]))[0] for turn in range(25)
            ]

        writing = asyncio.gather(*(write(writer) for writer in range(8)))
        kills, chance = 0, random.Random(3)
        while not writing.done():
            await asyncio.sleep(chance.uniform(0.02, 0.1))
            query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1"
            kills += await admin.fetchval(query, name)
        outcomes = [outcome for answers in await writing for outcome in answers]

        assert kills > 0
        assert not any(outcome.duplicate for outcome in outcomes)
        connection = await asyncpg.connect(database_url)
        stored = await keys_by_seq(connection, project)
        await connection.close()
        assert {outcome.event.seq: outcome.event.key for outcome in outcomes} == stored
        assert sorted(stored) == list(range(1, 201))
        assert await _free_slots(database, 4) == 4
    await admin.close()


async def test_a_database_that_does_not_answer_ends_in_unavailable_and_then_recovers(
    database_url: str, tmp_path: Path
) -> None:
    async with open_proxy(tmp_path, database_url) as proxy, open_database(proxy.url, max_size=3) as database:
        project = await make_project(database)
        log = EventLog(database, _silent, retry_for=timedelta(seconds=0.3))
        await log.append(project, [draft("a")])

        proxy.refuses = True
        proxy.cut()
        with pytest.raises(Unavailable) as refused:
            await log.append(project, [draft("b")])
        assert refused.value.extensions() == {"code": "UNAVAILABLE", "retryAfterMs": 1000}
        with pytest.raises(Unavailable):
            await EventLog(database, _silent, retry_for=timedelta(0)).append(project, [draft("c")])

        proxy.refuses = False
        assert seqs_of(await log.append(project, [draft("b")])) == [2]


async def test_a_deadlock_is_tried_again(database_url: str) -> None:
    async with open_database(database_url) as database:
        project = await make_project(database)
        log = EventLog(database, _silent)
        await log.append(project, [draft("a", user_id="u1")])
        other, observer = await asyncpg.connect(database_url), await asyncpg.connect(database_url)

        # Given a stranger that holds the head, and an append that holds a profile and waits for the head
        transaction = other.transaction()
        await transaction.start()
        await other.execute("SELECT FROM heads WHERE project_id = $1 FOR UPDATE", project)
        appending = asyncio.create_task(log.append(project, [draft("b", user_id="u1", traits=b'{"n":1}')]))
        await _until_blocked_by(observer, other.get_server_pid())

        # When the stranger wants that profile, against the order of locks
        await other.execute("UPDATE profiles SET anonymous = true WHERE project_id = $1", project)
        await transaction.commit()

        # Then the append was the victim, and succeeds all the same
        assert seqs_of(await appending) == [2]
        assert log.stats().retries == 1
        await other.close()
        await observer.close()


async def test_two_gateways_that_store_the_same_keys_for_new_people_at_once_agree(database_url: str) -> None:
    async with open_database(database_url) as one, open_database(database_url) as two:
        project = await make_project(one)
        logs = EventLog(one, _silent), EventLog(two, _silent)

        fresh = 0
        for turn in range(15):
            drafts = [draft(f"{turn}-{n}", user_id=f"u{turn}-{n}", traits=b'{"n":1}') for n in range(4)]
            answers = await asyncio.gather(*(log.append(project, drafts) for log in logs))
            assert seqs_of(answers[0]) == seqs_of(answers[1])
            fresh += sum(not outcome.duplicate for outcomes in answers for outcome in outcomes)

        assert fresh == 60
        async with one.connection() as connection:
            assert list(await keys_by_seq(connection, project)) == list(range(1, 61))


async def test_too_much_waiting_is_refused_and_what_was_accepted_is_stored(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.log.MAX_WAITING_BYTES_PER_PROJECT", 5_000)
    async with open_database(database_url) as database:
        project, neighbour = await make_project(database), await make_project(database)
        log = EventLog(database, _silent)
        for each in (project, neighbour):
            await log.append(each, [draft("warm")])
        holder, observer = await asyncpg.connect(database_url), await asyncpg.connect(database_url)

        # Given a head that is held, and as many waiting events as are allowed
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute("SELECT FROM heads WHERE project_id = $1 FOR UPDATE", project)
        accepted = [asyncio.create_task(log.append(project, [draft(f"k{n}")])) for n in range(4)]
        await _until_blocked_by(observer, holder.get_server_pid())

        # Then one more is refused, while another project goes on
        with pytest.raises(RateLimited) as refused:
            await log.append(project, [draft("more")])
        assert refused.value.extensions() == {"code": "RATE_LIMITED", "retryAfterMs": 1000}
        assert seqs_of(await log.append(neighbour, [draft("a")])) == [2]

        await transaction.rollback()
        await asyncio.gather(*accepted)
        async with database.connection() as connection:
            assert set((await keys_by_seq(connection, project)).values()) == {"warm", "k0", "k1", "k2", "k3"}
        await holder.close()
        await observer.close()


async def test_a_transaction_takes_no_more_than_its_share(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.log.MAX_ROWS_PER_COMMIT", 10)
    async with open_database(database_url) as database:
        project = await make_project(database)
        announced: list[Announcement] = []
        log = EventLog(database, announced.append)
        await log.append(project, [draft()])

        await asyncio.gather(*(log.append(project, [draft() for _ in range(4)]) for _ in range(9)))
        # A single call is never parted
        await log.append(project, [draft() for _ in range(25)])

        assert [announcement.last - announcement.first + 1 for announcement in announced] == [1, 8, 8, 8, 8, 4, 25]


async def test_closing_finishes_what_was_accepted_and_refuses_the_rest(database_url: str) -> None:
    async with open_database(database_url) as database:
        projects = [await make_project(database) for _ in range(3)]
        log = EventLog(database, _silent)
        for project in projects:
            await log.append(project, [draft("warm")])
        accepted = [
            asyncio.create_task(log.append(project, [draft(f"k{n}")])) for project in projects for n in range(5)
        ]
        await asyncio.sleep(0)

        await log.close()

        assert seqs_of(tuple(outcome for answers in await asyncio.gather(*accepted) for outcome in answers)) == [
            *range(2, 7),
            *range(2, 7),
            *range(2, 7),
        ]
        for project in projects:
            assert await _head(database, project) == 6
        with pytest.raises(Unavailable):
            await log.append(projects[0], [draft("late")])
        assert await _head(database, projects[0]) == 6


async def test_an_unknown_project_is_not_found(database_url: str) -> None:
    async with open_database(database_url) as database:
        with pytest.raises(NotFound):
            await EventLog(database, _silent).append(uuid4(), [draft("a")])


def _silent(_announcement: Announcement) -> None:
    """Nobody listens."""


async def _head(database: Database, project: UUID) -> int:
    async with database.connection() as connection:
        return (await read_head(connection, project_id=project, lane=Lane.EVENTS)).head


async def _until_blocked_by(observer: asyncpg.Connection, pid: int) -> None:
    blocked = "SELECT pid FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid))"
    while (waiting := await observer.fetchval(blocked, pid)) is None:
        continue
    await wait_until_blocked(observer, waiting)


async def _free_slots(database: Database, size: int) -> int:
    """How many connections can be held at once."""
    everyone_holds = asyncio.Barrier(size)

    async def hold() -> int:
        async with database.connection() as connection:
            async with asyncio.timeout(5):
                await everyone_holds.wait()
            return await connection.fetchval("SELECT 1")

    return sum(await asyncio.gather(*(hold() for _ in range(size))))
