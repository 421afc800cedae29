"""The bounds on JSON text, against a slow oracle that parses it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.errors import RequestError
from transport.execution.json_bounds import MAX_DEPTH, check_json

AWKWARD = st.text(st.sampled_from('{}[]"\\,:0123456789eE+-. ux\u0000\ud800\udc00é€😀'), max_size=30)
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 10**18, 10**19, 1e308, 1e-308, 1.5e100, 0.1]),
    st.floats(allow_nan=False, allow_infinity=False),
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, AWKWARD)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(AWKWARD, inner, max_size=4), max_leaves=20
)


def depth(value: Any) -> int:
    match value:
        case dict():
            return 1 + max(map(depth, value.values()), default=0)
        case list():
            return 1 + max(map(depth, value), default=0)
    return 0


def is_within_bounds(value: Any) -> bool:
    """What `check_json` must say, except about depth."""
    match value:
        case dict():
            return all(is_within_bounds(one) for pair in value.items() for one in pair)
        case list():
            return all(map(is_within_bounds, value))
        case str():
            return "\0" not in value and not any(0xD800 <= ord(character) < 0xE000 for character in value)
        case bool():
            return True
        case int():
            return -(2**63) <= value < 2**63
    return True


def is_accepted(text: bytes) -> bool:
    try:
        check_json(text)
    except RequestError:
        return False
    return True


@given(VALUES)
def test_what_it_says_is_what_a_parser_would_find(value: Any) -> None:
    # a pair of surrogates is written as one character, so the oracle looks at what the text means
    text = json.dumps(value)

    assert is_accepted(text.encode()) == is_within_bounds(json.loads(text))


@given(VALUES, st.integers(MAX_DEPTH - 3, MAX_DEPTH + 3), st.booleans(), AWKWARD)
def test_depth_is_exact_whatever_the_strings_hold(value: Any, wrappers: int, objects: bool, key: str) -> None:
    for _ in range(wrappers):
        value = {"a}": "{[", key: value} if objects else ["]]}", value, "[{"]
    text = json.dumps(value)
    meant = json.loads(text)

    assert is_accepted(text.encode()) == (is_within_bounds(meant) and depth(meant) <= MAX_DEPTH)


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["", "e5", "e-5", "E+05", "e308", "e309", "e-999"]))
def test_numbers_fit_where_a_double_or_a_bigint_holds_them(before: int, after: int, exponent: str) -> None:
    integer = b'{"a":%b}' % (b"1" * before)
    real = f'{{"a":[1.{"1" * after}{exponent}, 2]}}'.encode()

    assert is_accepted(integer) == (int("1" * before) < 2**63)
    assert is_accepted(real) == (float(f"1.{'1' * after}{exponent}") != float("inf"))


@pytest.mark.parametrize(
    "text",
    [
        b"1" * 5000,
        b"-" + b"9" * 19,
        b"1e999",
        b"[1E+0400]",
        b"0." + b"1" * 100,
        b'"\\u0000"',
        b'{"\\u0000":1}',
        b'"\\\\\\u0000"',
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b'"\\ud800\\\\udc00"',
        b"\xff",
        b'"\xed\xa0\x80"',
        b"[" * 101 + b"]" * 101,
        b'{"a":' * 101 + b"1" + b"}" * 101,
        b"[" * 1_000_000,
        b"[" + b"[]," * 100_000 + b"1]",
    ],
)
def test_refused(text: bytes) -> None:
    assert not is_accepted(text)


@pytest.mark.parametrize(
    "text",
    [
        b"9223372036854775807",
        b"-9223372036854775808",
        b"1.7976931348623157e308",
        b"0.1234567890123456789012345",
        b'"99999999999999999999999999"',
        b'"1e999, "',
        b'"\\\\u0000"',
        b'"\\ud83d\\ude00"',
        b'"\\\\ud800"',
        b"[" * 100 + b"]" * 100,
        b"[" + b"[]," * 99_999 + b"1]",
        b'["' + b"[" * 500_000 + b'"]',
        b'["' + b"[" * 1000 + b'"]',
        b'["\\"' + b"{" * 1000 + b'"]',
    ],
)
def test_accepted(text: bytes) -> None:
    assert is_accepted(text)
