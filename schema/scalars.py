"""The scalars of the contract. Each refuses, while arguments are coerced, what could never be stored or given back.

`DateTime` is an instant: without an offset it is refused, and so is what leaves the years 1 to 9999 once it is in UTC.
`JSON` comes out as the stored text itself. `BigInt` is a JSON number, which JavaScript reads exactly up to 2^53.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NewType

import msgspec
import orjson
from graphql import GraphQLError, ValueNode
from graphql.language import (
    BooleanValueNode,
    EnumValueNode,
    FloatValueNode,
    IntValueNode,
    ListValueNode,
    NullValueNode,
    ObjectValueNode,
    StringValueNode,
    VariableNode,
)
from strawberry.types.scalar import ScalarDefinition, scalar

from schema.instants import parse_instant

MAX_JSON_DEPTH = 64
"""Levels of objects and arrays in one JSON value. Events in the wild nest 5; readers of ours and of others recurse."""
MAX_PLAIN_JSON_BYTES = 16 * 1024
"""A quarter of an event's limit: blanks and escapes can make no difference."""
MIN_JSON_INTEGER, MAX_JSON_INTEGER = -(2**63), 2**64 - 1
"""What 64 bits hold, with a sign or without."""
BEYOND_64_BITS = "JSON cannot hold an integer beyond 64 bits: send it as a string."
MIN_BIG_INT, MAX_BIG_INT = -(2**63), 2**63 - 1

MAX_CURSOR_CHARACTERS = 4096
"""The longest that is ever given out holds a sort key of 512 bytes."""

_TO_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_MANY_DIGITS = b"0" * 19
"""What a number beyond 64 bits has at least."""

JSON = NewType("JSON", object)
BigInt = NewType("BigInt", int)
Cursor = NewType("Cursor", str)


def check_json(value: object) -> None:
    """Raise `ValueError` for a JSON value that is nested too deeply or holds a number beyond 64 bits."""
    level: list[object] = [value]
    for _ in range(MAX_JSON_DEPTH + 1):
        if not level:
            return
        level = [inner for outer in level for inner in _children(outer)]
    raise ValueError(f"JSON may be nested at most {MAX_JSON_DEPTH} levels deep.")


def check_json_text(text: bytes, value: object) -> None:
    """The same for a value whose compact text is at hand, which shows at once that most values are in order."""
    if text.count(b"{") + text.count(b"[") > MAX_JSON_DEPTH or _MANY_DIGITS in text.translate(_TO_ZEROS):
        check_json(value)


def is_plain_json(text: bytes) -> bool:
    """Whether a JSON text is so small and ordinary that nothing in it can be refused, written anew or not."""
    if len(text) > MAX_PLAIN_JSON_BYTES or text.count(b"{") + text.count(b"[") > MAX_JSON_DEPTH:
        return False
    zeros = text.translate(_TO_ZEROS)
    return _MANY_DIGITS not in zeros and b"0e" not in zeros and b"0E" not in zeros


def _children(value: object) -> list[object]:
    """What a level of JSON holds: containers only, the rest has been checked."""
    if isinstance(value, dict):
        inner = list(value.values())
    elif isinstance(value, list):
        inner = value
    else:
        _check_leaf(value)
        return []
    return [item for item in inner if _is_container(item)]


def _is_container(value: object) -> bool:
    if isinstance(value, dict | list):
        return True
    _check_leaf(value)
    return False


def _check_leaf(value: object) -> None:
    if isinstance(value, int) and not MIN_JSON_INTEGER <= value <= MAX_JSON_INTEGER:
        raise ValueError(BEYOND_64_BITS)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("JSON cannot hold a number that is not finite.")


def _parse_json(value: object) -> object:
    try:
        check_json(value)
    except ValueError as error:
        raise GraphQLError(str(error)) from None
    return value


def _serialize_json(value: object) -> object:
    """Stored text goes out as it is; other values are encoded with the response, if it can hold them.

    What was read from stored text may hold integers beyond 64 bits.
    """
    if isinstance(value, msgspec.Raw):
        return orjson.Fragment(bytes(value))
    if isinstance(value, bytes):
        return orjson.Fragment(value)
    try:
        check_json(value)
    except ValueError:
        return orjson.Fragment(msgspec.json.encode(value))
    return value


