"""What the scalars take, give and refuse."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import orjson
import pytest
from graphql import GraphQLError, GraphQLScalarType, parse_value

from schema import build_schema
from schema.scalars import MAX_JSON_DEPTH

TYPES = build_schema()._schema.type_map


def scalar(name: str) -> GraphQLScalarType:
    found = TYPES[name]
    assert isinstance(found, GraphQLScalarType)
    return found


def literal(name: str, text: str) -> Any:
    return scalar(name).parse_literal(parse_value(text, no_location=True), {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-05-01T12:00:00Z", datetime(2026, 5, 1, 12, tzinfo=UTC)),
        # Any offset, given back in UTC.
        ("2026-05-01T14:00:00+02:00", datetime(2026, 5, 1, 12, tzinfo=UTC)),
        ("2026-05-01T01:30:00-10:30", datetime(2026, 5, 1, 12, tzinfo=UTC)),
        # ISO 8601 beyond RFC 3339: no seconds, basic format.
        ("2026-05-01T12:00Z", datetime(2026, 5, 1, 12, tzinfo=UTC)),
        ("20260501T120000Z", datetime(2026, 5, 1, 12, tzinfo=UTC)),
        # Nanoseconds are rounded.
        ("2026-05-01T12:00:00.123456789Z", datetime(2026, 5, 1, 12, 0, 0, 123457, tzinfo=UTC)),
        # The ends of the calendar.
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59Z", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_datetime_takes_any_offset_and_keeps_the_instant(text: str, expected: datetime) -> None:
    parsed = scalar("DateTime").parse_value(text)
    assert (parsed, parsed.tzinfo) == (expected, UTC)


@pytest.mark.parametrize(
    "value",
    [
        "2026-05-01T12:00:00",  # no offset: not an instant
        "2026-05-01",
        "2026-02-30T00:00:00Z",
        "2026-05-01T23:59:60Z",
        "0001-01-01T00:00:00+05:00",  # in UTC it is in the year 0
        "9999-12-31T23:59:59-01:00",  # in UTC it is in the year 10000
        "10000-01-01T00:00:00Z",
        "now",
        "",
        "\0",
        1777636800,
        None,
        True,
        {},
    ],
)
def test_datetime_refuses_what_is_no_instant_with_a_sentence(value: object) -> None:
    with pytest.raises(GraphQLError, match=r"^DateTime must"):
        scalar("DateTime").parse_value(value)


def test_datetime_comes_out_with_z_and_as_many_digits_as_there_are() -> None:
    serialize = scalar("DateTime").serialize
    assert serialize(datetime(2026, 5, 1, 14, tzinfo=timezone(timedelta(hours=2)))) == "2026-05-01T12:00:00Z"
    assert serialize(datetime(2026, 5, 1, 12, 0, 0, 1000, tzinfo=UTC)) == "2026-05-01T12:00:00.001000Z"
    assert serialize(datetime(1, 1, 1, tzinfo=UTC)) == "0001-01-01T00:00:00Z"


def test_json_literal_is_any_json_with_variables_in_it() -> None:
    node = parse_value('{a: [1, -2.5, "x", true, null, RED], b: {c: $v}, d: $missing}', no_location=True)
    value = scalar("JSON").parse_literal(node, {"v": {"deep": [1]}})
    assert value == {"a": [1, -2.5, "x", True, None, "RED"], "b": {"c": {"deep": [1]}}, "d": None}


def nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


def test_json_is_bounded_in_depth_as_value_and_as_literal() -> None:
    assert scalar("JSON").parse_value(nested(MAX_JSON_DEPTH)) == nested(MAX_JSON_DEPTH)
    assert literal("JSON", "[" * MAX_JSON_DEPTH + "1" + "]" * MAX_JSON_DEPTH) == nested(MAX_JSON_DEPTH)
    for too_deep in (MAX_JSON_DEPTH + 1, 1000, 100_000):
        with pytest.raises(GraphQLError, match="at most 64 levels"):
            scalar("JSON").parse_value(nested(too_deep))
    with pytest.raises(GraphQLError, match="at most 64 levels"):
        literal("JSON", "[" * 65 + "1" + "]" * 65)


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**400, float("inf"), float("nan")])
def test_json_refuses_numbers_beyond_64_bits_wherever_they_are(number: float) -> None:
    for value in (number, [number], {"a": [{"b": number}]}):
        with pytest.raises(GraphQLError, match="JSON cannot hold"):
            scalar("JSON").parse_value(value)


@pytest.mark.parametrize("text", ["18446744073709551616", "-9223372036854775809", "9" * 5000, "1e400", "[{a: 1e999}]"])
def test_json_literal_refuses_numbers_beyond_64_bits(text: str) -> None:
    with pytest.raises(GraphQLError, match="JSON cannot hold"):
        literal("JSON", text)


def test_json_keeps_the_largest_numbers_that_64_bits_hold() -> None:
    assert literal("JSON", "[18446744073709551615, -9223372036854775808, 1.5e300]") == [2**64 - 1, -(2**63), 1.5e300]


def test_json_comes_out_as_the_stored_text_itself() -> None:
    serialize = scalar("JSON").serialize
    assert orjson.dumps({"a": serialize(msgspec.Raw(b'{"b": 1.50}'))}) == b'{"a":{"b": 1.50}}'
    assert orjson.dumps(serialize({"b": [1]})) == b'{"b":[1]}'


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (2**63 - 1, 2**63 - 1), (-(2**63), -(2**63)), (3.0, 3)])
def test_big_int_takes_64_bits_with_a_sign(value: object, expected: int) -> None:
    assert scalar("BigInt").parse_value(value) == expected


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 1.5, "1", True, None, float("inf")])
def test_big_int_refuses_everything_else(value: object) -> None:
    with pytest.raises(GraphQLError, match=r"^BigInt must"):
        scalar("BigInt").parse_value(value)


def test_big_int_literal_of_any_length_is_refused_with_a_sentence() -> None:
    assert literal("BigInt", "9223372036854775807") == 2**63 - 1
    for text in ("9223372036854775808", "9" * 5000, '"1"', "1.5"):
        with pytest.raises(GraphQLError):
            literal("BigInt", text)


@pytest.mark.parametrize("value", ["", "é", "x" * 4097, 5, None, ["a"]])
def test_cursor_refuses_what_was_never_given_out(value: object) -> None:
    with pytest.raises(GraphQLError, match="exactly as the server gave it"):
        scalar("Cursor").parse_value(value)
