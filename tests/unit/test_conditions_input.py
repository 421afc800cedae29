"""Conditions as clients write them: what passes comes back in the same shape, what cannot work is refused."""

from __future__ import annotations

from typing import Any

import pytest

from db.filters import Condition, ConditionOperator, EventCount
from engine.condition_input import MAX_CONDITIONS, MAX_DEPTH, MAX_LIST_VALUES, InvalidCondition
from engine.conditions import parse_conditions, unparse_conditions
from engine.errors import BadUserInput

EVERYWHERE = frozenset({"event", "profile", "run", "events"})
AMOUNT = {"path": "event.properties.amount", "op": "GT", "value": 5}


def parse(*conditions: Any, roots: frozenset[str] = EVERYWHERE) -> tuple[Condition, ...]:
    return parse_conditions(conditions, roots=roots, path=("filter", "where"))


def test_conditions_are_frozen_and_come_back_as_they_were() -> None:
    written = [
        AMOUNT,
        {"path": r"profile.traits.a\.b", "op": "IN", "value": [None, 1.5, "x", {"k": [True]}]},
        {"path": "event.properties.x", "op": "EQ", "value": None},
        {"path": "run.vars.x", "op": "EXISTS"},
        {"any": [AMOUNT, {"all": [AMOUNT]}]},
        {"not": {"path": "profile.consent.email", "op": "EQ", "value": "GRANTED"}},
        {
            "events": {
                "eventType": "auth.signed_up",
                "where": [AMOUNT],
                "withinSeconds": 3600,
                "sum": "event.properties.amount",
            },
            "op": "GTE",
            "value": 10,
        },
        {"events": {"eventType": "order.*"}, "op": "EQ", "value": 0},
    ]

    parsed = parse(*written)

    assert unparse_conditions(parsed) == written
    assert parsed[0] == Condition(path="event.properties.amount", op="GT", value=5)
    assert parsed[6].events == EventCount(
        "auth.signed_up",
        ("auth.signed_up", "auth.user_signed_up", "user.signed_up"),
        where=(Condition(path="event.properties.amount", op="GT", value=5),),
        within_seconds=3600,
        sum="event.properties.amount",
    )


def test_nulls_of_graphql_are_as_good_as_absent() -> None:
    nulls = {"path": None, "events": None, "any": None, "all": None, "op": None, "value": None}

    assert parse({**nulls, "not": {**AMOUNT, "any": None}}) == parse({"not": AMOUNT})
    assert parse({"path": "event.seq", "op": "EXISTS", "value": None}) == parse({"path": "event.seq", "op": "EXISTS"})


def test_a_member_of_the_operator_enum_is_as_good_as_its_name() -> None:
    (condition,) = parse({**AMOUNT, "op": ConditionOperator.GT})

    assert condition == parse(AMOUNT)[0]
    assert type(condition.op) is str


def nested(levels: int) -> dict[str, Any]:
    condition: dict[str, Any] = AMOUNT
    for _ in range(levels - 1):
        condition = {"not": condition}
    return condition


def deep_list(levels: int) -> Any:
    return [deep_list(levels - 1)] if levels else 1


