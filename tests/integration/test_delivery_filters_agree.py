"""A delivery filter selects the same in memory, in the lane's SQL and in that of lists."""

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
from db.delivery_filters import DeliveryFilter, delivery_filter_sql
from db.delivery_log import read_transition_page
from db.delivery_records import NewDelivery
from db.records import Lane
from engine.dispatch.filters import compile_delivery_filter
from engine.dispatch.ledger import create_deliveries
from tests.integration.delivery_support import new_delivery
from tests.integration.log_support import make_project, open_database

EXAMPLES = 150
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
INSTANTS = tuple(NOON + timedelta(microseconds=n) for n in (-1, 0, 1))
IDS = (UUID(int=1), UUID(int=2))
DELIVERIES = tuple(UUID(int=n) for n in range(100, 140))
TYPES = ("order.placed", "order.paid", "push.sent", "a.b.failed", "order", "x_y.z%", "xay.zb", "Order.Placed")
PATTERNS = (*TYPES, "order.*", "*.failed", "*", "*.*", "a.*.failed", "*d", "o*", "**", "x_y.*", "*z%", "", "*\\*")
CHANNELS = ("PUSH", "EMAIL", "SMS", "WEBHOOK")
STATUSES = ("QUEUED", "SCHEDULED", "SUPPRESSED", "FAILED")
WORDS = ("x", "y", "Y", "")


def some(values: Sequence[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(st.sampled_from(values), max_size=3).map(tuple)


FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "ids": st.lists(st.sampled_from(DELIVERIES), max_size=40).map(tuple),
        "batch_id": st.sampled_from(IDS),
        "channels": some(CHANNELS),
        "statuses": some((*STATUSES, "SENT")),
        "user_id": st.sampled_from(WORDS),
        "workflow_id": st.sampled_from(IDS),
        "workflow_run_id": st.sampled_from(IDS),
        "endpoint_id": st.sampled_from(IDS),
        "event_types": some(PATTERNS),
        "error_codes": some(WORDS),
        "since": st.sampled_from(INSTANTS),
        "until": st.sampled_from(INSTANTS),
        "of_runs": st.booleans(),
    },
).map(lambda given: DeliveryFilter(**given))


def random_deliveries(choice: random.Random) -> list[NewDelivery]:
    return [
        new_delivery(
            NOON,
            delivery_id=delivery_id,
            batch_id=choice.choice([None, *IDS]),
            channel=choice.choice(CHANNELS),
            status=choice.choice(STATUSES),
            user_id=choice.choice([None, *WORDS]),
            workflow_id=choice.choice([None, *IDS]),
            workflow_run_id=choice.choice([None, *IDS]),
            endpoint_id=choice.choice([None, *IDS]),
            event_type=choice.choice([None, *TYPES]),
            error_code=choice.choice([None, *WORDS]),
            created_at=choice.choice(INSTANTS),
        )
        for delivery_id in DELIVERIES
    ]


async def in_sql(database: Database, project_id: UUID, delivery_filter: DeliveryFilter) -> tuple[list[UUID], set[UUID]]:
    """What the lane and what the table of deliveries hold of it."""
    async with database.connection() as connection:
        page = await read_transition_page(
            connection, project_id=project_id, after=0, limit=1_000, delivery_filter=delivery_filter
        )
        parameters: list[Any] = [project_id]
        test = delivery_filter_sql(delivery_filter, parameters)
        rows = await connection.fetch(
            f"SELECT d.delivery_id FROM deliveries AS d WHERE d.project_id = $1 AND {test}", *parameters
        )
    return [each.delivery_id for each in page.transitions], {row["delivery_id"] for row in rows}


async def test_memory_the_lane_and_the_list_select_the_same_deliveries(database_url: str) -> None:
    seed = secrets.randbits(32)
    loop = asyncio.get_running_loop()
    sizes: list[int] = []
    async with open_database(database_url) as database:
        project_id = await make_project(database)
        async with database.transaction() as connection:
            told = await create_deliveries(
                connection, project_id=project_id, deliveries=random_deliveries(random.Random(seed)), now=NOON
            )
        [transitions] = [each.items for each in told if each.lane == Lane.DELIVERIES]

        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
        @given(FILTERS)
        def agree(delivery_filter: DeliveryFilter) -> None:
            matches = compile_delivery_filter(delivery_filter)
            in_memory = [each.delivery_id for each in transitions if matches(each)]  # type: ignore[attr-defined, arg-type]
            asked = asyncio.run_coroutine_threadsafe(in_sql(database, project_id, delivery_filter), loop)
            assert asked.result() == (in_memory, set(in_memory)), seed
            sizes.append(len(in_memory))

        await asyncio.to_thread(agree)
    assert any(0 < size < len(DELIVERIES) for size in sizes)


async def test_a_page_says_how_far_it_reaches_and_where_the_lane_stands(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.delivery_log.MAX_SCANNED", 10)
    async with open_database(database_url) as database:
        project_id = await make_project(database)
        async with database.transaction() as connection:
            deliveries = random_deliveries(random.Random(1))
            await create_deliveries(connection, project_id=project_id, deliveries=deliveries, now=NOON)

        async def page(after: int, limit: int, **fields: Any) -> tuple[list[int], int, int]:
            async with database.connection() as connection:
                found = await read_transition_page(
                    connection,
                    project_id=project_id,
                    after=after,
                    limit=limit,
                    delivery_filter=DeliveryFilter(**fields),
                )
            return [each.seq for each in found.transitions], found.reached, found.head.head

        assert await page(0, 3) == ([1, 2, 3], 3, 40)
        assert await page(37, 10) == ([38, 39, 40], 40, 40)
        assert await page(40, 10) == ([], 40, 40)
        # No index leads to a batch: a page looks at so many positions, and says so.
        assert await page(0, 10, batch_id=UUID(int=9)) == ([], 10, 40)
        assert await page(35, 10, batch_id=UUID(int=9)) == ([], 40, 40)
        # One leads to a delivery, and to a person.
        assert await page(0, 10, ids=(DELIVERIES[-1],)) == ([40], 40, 40)
        assert await page(0, 10, user_id="nobody") == ([], 40, 40)
        with pytest.raises(LookupError):
            async with database.connection() as connection:
                await read_transition_page(connection, project_id=uuid4(), after=0, limit=1)
