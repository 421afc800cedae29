"""Columns find their fields, text its type, and every row an id that does not depend on when or where it is read."""

from __future__ import annotations

from datetime import UTC
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from importer.errors import ImportMistakeError, RowError
from importer.events import EventBuilder, EventRules
from importer.mapping import ColumnMap, Destination, ValueType, guess_types, map_columns, read_pairs, read_types
from importer.source import Row


def mapped(*columns: str, **overrides: str) -> dict[str, str]:
    found = map_columns(columns, overrides, {}, strict=True)
    return {column: str(found.destination(column)) for column in columns}


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (("user_id", "event", "timestamp"), ["userId", "eventType", "timestamp"]),
        (("distinct_id", "event_type", "ts"), ["userId", "eventType", "timestamp"]),
        (("userId", "name", "date"), ["userId", "eventType", "timestamp"]),
        (("$insert_id", "Event Name", "TIME"), ["id", "eventType", "timestamp"]),
        (("name", "event", "x.y"), ["properties.name", "eventType", "properties.x.y"]),  # event before name
        (("time", "timestamp", "anonymous_id"), ["properties.time", "timestamp", "anonymousId"]),
        (("properties", "context", "traits", "module"), ["properties", "context", "traits", "module"]),
    ],
)
def test_well_known_names_find_their_field(columns: tuple[str, ...], expected: list[str]) -> None:
    assert list(mapped(*columns).values()) == expected


def test_an_override_comes_first_and_frees_the_name_it_takes() -> None:
    assert mapped("event", "what", "secret", "plan", what="eventType", secret="-", plan="traits.plan") == {
        "event": "properties.event",
        "what": "eventType",
        "secret": "-",
        "plan": "traits.plan",
    }


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"nope": "userId"}, "There is no column 'nope': the file has a, b."),
        ({"a": "user"}, "--map a=user leads nowhere: use one of eventType, userId, "),
        ({"a": "userId.x"}, "--map a=userId.x leads nowhere"),
        ({"a": "properties."}, "--map a=properties. leads nowhere"),
        ({"a": "userId", "b": "userId"}, "--map sends both 'a' and 'b' to userId."),
    ],
)
def test_a_mapping_that_cannot_work_is_refused(overrides: dict[str, str], message: str) -> None:
    with pytest.raises(ImportMistakeError) as caught:
        mapped("a", "b", **overrides)

    assert str(caught.value).startswith(message)


def test_options_in_pairs_are_read() -> None:
    assert read_pairs("--map", ["a=userId", "x=y=eventType"]) == {"a": "userId", "x=y": "eventType"}
    assert read_types(["a=number"]) == {"a": ValueType.NUMBER}
    for wrong in (["a"], ["=a"], ["a="], ["a=userId", "a=id"]):
        with pytest.raises(ImportMistakeError, match="--map"):
            read_pairs("--map", wrong)
    with pytest.raises(ImportMistakeError, match="--type a=date is malformed: a column is text, number, boolean"):
        read_types(["a=date"])


@pytest.mark.parametrize(
    ("column", "texts", "expected"),
    [
        ("amount", ["1", "-2.50", "", "0"], ValueType.NUMBER),
        ("amount", ["1", "1e5"], ValueType.TEXT),
        ("zip", ["10115", "01067"], ValueType.TEXT),  # a leading zero means something
        ("order_id", ["1", "2"], ValueType.TEXT),  # identifiers are names
        ("orderId", ["1", "2"], ValueType.TEXT),
        ("big", ["1234567890123456"], ValueType.TEXT),  # longer than a float is exact
        ("paid", ["true", "False", ""], ValueType.BOOLEAN),
        ("month", ["2024-01"], ValueType.TEXT),
        ("empty", ["", ""], ValueType.TEXT),
    ],
)
def test_a_column_is_a_number_only_when_it_can_be_nothing_else(
    column: str, texts: list[str], expected: ValueType
) -> None:
    assert guess_types(({column: text} for text in texts), [column]) == {column: expected}


def rules(*columns: str, is_csv: bool = True, types: dict[str, ValueType] | None = None, **more: Any) -> EventRules:
    return EventRules(columns=map_columns(columns, {}, types or {}, strict=True), is_csv=is_csv, **more)


def build(values: dict[str, Any], *, line: int = 2, **more: Any) -> dict[str, Any]:
    return EventBuilder(rules(*values, **more)).build(Row(line, values))


def test_a_row_becomes_an_event() -> None:
    event = build(
        {
            "event": "home",
            "user_id": "ada",
            "timestamp": "2024-03-13 10:21:14",
            "amount": "12.50",
            "paid": "TRUE",
            "note": "",
            "code": "007",
        },
        types={"amount": ValueType.NUMBER, "paid": ValueType.BOOLEAN, "code": ValueType.NUMBER},
        event_prefix="shop.",
        module="store",
        timezone=ZoneInfo("Europe/Berlin"),
    )

    event_id = event.pop("id")
    assert event == {
        "eventType": "shop.home",
        "module": "store",
        "userId": "ada",
        "timestamp": "2024-03-13T09:21:14Z",
        "properties": {"amount": 12.5, "paid": True, "code": "007"},
    }
    assert event_id.startswith("import_")
    assert len(event_id) == len("import_") + 32


