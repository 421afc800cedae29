"""Which period a question is about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from db.analytics_terms import Period
from engine.analytics.periods import read_period
from engine.errors import BadUserInput

NOW = datetime(2026, 3, 31, 12, tzinfo=UTC)
UNTIL = datetime(2026, 3, 1, tzinfo=UTC)


def test_without_anything_it_is_the_last_thirty_days() -> None:
    assert read_period(None, None, None, now=NOW) == Period(NOW - timedelta(days=30), NOW)


def test_two_instants_are_themselves_and_the_period_before_ends_where_they_begin() -> None:
    found = read_period(UNTIL, NOW, None, now=NOW)

    assert found == Period(UNTIL, NOW)
    assert found.before() == Period(UNTIL - (NOW - UNTIL), UNTIL)


@pytest.mark.parametrize(
    ("length", "until", "since"),
    [
        ("P30D", None, NOW - timedelta(days=30)),
        ("P2W", UNTIL, UNTIL - timedelta(days=14)),
        ("PT12H", None, NOW - timedelta(hours=12)),
        ("P1DT1H30M5S", None, NOW - timedelta(days=1, hours=1, minutes=30, seconds=5)),
        # February has no 31st.
        ("P1M", None, datetime(2026, 2, 28, 12, tzinfo=UTC)),
        ("P13M", None, datetime(2025, 2, 28, 12, tzinfo=UTC)),
        ("P3M", None, datetime(2025, 12, 31, 12, tzinfo=UTC)),
        ("P2Y", UNTIL, datetime(2024, 3, 1, tzinfo=UTC)),
    ],
)
def test_a_length_counts_back_from_until_or_now(length: str, until: datetime | None, since: datetime) -> None:
    assert read_period(None, until, length, now=NOW) == Period(since, until or NOW)


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"since": UNTIL, "period": "P1D"}, ("input", "period")),
        ({"since": NOW}, ("input", "since")),
        ({"since": datetime(1969, 1, 1, tzinfo=UTC)}, ("input", "since")),
        ({"until": datetime(2200, 1, 1, tzinfo=UTC)}, ("input", "until")),
        ({"since": datetime(2001, 1, 1, tzinfo=UTC)}, ("input", "since")),
        *(
            ({"period": text}, ("input", "period"))
            # Nothing, no time, blanks, a minus, fractions, an order of their own, too far back.
            for text in ("", "P", "PT", "P1DT", " P1D", "-P1D", "P1.5D", "P1D2W", "P9999Y", "P0D", "30 days")
        ),
    ],
)
def test_what_is_no_period_is_refused_with_its_place(given: dict[str, Any], path: tuple[str, ...]) -> None:
    values = {"since": None, "until": None, "period": None, **given}

    with pytest.raises(BadUserInput) as refused:
        read_period(**values, now=NOW)

    assert refused.value.path == path
