"""Funnels of a real shop's six months: 31,106 page events, counted apart from this project.

The expected numbers come from a few lines that know nothing of ours: from every first step on, the earliest next step
that is still in the window, again and again; statistics.median and quantiles for the times.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import pytest

from db.analytics_terms import Period, Step
from db.database import Database
from db.funnels import Funnel, FunnelCount, FunnelOrder, count_funnel
from tests.integration.log_support import open_database
from tests.integration.shop_support import SHOP, load_shop

HOUR, DAY = 3600, 24 * 3600
YEAR = Period(datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC))
BASKET = ("catalog", "add_to_cart", "purchase")


async def count(
    database: Database,
    project: UUID,
    types: Sequence[str],
    *,
    window: int,
    order: str = "ORDERED",
    exclude: Sequence[str] = (),
) -> FunnelCount:
    async with database.connection() as connection:
        return await count_funnel(
            connection,
            project_id=project,
            funnel=Funnel(
                steps=tuple(step(name) for name in types),
                window_seconds=window,
                order=FunnelOrder(order),
                exclude=tuple(step(name) for name in exclude),
            ),
            period=YEAR,
            audience=None,
            now=YEAR.until,
        )


def step(event_type: str) -> Step:
    return Step(name=event_type, event_type=event_type, event_types=(event_type,))


def people(counted: FunnelCount) -> list[int]:
    return [each.people for each in counted.steps]


if SHOP.is_file():  # not a skip: where it is not, there is nothing to be installed

    async def test_funnels_of_a_real_shop_are_what_others_count(database_url: str) -> None:
        async with open_database(database_url) as database:
            project = await load_shop(database)

            assert people(await count(database, project, BASKET, window=DAY)) == [600, 453, 181]
            assert people(await count(database, project, BASKET, window=HOUR)) == [600, 452, 179]
            strict = ("catalog", "product_view", "add_to_cart")
            assert people(await count(database, project, strict, window=HOUR, order="STRICT")) == [600, 541, 68]
            checkout = ("cart", "shipping_details", "payment_details", "purchase")
            assert people(await count(database, project, checkout, window=HOUR)) == [489, 351, 194, 65]
            either = ("search", "wishlist_add")
            assert people(await count(database, project, either, window=HOUR, order="UNORDERED")) == [596, 340]
            paying = ("payment_details", "purchase")
            assert people(await count(database, project, paying, window=HOUR)) == [390, 210]
            failed = await count(database, project, paying, window=HOUR, exclude=["payment_error"])
            assert people(failed) == [390, 209]

            bought = (await count(database, project, ("add_to_cart", "purchase"), window=HOUR)).steps[1]
            assert (bought.people, bought.median_seconds) == (273, 663.0)
            assert bought.p90_seconds == pytest.approx(1417.8)
