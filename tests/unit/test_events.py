"""What an event may hold, and what is done to it before it is stored."""

from __future__ import annotations

import hmac
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.records import NewEvent
from engine.errors import UserError
from engine.events import EventDraft, hash_ip, normalise
from engine.json_limits import MAX_DEPTH, find_problem, is_suspect

SALT = b"0123456789abcdef"


def draft(**fields: Any) -> EventDraft:
    return EventDraft(**{"event_type": "order.placed", **fields})


def accepted(**fields: Any) -> NewEvent:
    (event,) = normalise([draft(**fields)], salt=SALT)
    assert isinstance(event, NewEvent), event
    return event


def refused(**fields: Any) -> tuple[str, tuple[str, ...]]:
    (error,) = normalise([draft(**fields)], salt=SALT)
    assert isinstance(error, UserError), error
    assert error.code == "INVALID"
    return error.message, error.path


def test_a_plain_event_passes_unchanged() -> None:
    noon = datetime(2026, 5, 1, 12, tzinfo=UTC)

    event = accepted(
        key="k", timestamp=noon, user_id="u", anonymous_id="a", properties=b'{"n": 1}', context=b'{"page":"/"}'
    )

    assert event == NewEvent("k", "analytics", "order.placed", noon, "u", "a", '{"n": 1}', '{"page":"/"}', None)


def test_an_event_without_a_key_gets_a_uuid_of_its_own() -> None:
    first, second = accepted().key, accepted().key
    assert UUID(first).version == UUID(second).version == 7
    assert first < second


@pytest.mark.parametrize(
    "event_type",
    ["order.placed", "a", "signup", "$pageview", "user_signed_up", "A-b.C9", "x" * 200, "Page Viewed", "täg", "a..b"],
)
def test_any_name_is_an_event_type(event_type: str) -> None:
    assert accepted(event_type=event_type).event_type == event_type


@pytest.mark.parametrize(
    "event_type",
    ["", "x" * 201, "ä" * 101, "push.*", "*", " order.placed", "order.placed ", "order.placed\n", "a\0b", "a\x7fb"],
)
def test_what_is_no_name_is_refused(event_type: str) -> None:
    assert refused(event_type=event_type)[1] == ("eventType",)


@pytest.mark.parametrize("module", ["", "m" * 65, "a.b", "a b"])
def test_what_is_no_module_is_refused(module: str) -> None:
    assert refused(module=module)[1] == ("module",)


@pytest.mark.parametrize(
    ("field", "name", "most"), [("key", "id", 128), ("user_id", "userId", 256), ("anonymous_id", "anonymousId", 256)]
)
def test_ids_have_a_length_and_hold_only_characters(field: str, name: str, most: int) -> None:
    assert getattr(accepted(**{field: "ü" * most}), field) == "ü" * most
    assert refused(**{field: "x" * (most + 1)}) == (f"{name} must have 1 to {most} characters.", (name,))
    assert refused(**{field: ""}) == (f"{name} must have 1 to {most} characters.", (name,))
    assert refused(**{field: "a\0b"}) == (f"{name} contains a NUL character.", (name,))
    assert refused(**{field: "a\ud83d"}) == (f"{name} contains half of a surrogate pair.", (name,))


@pytest.mark.parametrize(
    ("timestamp", "accepted_as"),
    [
        (datetime(1970, 1, 1, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)),
        (datetime(2099, 12, 31, 23, tzinfo=UTC), datetime(2099, 12, 31, 23, tzinfo=UTC)),
        # An offset is turned into UTC, and what has none is UTC
        (datetime(2026, 5, 1, 14, tzinfo=timezone(timedelta(hours=2))), datetime(2026, 5, 1, 12, tzinfo=UTC)),
        (datetime(2026, 5, 1, 12), datetime(2026, 5, 1, 12, tzinfo=UTC)),  # noqa: DTZ001
        # Nobody said when: the database will
        (None, None),
    ],
)
def test_timestamps_are_kept_in_utc(timestamp: datetime | None, accepted_as: datetime | None) -> None:
    event = accepted(timestamp=timestamp)
    assert event.timestamp == accepted_as
    assert event.timestamp is None or event.timestamp.tzinfo is UTC


@pytest.mark.parametrize("year", [1, 1969, 2100, 9999])
def test_timestamps_that_must_be_mistakes_are_refused(year: int) -> None:
    assert refused(timestamp=datetime(year, 6, 1, tzinfo=timezone(timedelta(hours=14)))) == (
        "timestamp must lie in the years 1970 to 2099.",
        ("timestamp",),
    )


@pytest.mark.parametrize("text", [b"", b"[]", b"1", b'"x"', b"null", b"[{}]", b" []"])
@pytest.mark.parametrize(("field", "name"), [("properties", "properties"), ("context", "context")])
def test_properties_and_context_are_objects(field: str, name: str, text: bytes) -> None:
    assert refused(**{field: text}) == (f"{name} must be a JSON object.", (name,))