def test_objects_of_a_row_are_merged_with_its_columns() -> None:
    event = build(
        {"event": "home", "properties": '{"a":{"b":1}}', "context": '{"ip":"::1"}', "colour": "red"},
    )

    assert event["properties"] == {"a": {"b": 1}, "colour": "red"}
    assert event["context"] == {"ip": "::1"}


def test_json_keeps_its_types() -> None:
    event = build(
        {"event": "home", "user_id": 5, "time": 1710325274, "n": "1", "deep": {"x": [1, None]}, "gone": None},
        is_csv=False,
    )

    assert event["userId"] == "5"
    assert event["timestamp"] == "2024-03-13T10:21:14Z"
    assert event["properties"] == {"n": "1", "deep": {"x": [1, None]}}


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("2024-03-13T10:21:14Z", "2024-03-13T10:21:14Z"),
        ("2024-03-13T10:21:14.123456+01:00", "2024-03-13T09:21:14.123456Z"),
        ("2024-03-13", "2024-03-13T00:00:00Z"),
        ("1710325274", "2024-03-13T10:21:14Z"),
        ("1710325274.5", "2024-03-13T10:21:14.500000Z"),
        ("1710325274123", "2024-03-13T10:21:14.123000Z"),
        ("1710325274123456", "2024-03-13T10:21:14.123456Z"),
    ],
)
def test_timestamps_are_read_in_their_usual_forms(written: str, expected: str) -> None:
    assert build({"event": "e", "time": written})["timestamp"] == expected


def test_a_timestamp_format_can_be_named() -> None:
    event = build({"event": "e", "time": "31/12/2024 23:30"}, timestamp_format="%d/%m/%Y %H:%M", timezone=UTC)

    assert event["timestamp"] == "2024-12-31T23:30:00Z"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"event": "", "time": "2024-03-13"}, "it names no event"),
        ({"event": "e", "time": ""}, "its timestamp is empty"),
        ({"event": "e", "time": "13/03/2024"}, "its timestamp '13/03/2024' cannot be read; say how to read it, e.g. "),
        ({"event": "e", "time": "99999999999999999999"}, "its timestamp '99999999999999999999' cannot be read"),
        ({"event": "e", "time": "0001-01-01T00:00:00+05:00"}, "its timestamp '0001-01-01T00:00:00+05:00' cannot be"),
        ({"event": "e", "properties": "x"}, "column 'properties' is not a JSON object"),
        ({"event": "e", "properties": "[1]"}, "column 'properties' is not a JSON object"),
    ],
)
def test_a_row_that_is_no_event_says_why(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowError) as caught:
        build(values)

    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"event": True}, "eventType must be a string"),
        ({"event": "e", "time": True}, "its timestamp 'True' cannot be read"),
        ({"event": "e", "user_id": 1.5}, "userId must be a string"),
    ],
)
def test_json_of_the_wrong_type_says_why(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowError) as caught:
        build(values, is_csv=False)

    assert str(caught.value).startswith(reason)


def ids(*rows: dict[str, Any], **more: Any) -> list[str]:
    builder = EventBuilder(rules(*rows[0], **more))
    return [builder.build(Row(line, row))["id"] for line, row in enumerate(rows, start=2)]


def test_identical_rows_are_told_apart_by_their_number() -> None:
    row, other = {"event": "buy", "user_id": "ada"}, {"event": "buy", "user_id": "bob"}

    first = ids(row, other, row, row)
    again = ids(other, row, row, row)  # in another order, another file

    assert first[2] == f"{first[0]}_2"
    assert first[3] == f"{first[0]}_3"
    assert set(first) == set(again)
    assert len(set(first)) == 4


def test_an_id_depends_on_what_the_event_says_and_not_on_guesses() -> None:
    row = {"event": "buy", "amount": "5"}

    assert ids(row) == ids({"amount": "5", "event": "buy"}) == ids(row, types={"amount": ValueType.NUMBER})
    assert ids(row) != ids({"event": "buy", "amount": "6"})
    assert ids(row) != ids(row, event_prefix="shop.")
    assert ids({"event": "buy", "time": "2024-03-13 10:00:00"}) == ids({"event": "buy", "time": "2024-03-13T10:00:00Z"})


def test_an_id_of_the_file_is_kept_and_may_repeat_only_with_its_event() -> None:
    row = {"event_id": "x-1", "event": "buy", "n": "1"}
    assert ids(row, row) == ["x-1", "x-1"]

    with pytest.raises(RowError, match="it has the id of line 2 but is another event"):
        ids(row, {**row, "n": "2"})


def test_columns_that_lead_into_each_other_say_so() -> None:
    columns = ColumnMap(
        {
            "a": Destination("properties", ("x",)),
            "b": Destination("properties", ("x", "y")),
            "event": Destination("eventType"),
        },
        {},
    )
    builder = EventBuilder(EventRules(columns=columns, is_csv=True))

    with pytest.raises(RowError, match="column 'b' leads into a value that another column has set"):
        builder.build(Row(2, {"event": "e", "a": "1", "b": "2"}))