COUNT = {"eventType": "order.placed"}


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("x", "filter.where.0 must be an object."),
        ({}, "filter.where.0 must have exactly one of path, events, any, all and not."),
        (
            {**AMOUNT, "any": [AMOUNT]},
            "filter.where.0 must have exactly one of path, events, any, all and not, not 2 (path, any).",
        ),
        (
            {**AMOUNT, "operator": "EQ"},
            "filter.where.0.operator is not known: use all, any, events, not, op, path, value.",
        ),
        ({"any": []}, "filter.where.0.any is empty: give it at least one condition, or leave it out."),
        ({"any": AMOUNT}, "filter.where.0.any must be a list of conditions."),
        (
            {"all": [AMOUNT], "op": "EQ"},
            "filter.where.0.op does not go with all: move it into a condition with a path.",
        ),
        ({"path": "event.seq"}, "filter.where.0.op is missing: say how to compare, e.g. EQ."),
        ({"path": "event.seq", "op": "EQ"}, "filter.where.0.value is missing: say what to compare with, or use "),
        ({**AMOUNT, "op": "LIKE"}, "filter.where.0.op must be one of EQ, NE, GT, "),
        ({**AMOUNT, "op": ["EQ"]}, "filter.where.0.op must be one of EQ, NE, GT, "),
        ({**AMOUNT, "path": 5}, "filter.where.0.path must be a string."),
        ({**AMOUNT, "path": ""}, "filter.where.0.path has an empty key or a stray backslash"),
        ({**AMOUNT, "path": "event..x"}, "filter.where.0.path has an empty key or a stray backslash"),
        ({**AMOUNT, "path": "event.x."}, "filter.where.0.path has an empty key or a stray backslash"),
        ({**AMOUNT, "path": "event.properties.a\\b"}, "filter.where.0.path has a stray backslash: write "),
        ({**AMOUNT, "path": "amount"}, "filter.where.0.path must start with one of event, profile, run, e.g. "),
        ({**AMOUNT, "path": "event.amount"}, "filter.where.0.path must name a field of event: one of eventType, "),
        ({**AMOUNT, "path": "event"}, "filter.where.0.path must name a field of event: one of eventType, "),
        ({**AMOUNT, "path": "event.userId.x"}, "filter.where.0.path goes below event.userId, which is a string and "),
        ({**AMOUNT, "path": "profile.consent"}, "filter.where.0.path must name one purpose below profile.consent: "),
        ({**AMOUNT, "path": "event.properties" + ".a" * 33}, "filter.where.0.path has more than 32 keys"),
        ({**AMOUNT, "path": "event.properties." + "a" * 500}, "filter.where.0.path is longer than 512 characters."),
        (
            {**AMOUNT, "path": "event.properties.\x00"},
            "filter.where.0.path has a NUL character or half of a surrogate ",
        ),
        ({**AMOUNT, "value": True}, "filter.where.0.value must be a number or a string for GT."),
        ({**AMOUNT, "value": None}, "filter.where.0.value cannot be null with GT: use EXISTS or NOT_EXISTS to "),
        ({**AMOUNT, "value": float("nan")}, "filter.where.0.value has a number that JSON cannot write."),
        ({**AMOUNT, "value": 2**64}, "filter.where.0.value has a number beyond 64 bits."),
        ({**AMOUNT, "value": "\ud800"}, "filter.where.0.value has a NUL character or half of a surrogate pair"),
        ({**AMOUNT, "op": "EQ", "value": {"a\x00": 1}}, "filter.where.0.value has a NUL character or half of "),
        ({**AMOUNT, "op": "EQ", "value": {1, 2}}, "filter.where.0.value must be JSON."),
        ({**AMOUNT, "op": "EQ", "value": "x" * 8193}, "filter.where.0.value is longer than 8192 characters."),
        ({**AMOUNT, "op": "EQ", "value": deep_list(17)}, "filter.where.0.value is nested too deeply: use at most 16 "),
        ({**AMOUNT, "op": "IN"}, "filter.where.0.value must be a list for IN and NOT_IN."),
        (
            {**AMOUNT, "op": "IN", "value": [1] * (MAX_LIST_VALUES + 1)},
            "filter.where.0.value has 1001 entries: send at most 1000.",
        ),
        ({**AMOUNT, "op": "STARTS_WITH"}, "filter.where.0.value must be a string for STARTS_WITH."),
        ({**AMOUNT, "op": "EXISTS"}, "filter.where.0.value does not go with EXISTS: leave it out."),
        ({"path": "event.userId", "op": "EQ", "value": 5}, "filter.where.0.value must be a string for this path."),
        (
            {"path": "event.timestamp", "op": "GT", "value": "yesterday"},
            "filter.where.0.value must be an ISO 8601 instant with its offset, e.g. 2026-05-01T12:00:00Z for ",
        ),
        (
            {"path": "event.timestamp", "op": "GT", "value": "0001-01-01T00:00:00+05:00"},  # before year 1 in UTC
            "filter.where.0.value must be an ISO 8601 instant with its offset",
        ),
        (
            {"path": "event.timestamp", "op": "CONTAINS", "value": "2026"},
            "filter.where.0.op cannot test event.timestamp: use EQ, NE, GT, GTE, LT, LTE, IN, NOT_IN, EXISTS, ",
        ),
        ({"events": COUNT, "op": "CONTAINS", "value": 1}, "filter.where.0.op cannot compare a count: use EQ, NE, GT, "),
        ({"events": COUNT, "op": "GT"}, "filter.where.0.value must be a number, or a list of numbers for IN and "),
        ({"events": COUNT, "op": "IN", "value": ["1"]}, "filter.where.0.value must be a number, or a list of numbers"),
        ({"events": {}, "op": "GT", "value": 1}, "filter.where.0.events.eventType must be a string."),
        ({"events": {"eventType": ""}, "op": "GT", "value": 1}, "filter.where.0.events.eventType is empty: name an "),
        (
            {"events": {**COUNT, "withinSeconds": 0}, "op": "GT", "value": 1},
            "filter.where.0.events.withinSeconds must be a whole number from 1 to 2147483647.",
        ),
        (
            {"events": {**COUNT, "sum": "profile.traits.x"}, "op": "GT", "value": 1},
            "filter.where.0.events.sum must lead to a property of the event, e.g. event.properties.amount.",
        ),
        (
            {"events": {**COUNT, "where": [{"path": "profile.userId", "op": "EXISTS"}]}, "op": "GT", "value": 1},
            "filter.where.0.events.where.0.path cannot read profile.* here: use event.*.",
        ),
        (
            {"events": {**COUNT, "where": [{"events": COUNT, "op": "GT", "value": 1}]}, "op": "GT", "value": 1},
            "filter.where.0.events.where.0.events counts events, which is not possible here: test a path instead.",
        ),
        (nested(MAX_DEPTH + 1), "is nested too deeply: use at most 8 levels."),
        (
            {"all": [AMOUNT] * MAX_CONDITIONS},
            "filter.where.0.all.199 is one condition too many: send at most 200.",
        ),
    ],
)
def test_what_can_never_work_is_refused_in_a_sentence(condition: Any, message: str) -> None:
    with pytest.raises(BadUserInput) as caught:
        parse(condition)

    assert message in str(caught.value)
    assert isinstance(caught.value, InvalidCondition)
    assert ".".join(caught.value.path) in str(caught.value)


def test_the_bounds_themselves_are_allowed() -> None:
    assert len(parse(nested(MAX_DEPTH))) == 1
    assert len(parse(*[AMOUNT] * MAX_CONDITIONS)) == MAX_CONDITIONS
    assert parse({**AMOUNT, "op": "IN", "value": [1] * MAX_LIST_VALUES})[0].value == [1] * MAX_LIST_VALUES
    assert parse({**AMOUNT, "op": "EQ", "value": deep_list(16)})[0].op == "EQ"


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({"path": "profile.traits.plan", "op": "EXISTS"}, "where.0.path cannot read profile.* here: use event.*."),
        (
            {"events": {"eventType": "x"}, "op": "GT", "value": 1},
            "where.0.events counts events, which is not possible here: test a path instead.",
        ),
    ],
)
def test_a_stream_takes_conditions_on_the_event_alone(condition: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidCondition) as caught:
        parse(condition, roots=frozenset({"event"}))

    assert message in str(caught.value)
