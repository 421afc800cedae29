"""Whatever workflows there are and whatever happens: the runs that begin are those that a look at everything finds.

`naively` knows no index, no page and no bulk: it asks every workflow about every event, one after another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec
from asyncpg.connection import LoggedQuery
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db.database import Database
from db.filters import Condition
from db.profiles import read_profiles_by_user
from db.records import EventRecord, ProfileRecord
from db.workflows import bump_generation
from engine.conditions import matches
from engine.dispatch.ledger import MAX_DEPTH
from engine.webhooks.follower import depth_of
from engine.wildcards import fits, split_pattern
from engine.workflows.conditions import Subject, count_passes, counts_in, trigger_matches
from engine.workflows.definition import ReentryPolicy, Trigger
from engine.workflows.definitions import Definitions
from engine.workflows.follower import Triggers
from engine.workflows.matching import TriggerCache
from tests.integration.log_support import make_project, new_event, open_database
from tests.integration.trigger_support import Stage, conditions, open_stage

EXAMPLES = 25
USERS = ("ada", "bob", None)
TYPES = ("order.placed", "order.paid", "user.signed_up", "auth.signed_up", "a")
TRIGGERS = (*TYPES, "*", "order.*", "*.signed_up", "*d", "never")
COUNTED: list[dict[str, Any]] = [
    {"eventType": "order.placed"},
    {"eventType": "order.*", "withinSeconds": 3600},
    {"eventType": "*", "where": [{"path": "event.properties.n", "op": "GT", "value": 1}]},
    {"eventType": "order.placed", "sum": "event.properties.n"},
]
TESTS = st.one_of(
    st.builds(
        lambda op, value: {"path": "event.properties.n", "op": op, "value": value},
        st.sampled_from(["EQ", "NE", "GT", "LTE"]),
        st.integers(0, 3),
    ),
    st.sampled_from(
        [
            {"path": "profile.traits.plan", "op": "EQ", "value": "pro"},
            {"path": "profile.userId", "op": "NOT_EXISTS"},
            {"path": "event.userId", "op": "EXISTS"},
        ]
    ),
    st.builds(
        lambda events, op, value: {"events": events, "op": op, "value": value},
        st.sampled_from(COUNTED),
        st.sampled_from(["EQ", "GTE", "LT"]),
        st.integers(0, 3),
    ),
)
FILTERS = st.lists(
    st.one_of(
        TESTS,
        st.builds(lambda inner: {"any": inner}, st.lists(TESTS, min_size=1, max_size=2)),
        st.builds(lambda inner: {"not": inner}, TESTS),
    ),
    max_size=2,
)
WORKFLOWS = st.lists(
    st.tuples(st.sampled_from(TRIGGERS), FILTERS, st.sampled_from(list(ReentryPolicy))), min_size=1, max_size=5
)
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(TYPES), st.sampled_from(USERS), st.integers(0, 3), st.sampled_from([0, 0, MAX_DEPTH + 1, 11])
    ),
    min_size=1,
    max_size=8,
)


class World(msgspec.Struct, frozen=True):
    """What there was when the log was followed."""

    triggers: dict[Any, Trigger]
    events: Sequence[EventRecord]
    profiles: dict[str, ProfileRecord]


def naively(world: World) -> list[tuple[Any, int]]:
    begun: list[tuple[Any, int]] = []
    entered: set[tuple[Any, str]] = set()
    for event in world.events:
        profile = None if event.user_id is None else world.profiles[event.user_id]
        for workflow_id in sorted(world.triggers):
            trigger = world.triggers[workflow_id]
            subject = Subject(event=event, profile=profile, now=event.received_at)
            counted = tuple((test, counts(test, event, world.events)) for test in counts_in(trigger.filters))
            if depth_of(event) > MAX_DEPTH + 1:
                continue
            if not trigger_matches(trigger, msgspec.structs.replace(subject, counted=counted)):
                continue
            is_kept_out = trigger.reentry is not ReentryPolicy.ALWAYS and (workflow_id, event.user_id) in entered
            if is_kept_out:
                continue
            begun.append((workflow_id, event.seq))
            # What has failed from the start goes on no more.
            if event.user_id is not None and (
                trigger.reentry is ReentryPolicy.ONCE_PER_USER or depth_of(event) <= MAX_DEPTH
            ):
                entered.add((workflow_id, event.user_id))
    return begun


def counts(test: Condition, event: EventRecord, events: Sequence[EventRecord]) -> bool:
    assert test.events is not None
    found = [
        each
        for each in events
        if event.user_id is not None
        and each.user_id == event.user_id
        and each.seq <= event.seq
        and any(fits(each.event_type, split_pattern(name)) for name in test.events.event_types)
        and matches(test.events.where, each)
    ]
    if test.events.sum is None:
        return count_passes(test, len(found))
    return count_passes(test, sum(int(Decimal(msgspec.json.decode(each.properties)["n"])) for each in found))


async def follow(
    database: Database,
    url: str,
    workflows: list[tuple[str, list[dict[str, Any]], ReentryPolicy]],
    happened: list[tuple[str, str | None, int, int]],
) -> tuple[list[tuple[Any, int | None]], World]:
    stage = Stage(database, await make_project(database), url)
    triggers = {}
    for event_type, filters, reentry in workflows:
        workflow_id = await stage.workflow(event_type, *filters, reentry=reentry)
        triggers[workflow_id] = Trigger(event_type=event_type, filters=conditions(*filters), reentry=reentry)
    await stage.append(
        *(
            new_event(
                f"e{number}",
                event_type=event_type,
                user_id=user_id,
                properties=f'{{"n":{n}}}',
                context=f'{{"depth":{depth}}}',
                traits='{"plan":"pro"}' if user_id == "ada" else None,
            )
            for number, (event_type, user_id, n, depth) in enumerate(happened)
        )
    )
    events = [each for each in await stage.events("") if each.seq <= len(happened)]
    async with database.connection() as connection:
        profiles = await read_profiles_by_user(connection, project_id=stage.project_id, user_ids=["ada", "bob"])
    await stage.follow()
    started = [each for each in await stage.started() if each[1] is not None and each[1] <= len(happened)]
    return started, World(triggers, events, {profile.user_id: profile for profile in profiles})


async def test_the_runs_that_begin_are_those_that_a_look_at_everything_finds(database_url: str) -> None:
    loop = asyncio.get_running_loop()
    sizes: list[int] = []
    async with open_database(database_url) as database:

        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
        @given(WORKFLOWS, EVENTS)
        def agree(
            workflows: list[tuple[str, list[dict[str, Any]], ReentryPolicy]],
            happened: list[tuple[str, str | None, int, int]],
        ) -> None:
            done = asyncio.run_coroutine_threadsafe(follow(database, database_url, workflows, happened), loop)
            started, world = done.result()
            assert started == naively(world)
            sizes.append(len(started))

        await asyncio.to_thread(agree)
    assert max(sizes) > 3


async def test_a_page_costs_as_many_statements_whatever_the_number_of_workflows(module_database_url: str) -> None:
    """One row is read while nothing has changed, and what starts nothing reads nothing else."""
    asked = []
    for others in (5, 2_000):
        async with open_stage(module_database_url) as stage:
            await stage.workflow("order.placed", {"path": "profile.userId", "op": "EXISTS"})
            async with stage.database.connection() as connection:
                await connection.execute(MANY, stage.project_id, others)
                await bump_generation(connection, project_id=stage.project_id)
            for name in ("order.placed", "order.paid"):
                await stage.append(*(new_event(f"{name}{n}", event_type=name, user_id=f"u{n}") for n in range(20)))
            placed, paid = await stage.events("order.placed"), await stage.events("order.paid")
            triggers = Triggers(TriggerCache(), Definitions())
            await statements_of(stage, triggers, placed)

            asked.append((await statements_of(stage, triggers, paid), await statements_of(stage, triggers, placed)))
            assert len(await stage.runs()) == 2 * len(placed)

    assert asked[0] == asked[1]
    # The generation; and then people, workflows, consents, the project, profiles, runs, and the heads of two lanes.
    assert asked[0] == (1, 9)


MANY = """
    WITH made AS (
        INSERT INTO workflows (project_id, workflow_id, name, is_active, version, created_at, updated_at)
        SELECT $1, gen_random_uuid(), 'other ' || number, true, 1, now(), now()
        FROM generate_series(1, $2) AS number
        RETURNING project_id, workflow_id, name
    )
    INSERT INTO workflow_versions (project_id, workflow_id, version, definition, created_at)
    SELECT project_id, workflow_id, 1, json_build_object(
        'name', name, 'trigger', json_build_object('event_type', name), 'steps', json_build_array()
    ), now()
    FROM made
"""


async def statements_of(stage: Stage, triggers: Triggers, events: Sequence[EventRecord]) -> int:
    """How many statements a page of events costs."""
    asked: list[LoggedQuery] = []
    async with stage.database.transaction() as connection:
        with connection.query_logger(asked.append):
            await triggers.follow(connection, project_id=stage.project_id, items=events, now=stage.now)
    return len(asked)
