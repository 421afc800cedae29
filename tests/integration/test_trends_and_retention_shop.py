"""Retention and trends of a real shop's six months, counted apart from this project.

The expected numbers come from a few lines that know nothing of ours: sets of people by calendar month, by week counted
in days from a Monday, and by day of a clock in New York.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from db.database import Database
from engine.analytics.retention import answer_retention, read_retention_input
from engine.analytics.trends import TrendReport, answer_trend, read_trend_input
from tests.integration.log_support import open_database
from tests.integration.shop_support import SHOP, load_shop

NOW = datetime(2024, 7, 1, tzinfo=UTC)


async def retained(database: Database, project: UUID, start: str, back: str, **asked: Any) -> list[tuple[int, ...]]:
    given = {"startEvent": {"eventType": start}, "returnEvent": {"eventType": back}, **asked}
    async with database.connection() as connection:
        question = read_retention_input(given, now=NOW)
        cohorts = await answer_retention(connection, project_id=project, asked=question, now=NOW)
    return [cohort.returned for cohort in cohorts]


async def trend(database: Database, project: UUID, **asked: Any) -> TrendReport:
    given = {"event": {"eventType": "purchase"}, **asked}
    async with database.connection() as connection:
        return await answer_trend(connection, project_id=project, asked=read_trend_input(given, now=NOW), now=NOW)


def numbers(report: TrendReport) -> dict[str | None, list[float]]:
    return {series.group: [point.value for point in series.points] for series in report.series}


if SHOP.is_file():  # not a skip: where it is not, there is nothing to be installed

    async def test_retention_of_a_real_shop_is_what_others_count(database_url: str) -> None:
        async with open_database(database_url) as database:
            project = await load_shop(database)

            half_a_year = {"since": datetime(2024, 1, 1, tzinfo=UTC), "until": NOW, "interval": "MONTH", "periods": 6}
            assert await retained(database, project, "catalog", "purchase", **half_a_year) == [
                (57, 6, 7, 9, 7, 7),
                (142, 23, 20, 14, 22),
                (269, 50, 41, 58),
                (408, 61, 101),
                (437, 98),
                (394,),
            ]
            weeks = {"since": datetime(2024, 4, 1, tzinfo=UTC), "until": datetime(2024, 5, 6, tzinfo=UTC)}
            five = await retained(database, project, "purchase", "purchase", **weeks, interval="WEEK", periods=5)
            assert five[0] == (25, 0, 0, 1, 1)
            assert [cohort[:2] for cohort in five[1:4]] == [(29, 3), (19, 1), (24, 0)]

    async def test_trends_of_a_real_shop_are_what_others_count(database_url: str) -> None:
        async with open_database(database_url) as database:
            project = await load_shop(database)

            months = {"since": datetime(2024, 1, 1, tzinfo=UTC), "until": NOW, "interval": "MONTH"}
            by_platform = await trend(database, project, **months, groupBy="event.properties.platform", groupLimit=3)
            assert numbers(by_platform) == {
                "desktop": [6, 19, 30, 71, 65, 86],
                "mobile": [4, 10, 15, 20, 23, 54],
                "tablet": [1, 2, 8, 17, 16, 23],
            }
            people = await trend(database, project, **months, measure="UNIQUE_USERS")
            assert numbers(people) == {None: [11, 30, 51, 99, 92, 137]}

            new_york = {
                "since": datetime(2024, 3, 8, 5, tzinfo=UTC),
                "until": datetime(2024, 3, 12, 4, tzinfo=UTC),
                "timezone": "America/New_York",
            }
            # The third day has 23 hours.
            assert numbers(await trend(database, project, **new_york)) == {None: [2, 0, 0, 3]}