def test_an_event_of_64_kib_passes_and_one_byte_more_does_not() -> None:
    names = len("analytics") + len("order.placed")
    fits = b'{"x":"' + b"y" * (64 * 1024 - names - len(b'{"x":""}') - len(b"{}")) + b'"}'
    assert accepted(properties=fits).properties == fits.decode()

    message, path = refused(properties=fits[:-2] + b'z"}')

    assert message == "The event takes 65,537 bytes; the limit is 65,536."
    assert path == ()


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        (b'{"a":{"b":["x","y\\u0000"]}}', ("a", "b", "1"), "A string contains a NUL character."),
        (b'{"a":{"b\\u0000":1}}', ("a",), "A string contains a NUL character."),
        (b'{"a":"\\ud800"}', ("a",), "A string contains half of a surrogate pair."),
        (b'{"a":"\\uDE00\\uD83D"}', ("a",), "A string contains half of a surrogate pair."),
        # 2^64, and just below -2^63
        (b'{"a":18446744073709551616}', ("a",), "A number does not fit into 64 bits."),
        (b'{"a":[0,-9223372036854775809]}', ("a", "1"), "A number does not fit into 64 bits."),
        (b'{"a":' + b"9" * 5000 + b"}", ("a",), "A number does not fit into 64 bits."),
        (b'{"a":1e400}', ("a",), "A number does not fit into 64 bits."),
        (b'{"a":-1E+309}', ("a",), "A number does not fit into 64 bits."),
        # A name that occurs twice: PostgreSQL reads both
        (b'{"a":"\\u0000","a":1}', ("a",), "A string contains a NUL character."),
        (b'{"a":"\\u00', (), "The JSON is malformed."),
    ],
)
def test_what_postgresql_cannot_hold_is_refused_with_its_path(text: bytes, path: tuple[str, ...], message: str) -> None:
    assert refused(properties=text) == (message, ("properties", *path))
    assert refused(context=text) == (message, ("context", *path))


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":18446744073709551615,"b":-9223372036854775808}',
        # Written with an escape, but what it says is harmless: a backslash and u0000, an emoji, an umlaut
        b'{"a":"\\\\u0000","b":"\\ud83d\\ude00","c":"\\u00e4"}',
        b'{"a":1.7976931348623157e308,"b":5e-324}',
        b'{"a":0.1000000000000000055511151231257827021181583404541015625}',
        b'{"card":"4111111111111111111111111111","id":"1e400"}',
    ],
)
def test_what_only_looks_dangerous_passes_unchanged(text: bytes) -> None:
    assert accepted(properties=text).properties == text.decode()


def test_numbers_count_as_long_as_postgresql_will_write_them() -> None:
    text = b'{"a":[' + b",".join([b"1e300"] * 300) + b"]}"
    assert refused(properties=text) == (
        "With its numbers written out it takes 91,807 bytes; the limit is 65,536.",
        ("properties",),
    )
    assert refused(properties=b'{"a":0e-99999}')[1] == ("properties",)
    assert refused(properties=b'{"a":1e-' + b"0" * 5000 + b"99999999}")[1] == ("properties",)


def test_nesting_is_bounded_also_beyond_what_a_parser_could_follow() -> None:
    fits = b'{"a":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}"
    assert accepted(properties=fits).properties == fits.decode()
    too_deep = (f"JSON may be nested {MAX_DEPTH} levels deep.", ("properties",))
    assert refused(properties=b'{"a":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}") == too_deep
    assert refused(properties=b'{"a":' * 1000 + b"1" + b"}" * 1000) == too_deep


def test_brackets_side_by_side_or_in_strings_are_no_nesting() -> None:
    wide = b'{"a":[' + b",".join([b"{}"] * 200) + b'],"b":"' + b"[{" * 200 + b'\\""}'
    assert accepted(properties=wide).properties == wide.decode()


@pytest.mark.parametrize("text", [b'{"a":"\xff"}', b'{"a":"\xed\xa0\x80"}'])
def test_bytes_that_are_no_utf8_are_refused(text: bytes) -> None:
    assert refused(properties=text) == ("The event's JSON is malformed.", ())


def test_a_refusal_does_not_touch_the_neighbours() -> None:
    first, second, third = normalise(
        [draft(key="a"), draft(properties=b'{"x":"\\u0000"}'), draft(key="c", properties=b'{"y":"\\u0041"}')], salt=SALT
    )
    assert (first.key, second.path, third.key) == ("a", ("properties", "x"), "c")


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.77", b"4\xcb\x00\x71"),
        ("203.0.113.1", b"4\xcb\x00\x71"),
        ("::ffff:203.0.113.9", b"4\xcb\x00\x71"),
        ("2001:db8:1:2:3::4", b"6\x20\x01\x0d\xb8\x00\x01"),
        ("2001:0DB8:0001:ffff::", b"6\x20\x01\x0d\xb8\x00\x01"),
        ("fe80::1%eth0", b"6\xfe\x80\x00\x00\x00\x00"),
    ],
)
def test_an_address_is_hashed_with_the_salt_after_its_host_is_cut_off(address: str, network: bytes) -> None:
    hashed = hmac.digest(SALT, network, "sha256").hex()[:16]
    assert hash_ip(address, salt=SALT) == hashed
    assert hash_ip(address, salt=b"another project's") != hashed
    event = accepted(context=msgspec.json.encode({"ip": address, "page": "/"}))
    assert msgspec.json.decode(event.context) == {"ip": hashed, "page": "/"}


