"""A run filter selects the same in memory, in the lane's SQL and in that of lists."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db.database import Database
from db.run_filters import RunFilter, run_filter_sql
from db.workflow_records import NewRunUpdate, RunUpdateRecord
from db.workflow_run_log import append_run_updates, read_run_update_page
from engine.filter_index import FilterIndex
from engine.workflows.run_filters import RUN_MATCHING, compile_run_filter, run_filter_key
from tests.integration.log_support import make_project, open_database
from tests.integration.run_support import insert_runs, insert_workflow, new_run_update

EXAMPLES = 150
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
INSTANTS = tuple(NOON + timedelta(microseconds=n) for n in (-1, 0, 1))
WORKFLOWS = (UUID(int=1), UUID(int=2))
RUNS = tuple(UUID(int=n) for n in range(100, 140))
STATUSES = ("QUEUED", "RUNNING", "PAUSED", "COMPLETED", "FAILED", "CANCELLED")
WORDS = ("x", "y", "Y", "")


def some(values: Sequence[Any], most: int = 3) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(st.sampled_from(values), max_size=most).map(tuple)


FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "ids": some(RUNS, 40),
        "workflow_id": st.sampled_from((*WORKFLOWS, UUID(int=3))),
        "statuses": some(STATUSES),
        "user_id": st.sampled_from(WORDS),
        "since": st.sampled_from(INSTANTS),
        "until": st.sampled_from(INSTANTS),
    },
).map(lambda given: RunFilter(**given))


def random_updates(choice: random.Random) -> list[NewRunUpdate]:
    """One of each run, which stands as it says."""
    return [
        new_run_update(
            NOON,
            run_id=run_id,
            workflow_id=choice.choice(WORKFLOWS),
            user_id=choice.choice([None, *WORDS]),
            status=choice.choice(STATUSES),
            started_at=choice.choice(INSTANTS),
        )
        for run_id in RUNS
    ]


async def store(database: Database, project_id: UUID, updates: Sequence[NewRunUpdate]) -> tuple[RunUpdateRecord, ...]:
    """The runs that the updates are of, and the updates."""
    async with database.transaction() as connection:
        for workflow_id in WORKFLOWS:
            await insert_workflow(connection, project_id, workflow_id, now=NOON)
        runs = [
            {
                "run_id": each.run_id,
                "workflow_id": each.workflow_id,
                "user_id": each.user_id,
                "status": each.status,
                "started_at": each.started_at,
            }
            for each in updates
        ]
        await insert_runs(connection, project_id, runs, now=NOON)
        _, stored = await append_run_updates(connection, project_id=project_id, updates=updates, at=NOON)
    return stored


async def in_sql(database: Database, project_id: UUID, run_filter: RunFilter) -> tuple[list[UUID], set[UUID]]:
    """What the lane and what the table of runs hold of it."""
    async with database.connection() as connection:
        page = await read_run_update_page(
            connection, project_id=project_id, after=0, limit=1_000, run_filter=run_filter
        )
        parameters: list[Any] = [project_id]
        test = run_filter_sql(run_filter, parameters)
        rows = await connection.fetch(
            f"SELECT r.run_id FROM workflow_runs AS r WHERE r.project_id = $1 AND {test}", *parameters
        )
    return [each.run_id for each in page.updates], {row["run_id"] for row in rows}


async def test_memory_the_lane_and_the_list_select_the_same_runs(database_url: str) -> None:
    seed = secrets.randbits(32)
    loop = asyncio.get_running_loop()
    sizes: list[int] = []
    async with open_database(database_url) as database:
        project_id = await make_project(database)
        stored = await store(database, project_id, random_updates(random.Random(seed)))

        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
        @given(FILTERS)
        def agree(run_filter: RunFilter) -> None:
            matches = compile_run_filter(run_filter)
            in_memory = [each.run_id for each in stored if matches(each)]
            index: FilterIndex[str, RunFilter, RunUpdateRecord] = FilterIndex(RUN_MATCHING)
            index.add("it", run_filter)
            assert [each.run_id for each in stored if index.match(each)] == in_memory
            asked = asyncio.run_coroutine_threadsafe(in_sql(database, project_id, run_filter), loop)
            assert asked.result() == (in_memory, set(in_memory)), seed
            sizes.append(len(in_memory))

        await asyncio.to_thread(agree)
    assert any(0 < size < len(RUNS) for size in sizes)


def test_filters_that_say_the_same_are_one() -> None:
    one = RunFilter(ids=(RUNS[0], RUNS[1]), statuses=("FAILED", "QUEUED"))
    same = RunFilter(ids=(RUNS[1], RUNS[0], RUNS[1]), statuses=("QUEUED", "FAILED"))
    assert run_filter_key(one) == run_filter_key(same)
    different = [RunFilter(), RunFilter(ids=()), RunFilter(statuses=()), RunFilter(user_id=""), one]
    assert len({run_filter_key(each) for each in different}) == len(different)


async def test_what_is_stored_is_what_is_announced(database_url: str) -> None:
    step = b'{"label": "one", "number": 1}'
    async with open_database(database_url) as database:
        project_id = await make_project(database)
        updates = [new_run_update(NOON, step=step.decode(), user_id="ann"), new_run_update(NOON, status="COMPLETED")]
        async with database.transaction() as connection:
            epoch, announced = await append_run_updates(
                connection, project_id=project_id, updates=updates, at=NOON + timedelta(seconds=1)
            )
        async with database.connection() as connection:
            page = await read_run_update_page(connection, project_id=project_id, after=0, limit=10)
    assert page.updates == announced
    assert [bytes(each.step) for each in announced] == [step, b"null"]
    assert [(each.seq, each.status) for each in announced] == [(1, "RUNNING"), (2, "COMPLETED")]
    assert (page.reached, page.head.head, page.head.epoch) == (2, 2, epoch)


async def test_a_page_says_how_far_it_reaches_and_where_the_lane_stands(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.workflow_run_log.MAX_SCANNED", 10)
    async with open_database(database_url) as database:
        project_id = await make_project(database)
        await store(database, project_id, random_updates(random.Random(1)))

        async def page(after: int, limit: int, **fields: Any) -> tuple[list[int], int, int]:
            async with database.connection() as connection:
                found = await read_run_update_page(
                    connection, project_id=project_id, after=after, limit=limit, run_filter=RunFilter(**fields)
                )
            return [each.seq for each in found.updates], found.reached, found.head.head

        assert await page(0, 3) == ([1, 2, 3], 3, 40)
        assert await page(37, 10) == ([38, 39, 40], 40, 40)
        assert await page(40, 10) == ([], 40, 40)
        # No index leads to a workflow: a page looks at so many positions, and says so.
        assert await page(0, 10, workflow_id=UUID(int=9)) == ([], 10, 40)
        assert await page(35, 10, workflow_id=UUID(int=9)) == ([], 40, 40)
        # One leads to a run, and to a person.
        assert await page(0, 10, ids=(RUNS[-1],)) == ([40], 40, 40)
        assert await page(0, 10, user_id="nobody") == ([], 40, 40)
        with pytest.raises(LookupError):
            async with database.connection() as connection:
                await read_run_update_page(connection, project_id=uuid4(), after=0, limit=1)
