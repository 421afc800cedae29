"""The sample events of a first start."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta

from engine.samples import PEOPLE, SPAN, sample_events
from engine.taxonomy import CANONICAL

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def test_they_are_some_hundred_events_of_forty_people_and_many_types() -> None:
    events = sample_events(NOW)

    assert 250 <= len(events) <= 450
    assert len({event.user_id for event in events}) == PEOPLE
    canonical = set(CANONICAL)
    types = Counter(event.event_type for event in events)
    assert len(canonical & types.keys()) >= 12
    assert types.keys() - canonical == {"product.viewed", "order.placed"}


def test_they_lie_in_the_last_days_oldest_first() -> None:
    times = [event.timestamp for event in sample_events(NOW)]

    assert times == sorted(times)
    assert times[0] >= NOW - SPAN
    assert NOW - timedelta(days=1) < times[-1] <= NOW


def test_the_same_moment_gives_the_same_events_and_a_later_one_at_least_the_same_ids() -> None:
    keys = {event.key for event in sample_events(NOW)}

    assert sample_events(NOW) == sample_events(NOW)
    assert len(keys) == len(sample_events(NOW))
    later = {event.key for event in sample_events(NOW + timedelta(hours=5))}
    assert keys == later


def test_everybody_signs_up_once_with_traits_that_are_nobodys() -> None:
    sign_ups = [event for event in sample_events(NOW) if event.event_type == "auth.signed_up"]

    assert Counter(event.user_id for event in sign_ups).most_common(1)[0][1] == 1
    assert len(sign_ups) == PEOPLE
    assert all(json.loads(event.traits or "{}")["email"].endswith("@example.com") for event in sign_ups)
    assert all(event.module == "auth" for event in sign_ups)


def test_none_changes_what_may_be_sent_to_a_person() -> None:
    assert not [event for event in sample_events(NOW) if event.event_type.startswith("consent.")]
