"""What is left out of the log: analytics of people who do not allow them, and what was erased once."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db.consents import write_consent
from db.database import Database
from db.events import append_events
from db.identity_links import take_over_user
from db.projects import insert_organization, insert_project
from db.records import AppendResult, NewEvent
from engine.consent import ConsentPurpose, ConsentState, set_consent
from engine.dispatch.ledger import record
from engine.events import EventDraft
from engine.log import Dropped, Erased, EventLog, Stored
from tests.integration.log_support import (
    SALT,
    keys_by_seq,
    make_project,
    new_event,
    open_database,
    wait_until_blocked,
    whole_log,
)

NOW = datetime(2026, 5, 1, tzinfo=UTC)
ANALYTICS = ConsentPurpose.ANALYTICS


async def test_analytics_of_whoever_denied_or_revoked_them_are_not_stored(database_url: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)
        await _say(connection, project, ann="DENIED", bob="REVOKED", cleo="GRANTED", dan="UNKNOWN")

        result = await _append(
            connection,
            project,
            new_event("a", user_id="ann"),
            new_event("b", user_id="bob"),
            new_event("c", user_id="cleo"),
            new_event("d", user_id="dan"),
            new_event("e", user_id="eve"),
            new_event("f"),
            new_event("g", anonymous_id="phone"),
        )

        # Then the others follow one another without gaps
        assert result.dropped == {"a", "b"}
        assert result.seqs == (0, 0, 1, 2, 3, 4, 5)
        assert result.fresh == (False, False, True, True, True, True, True)
        assert await keys_by_seq(connection, project) == {1: "c", 2: "d", 3: "e", 4: "f", 5: "g"}
        assert await _people(connection, project) == {"cleo", "dan", "eve"}
        assert await connection.fetchval("SELECT count FROM event_types WHERE project_id = $1", project) == 5


async def test_only_module_analytics_asks_and_only_where_it_is_asked(database_url: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)
        await _say(connection, project, ann="REVOKED")

        others = [new_event(module, module=module, user_id="ann") for module in ("push", "consent", "identity", "auth")]
        assert (await _append(connection, project, *others)).seqs == (1, 2, 3, 4)
        servers = await append_events(
            connection, project_id=project, batch_token=2, events=[new_event("imported", user_id="ann")]
        )
        assert (servers.seqs, servers.dropped) == ((5,), frozenset())


async def test_where_unknown_is_denied_only_those_who_granted_are_stored(database_url: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        project = await _make_project_in(database, "eu")
        await _say(connection, project, cleo="GRANTED", dan="UNKNOWN", ann="DENIED")
        events = [
            new_event("ann", user_id="ann"),
            new_event("cleo", user_id="cleo"),
            new_event("dan", user_id="dan"),
            new_event("eve", user_id="eve", traits='{"plan":"pro"}'),
            new_event("device", anonymous_id="phone"),
            new_event("nobody"),
        ]

        assert (await _append(connection, project, *events)).dropped == {"ann", "dan", "eve", "device"}
        assert await _people(connection, project) == {"cleo"}

        # When the project says what unknown means, its region does not matter any more
        await _allow_unknown(connection, project, allowed=True)
        assert (await _append(connection, project, *events, token=2)).dropped == {"ann"}
        assert await _people(connection, project) == {"cleo", "dan", "eve"}

    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)
        await _allow_unknown(connection, project, allowed=False)
        assert (await _append(connection, project, new_event("eve", user_id="eve"))).dropped == {"eve"}


async def test_a_device_is_whoever_it_is_known_to_be(database_url: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)
        await _say(connection, project, ann="REVOKED", heir="REVOKED")
        both = new_event("login", module="identity", user_id="ann", anonymous_id="phone")
        await _append(connection, project, both)

        # By the log, by the same batch, and by a takeover
        assert (await _append(connection, project, new_event("a", anonymous_id="phone"), token=2)).dropped == {"a"}
        batch = [
            new_event("b", anonymous_id="tablet"),
            new_event("c", module="identity", user_id="ann", anonymous_id="tablet"),
        ]
        assert (await _append(connection, project, *batch, token=3)).dropped == {"b"}
        async with connection.transaction():
            await take_over_user(connection, project_id=project, alias="guest", user_id="heir", seq=1)
        taken = [new_event("d", user_id="guest"), new_event("e", anonymous_id="stranger")]
        assert (await _append(connection, project, *taken, token=4)).dropped == {"d"}


async def test_what_is_dropped_changes_no_profile_beside_what_is_stored(database_url: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)
        await _append(connection, project, new_event("a", module="identity", user_id="ann", traits='{"plan":"basic"}'))
        await _say(connection, project, ann="REVOKED")

        await _append(
            connection,
            project,
            new_event("b", user_id="ann", traits='{"plan":"pro"}'),
            new_event("c", user_id="bob", traits='{"plan":"pro"}'),
            token=2,
        )

        rows = await connection.fetch("SELECT user_id, traits FROM profiles WHERE project_id = $1 ORDER BY 1", project)
        assert [tuple(row) for row in rows] == [("ann", '{"plan": "basic"}'), ("bob", '{"plan": "pro"}')]


async def test_what_is_stored_already_is_a_duplicate_whatever_was_said_since(database_url: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)
        first = await _append(connection, project, new_event("a", user_id="ann"), token=7)
        await _say(connection, project, ann="REVOKED")

        batch = new_event("a", user_id="ann"), new_event("b", user_id="ann")
        again = await _append(connection, project, *batch, token=7)
        later = await _append(connection, project, *batch, token=8)

        assert (first.seqs, first.fresh) == ((1,), (True,))
        assert (again.seqs, again.fresh, again.dropped) == ((1, 0), (True, False), {"b"})
        assert (later.seqs, later.fresh, later.dropped) == ((1, 0), (False, False), {"b"})


async def test_an_append_that_waited_for_a_revocation_sees_it(database_url: str) -> None:
    async with open_database(database_url) as database, _other(database_url) as second, _other(database_url) as third:
        project = await make_project(database)
        async with database.connection() as connection, _other(database_url) as observer:
            await _append(connection, project, new_event("a", user_id="ann"))
            revoking = connection.transaction()
            await revoking.start()
            await _change(connection, project, "ann", ConsentState.REVOKED)

            # Given one whose person is known, and one that made a profile of somebody who is just saying no
            waiting = asyncio.create_task(_append(second, project, new_event("b", user_id="ann"), token=2))
            await wait_until_blocked(observer, second.get_server_pid())
            await _change(connection, project, "new", ConsentState.DENIED)
            newcomer = new_event("c", user_id="new", traits='{"plan":"pro"}')
            making = asyncio.create_task(_append(third, project, newcomer, token=3))
            await wait_until_blocked(observer, third.get_server_pid())

            await revoking.commit()

            assert (await waiting).dropped == {"b"}
            with pytest.raises(asyncpg.SerializationError):
                await making
            assert (await _append(third, project, newcomer, token=3)).dropped == {"c"}
            assert [event.event_type for event in await whole_log(connection, project)][-2:] == ["consent.revoked"] * 2


async def test_who_granted_meanwhile_gets_a_profile(database_url: str) -> None:
    async with (
        open_database(database_url) as database,
        _other(database_url) as second,
        _other(database_url) as observer,
    ):
        project = await _make_project_in(database, "eu")
        async with database.connection() as connection:
            granting = connection.transaction()
            await granting.start()
            # Given the head locked by whoever makes somebody known without making a profile
            await connection.execute("SELECT FROM heads WHERE project_id = $1 AND lane = 1 FOR UPDATE", project)
            await _say(connection, project, ann="GRANTED")
            event = new_event("a", user_id="ann", traits='{"plan":"pro"}')
            waiting = asyncio.create_task(_append(second, project, event))
            await wait_until_blocked(observer, second.get_server_pid())

            await granting.commit()

            with pytest.raises(asyncpg.SerializationError):
                await waiting
            assert (await _append(second, project, event)).seqs == (1,)
            assert await _people(connection, project) == {"ann"}


async def test_what_was_erased_does_not_come_back(database_url: str) -> None:
    async with open_database(database_url) as database:
        project = await make_project(database)
        async with database.connection() as connection:
            await _append(connection, project, new_event("x"))
            await _erase(connection, project, "a", seq=7)
            assert (await _append(connection, project, new_event("x"), token=3)).erased == frozenset()
        log = EventLog(database, lambda _announcement: None)

        gone, stored, twice = await log.append(
            project,
            [
                EventDraft("order.placed", key="a", user_id="ann", traits=b'{"plan":"pro"}'),
                EventDraft("order.placed", key="b", user_id="bob"),
                EventDraft("order.placed", key="a", user_id="ann"),
            ],
        )

        assert gone == twice == Erased()
        assert isinstance(stored, Stored)
        assert (stored.event.seq, stored.duplicate) == (2, False)
        async with database.connection() as connection:
            assert await _people(connection, project) == {"bob"}
            # Servers do not bring them back either
            servers = [new_event("a", user_id="ann", module="push")]
            again = await append_events(connection, project_id=project, batch_token=4, events=servers)
            assert (again.seqs, again.fresh, again.erased) == ((0,), (False,), {"a"})


async def test_the_log_answers_each_event_with_what_became_of_it(database_url: str) -> None:
    async with open_database(database_url) as database:
        project = await make_project(database)
        async with database.connection() as connection:
            await _say(connection, project, ann="DENIED")
        log = EventLog(database, lambda _announcement: None)

        outcomes = await log.append(
            project,
            [
                EventDraft("order.placed", key="a", user_id="ann"),
                EventDraft("order.placed", key="b", user_id="bob"),
                EventDraft("order.placed", key="a", user_id="ann"),
            ],
        )

        assert [outcomes[0], outcomes[2]] == [Dropped(), Dropped()]
        assert isinstance(outcomes[1], Stored)
        assert outcomes[1].event.seq == 1


PEOPLE = ["ann", "bob"]
DEVICES = ["phone", "tablet"]
said = st.tuples(st.sampled_from(PEOPLE), st.sampled_from(list(ConsentState)))
tracked = st.lists(
    st.tuples(
        st.sampled_from([*PEOPLE, None]),
        st.sampled_from([*DEVICES, None]),
        st.sampled_from(["analytics", "analytics", "identity"]),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(said, min_size=1, max_size=6),
    batches=st.lists(tracked, min_size=1, max_size=8),
    unknown_allowed=st.booleans(),
)
async def test_the_log_itself_shows_that_nothing_was_stored_against_anybodys_word(
    changes: list[tuple[str, ConsentState]],
    batches: list[list[tuple[str | None, str | None, str]]],
    unknown_allowed: bool,
    database_url: str,
) -> None:
    """Whoever reads the log from its start knows at each event what its person had said, and whose a device was."""
    async with open_database(database_url, max_size=3) as database:
        project = await make_project(database)
        async with database.connection() as connection:
            await _allow_unknown(connection, project, allowed=unknown_allowed)

        await asyncio.gather(_speak(database, project, changes), _track(database, project, batches))

        async with database.connection() as connection:
            log = await whole_log(connection, project)
            people = await _people(connection, project)
    allowed: dict[str, bool] = {}
    owners: dict[str, str] = {}
    for place, event in enumerate(log):
        if event.module == "consent":
            assert event.user_id is not None
            state = ConsentState(msgspec.json.decode(event.properties)["to"])
            allowed[event.user_id] = state is ConsentState.GRANTED or (
                state is ConsentState.UNKNOWN and unknown_allowed
            )
        # A batch is one moment: whose a device is may be said by a later event of it.
        for other in log[place:]:
            is_of_batch = other is event or other.key.partition("-")[0] == event.key.partition("-")[0]
            if is_of_batch and other.module != "consent" and other.anonymous_id and other.user_id:
                owners.setdefault(other.anonymous_id, other.user_id)
        person = event.user_id or owners.get(event.anonymous_id or "")
        if event.module == "analytics" and (event.user_id is not None or event.anonymous_id is not None):
            assert allowed.get(person or "", unknown_allowed), event
    assert people == {event.user_id for event in log if event.user_id is not None}


async def _speak(database: Database, project: UUID, changes: list[tuple[str, ConsentState]]) -> None:
    for user_id, state in changes:
        await _until_serialised(database, partial(_change, project_id=project, user_id=user_id, state=state))


async def _track(database: Database, project: UUID, batches: list[list[tuple[str | None, str | None, str]]]) -> None:
    for token, batch in enumerate(batches):
        events = [
            new_event(f"{token}-{number}", user_id=user_id, anonymous_id=device, module=module)
            for number, (user_id, device, module) in enumerate(batch)
        ]
        await _until_serialised(database, partial(_append_all, project_id=project, events=events, token=token))


async def _until_serialised(database: Database, action: Callable[[asyncpg.Connection], Awaitable[object]]) -> None:
    while True:
        try:
            async with database.transaction() as connection:
                await action(connection)
                return
        except (asyncpg.SerializationError, asyncpg.DeadlockDetectedError):
            continue


async def _append(connection: asyncpg.Connection, project_id: UUID, *events: NewEvent, token: int = 1) -> AppendResult:
    return await _append_all(connection, project_id=project_id, events=events, token=token)


async def _append_all(
    connection: asyncpg.Connection, *, project_id: UUID, events: Sequence[NewEvent], token: int
) -> AppendResult:
    return await append_events(connection, project_id=project_id, batch_token=token, events=events, check_consent=True)


async def _change(connection: asyncpg.Connection, project_id: UUID, user_id: str, state: ConsentState) -> None:
    """As everybody does who changes a consent."""
    changed = await set_consent(
        connection,
        project_id=project_id,
        user_id=user_id,
        purpose=ANALYTICS,
        state=state,
        source="test",
        actor="test",
        now=NOW,
    )
    if changed is not None:
        await record(connection, project_id=project_id, transitions=(), events=(changed.event,), now=NOW)


async def _say(connection: asyncpg.Connection, project_id: UUID, **states: str) -> None:
    """Only what people say, without the event."""
    for user_id, state in states.items():
        await write_consent(
            connection,
            project_id=project_id,
            user_id=user_id,
            purpose=ANALYTICS,
            state=state,
            source="test",
            now=NOW,
        )


async def _allow_unknown(connection: asyncpg.Connection, project_id: UUID, *, allowed: bool) -> None:
    await connection.execute(
        "INSERT INTO project_settings (project_id, allow_unknown_consent, updated_at) VALUES ($1, $2, $3)",
        project_id,
        allowed,
        NOW,
    )


async def _erase(connection: asyncpg.Connection, project_id: UUID, key: str, *, seq: int) -> None:
    await connection.execute(
        "INSERT INTO erased_keys (project_id, key_hash, seq) VALUES ($1, $2, $3)",
        project_id,
        hashlib.sha256(SALT + key.encode()).digest(),
        seq,
    )


async def _people(connection: asyncpg.Connection, project_id: UUID) -> set[str]:
    rows = await connection.fetch("SELECT user_id FROM profiles WHERE project_id = $1", project_id)
    return {row["user_id"] for row in rows}


async def _make_project_in(database: Database, region: str) -> UUID:
    project_id, organization_id = uuid4(), uuid4()
    async with database.transaction() as connection:
        await insert_organization(connection, organization_id=organization_id, name="Acme", region=region)
        await insert_project(
            connection, project_id=project_id, organization_id=organization_id, name="shop", region=region, salt=SALT
        )
    return project_id


@asynccontextmanager
async def _other(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of its own, beside the pool."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()