NO_ADDRESSES = [
    "",
    "somewhere",
    "203.0.113.77:443",
    "1.2.3.4, 5.6.7.8",
    "1.2.3",
    7,
    ["1.2.3.4"],
    {"v4": "1.2.3.4"},
    None,
]


@pytest.mark.parametrize("value", NO_ADDRESSES)
def test_what_is_no_address_is_not_stored_at_all(value: object) -> None:
    assert accepted(context=msgspec.json.encode({"ip": value})).context == '{"ip":null}'


def test_an_address_under_an_escaped_or_repeated_name_is_hashed_too() -> None:
    hashed = hash_ip("203.0.113.77", salt=SALT)
    assert accepted(context=b'{"\\u0069p":"203.0.113.77"}').context == f'{{"ip":"{hashed}"}}'
    assert accepted(context=b'{"ip":"198.51.100.1","ip":"203.0.113.77"}').context == f'{{"ip":"{hashed}"}}'
    assert accepted(context=b' {"ip" :\n"203.0.113.77"}').context == f'{{"ip":"{hashed}"}}'


@pytest.mark.parametrize(
    ("context", "kept"),
    [
        ('{"depth":9,"page":"/","cause":"dlv_1"}', '{"page":"/"}'),
        ('{"depth":null}', "{}"),
        # However it is written, and however often
        ('{"d\\u0065pth":9,"cau\\u0073e":1}', "{}"),
        ('{"depth":1,"page":"/","depth":9}', '{"page":"/"}'),
        # Only the context's own
        ('{"scroll":{"depth":50,"cause":"wheel"}}', '{"scroll":{"depth":50,"cause":"wheel"}}'),
    ],
)
def test_cause_and_depth_are_the_servers(context: str, kept: str) -> None:
    assert accepted(context=context.encode()).context == kept
    assert accepted(properties=context.encode()).properties == context


def test_traits_are_those_of_the_context_with_the_given_ones_over_them() -> None:
    event = accepted(
        user_id="u", context=b'{"traits":{"plan":"free","city":"Graz"},"page":"/"}', traits=b'{"plan":"pro"}'
    )

    assert msgspec.json.decode(event.traits) == {"plan": "pro", "city": "Graz"}
    assert msgspec.json.decode(event.context) == {"traits": {"plan": "pro", "city": "Graz"}, "page": "/"}


def test_traits_of_the_context_alone_leave_it_as_it_is() -> None:
    event = accepted(user_id="u", context=b'{"traits": {"plan":"free"}}')
    assert (event.traits, event.context) == ('{"plan":"free"}', '{"traits": {"plan":"free"}}')


@pytest.mark.parametrize(
    "fields", [{}, {"traits": b"{}"}, {"context": b'{"traits":{}}'}, {"context": b'{"traits":null}'}]
)
def test_no_traits_are_nothing_to_merge(fields: dict[str, bytes]) -> None:
    assert accepted(user_id="u", **fields).traits is None


def test_without_a_user_there_is_nobody_to_merge_traits_into() -> None:
    event = accepted(anonymous_id="a", traits=b'{"plan":"pro"}')
    assert (event.traits, event.context) == (None, '{"traits":{"plan":"pro"}}')


def test_traits_that_are_no_object_are_refused() -> None:
    assert refused(user_id="u", traits=b"null") == ("traits must be a JSON object.", ("traits",))
    assert refused(user_id="u", traits=b"[1]") == ("traits must be a JSON object.", ("traits",))
    assert refused(user_id="u", context=b'{"traits":"pro"}') == ("traits must be a JSON object.", ("context", "traits"))
    assert refused(user_id="u", traits=b'{"a":"\\u0000"}') == ("A string contains a NUL character.", ("traits", "a"))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters()), inner, max_size=3),
    max_leaves=8,
)


@given(value=json_values, ascii_only=st.booleans())
def test_the_quick_search_misses_nothing_that_taking_apart_finds(value: object, ascii_only: bool) -> None:
    try:
        text = json.dumps({"v": value}, ensure_ascii=ascii_only).encode()
    except UnicodeEncodeError:
        return
    if _holds_what_is_refused(value):
        assert is_suspect(text)
        assert find_problem(text, most_bytes=1_000_000) is not None
    else:
        assert find_problem(text, most_bytes=1_000_000) is None


def _holds_what_is_refused(value: object) -> bool:
    if isinstance(value, dict):
        return any(_holds_what_is_refused(part) for member in value.items() for part in member)
    if isinstance(value, list):
        return any(_holds_what_is_refused(member) for member in value)
    if isinstance(value, str):
        return "\0" in value or any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, int):
        return not -(2**63) <= value < 2**64
    return False
