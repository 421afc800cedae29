"""Trends equal their reference, whatever happened: ties, late events, people who were anonymous, clocks."""

from __future__ import annotations

import asyncio
import json
import os
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.analytics.trends import TrendReport, answer_trend, read_trend_input
from tests.integration.history_support import NOW, ZONES, Histories, histories, moments
from tests.reference.history import Event
from tests.reference.trends import Series, Trend

EXAMPLES = int(os.environ.get("SENDORA_ANALYTICS_EXAMPLES", "50"))
MEASURES = ("UNIQUE_USERS", "UNIQUE_USERS", "UNIQUE_USERS", "COUNT", "SUM", "AVG", "MIN", "MAX", "P50", "P90", "P99")
SPANS = {
    "MINUTE": timedelta(minutes=90),
    "HOUR": timedelta(hours=40),
    "DAY": timedelta(days=9),
    "WEEK": timedelta(days=30),
    "MONTH": timedelta(days=70),
}


@st.composite
def questions(draw: st.DrawFn) -> dict[str, Any]:
    """A TrendInput as it arrives."""
    interval = draw(st.sampled_from(sorted(SPANS)))
    until = draw(moments(SPANS[interval]))
    measure = draw(st.sampled_from(MEASURES))
    return {
        "event": {"eventType": draw(st.sampled_from(["order.placed", "order.*", "*"]))},
        "measure": measure,
        **({} if measure in ("COUNT", "UNIQUE_USERS") else {"property": "event.properties.amount"}),
        "since": until - SPANS[interval] * draw(st.sampled_from([0.4, 0.75, 1])),
        "until": until,
        "interval": interval,
        "timezone": draw(st.sampled_from(ZONES)),
        "compare": draw(st.booleans()),
        "groupBy": draw(st.sampled_from([None, "event.properties.plan", "profile.traits.country"])),
        "groupLimit": draw(st.integers(1, 3)),
    }


async def test_trends_equal_the_reference_whatever_happened(database_url: str) -> None:
    loop = asyncio.get_running_loop()
    async with Histories(database_url) as stored:

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )
        @given(question=questions(), data=st.data())
        def check(question: dict[str, Any], data: st.DataObject) -> None:
            events = data.draw(histories(question["until"] - 2 * SPANS[question["interval"]], question["until"]))
            answered = asyncio.run_coroutine_threadsafe(_ask(stored, events, question), loop).result(30)
            series, previous = _reference(question, stored.countries).answer(events)
            _assert_same(answered.series, series)
            _assert_same(answered.previous, previous if question["compare"] else [])

        await asyncio.to_thread(check)


async def _ask(stored: Histories, events: list[Event], question: dict[str, Any]) -> TrendReport:
    async with stored.holding(events) as (connection, project_id):
        return await answer_trend(connection, project_id=project_id, asked=read_trend_input(question, now=NOW), now=NOW)


def _reference(question: dict[str, Any], countries: dict[str, str]) -> Trend:
    event_type = question["event"]["eventType"].rstrip("*")
    groups = {
        None: None,
        "event.properties.plan": lambda event, _: _text(event.properties.get("plan")),
        "profile.traits.country": lambda _, person: countries.get(person[1]) if person and person[0] == "u" else None,
    }
    return Trend(
        matches=lambda event, _: event.event_type.startswith(event_type),
        since=question["since"],
        until=question["until"],
        interval=question["interval"],
        zone=ZoneInfo(question["timezone"]),
        measure=question["measure"],
        value_of=(lambda event: event.properties.get("amount")) if "property" in question else None,
        group_of=groups[question["groupBy"]],
        limit=question["groupLimit"],
    )


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _assert_same(answered: Any, expected: list[Series]) -> None:
    assert [(each.group, each.is_other) for each in answered] == [(each.group, each.is_other) for each in expected]
    for mine, theirs in zip(answered, expected, strict=True):
        assert [point.at for point in mine.points] == [at for at, _ in theirs.points]
        assert [point.value for point in mine.points] == pytest.approx([value for _, value in theirs.points])
        assert mine.total == pytest.approx(theirs.total)
