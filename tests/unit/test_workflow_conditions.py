"""Filters of triggers: names, wildcards, aliases, and tests of the event, the person and what happened before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from db.records import EventRecord, ProfileRecord
from engine.conditions import matches, parse_conditions
from engine.consent import ConsentState
from engine.workflows.conditions import (
    Subject,
    count_passes,
    counts_in,
    holds,
    trigger_matches,
    without_event,
)
from engine.workflows.definition import Schedule, Trigger

NOW = datetime(2026, 2, 28, 23, 30, tzinfo=UTC)
ROOTS = frozenset({"event", "profile", "run", "events"})


def event_of(event_type: str = "order.placed", properties: dict[str, Any] | None = None) -> EventRecord:
    return EventRecord(
        project_id=UUID(int=1),
        seq=7,
        key="k",
        module="commerce",
        event_type=event_type,
        timestamp=NOW - timedelta(hours=1),
        received_at=NOW,
        user_id="ada",
        anonymous_id=None,
        properties=msgspec.Raw(msgspec.json.encode(properties or {})),
        context=msgspec.Raw(b'{"app":"ios"}'),
    )


def subject_of(event: EventRecord | None = None, **traits: Any) -> Subject:
    profile = ProfileRecord(
        UUID(int=1), UUID(int=3), "ada", False, msgspec.Raw(msgspec.json.encode(traits)), NOW - timedelta(days=9), None
    )
    return Subject(event=event or event_of(), profile=profile, now=NOW, consents={"email": ConsentState.REVOKED})


def conditions_of(*conditions: dict[str, Any]) -> Any:
    return parse_conditions(conditions, roots=ROOTS, path=("where",))


@pytest.mark.parametrize(
    ("trigger", "event_type", "expected"),
    [
        ("order.placed", "order.placed", True),
        ("order.placed", "order.placed.late", False),
        ("order.*", "order.placed", True),
        ("*", "anything", True),
        ("*.failed", "push.failed", True),
        ("csat.*", "csat", False),
        # Two names of one type, either way round.
        ("user.signed_up", "auth.signed_up", True),
        ("auth.signed_up", "user.signed_up", True),
        ("auth.*", "user.signed_up", True),
    ],
)
def test_a_trigger_takes_names_wildcards_and_aliases(trigger: str, event_type: str, expected: bool) -> None:
    assert trigger_matches(Trigger(event_type=trigger), subject_of(event_of(event_type))) is expected


def test_a_schedule_is_no_trigger_of_events() -> None:
    assert not trigger_matches(Trigger(schedule=Schedule("0 9 * * *")), subject_of())


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"path": "event.properties.amount", "op": "GTE", "value": 42}, True),
        ({"path": "event.context.app", "op": "EQ", "value": "ios"}, True),
        ({"path": "event.seq", "op": "EQ", "value": 7}, True),
        ({"path": "event.timestamp", "op": "LT", "value": "2026-02-28T23:00:00Z"}, True),
        ({"path": "profile.traits.plan", "op": "IN", "value": ["pro", "team"]}, True),
        ({"path": "profile.traits.tags.0", "op": "EQ", "value": "a"}, True),
        ({"path": "profile.traits.amount", "op": "EQ", "value": 1.0}, True),
        ({"path": "profile.userId", "op": "STARTS_WITH", "value": "ad"}, True),
        ({"path": "profile.anonymous", "op": "EQ", "value": False}, True),
        # false is not 0.
        ({"path": "profile.anonymous", "op": "NE", "value": True}, True),
        ({"path": "profile.createdAt", "op": "LT", "value": "2026-02-28T00:00:00Z"}, True),
        ({"path": "profile.lastSeenAt", "op": "NOT_EXISTS"}, True),
        ({"path": "profile.lastSeenAt", "op": "GT", "value": "2020-01-01T00:00:00Z"}, False),
        ({"path": "profile.consent.email", "op": "EQ", "value": "REVOKED"}, True),
        # Nothing was said about it.
        ({"path": "profile.consent.push", "op": "EQ", "value": "UNKNOWN"}, True),
        ({"not": {"path": "profile.traits.plan", "op": "EQ", "value": "pro"}}, False),
        ({"any": [{"path": "profile.traits.x", "op": "EXISTS"}, {"path": "event.seq", "op": "EQ", "value": 7}]}, True),
        # It is 1 March in Berlin already.
        ({"path": "profile.traits.born", "op": "IS_ANNIVERSARY"}, True),
    ],
)
def test_filters_read_the_event_and_the_person(condition: dict[str, Any], expected: bool) -> None:
    subject = subject_of(
        event_of(properties={"amount": 42}),
        plan="pro",
        tags=["a"],
        amount=1,
        born="1990-03-01",
        timezone="Europe/Berlin",
    )

    assert holds(conditions_of(condition), subject) is expected


def test_without_a_person_and_an_event_every_test_is_of_nothing() -> None:
    nobody = Subject(event=None, profile=None, now=NOW)

    for path in ("profile.userId", "profile.traits.a", "profile.createdAt", "event.seq", "event.properties.a"):
        assert holds(conditions_of({"path": path, "op": "NOT_EXISTS"}), nobody), path


def test_the_longest_path_is_read() -> None:
    key = "k" * (512 - len("run.vars."))
    subject = msgspec.structs.replace(subject_of(), vars={key: 1})

    assert holds(conditions_of({"path": f"run.vars.{key}", "op": "EQ", "value": 1}), subject)


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(["amount", "tags", "tags.0", "name", "nothing"]),
    st.sampled_from(["EQ", "NE", "GT", "LTE", "CONTAINS", "EXISTS", "NOT_EXISTS"]),
    st.sampled_from([1, 1.5, "a", "b"]),
    st.fixed_dictionaries(
        {},
        optional={
            "amount": st.sampled_from([1, 1.0, 2, "1", None, True]),
            "tags": st.lists(st.sampled_from(["a", "b", 1]), max_size=2),
            "name": st.sampled_from(["a", "ab", ""]),
        },
    ),
)
def test_a_person_is_tested_as_an_event_is(key: str, op: str, value: Any, held: dict[str, Any]) -> None:
    test = {"op": op} if op.endswith("EXISTS") else {"op": op, "value": value}
    of_event = conditions_of({"path": f"event.properties.{key}", **test})
    of_person = conditions_of({"path": f"profile.traits.{key}", **test})
    of_run = conditions_of({"path": f"run.vars.{key}", **test})
    event = event_of(properties=held)
    subject = msgspec.structs.replace(subject_of(event, **held), vars=held)

    expected = matches(of_event, event)

    assert holds(of_event, subject) is expected
    assert holds(of_person, subject) is expected
    assert holds(of_run, subject) is expected


# ── counts of events ─────────────────────────────────────────────────────────────────────────────────────────────

FIRST_ORDER = {"events": {"eventType": "order.*"}, "op": "EQ", "value": 1}
SPENT = {
    "events": {
        "eventType": "order.placed",
        "sum": "event.properties.amount",
        "where": [{"path": "event.properties.paid", "op": "EQ", "value": True}],
    },
    "op": "GT",
    "value": 100.5,
}


def test_counts_are_found_wherever_they_stand() -> None:
    conditions = conditions_of({"any": [{"not": FIRST_ORDER}, {"all": [SPENT]}]}, FIRST_ORDER)

    assert [test.op for test in counts_in(conditions)] == ["EQ", "GT", "EQ"]


def test_a_count_that_was_looked_up_is_taken() -> None:
    [test] = conditions_of(FIRST_ORDER)
    known = msgspec.structs.replace(subject_of(), counted=((test, True),))

    assert holds((test,), known)
    with pytest.raises(LookupError):
        holds((test,), subject_of())


@pytest.mark.parametrize(
    ("condition", "properties", "before"),
    [
        # The event is one of those that are counted: none before it makes one.
        (FIRST_ORDER, {}, 0),
        ({**FIRST_ORDER, "op": "IN", "value": [1, 5]}, {}, [0, 4]),
        # Not within the last minute: it happened an hour ago.
        ({**FIRST_ORDER, "events": {"eventType": "order.*", "withinSeconds": 60}}, {}, 1),
        ({**FIRST_ORDER, "events": {"eventType": "cart.*"}}, {}, 1),
        (SPENT, {"amount": 40.25, "paid": True}, 60.25),
        (SPENT, {"amount": 40.25, "paid": False}, 100.5),
        (SPENT, {"amount": "40", "paid": True}, 100.5),
    ],
)
def test_a_count_before_the_event_leaves_the_event_out(
    condition: dict[str, Any], properties: dict[str, Any], before: Any
) -> None:
    [test] = conditions_of(condition)

    assert without_event(test, subject_of(event_of(properties=properties))).value == before


@pytest.mark.parametrize(
    ("op", "value", "measured", "expected"),
    [("EQ", 0, 0, True), ("GTE", 1, 0, False), ("LT", 0, 0, False), ("IN", [0, 3], 3, True), ("NOT_IN", [0], 0, False)],
)
def test_a_count_is_compared_with_its_value(op: str, value: Any, measured: int, expected: bool) -> None:
    [test] = conditions_of({**FIRST_ORDER, "op": op, "value": value})

    assert count_passes(test, measured) is expected
