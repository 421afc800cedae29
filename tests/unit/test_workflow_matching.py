"""The index of triggers: every workflow that an event may start, and nothing else is looked at."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from db.records import EventRecord
from db.workflow_records import ActiveTrigger
from engine.conditions import EventView, parse_conditions
from engine.taxonomy import ALIASES, CANONICAL
from engine.workflows import matching
from engine.workflows.conditions import Subject, trigger_matches
from engine.workflows.definition import Schedule, Trigger
from engine.workflows.matching import EventTrigger, build_index

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NAMES = (
    "order.placed",
    "order.paid",
    "a",
    "user.signed_up",
    "auth.signed_up",
    "automation.run_failed",
    "promote.failed",
)
PATTERNS = (*NAMES, "*", "**", "order.*", "*.placed", "*.signed_up", "o*d", "*.run_failed", "automation.*", "a*", "x.*")
FILTERS: tuple[list[dict[str, Any]], ...] = (
    [],
    [{"path": "event.properties.n", "op": "GT", "value": 3}],
    [{"not": {"path": "event.userId", "op": "EXISTS"}}],
    [{"any": [{"path": "event.properties.n", "op": "EQ", "value": 1}, {"path": "event.seq", "op": "GTE", "value": 5}]}],
    [{"path": "event.timestamp", "op": "IS_ANNIVERSARY"}],
    [{"path": "event.properties.n", "op": "EQ", "value": 1}],
    [{"path": "event.properties.n", "op": "EQ", "value": 2.0}, {"path": "event.userId", "op": "EQ", "value": "ada"}],
    [{"path": "event.properties.n", "op": "EQ", "value": True}],
    [{"path": "event.properties.absent", "op": "EQ", "value": None}],
    [{"path": "event.timestamp", "op": "EQ", "value": "2026-03-01T13:00:00+01:00"}],
    [{"not": {"path": "event.properties.n", "op": "EQ", "value": 1}}],
)


def event(event_type: str, seq: int = 1, n: int = 1, user_id: str | None = "ada") -> EventRecord:
    properties = msgspec.Raw(msgspec.json.encode({"n": n}))
    return EventRecord(
        UUID(int=7), seq, f"k{seq}", "shop", event_type, NOON, NOON, user_id, None, properties, msgspec.Raw(b"{}")
    )


def row(number: int, event_type: str, filters: list[dict[str, Any]] | None = None, version: int = 1) -> ActiveTrigger:
    asked = parse_conditions(filters or [], roots=frozenset({"event", "profile", "events"}), path=("filters",))
    trigger = Trigger(event_type=event_type, filters=asked)
    return ActiveTrigger(
        workflow_id=UUID(int=number), version=version, after_seq=0, trigger=msgspec.Raw(msgspec.json.encode(trigger))
    )


def found(triggers: list[EventTrigger]) -> list[int]:
    return [each.workflow_id.int for each in triggers]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(PATTERNS), st.sampled_from(FILTERS)), max_size=8),
    st.lists(
        st.builds(event, st.sampled_from(NAMES), st.integers(1, 9), st.integers(0, 5), st.sampled_from(["ada", None])),
        max_size=6,
    ),
)
def test_candidates_are_those_that_a_look_at_every_workflow_would_find(
    workflows: list[tuple[str, list[dict[str, Any]]]], events: list[EventRecord]
) -> None:
    rows = [row(number, *each) for number, each in enumerate(workflows, 1)]
    index = build_index(1, rows, {})
    for item in events:
        subject = Subject(event=item, profile=None, now=NOON)
        wanted = [
            each.workflow_id.int
            for each in rows
            if trigger_matches(msgspec.json.decode(each.trigger or b"", type=Trigger), subject)
        ]
        candidates = index.candidates(item)
        # What hangs on the person is asked later; of these filters that is the day, in their time zone.
        assert [each for each in found(candidates) if each in wanted] == wanted
        assert all(each.tests for each in candidates if each.workflow_id.int not in wanted)


def test_the_whole_taxonomy_can_start_workflows() -> None:
    for name in (*CANONICAL, *ALIASES):
        assert found(build_index(1, [row(1, name)], {}).candidates(event(name))) == [1]


@pytest.mark.parametrize("pattern", ["*", "**", "a*", "*d"])
def test_what_runs_say_of_themselves_starts_nothing_by_a_bare_wildcard(pattern: str) -> None:
    assert found(build_index(1, [row(1, pattern)], {}).candidates(event("automation.run_failed"))) == []


def test_what_was_caused_by_a_run_or_a_delivery_starts_nothing_by_a_bare_wildcard() -> None:
    """Else one push of a workflow with `*` would be two events, four pushes, and so on: 511 of them to one person."""
    index = build_index(1, [row(1, "*"), row(2, "push.*"), row(3, "push.sent"), row(4, "*.sent"), row(5, "p*t")], {})
    caused = msgspec.structs.replace(event("push.sent"), context=msgspec.Raw(b'{"cause":"dlv_1","depth":1}'))

    assert found(index.candidates(event("push.sent"))) == [1, 2, 3, 4, 5]
    assert found(index.candidates(caused)) == [2, 3, 4]
    for name in ("*", "p*t", "push.*"):
        subject = Subject(event=caused, profile=None, now=NOON)
        assert trigger_matches(Trigger(event_type=name), subject) == (name == "push.*")


def test_what_a_filter_asks_of_the_person_is_left_for_later() -> None:
    alone = {"path": "event.properties.n", "op": "GT", "value": 3}
    of_person = {"path": "profile.traits.plan", "op": "EQ", "value": "pro"}
    counted = {"events": {"eventType": "order.placed"}, "op": "EQ", "value": 1}
    mixed = {"any": [alone, of_person]}
    [trigger] = build_index(1, [row(1, "a", [alone, of_person, counted, mixed])], {}).candidates(event("a", n=4))

    assert [test.path for test in trigger.tests] == ["profile.traits.plan", None, None]
    assert trigger.tests == trigger.trigger.filters[1:]


def test_thousands_of_other_workflows_are_not_even_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0

    def count(event_type: str, name: str) -> bool:
        nonlocal compared
        compared += 1
        return fits(event_type, name)

    fits = matching.fits_trigger
    monkeypatch.setattr(matching, "fits_trigger", count)
    others = [row(number, f"type.{number}") for number in range(10, 5_000)]
    wildcards = [row(number, f"other{number}.*") for number in range(5_000, 5_500)]
    index = build_index(1, [*others, *wildcards, row(1, "order.placed"), row(2, "order.*"), row(3, "*")], {})

    for seq in range(1, 100):
        assert found(index.candidates(event("order.placed", seq))) == [1, 2, 3]

    # Three names stand where this type is found; and only the first event of a type is compared at all.
    assert compared == 3


def test_workflows_that_want_other_values_of_a_field_are_not_even_asked() -> None:
    def wants(number: int, value: int) -> ActiveTrigger:
        return row(number, "order.*", [{"path": "event.properties.n", "op": "EQ", "value": value}])

    index = build_index(1, [wants(3, 1), *(wants(number, number) for number in range(10, 2_000)), wants(1, 1)], {})
    asked = index._of_type("order.placed").look_up(EventView(event("order.placed", n=1)))

    assert found(asked) == [1, 3]
    assert found(index.candidates(event("order.placed", n=1))) == [1, 3]
    assert found(index.candidates(event("order.placed", n=1_000))) == [1_000]


def test_types_without_end_are_not_remembered_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "MAX_REMEMBERED", 50)
    index = build_index(1, [row(1, "order.*"), row(2, "order.*")], {})

    for number in range(500):
        assert found(index.candidates(event(f"order.{number}"))) == [1, 2]
        assert len(index._remembered) <= 50


def test_what_is_known_of_a_version_is_kept_and_nothing_else() -> None:
    first = build_index(1, [row(1, "a"), row(2, "b")], {})
    unread = msgspec.structs.replace(row(1, "a"), trigger=None)

    second = build_index(2, [unread, row(2, "c", version=2)], first.known)

    assert second.known[UUID(int=1), 1] is first.known[UUID(int=1), 1]
    assert second.known.keys() == {(UUID(int=1), 1), (UUID(int=2), 2)}
    assert found(second.candidates(event("b"))) == []
    assert found(second.candidates(event("c"))) == [2]


def test_what_a_schedule_starts_no_event_does() -> None:
    trigger = msgspec.Raw(msgspec.json.encode(Trigger(schedule=Schedule("0 9 * * *"))))
    scheduled = ActiveTrigger(workflow_id=UUID(int=1), version=1, after_seq=0, trigger=trigger)

    assert build_index(1, [scheduled], {}).candidates(event("")) == []
