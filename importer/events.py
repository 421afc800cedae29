"""A row as the event that is sent, with an id that is the same whenever and from whatever file the row is read.

The id is the row's own where it has one, else a hash of what the event says (its text as it was written, so that a
guess of types cannot change it) and, among identical rows, which of them it is: two purchases of the same second are
two.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any

import msgspec

from importer.errors import RowError
from importer.mapping import LEFT_OUT, ColumnMap
from importer.source import Row

ID_PREFIX = "import_"
DIGEST_BYTES = 16
"""128 bits: among 10^9 rows a collision has a chance of 10^-21."""

_EPOCH = re.compile(r"-?[0-9]{9,19}(?:\.[0-9]+)?")
_OBJECT_FIELDS = ("properties", "context", "traits")
_TEXT_FIELDS = ("eventType", "userId", "anonymousId", "id", "module")


@dataclass(frozen=True, slots=True)
class EventRules:
    """How rows become events. `timezone` is for timestamps that name none; `timestamp_format` as in strptime."""

    columns: ColumnMap
    is_csv: bool
    timezone: tzinfo = UTC
    timestamp_format: str | None = None
    event_type: str | None = None
    event_prefix: str = ""
    module: str | None = None


class EventBuilder:
    """Builds the events of one file, which it must see in order: it counts identical rows (about 100 bytes each)."""

    def __init__(self, rules: EventRules) -> None:
        self._rules = rules
        self._seen: dict[bytes, int] = {}
        self._own_ids: dict[bytes, tuple[bytes, int]] = {}

    def build(self, row: Row) -> dict[str, Any]:
        """The EventInput of a row. Raises `RowError`."""
        written = _written(row, self._rules)
        digest = _digest({name: value for name, value in written.items() if name != "id"})
        event_id = self._own_id(written["id"], digest, row.line) if "id" in written else self._made_id(digest)
        return {**_typed(written, row, self._rules), "id": event_id}

    def _made_id(self, digest: bytes) -> str:
        occurrence = self._seen[digest] = self._seen.get(digest, 0) + 1
        twin = "" if occurrence == 1 else f"_{occurrence}"
        return f"{ID_PREFIX}{digest.hex()}{twin}"

    def _own_id(self, event_id: str, digest: bytes, line: int) -> str:
        """Refuses an id that another row has: the gateway would take the two for one."""
        key = _digest(event_id)
        earlier, earlier_line = self._own_ids.setdefault(key, (digest, line))
        if earlier != digest:
            raise RowError(
                f"it has the id of line {earlier_line} but is another event; a column that is no event id needs --map"
            )
        return event_id


def _written(row: Row, rules: EventRules) -> dict[str, Any]:
    """The event with its text as the file has it, which is what identifies it."""
    event: dict[str, Any] = {}
    for column, value in row.values.items():
        destination = rules.columns.destination(column)
        if value in (None, "") or destination.field == LEFT_OUT:
            continue
        if destination.keys:
            _put(event.setdefault(destination.field, {}), destination.keys, value, column)
        elif destination.field in _OBJECT_FIELDS:
            event.setdefault(destination.field, {}).update(_object(value, column))
        else:
            event[destination.field] = value
    return _with_envelope(event, rules)


def _with_envelope(event: dict[str, Any], rules: EventRules) -> dict[str, Any]:
    if rules.event_type is not None:
        event["eventType"] = rules.event_type
    if "eventType" not in event:
        raise RowError("it names no event")
    for field in _TEXT_FIELDS:
        if field in event:
            event[field] = _text(event[field], field)
    event["eventType"] = rules.event_prefix + event["eventType"]
    if rules.module is not None:
        event["module"] = rules.module
    if "timestamp" in event:
        event["timestamp"] = _timestamp(event["timestamp"], rules)
    elif any(destination.field == "timestamp" for destination in rules.columns.destinations.values()):
        raise RowError("its timestamp is empty")
    return event


def _typed(written: Mapping[str, Any], row: Row, rules: EventRules) -> dict[str, Any]:
    if not rules.is_csv:
        return dict(written)
    event = {name: _copy(value) for name, value in written.items()}
    for column, text in row.values.items():
        destination = rules.columns.destination(column)
        if destination.keys and text:
            _put(event[destination.field], destination.keys, rules.columns.typed(column, text), column)
    return event


def _copy(value: Any) -> Any:
    return {key: _copy(item) for key, item in value.items()} if isinstance(value, dict) else value


def _put(target: dict[str, Any], keys: tuple[str, ...], value: Any, column: str) -> None:
    for key in keys[:-1]:
        target = target.setdefault(key, {})
        if not isinstance(target, dict):
            raise RowError(f"column {column!r} leads into a value that another column has set")
    target[keys[-1]] = value


def _object(value: Any, column: str) -> dict[str, Any]:
    """An object, or the text of one, as exports to CSV often have it."""
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError):
            raise RowError(f"column {column!r} is not a JSON object") from None
    if not isinstance(value, dict):
        raise RowError(f"column {column!r} is not a JSON object")
    return value


def _text(value: Any, field: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise RowError(f"{field} must be a string")


def _timestamp(value: Any, rules: EventRules) -> str:
    text = str(value).strip() if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
    try:
        moment = _read_moment(text, rules)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=rules.timezone)
        return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        hint = "" if rules.timestamp_format else "; say how to read it, e.g. --timestamp-format '%d/%m/%Y %H:%M'"
        raise RowError(f"its timestamp {str(value)[:40]!r} cannot be read{hint}") from None


def _read_moment(text: str, rules: EventRules) -> datetime:
    """Without a time zone where the text names none."""
    if rules.timestamp_format is not None:
        return datetime.strptime(text, rules.timestamp_format)  # noqa: DTZ007
    if _EPOCH.fullmatch(text):
        return datetime.fromtimestamp(_seconds(text), UTC)
    return datetime.fromisoformat(text)


def _seconds(text: str) -> float:
    """Of a Unix time in seconds, milliseconds, microseconds or nanoseconds, told apart by its digits."""
    digits = len(text.lstrip("-").partition(".")[0])
    unit = 1 if digits <= 11 else 10**3 if digits <= 14 else 10**6 if digits <= 17 else 10**9
    return float(text) / unit


def _digest(value: Any) -> bytes:
    text = msgspec.json.encode(value, order="deterministic")
    return hashlib.blake2b(text, digest_size=DIGEST_BYTES).digest()
