"""Live membership: noticed when it happens and when time passes, said once, and always what the conditions say."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db.audience_log import read_audience_change_page
from db.audience_members import find_building_projects, find_recheck_projects
from db.database import Database
from db.events import append_events
from db.records import EventRecord
from engine.audiences import checking, counting, following, keeping
from engine.audiences.saving import AudienceChange, change_audience, create_audience, delete_audience
from engine.audit import SYSTEM, Audit
from engine.consent import ConsentPurpose, ConsentState, set_consent
from engine.dispatch.ledger import record
from engine.retention import trim_project
from tests.integration.audience_support import AudienceWorker, changes, evaluated, happened, kept
from tests.integration.log_support import make_project, new_event, open_database, whole_log

START = datetime(2026, 2, 27, 22, 30, tzinfo=UTC)
DAY = timedelta(days=1)
PRO = {"path": "profile.traits.plan", "op": "EQ", "value": "pro"}
BUYER = happened("order.placed", "GTE", 2, withinSeconds=3600)
AGREES = {"path": "profile.consent.email", "op": "EQ", "value": "GRANTED"}
BIRTHDAY = {"path": "profile.traits.born", "op": "IS_ANNIVERSARY"}


class MovedClock:
    """Time that only tests move."""

    def __init__(self) -> None:
        self.time = START

    def now(self) -> datetime:
        return self.time


class Shop:
    """A project with audiences, people, and a worker."""

    def __init__(self, database: Database, project_id: UUID, clock: MovedClock) -> None:
        self.database = database
        self.project_id = project_id
        self.clock = clock
        self.worker = AudienceWorker(database, clock)
        self.people: set[str] = set()
        self._told = 0

    async def audience(self, name: str, *where: Any) -> UUID:
        given = AudienceChange(name, where)
        made, errors = await create_audience(
            self.database, project_id=self.project_id, given=given, audit=Audit(SYSTEM, self.clock.now())
        )
        assert made is not None, errors
        return made.audience_id

    async def change(self, audience_id: UUID, *where: Any, name: str | None = None) -> None:
        changed, errors = await change_audience(
            self.database,
            project_id=self.project_id,
            audience_id=audience_id,
            given=AudienceChange(name, where),
            audit=Audit(SYSTEM, self.clock.now()),
        )
        assert changed is not None, errors

    async def did(
        self,
        user_id: str,
        event_type: str = "order.placed",
        *,
        ago: timedelta = timedelta(),
        traits: dict[str, Any] | None = None,
        context: dict[str, Any] | None = None,
        **properties: Any,
    ) -> None:
        self.people.add(user_id)
        # Of traits the later ones hold: what is told at one time is told in this order.
        self._told += 0 if traits is None else 1
        said = {**(context or {}), **({} if traits is None else {"traits": traits})}
        event = new_event(
            str(uuid4()),
            event_type=event_type,
            timestamp=self.clock.now() - ago + timedelta(microseconds=self._told if traits is not None else 0),
            user_id=user_id,
            properties=json.dumps(properties),
            context=json.dumps(said),
            traits=None if traits is None else json.dumps(traits),
        )
        async with self.database.transaction() as connection:
            await append_events(connection, project_id=self.project_id, batch_token=1, events=[event])

    async def says(self, user_id: str, state: ConsentState) -> None:
        async with self.database.transaction() as connection:
            said = await set_consent(
                connection,
                project_id=self.project_id,
                user_id=user_id,
                purpose=ConsentPurpose.EMAIL,
                state=state,
                source="test",
                actor="test",
                now=self.clock.now(),
            )
            events = [] if said is None else [said.event]
            await record(connection, project_id=self.project_id, transitions=[], events=events, now=self.clock.now())

    async def agree(self) -> None:
        """What is kept is what the conditions say."""
        await self.worker.catch_up(self.project_id)
        expected = await evaluated(self.database, self.project_id, sorted(self.people), self.clock.now())
        assert await kept(self.database, self.project_id) == expected

    async def events(self, *types: str) -> list[EventRecord]:
        async with self.database.connection() as connection:
            return [each for each in await whole_log(connection, self.project_id) if each.event_type in types]

    async def due(self) -> bool:
        async with self.database.connection() as connection:
            return self.project_id in await find_recheck_projects(connection, now=self.clock.now())


@pytest.fixture
async def shop(module_database_url: str) -> AsyncIterator[Shop]:
    async with open_database(module_database_url) as database:
        yield Shop(database, await make_project(database), MovedClock())


async def test_who_meets_the_conditions_enters_and_who_ceases_to_leaves_each_said_once(shop: Shop) -> None:
    await shop.audience("Pros", PRO)
    await shop.agree()

    await shop.did("ada", "user.identified", traits={"plan": "pro"})
    await shop.agree()
    await shop.did("ada", "page.viewed")
    await shop.agree()
    await shop.did("ada", "user.identified", traits={"plan": "free"})
    await shop.agree()

    assert await changes(shop.database, shop.project_id) == [("ada", True), ("ada", False)]
    entered, exited = await shop.events("audience.entered", "audience.exited")
    assert (entered.event_type, exited.event_type) == ("audience.entered", "audience.exited")
    assert (entered.module, entered.user_id) == ("audience", "ada")
    assert json.loads(bytes(entered.properties))["audienceName"] == "Pros"
    context = json.loads(bytes(entered.context))
    assert (context["cause"][:4], context["depth"]) == ("evt_", 1)


async def test_a_window_is_left_at_the_very_moment_and_nobody_else_is_looked_at(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.audience("Buyers", BUYER)
    await shop.did("ada", ago=timedelta(minutes=10))
    await shop.did("ada")
    await shop.did("bob")
    await shop.agree()
    assert await kept(shop.database, shop.project_id) == {("Buyers", "ada")}

    looked_at: list[str] = []
    read_people = keeping.read_people

    async def look(connection: asyncpg.Connection, **asked: Any) -> Any:
        looked_at.extend(asked["user_ids"])
        return await read_people(connection, **asked)

    monkeypatch.setattr(keeping, "read_people", look)
    shop.clock.time = START + timedelta(minutes=50)
    assert not await shop.due()
    await shop.agree()
    assert looked_at == []
    shop.clock.time += timedelta(microseconds=1)
    assert await shop.due()
    await shop.agree()

    assert looked_at == ["ada"]
    assert await changes(shop.database, shop.project_id) == [("ada", True), ("ada", False)]
    [exited] = await shop.events("audience.exited")
    assert json.loads(bytes(exited.context))["cause"][:4] == "aud_"


async def test_silence_lets_people_in(shop: Shop) -> None:
    await shop.audience("Away", happened("app.opened", "EQ", 0, withinSeconds=7 * 24 * 3600))
    await shop.did("ada", "app.opened")
    await shop.did("bob", "page.viewed")
    await shop.agree()
    assert await kept(shop.database, shop.project_id) == {("Away", "bob")}

    shop.clock.time += 7 * DAY + timedelta(microseconds=1)
    await shop.agree()
    assert await kept(shop.database, shop.project_id) == {("Away", "ada"), ("Away", "bob")}


async def test_a_birthday_begins_and_ends_at_midnight_where_the_person_is(shop: Shop) -> None:
    await shop.audience("Birthday", BIRTHDAY)
    # It is 28 February in Berlin half an hour later, and the leap day's person has no other day in 2026.
    await shop.did("ada", "user.identified", traits={"born": "2000-02-29", "timezone": "Europe/Berlin"})
    await shop.did("bob", "user.identified", traits={"born": "2000-02-28"})
    await shop.did("cy", "user.identified", traits={"born": "2000-13-45", "timezone": "nowhere"})
    await shop.agree()
    assert await kept(shop.database, shop.project_id) == set()

    days: list[tuple[int, set[str]]] = []
    for minutes in (29, 30, 89, 90, 24 * 60 + 29, 24 * 60 + 30, 24 * 60 + 90):
        shop.clock.time = START + timedelta(minutes=minutes)
        await shop.agree()
        days.append((minutes, {user_id for _, user_id in await kept(shop.database, shop.project_id)}))
    assert days == [
        (29, set()),
        (30, {"ada"}),
        (89, {"ada"}),
        (90, {"ada", "bob"}),
        (24 * 60 + 29, {"ada", "bob"}),
        (24 * 60 + 30, {"bob"}),
        (24 * 60 + 90, set()),
    ]
    async with shop.database.connection() as connection:
        times = await connection.fetch(
            "SELECT recheck_at FROM audience_rechecks WHERE project_id = $1 ORDER BY 1", shop.project_id
        )
    assert [row["recheck_at"].date().isoformat() for row in times] == ["2027-02-27", "2027-02-28"]


async def test_consent_and_being_new_move_people_too(shop: Shop) -> None:
    await shop.audience("Agreeing", AGREES)
    await shop.audience("Strangers", {"not": {"path": "profile.traits.plan", "op": "EXISTS"}})
    await shop.agree()
    await shop.did("ada", "page.viewed")
    await shop.agree()
    assert await kept(shop.database, shop.project_id) == {("Strangers", "ada")}

    await shop.says("ada", ConsentState.GRANTED)
    await shop.agree()
    assert await kept(shop.database, shop.project_id) == {("Strangers", "ada"), ("Agreeing", "ada")}
    await shop.says("ada", ConsentState.REVOKED)
    await shop.agree()
    assert await kept(shop.database, shop.project_id) == {("Strangers", "ada")}
    # What was said is taken back: that is a word, too
    await shop.says("ada", ConsentState.GRANTED)
    await shop.agree()
    await shop.says("ada", ConsentState.UNKNOWN)
    await shop.agree()
    assert await kept(shop.database, shop.project_id) == {("Strangers", "ada")}


async def test_saving_looks_at_everybody_in_steps_and_says_it_without_events(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "STEP_PEOPLE", 2)
    for number in range(5):
        await shop.did(f"user-{number}", "user.identified", traits={"plan": "pro" if number % 2 else "free"})
    audience_id = await shop.audience("Pros", PRO)
    async with shop.database.connection() as connection:
        assert shop.project_id in await find_building_projects(connection)
    assert await shop.worker.checking.go_on(shop.project_id)

    # What happens between two steps is not lost, on either side of where the build is.
    await shop.did("user-0", "user.identified", traits={"plan": "pro"})
    await shop.did("user-4", "user.identified", traits={"plan": "pro"})
    await shop.worker.follow(shop.project_id)
    await shop.agree()
    assert {user_id for _, user_id in await kept(shop.database, shop.project_id)} == {
        "user-0",
        "user-1",
        "user-3",
        "user-4",
    }
    assert len(await shop.events("audience.entered")) == 2
    assert len(await changes(shop.database, shop.project_id)) == 4

    await shop.change(audience_id, {"not": PRO})
    await shop.agree()
    assert {user_id for _, user_id in await kept(shop.database, shop.project_id)} == {"user-2"}
    assert len(await shop.events("audience.entered", "audience.exited")) == 2
    async with shop.database.connection() as connection:
        assert shop.project_id not in await find_building_projects(connection)


async def test_of_one_that_was_deleted_nothing_is_kept(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "STEP_PEOPLE", 2)
    audience_id = await shop.audience("Buyers", happened("order.placed", "GTE", 1, withinSeconds=3600))
    for number in range(5):
        await shop.did(f"user-{number}")
    await shop.agree()
    assert len(await kept(shop.database, shop.project_id)) == 5

    await delete_audience(
        shop.database, project_id=shop.project_id, audience_id=audience_id, audit=Audit(SYSTEM, shop.clock.now())
    )
    await shop.did("user-9")
    await shop.worker.catch_up(shop.project_id)
    assert await kept(shop.database, shop.project_id) == set()
    shop.clock.time += DAY
    await shop.worker.check(shop.project_id)
    assert not await shop.due()
    assert len(await changes(shop.database, shop.project_id)) == 5


async def test_a_follower_that_dies_says_nothing_twice(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    await shop.audience("Pros", PRO)
    await shop.agree()
    await shop.did("ada", "user.identified", traits={"plan": "pro"})
    with monkeypatch.context() as patched:

        async def die(*_: Any, **__: Any) -> Any:
            raise RuntimeError("killed before the commit")

        patched.setattr(keeping, "record", die)
        with pytest.raises(RuntimeError, match="killed"):
            await shop.worker.follow(shop.project_id)
    assert await kept(shop.database, shop.project_id) == set()

    other = AudienceWorker(shop.database, shop.clock)
    await asyncio.gather(*(worker.check(shop.project_id) for worker in (shop.worker, other)))
    await shop.agree()
    assert await changes(shop.database, shop.project_id) == [("ada", True)]
    assert len(await shop.events("audience.entered")) == 1


async def test_two_that_drive_one_another_come_to_an_end(shop: Shop) -> None:
    """Entering makes an event that makes one leave, and so on: the depth of events ends it."""
    await shop.audience("Odd", happened("audience.*", "IN", list(range(0, 1000, 2))))
    await shop.did("ada", "page.viewed")
    await shop.agree()
    assert len(await shop.events("audience.entered", "audience.exited")) <= keeping.MAX_DEPTH
    await shop.agree()


async def test_a_page_that_touches_too_much_is_taken_in_parts(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "MAX_PAIRS", 3)
    for name in ("A", "B"):
        await shop.audience(name, happened("order.placed", "GTE", 1))
    await shop.agree()
    for number in range(5):
        await shop.did(f"user-{number}")
    await shop.agree()
    assert len(await kept(shop.database, shop.project_id)) == 10


async def test_what_retention_takes_from_counts_is_noticed(shop: Shop) -> None:
    await shop.audience("Buyers", happened("order.placed", "GTE", 1))
    await shop.did("ada")
    await shop.agree()
    assert await trim_project(shop.database, project_id=shop.project_id, older_than=timedelta(seconds=-60)) > 0
    await shop.agree()
    assert await kept(shop.database, shop.project_id) == set()


async def test_changes_are_kept_as_long_as_events_and_then_their_cursors_expire(shop: Shop) -> None:
    await shop.audience("Pros", PRO)
    await shop.agree()
    for number in range(5):
        await shop.did(f"user-{number}", "user.identified", traits={"plan": "pro"})
    await shop.agree()
    assert len(await changes(shop.database, shop.project_id)) == 5

    await trim_project(shop.database, project_id=shop.project_id, older_than=4000 * DAY)
    assert len(await changes(shop.database, shop.project_id)) == 5
    await trim_project(shop.database, project_id=shop.project_id, older_than=timedelta(seconds=-60))
    async with shop.database.connection() as connection:
        page = await read_audience_change_page(connection, project_id=shop.project_id, after=0, limit=10)
    assert (page.changes, page.head.first_seq, page.head.head) == ((), 6, 5)

    await shop.did("user-0", "user.identified", traits={"plan": "free"})
    await shop.agree()
    async with shop.database.connection() as connection:
        page = await read_audience_change_page(connection, project_id=shop.project_id, after=5, limit=10)
    assert [(each.seq, each.user_id, each.entered) for each in page.changes] == [(6, "user-0", False)]


async def test_whoever_has_too_many_events_to_be_remembered_is_asked_about_in_sql(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "MAX_EVENTS", 3)
    monkeypatch.setattr(counting, "MAX_PEOPLE", 1)
    await shop.audience("Even", happened("order.placed", "IN", [2, 4, 6, 8]))
    await shop.audience("Spenders", happened("order.*", "GT", 5, sum="event.properties.amount", withinSeconds=3600))
    for _ in range(9):
        for user_id in ("ada", "bob"):
            await shop.did(user_id, amount=1.5)
        await shop.agree()
    assert {name for name, _ in await kept(shop.database, shop.project_id)} == {"Spenders"}
    shop.clock.time += timedelta(hours=2)
    await shop.agree()
    assert await kept(shop.database, shop.project_id) == set()


async def test_of_whoever_was_erased_nothing_is_remembered(shop: Shop) -> None:
    await shop.audience("Buyers", happened("order.placed", "GTE", 2))
    await shop.did("ada")
    await shop.agree()
    async with shop.database.transaction() as connection:
        for table in ("events", "audience_members", "profiles"):
            await connection.execute(
                f"DELETE FROM {table} WHERE project_id = $1 AND user_id = 'ada'",
                shop.project_id,
            )
    await shop.did("ada")
    await shop.agree()
    assert await kept(shop.database, shop.project_id) == set()


async def test_after_an_erasure_people_are_read_anew(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []
    read_counted = counting.read_counted

    async def read(connection: asyncpg.Connection, **given: Any) -> Any:
        asked.extend(given["after"])
        return await read_counted(connection, **given)

    monkeypatch.setattr(counting, "read_counted", read)
    await shop.audience("Buyers", happened("order.placed", "GTE", 9))
    await shop.agree()
    for _ in range(2):
        await shop.did("ada")
        await shop.agree()
    assert [after > 0 for _, after in asked] == [False, True]

    await shop.did("bob", following.ERASED)
    await shop.agree()
    await shop.did("ada")
    await shop.agree()
    assert asked[-1] == ("ada", 0)


USERS = st.sampled_from(["ada", "bob", "cy"])
WINDOWS = st.sampled_from([60, 3600, 86_400])
COUNTS = st.builds(
    lambda op, value, within, total, where: happened(
        "order.*",
        op,
        [value, value + 2] if op in ("IN", "NOT_IN") else value,
        **({} if within is None else {"withinSeconds": within}),
        **({"sum": "event.properties.amount"} if total else {}),
        **({"where": [{"path": "event.properties.amount", "op": "GT", "value": 2}]} if where else {}),
    ),
    st.sampled_from(["GTE", "GT", "LT", "LTE", "EQ", "NE", "IN", "NOT_IN"]),
    st.sampled_from([0, 1, 2, 2.5]),
    st.none() | WINDOWS,
    st.booleans(),
    st.booleans(),
)
TESTS = st.one_of(
    COUNTS,
    COUNTS,
    st.sampled_from(
        [
            PRO,
            AGREES,
            BIRTHDAY,
            {"path": "profile.lastSeenAt", "op": "GT", "value": "2026-02-28T00:00:00Z"},
            {"path": "profile.createdAt", "op": "IS_ANNIVERSARY"},
            {"path": "profile.traits", "op": "EQ", "value": {}},
            {"path": "profile.userId", "op": "NE", "value": "bob"},
        ]
    ),
)
CONDITIONS = st.recursive(
    TESTS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=2).map(lambda some: {"any": some}),
        st.lists(inner, min_size=1, max_size=2).map(lambda some: {"all": some}),
        inner.map(lambda one: {"not": one}),
    ),
    max_leaves=3,
)
STEPS = st.one_of(
    st.tuples(st.just("did"), USERS, st.sampled_from([0, 30, 3601]), st.integers(0, 4)),
    st.tuples(st.just("did"), USERS, st.sampled_from([0, 30, 3601]), st.integers(0, 4)),
    st.tuples(
        st.just("identify"),
        USERS,
        st.dictionaries(
            st.sampled_from(["plan", "born", "timezone"]),
            st.sampled_from(["pro", "2000-02-28", "2000-02-29", "2000-03-01", "Asia/Tokyo", "America/Havana", None]),
            max_size=2,
        ),
    ),
    st.tuples(st.just("says"), USERS, st.sampled_from(list(ConsentState))),
    st.tuples(st.just("wait"), st.sampled_from([1, 61, 3600, 5400, 86_400, 20 * 86_400])),
    st.tuples(st.just("follow")),
    st.tuples(st.just("check")),
    st.tuples(st.just("save"), CONDITIONS),
)
EXAMPLES = int(os.environ.get("AUDIENCE_EXAMPLES", "25"))
"""More for a thorough run; each costs about a tenth of a second."""


async def test_what_is_kept_is_what_the_conditions_say_after_any_history(module_database_url: str) -> None:
    loop = asyncio.get_running_loop()

    async with open_database(module_database_url) as database:

        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(CONDITIONS, min_size=1, max_size=4), st.lists(STEPS, min_size=1, max_size=14))
        def agree(audiences: list[Any], steps: list[Any]) -> None:
            asyncio.run_coroutine_threadsafe(_live(database, audiences, steps), loop).result()

        await asyncio.to_thread(agree)


async def _live(database: Database, audiences: list[Any], steps: list[Any]) -> None:
    shop = Shop(database, await make_project(database), MovedClock())
    made = [await shop.audience(f"Audience {number}", where) for number, where in enumerate(audiences)]
    for step in steps:
        match step:
            case ("did", user_id, ago, amount):
                await shop.did(user_id, "order.placed", ago=timedelta(seconds=ago), amount=amount)
            case ("identify", user_id, traits):
                await shop.did(user_id, "user.identified", traits=traits)
            case ("says", user_id, state) if user_id in shop.people:
                await shop.says(user_id, state)
            case ("wait", seconds):
                shop.clock.time += timedelta(seconds=seconds)
            case ("follow",):
                await shop.worker.follow(shop.project_id)
            case ("check",):
                await shop.worker.check(shop.project_id)
            case ("save", where):
                await shop.change(made[0], where)
    await shop.agree()
    for seconds in (59, 3_541, 82_800, 300 * 86_400):
        shop.clock.time += timedelta(seconds=seconds)
        await shop.agree()
    # The lane tells of exactly what is kept.
    told: dict[tuple[UUID, str], bool] = {}
    async with database.connection() as connection:
        rows = await connection.fetch(
            "SELECT audience_id, user_id, entered FROM audience_changes WHERE project_id = $1 ORDER BY seq",
            shop.project_id,
        )
    for row in rows:
        pair = (row["audience_id"], row["user_id"])
        assert told.get(pair, False) != row["entered"]
        told[pair] = row["entered"]
    assert sum(told.values()) == len(await kept(database, shop.project_id))