def _parse_json_literal(node: ValueNode, variables: Mapping[str, Any] | None = None) -> object:
    return _parse_json(_literal(node, variables or {}, MAX_JSON_DEPTH))


def _literal(node: ValueNode, variables: Mapping[str, Any], depth: int) -> object:
    if depth < 0:
        raise GraphQLError(f"JSON may be nested at most {MAX_JSON_DEPTH} levels deep.", node)
    match node:
        case ObjectValueNode(fields=fields):
            return {field.name.value: _literal(field.value, variables, depth - 1) for field in fields}
        case ListValueNode(values=values):
            return [_literal(item, variables, depth - 1) for item in values]
        case StringValueNode(value=text) | EnumValueNode(value=text):
            return text
        case IntValueNode(value=digits):
            return _integer(digits)
        case FloatValueNode(value=digits):
            return float(digits)
        case BooleanValueNode(value=flag):
            return flag
        case NullValueNode():
            return None
        case VariableNode(name=name):
            return variables.get(name.value)
    raise GraphQLError("JSON cannot hold this literal.", node)


def _integer(digits: str) -> int:
    """Bounded before it is read: Python refuses some thousands of digits in a way of its own."""
    if len(digits) > len(str(MIN_JSON_INTEGER)) + 1:
        raise GraphQLError(BEYOND_64_BITS)
    return int(digits)


def _parse_datetime(value: object) -> datetime:
    if not isinstance(value, str):
        raise GraphQLError("DateTime must be a string such as 2026-05-01T12:00:00Z.")
    try:
        return parse_instant(value)
    except ValueError as error:
        raise GraphQLError(str(error)) from None


def _serialize_datetime(value: datetime) -> str:
    """RFC 3339 in UTC, with as many digits of the second as there are."""
    return value.astimezone(UTC).isoformat().removesuffix("+00:00") + "Z"


def _parse_big_int(value: object) -> int:
    number = int(value) if isinstance(value, float) and value.is_integer() else value
    if isinstance(number, bool) or not isinstance(number, int):
        raise GraphQLError("BigInt must be an integer.")
    if not MIN_BIG_INT <= number <= MAX_BIG_INT:
        raise GraphQLError("BigInt must fit in 64 bits.")
    return number


def _parse_big_int_literal(node: ValueNode, _variables: Mapping[str, Any] | None = None) -> int:
    if not isinstance(node, IntValueNode):
        raise GraphQLError("BigInt must be an integer.", node)
    return _parse_big_int(_integer(node.value))


def _parse_cursor(value: object) -> str:
    if not isinstance(value, str) or not value.isascii() or not 0 < len(value) <= MAX_CURSOR_CHARACTERS:
        raise GraphQLError("Cursor must be a string exactly as the server gave it.")
    return value


SCALARS: dict[object, ScalarDefinition] = {
    datetime: scalar(
        name="DateTime",
        description=(
            "ISO 8601 instant in UTC, e.g. 2026-05-01T12:00:00Z. Input accepts any offset, but needs one; "
            "output is always Z. Years 1 to 9999, six digits of a second at most."
        ),
        serialize=_serialize_datetime,
        parse_value=_parse_datetime,
    ),
    JSON: scalar(
        name="JSON",
        description=(
            "Any JSON value. Numbers up to 64 bits; at most 64 levels deep. "
            'As a literal, GraphQL\'s own notation: {amount: 5, tags: ["a"]}.'
        ),
        serialize=_serialize_json,
        parse_value=_parse_json,
        parse_literal=_parse_json_literal,
    ),
    BigInt: scalar(
        name="BigInt",
        description="64-bit integer, sent as a JSON number.",
        serialize=int,
        parse_value=_parse_big_int,
        parse_literal=_parse_big_int_literal,
    ),
    Cursor: scalar(
        name="Cursor",
        description=(
            "Opaque position. Only ever hand back what the server gave. Project.head is valid as `after` of every "
            "stream; an events edge's cursor as `after` of eventStream; a stream's cursor in that stream; cursors of "
            "other lists only in their own list. head is read before the rest of an operation."
        ),
        serialize=str,
        parse_value=_parse_cursor,
    ),
}
"""By the Python type that stands for each in annotations."""
