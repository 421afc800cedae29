"""Retention equals its reference, whatever happened: ties, late events, people who were anonymous, clocks."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db.retention import MASK_INTERVALS
from engine.analytics.retention import RetentionCohort, answer_retention, read_retention_input
from tests.integration.history_support import ZONES, Histories, histories, moments
from tests.reference.history import Event
from tests.reference.retention import retention

EXAMPLES = int(os.environ.get("SENDORA_ANALYTICS_EXAMPLES", "30"))
SPANS = {"HOUR": timedelta(hours=30), "DAY": timedelta(days=9), "WEEK": timedelta(days=40), "MONTH": timedelta(days=90)}


@st.composite
def questions(draw: st.DrawFn) -> dict[str, Any]:
    """A RetentionInput as it arrives, and when it is asked."""
    interval = draw(st.sampled_from(sorted(SPANS)))
    until = draw(moments(SPANS[interval]))
    names = st.sampled_from(["order.placed", "order.*", "app.opened", "*"])
    return {
        "startEvent": {"eventType": draw(names)},
        "returnEvent": {"eventType": draw(names)},
        "since": until - SPANS[interval] * draw(st.sampled_from([0.4, 0.75, 1])),
        "until": until,
        "interval": interval,
        "timezone": draw(st.sampled_from(ZONES)),
        "periods": draw(st.integers(1, 6)),
        "now": until + SPANS[interval] * draw(st.sampled_from([0, 0.3, 1])),
    }


@pytest.mark.parametrize("mask_intervals", [MASK_INTERVALS, 0])
async def test_retention_equals_the_reference_whatever_happened(
    database_url: str, monkeypatch: pytest.MonkeyPatch, mask_intervals: int
) -> None:
    """Both ways of counting: few intervals, as nearly always, and any number of them."""
    monkeypatch.setattr("db.retention.MASK_INTERVALS", mask_intervals)
    loop = asyncio.get_running_loop()
    async with Histories(database_url) as stored:

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )
        @given(question=questions(), data=st.data())
        def check(question: dict[str, Any], data: st.DataObject) -> None:
            span = SPANS[question["interval"]]
            events = data.draw(histories(question["since"] - span / 4, question["now"] + span / 4))
            answered = asyncio.run_coroutine_threadsafe(_ask(stored, events, question), loop).result(30)
            assert [(each.start, each.size, list(each.returned)) for each in answered] == [
                (each.start, each.size, each.returned) for each in _expected(events, question)
            ]

        await asyncio.to_thread(check)


async def _ask(stored: Histories, events: list[Event], question: dict[str, Any]) -> tuple[RetentionCohort, ...]:
    now = question["now"]
    async with stored.holding(events) as (connection, project_id):
        asked = read_retention_input(question, now=now)
        return await answer_retention(connection, project_id=project_id, asked=asked, now=now)


def _expected(events: list[Event], question: dict[str, Any]) -> Any:
    starts, returns = (question[name]["eventType"].rstrip("*") for name in ("startEvent", "returnEvent"))
    return retention(
        events,
        starts=lambda event, _: event.event_type.startswith(starts),
        returns=lambda event, _: event.event_type.startswith(returns),
        since=question["since"],
        until=question["until"],
        now=question["now"],
        interval=question["interval"],
        zone=ZoneInfo(question["timezone"]),
        periods=question["periods"],
    )
