"""The log of consent: every word is in it, nothing in it can be altered unseen, and erasure does not break it."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db.consent_changes import ChainEnd, ConsentChangeFilter, list_consent_changes, scan_consent_changes
from engine.consent import ConsentChanged, ConsentPurpose, ConsentState, set_consent
from engine.consent_log import Broken, Sound, commitment_of, hash_of, verify
from tests.integration.log_support import make_project, open_database

NOW = datetime(2026, 5, 1, 12, 30, 0, 123456, tzinfo=UTC)
P, S = ConsentPurpose, ConsentState


async def say(
    connection: asyncpg.Connection,
    project_id: UUID,
    user_id: str,
    state: ConsentState,
    purpose: ConsentPurpose = P.EMAIL,
    now: datetime = NOW,
) -> ConsentChanged | None:
    return await set_consent(
        connection,
        project_id=project_id,
        user_id=user_id,
        purpose=purpose,
        state=state,
        source="settings page",
        actor=f"user:{user_id}",
        now=now,
    )


async def history(connection: asyncpg.Connection, project_id: UUID) -> list[tuple[Any, ...]]:
    found = await scan_consent_changes(connection, project_id=project_id, after=0, limit=1000)
    return [(each.seq, each.user_id, each.purpose, each.from_state, each.to_state) for each in found]


async def a_log(connection: asyncpg.Connection, project_id: UUID) -> None:
    """Four changes of two people."""
    await say(connection, project_id, "ann", S.GRANTED)
    await say(connection, project_id, "bob", S.DENIED, P.SMS)
    await say(connection, project_id, "ann", S.REVOKED, now=NOW + timedelta(days=1))
    await say(connection, project_id, "ann", S.UNKNOWN, now=NOW + timedelta(days=2))


async def test_every_change_is_in_the_log_once_and_what_changes_nothing_is_not(database_url: str) -> None:
    async with open_database(database_url) as database, database.transaction() as connection:
        project = await make_project(database)
        await a_log(connection, project)
        assert await say(connection, project, "ann", S.UNKNOWN) is None

        assert await history(connection, project) == [
            (1, "ann", "EMAIL", "UNKNOWN", "GRANTED"),
            (2, "bob", "SMS", "UNKNOWN", "DENIED"),
            (3, "ann", "EMAIL", "GRANTED", "REVOKED"),
            (4, "ann", "EMAIL", "REVOKED", "UNKNOWN"),
        ]
        sound = await verify(connection, project_id=project, page=2)
        assert isinstance(sound, Sound)
        assert sound.end is not None
        assert (sound.end.seq, sound.erased) == (4, 0)


async def test_the_event_and_the_audit_log_tell_of_it_too(database_url: str) -> None:
    async with open_database(database_url) as database, database.transaction() as connection:
        project = await make_project(database)
        said = [await say(connection, project, "ann", state) for state in (S.GRANTED, S.REVOKED, S.UNKNOWN, S.DENIED)]

        types = [each and each.event.event_type for each in said]
        assert types == ["consent.granted", "consent.revoked", "consent.reset", "consent.revoked"]
        rows = await connection.fetch(
            "SELECT actor, action, subject, user_id, after FROM audit_entries WHERE project_id = $1"
            " ORDER BY audit_entry_id",
            project,
        )
        assert [row["action"] for row in rows] == types
        assert tuple(rows[0]) == (
            "user:ann",
            "consent.granted",
            "user:ann",
            "ann",
            '{"state": "GRANTED", "source": "settings page", "purpose": "EMAIL"}',
        )


async def test_the_bytes_are_what_the_documentation_says(database_url: str) -> None:
    """Written out with nothing of ours, as whoever verifies it would."""

    def field(data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + data

    async with open_database(database_url) as database, database.transaction() as connection:
        project = await make_project(database)
        await a_log(connection, project)
        previous = bytes(32)
        for row in await connection.fetch("SELECT * FROM consent_changes WHERE project_id = $1 ORDER BY seq", project):
            commitment = hashlib.sha256(
                field(b"sendora consent commitment 1")
                + field(row["salt"])
                + field(row["user_id"].encode())
                + field(row["source"].encode())
                + field(row["actor"].encode())
            ).digest()
            microseconds = round((row["at"] - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))
            previous = hashlib.sha256(
                field(b"sendora consent change 1")
                + field(previous)
                + field(row["project_id"].bytes)
                + field(row["seq"].to_bytes(8, "big"))
                + field(row["consent_change_id"].bytes)
                + field(row["purpose"].encode())
                + field(row["from_state"].encode())
                + field(row["to_state"].encode())
                + field(microseconds.to_bytes(8, "big", signed=True))
                + field(commitment)
            ).digest()
            assert (row["commitment"], row["hash"]) == (commitment, previous)
        end = await connection.fetchrow("SELECT seq, hash FROM consent_chains WHERE project_id = $1", project)
        assert tuple(end) == (4, previous)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE consent_changes SET to_state = 'GRANTED' WHERE seq = 2",
        "UPDATE consent_changes SET source = 'elsewhere' WHERE seq = 2",
        "UPDATE consent_changes SET user_id = NULL, salt = NULL, source = NULL, actor = NULL, at = now()",
        "UPDATE consent_changes SET user_id = 'eve' WHERE seq = 2",
        "DELETE FROM consent_changes WHERE seq = 4",
        "TRUNCATE consent_changes",
    ],
)
async def test_the_database_itself_refuses_to_alter_it(database_url: str, statement: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)
        await a_log(connection, project)
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="only ever added to"):
            await connection.execute(statement)
        assert len(await history(connection, project)) == 4


TAMPERINGS = {
    # what somebody with every right in the database may do, and where it is found
    "another word": ("UPDATE consent_changes SET to_state = 'GRANTED' WHERE seq = 2", 2),
    "another word before": ("UPDATE consent_changes SET from_state = 'GRANTED' WHERE seq = 2", 2),
    "another purpose": ("UPDATE consent_changes SET purpose = 'EMAIL' WHERE seq = 2", 2),
    "another time": ("UPDATE consent_changes SET at = at + interval '1 microsecond' WHERE seq = 3", 3),
    "another person": ("UPDATE consent_changes SET user_id = 'eve' WHERE seq = 2", 2),
    "another source": ("UPDATE consent_changes SET source = 'letter' WHERE seq = 1", 1),
    "another actor": ("UPDATE consent_changes SET actor = 'system' WHERE seq = 4", 4),
    "another salt": ("UPDATE consent_changes SET salt = sha256(salt) WHERE seq = 4", 4),
    "another commitment": ("UPDATE consent_changes SET commitment = sha256(commitment) WHERE seq = 3", 3),
    "another id": ("UPDATE consent_changes SET consent_change_id = gen_random_uuid() WHERE seq = 3", 3),
    "another hash": ("UPDATE consent_changes SET hash = sha256(hash) WHERE seq = 4", 4),
    "one taken out": ("DELETE FROM consent_changes WHERE seq = 2", 2),
    "the first taken out": ("DELETE FROM consent_changes WHERE seq = 1", 1),
    "the last taken out": ("DELETE FROM consent_changes WHERE seq = 4", 4),
    "all taken out": ("DELETE FROM consent_changes", 1),
    "all taken out, and the end": ("TRUNCATE consent_changes; DELETE FROM consent_chains", None),
    "the end taken out": ("DELETE FROM consent_chains", 4),
    "the end moved back": (
        "UPDATE consent_chains AS e SET seq = 3, hash = c.hash FROM consent_changes AS c WHERE c.seq = 3",
        4,
    ),
    "the last taken out, and the end moved back": (
        "DELETE FROM consent_changes WHERE seq = 4;"
        " UPDATE consent_chains AS e SET seq = 3, hash = c.hash FROM consent_changes AS c WHERE c.seq = 3",
        None,
    ),
    "an erased one put back with another salt": (
        "UPDATE consent_changes SET user_id = NULL, salt = NULL, source = NULL, actor = NULL WHERE seq = 2;"
        " UPDATE consent_changes SET user_id = 'ada', salt = sha256('guessed'), source = 'app', actor = 'test'"
        " WHERE seq = 2",
        2,
    ),
    "the end moved on": ("UPDATE consent_chains SET seq = 9", 5),
    "another end": ("UPDATE consent_chains SET hash = sha256(hash)", 4),
    "two exchanged": (
        "UPDATE consent_changes SET seq = 99 WHERE seq = 2; UPDATE consent_changes SET seq = 2 WHERE seq = 3;"
        " UPDATE consent_changes SET seq = 3 WHERE seq = 99",
        2,
    ),
    "one put in": (
        "INSERT INTO consent_changes SELECT project_id, 5, gen_random_uuid(), user_id, source, actor, salt, purpose,"
        " from_state, to_state, at, commitment, hash FROM consent_changes WHERE seq = 1",
        5,
    ),
}


async def test_whoever_holds_the_database_cannot_alter_it_unseen(database_url: str) -> None:
    found: dict[str, int | None] = {}
    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)
        await a_log(connection, project)
        sound = await verify(connection, project_id=project)
        assert isinstance(sound, Sound)
        for kind, (statements, found_at) in TAMPERINGS.items():
            altering = connection.transaction()
            await altering.start()
            await connection.execute("ALTER TABLE consent_changes DISABLE TRIGGER USER")
            await connection.execute(statements)
            after = await verify(connection, project_id=project, page=2)
            found[kind] = after.seq if isinstance(after, Broken) else None
            if found_at is None:
                # Only who noted where it had come to can tell
                assert isinstance(await verify(connection, project_id=project, anchor=sound.end), Broken), kind
            await altering.rollback()
        assert await verify(connection, project_id=project) == sound
    assert found == {kind: found_at for kind, (_, found_at) in TAMPERINGS.items()}


async def test_a_chain_made_anew_is_found_by_whoever_noted_its_end(database_url: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)
        await a_log(connection, project)
        before = await verify(connection, project_id=project)
        assert isinstance(before, Sound)
        await say(connection, project, "cleo", S.GRANTED)
        assert isinstance(await verify(connection, project_id=project, anchor=before.end), Sound)

        await connection.execute("ALTER TABLE consent_changes DISABLE TRIGGER USER")
        await connection.execute("TRUNCATE consent_changes; DELETE FROM consent_chains; DELETE FROM consents")
        await a_log(connection, project)

        assert isinstance(await verify(connection, project_id=project), Sound)
        assert await verify(connection, project_id=project, anchor=before.end) == Broken(
            4, "its hash is another than was noted"
        )
        assert isinstance(await verify(connection, project_id=project, anchor=ChainEnd(5, bytes(32))), Broken)


ERASE = """UPDATE consent_changes SET user_id = NULL, salt = NULL, source = NULL, actor = NULL
WHERE project_id = $1 AND user_id = $2"""


async def test_erasure_takes_the_person_and_leaves_the_chain(database_url: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)
        await a_log(connection, project)
        before = await verify(connection, project_id=project)
        assert isinstance(before, Sound)

        await connection.execute(ERASE, project, "ann")

        assert await verify(connection, project_id=project) == Sound(before.end, 3)
        assert [row[1] for row in await history(connection, project)] == [None, "bob", None, None]
        # What was erased is still bound to its place
        await connection.execute("ALTER TABLE consent_changes DISABLE TRIGGER USER")
        await connection.execute("UPDATE consent_changes SET to_state = 'GRANTED' WHERE seq = 3")
        assert isinstance(await verify(connection, project_id=project), Broken)


async def test_those_who_add_at_once_make_one_chain(database_url: str) -> None:
    """Also the very first change, for which there is nothing to lock yet."""
    async with open_database(database_url, max_size=5) as database:
        project = await make_project(database)

        async def add(person: int) -> None:
            for state in (S.GRANTED, S.REVOKED, S.UNKNOWN):
                async with database.transaction() as connection:
                    await say(connection, project, f"u{person}", state)

        await asyncio.gather(*(add(person) for person in range(5)))

        async with database.connection() as connection:
            sound = await verify(connection, project_id=project)
        assert isinstance(sound, Sound)
        assert sound.end is not None
        assert sound.end.seq == 15


async def test_the_log_is_read_newest_first_by_person_purpose_and_time(database_url: str) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        project, other = await make_project(database), await make_project(database)
        await a_log(connection, project)
        await say(connection, other, "ann", S.GRANTED)

        async def seqs(limit: int = 10, **options: Any) -> list[int]:
            only = ConsentChangeFilter(**options.pop("only", {}))
            found = await list_consent_changes(
                connection, project_id=project, change_filter=only, limit=limit, **options
            )
            return [each.seq for each in found.changes]

        assert await seqs() == [4, 3, 2, 1]
        assert await seqs(limit=2) == [4, 3]
        assert await seqs(limit=2, after=3) == [2, 1]
        assert await seqs(limit=1, before=1, from_end=True) == [2]
        assert await seqs(only={"user_id": "ann"}) == [4, 3, 1]
        assert await seqs(only={"purposes": ("SMS", "PUSH")}) == [2]
        assert await seqs(only={"since": NOW + timedelta(days=1), "until": NOW + timedelta(days=2)}) == [3]


texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=6)
fields = st.tuples(st.binary(max_size=6), texts, texts, texts)


@given(one=fields, other=fields)
def test_no_two_words_have_one_commitment(one: tuple[bytes, str, str, str], other: tuple[bytes, str, str, str]) -> None:
    commitments = [
        commitment_of(salt=salt, user_id=user_id, source=source, actor=actor)
        for salt, user_id, source, actor in (one, other)
    ]
    assert (commitments[0] == commitments[1]) is (one == other)


words = st.tuples(st.sampled_from(["ann", "bob"]), st.sampled_from(list(P)), st.sampled_from(list(S)))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=st.lists(words, min_size=1, max_size=12), erased=st.sampled_from(["ann", "bob", None]))
async def test_whatever_is_said_the_chain_holds_and_leads_to_what_holds_now(
    said: list[tuple[str, ConsentPurpose, ConsentState]], erased: str | None, database_url: str
) -> None:
    async with open_database(database_url) as database, database.connection() as connection:
        project = await make_project(database)
        for user_id, purpose, state in said:
            await say(connection, project, user_id, state, purpose)
        found = await scan_consent_changes(connection, project_id=project, after=0, limit=1000)
        now = {(each.user_id, each.purpose): each.to_state for each in found}
        rows = await connection.fetch("SELECT user_id, purpose, state FROM consents WHERE project_id = $1", project)
        assert now == {(row["user_id"], row["purpose"]): row["state"] for row in rows}

        if erased is not None:
            await connection.execute(ERASE, project, erased)
        sound = await verify(connection, project_id=project, page=3)
        assert isinstance(sound, Sound)
        # Nothing of a change can be another, and its hash the same
        for place, change in enumerate(found):
            previous = found[place - 1].hash if place else bytes(32)
            assert hash_of(change, previous=previous) == change.hash
