"""Bounds on JSON text, checked before anything decodes it.

Guarantees, for text that a JSON parser then accepts: it is UTF-8, nests at most `MAX_DEPTH` deep, holds no NUL and no
lone surrogate in a string (PostgreSQL refuses both), and no number that 64 bits cannot hold. It does not check that the
text is JSON: the parser does, and what this module says about text that is none does not matter.

A body of half a megabyte must cost less to check than to decode, so nothing here walks over characters in Python.
Strings are told from structure by counting quotation marks: after escapes are gone, every second piece between
quotation marks is outside. Each removal of all innermost pairs of brackets takes off one level of depth. Digits are
all made zeros first, which turns "19 digits in a row" into a search for constant bytes.
"""

from __future__ import annotations

import re
from itertools import accumulate

import orjson

from transport.errors import RequestError

MAX_DEPTH = 100
"""Levels of arrays and objects. Far beyond any honest input, far below any parser's stack."""

MAX_CONTAINERS = 100_000
"""Arrays and objects in one text: a hundred for each event of a batch. Decoded, each is fifty times its two bytes."""

MAX_NUMBER_LENGTH = 64
"""Characters of one number. A double needs 24, a 64-bit integer 20; what is longer measures nothing."""

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

NUMBER_TOO_LARGE = "Numbers must fit in 64 bits."
NOT_JSON = "The request is not valid JSON."

_BRACKETS = bytes.maketrans(b"[]", b"{}")
_NOT_STRUCTURE = bytes(byte for byte in range(256) if byte not in b'{}[]"')
_SHORT = 16_384
"""Bytes up to which counting brackets is worth the try. In longer texts there are more than `MAX_DEPTH` anyway."""
_STEPS = bytes.maketrans(b"{}", b"\x01\xff")
_ORDINARY_DEPTH = 8
"""Levels that are taken off by removing innermost pairs, which is fastest while every round removes most of them."""

_DIGITS = bytes.maketrans(b"123456789E]} \t\r\n", b"000000000e,,,,,,")
_LONG_DIGITS = b"0" * 19
"""The shortest run of digits that may exceed 64 bits: 2**63 has 19."""
_LARGE_EXPONENT = re.compile(rb"0e[-+]?0{3,},")
"""In text whose digits are zeros: an exponent of three digits or more at the end of a number. Doubles end at e308."""

_ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_NUMBER = re.compile(rb"-?[0-9][-+.0-9eE]*")


def check_json(text: bytes) -> None:
    """Raise `RequestError` if the text is not UTF-8 or passes one of the bounds."""
    if not text.isascii():
        _check_encoding(text)
    if b"\\" in text:
        _check_escapes(text)
    if len(text) > MAX_DEPTH and (len(text) > _SHORT or text.count(b"{") + text.count(b"[") > MAX_DEPTH):
        _check_depth(text)
    zeros = text.translate(_DIGITS)
    if _LONG_DIGITS in zeros or (b"0e" in zeros and _LARGE_EXPONENT.search(zeros + b",")):
        _check_numbers(text)


def _check_encoding(text: bytes) -> None:
    try:
        str(text, "utf-8")
    except UnicodeDecodeError:
        raise RequestError("The request is not valid UTF-8.") from None


def _check_escapes(text: bytes) -> None:
    if b"\\u0000" in text and _ESCAPED_NUL.search(text):
        raise RequestError("Strings must not contain NUL (U+0000).")
    if b"\\ud" in text or b"\\uD" in text:
        _check_surrogates(text)


def _check_surrogates(text: bytes) -> None:
    """Let a parser decide that is strict about them: a pair may hide behind any number of backslashes."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as error:
        reason = "Strings must not contain lone surrogates." if "surrogate" in str(error) else NOT_JSON
        raise RequestError(reason) from None


def _check_depth(text: bytes) -> None:
    structure = _without_escapes(text).translate(_BRACKETS, _NOT_STRUCTURE).replace(b'""', b"")
    if b'"' in structure:
        structure = b"".join(structure.split(b'"')[::2])
    if len(structure) > 2 * MAX_CONTAINERS:
        raise RequestError(f"JSON must not hold more than {MAX_CONTAINERS} arrays and objects.")
    for _ in range(_ORDINARY_DEPTH):
        structure = structure.replace(b"{}", b"")
    if structure and _height(structure) > MAX_DEPTH - _ORDINARY_DEPTH:
        raise RequestError(f"JSON must not nest deeper than {MAX_DEPTH} levels.")


def _height(structure: bytes) -> int:
    """The most brackets open at once: the highest of the running sums of +1 and -1."""
    return max(accumulate(memoryview(structure.translate(_STEPS)).cast("b")))


def _check_numbers(text: bytes) -> None:
    """For a text that holds what may be a large number, be it in a string."""
    outside_strings = b'"'.join(_without_escapes(text).split(b'"')[::2])
    zeros = outside_strings.translate(_DIGITS) + b","
    if _LONG_DIGITS not in zeros and not _LARGE_EXPONENT.search(zeros):
        return
    for number in _NUMBER.findall(outside_strings):
        if not fits_in_64_bits(number):
            raise RequestError(NUMBER_TOO_LARGE)


def _without_escapes(text: bytes) -> bytes:
    return text.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in text else text


def fits_in_64_bits(number: bytes) -> bool:
    """Whether this number, as JSON and GraphQL write it, is a signed 64-bit integer or a finite double."""
    if len(number) > MAX_NUMBER_LENGTH:
        return False
    try:
        if number.lstrip(b"-").isdigit():
            return INT64_MIN <= int(number) <= INT64_MAX
        return abs(float(number)) != float("inf")
    except ValueError:
        return True
