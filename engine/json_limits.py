"""What PostgreSQL cannot hold, or would hold badly, in JSON: NUL, lone surrogates, numbers beyond 64 bits, depth.

`is_suspect` searches the bytes: it may cry wolf but misses nothing. `find_problem` takes the text apart and is exact.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator

import msgspec

MAX_DEPTH = 64
"""Levels of arrays and objects. No client nests by hand deeper than ten; parsers and printers recurse."""
MIN_INTEGER = -(2**63)
MAX_INTEGER = 2**64 - 1
"""What fits into 64 bits, signed or unsigned."""

LARGEST_GROWTH = 10**6
"""Past every limit on size, so an exponent need not be read further."""

_TO_DIGIT_ZERO = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER = b"0" * 19
"""Numbers with fewer digits fit into 64 bits."""
_EXPONENT = re.compile(rb"[:\[,]\s*-?\d[\d.]*[eE]")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")


class Problem(msgspec.Struct, frozen=True):
    """Why some JSON is refused. `path` leads from the outermost value to the part; positions in arrays are digits."""

    message: str
    path: tuple[str, ...]


class _Number(str):
    """A number's text, told apart from a string."""

    __slots__ = ()


class _Object(list[tuple[str, object]]):
    """An object's members, repeated names included: PostgreSQL reads those too."""

    __slots__ = ()


def is_suspect(text: bytes) -> bool:
    """Whether a text (or several, joined) may hold a character or a number that is refused. Depth is not looked at."""
    if b"\\u" in text:
        return True
    zeros = text.translate(_TO_DIGIT_ZERO)
    if _LONG_NUMBER in zeros:
        return True
    return (b"0e" in zeros or b"0E" in zeros) and _EXPONENT.search(text) is not None


def find_problem(text: bytes, *, most_bytes: int) -> Problem | None:
    """The first problem of a JSON text, or None. `most_bytes` bounds it with its numbers written out in full."""
    if text.count(b"{") + text.count(b"[") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
        return Problem(f"JSON may be nested {MAX_DEPTH} levels deep.", ())
    if not is_suspect(text):
        return None
    try:
        value = json.loads(
            text, parse_int=_Number, parse_float=_Number, parse_constant=_Number, object_pairs_hook=_Object
        )
    except ValueError:
        return Problem("The JSON is malformed.", ())
    size = len(text)
    for path, leaf in _leaves(value, ()):
        message = _number_problem(leaf) if isinstance(leaf, _Number) else _string_problem(leaf)
        if message is not None:
            return Problem(message, path)
        size += _growth(leaf) if isinstance(leaf, _Number) else 0
    if size > most_bytes:
        return Problem(f"With its numbers written out it takes {size:,} bytes; the limit is {most_bytes:,}.", ())
    return None


def _depth(text: bytes) -> int:
    deepest = depth = 0
    for byte in _STRING.sub(b"", text):
        if byte in b"{[":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"}]":
            depth -= 1
    return deepest


def _leaves(value: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every string, number and name in a value, with its path."""
    if isinstance(value, _Object):
        for name, member in value:
            yield path, name
            yield from _leaves(member, (*path, name))
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from _leaves(member, (*path, str(index)))
    elif isinstance(value, str):
        yield path, value


def _string_problem(text: str) -> str | None:
    if "\0" in text:
        return "A string contains a NUL character."
    if _SURROGATE.search(text):
        return "A string contains half of a surrogate pair."
    return None


def _number_problem(number: _Number) -> str | None:
    message = "A number does not fit into 64 bits."
    if _is_integer(number):
        digits = number.lstrip("-")
        fits = len(digits) <= 20 and MIN_INTEGER <= int(number) <= MAX_INTEGER
        return None if fits else message
    return None if math.isfinite(float(number)) else message


def _is_integer(number: str) -> bool:
    return number.lstrip("-").isdigit()


def _growth(number: str) -> int:
    """How many characters a number gains when it is written without an exponent."""
    _, _, exponent = number.lower().partition("e")
    return int(min(abs(float(exponent)), LARGEST_GROWTH)) if exponent else 0
