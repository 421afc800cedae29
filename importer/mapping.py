"""Which column goes where in an event, and whether its text is a number, true or false, or text.

Well-known names find their field on their own (`user_id`, `distinct_id` …); everything else becomes a property of the
same name. `--map column=field` says otherwise. Text of a CSV file is taken for a number only where it could not be
anything else, for whole columns and never for identifiers: a condition `amount > 100` needs a number, and an order
number 007 must stay what it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from importer.errors import ImportMistakeError

LEFT_OUT = "-"
"""`--map column=-` leaves a column out."""

FIELDS = ("eventType", "userId", "anonymousId", "timestamp", "id", "module", "properties", "context", "traits")
_OPEN_FIELDS = ("properties", "context", "traits")

_WELL_KNOWN: Mapping[str, tuple[str, ...]] = {
    "eventType": ("eventtype", "event", "eventname", "name"),
    "userId": ("userid", "distinctid", "customerid"),
    "anonymousId": ("anonymousid", "anonid"),
    "timestamp": ("timestamp", "time", "ts", "datetime", "date", "eventtime", "occurredat"),
    "id": ("id", "eventid", "messageid", "insertid"),
    "module": ("module",),
    "properties": ("properties",),
    "context": ("context",),
    "traits": ("traits",),
}
"""Names without case, underscores and other signs; the first that a file has is taken, the others stay properties."""

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,15})?")
_IDENTIFIER = re.compile(r"(?:(?:^|[^A-Za-z0-9])[Ii][Dd]|[a-z0-9]I[Dd])$")
"""`id`, `order_id`, `orderId`; not `paid`."""
_BOOLEANS = {"true": True, "false": False}


class ValueType(StrEnum):
    """What the text of a column is."""

    TEXT = "text"
    NUMBER = "number"
    BOOLEAN = "boolean"


@dataclass(frozen=True, slots=True)
class Destination:
    """A field of the event, and the keys inside it for properties, context and traits. Field "-" is nowhere."""

    field: str
    keys: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ".".join((self.field, *self.keys))


@dataclass(frozen=True, slots=True)
class ColumnMap:
    """Where each column goes and what its text is. A column that is not named becomes a property."""

    destinations: Mapping[str, Destination]
    types: Mapping[str, ValueType]

    def destination(self, column: str) -> Destination:
        return self.destinations.get(column) or Destination("properties", (column,))

    def typed(self, column: str, text: str) -> Any:
        """The text of a CSV cell as its column's type; as text where it does not fit, whatever the type."""
        match self.types.get(column, ValueType.TEXT):
            case ValueType.NUMBER if _NUMBER.fullmatch(text):
                return float(text) if "." in text else int(text)
            case ValueType.BOOLEAN:
                return _BOOLEANS.get(text.lower(), text)
            case _:
                return text


def map_columns(
    columns: Sequence[str], overrides: Mapping[str, str], types: Mapping[str, ValueType], *, strict: bool
) -> ColumnMap:
    """Decide where each column goes. `strict`: an override must name one of `columns`. Raises `ImportMistakeError`."""
    named = [column for column in columns if column]
    for column in (*overrides, *types):
        if strict and column not in named:
            raise ImportMistakeError(f"There is no column {column!r}: the file has {', '.join(named)}.")
    destinations = {column: _parse_destination(column, text) for column, text in overrides.items()}
    _refuse_double_use(destinations)
    taken = {destination.field for destination in destinations.values() if not destination.keys}
    for field in FIELDS:
        found = None if field in taken else _well_known(field, [name for name in named if name not in destinations])
        if found is not None:
            destinations[found] = Destination(field)
    return ColumnMap(destinations, types)


def guess_types(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> dict[str, ValueType]:
    """The type of each column, from a sample of its rows: what every text in it can be taken for."""
    cells = list(rows)
    return {column: _guess(column, {row[column] for row in cells if row.get(column)}) for column in columns if column}


def read_pairs(option: str, pairs: Sequence[str]) -> dict[str, str]:
    """The values of an option that is given as `column=something`, maybe several times."""
    found: dict[str, str] = {}
    for pair in pairs:
        column, separator, value = pair.rpartition("=")
        if not separator or not column or not value:
            raise ImportMistakeError(f"{option} {pair!r} is malformed: write {option} column=…")
        if column in found:
            raise ImportMistakeError(f"{option} names the column {column!r} twice.")
        found[column] = value
    return found


def read_types(pairs: Sequence[str]) -> dict[str, ValueType]:
    """`--type column=text|number|boolean`."""
    found = read_pairs("--type", pairs)
    for column, name in found.items():
        if name not in ValueType.__members__.values():
            raise ImportMistakeError(f"--type {column}={name} is malformed: a column is {', '.join(ValueType)}.")
    return {column: ValueType(name) for column, name in found.items()}


def _parse_destination(column: str, text: str) -> Destination:
    field, *keys = text.split(".")
    inside = field in _OPEN_FIELDS and all(keys)
    if not inside and (keys or field not in (*FIELDS, LEFT_OUT)):
        raise ImportMistakeError(
            f"--map {column}={text} leads nowhere: use one of {', '.join(FIELDS)}, a path such as properties.amount,"
            f" or {LEFT_OUT} to leave the column out."
        )
    return Destination(field, tuple(keys))


def _refuse_double_use(destinations: Mapping[str, Destination]) -> None:
    used: dict[Destination, str] = {}
    for column, destination in destinations.items():
        if destination.field != LEFT_OUT and destination in used:
            raise ImportMistakeError(f"--map sends both {used[destination]!r} and {column!r} to {destination}.")
        used[destination] = column


def _well_known(field: str, columns: Sequence[str]) -> str | None:
    plain = {_plain(column): column for column in reversed(columns)}
    return next((plain[name] for name in _WELL_KNOWN[field] if name in plain), None)


def _plain(column: str) -> str:
    return re.sub(r"[^a-z0-9]", "", column.lower())


def _guess(column: str, texts: set[str]) -> ValueType:
    if not texts or _IDENTIFIER.search(column):
        return ValueType.TEXT
    if all(_NUMBER.fullmatch(text) for text in texts):
        return ValueType.NUMBER
    if all(text.lower() in _BOOLEANS for text in texts):
        return ValueType.BOOLEAN
    return ValueType.TEXT
