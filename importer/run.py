"""An import from its options to its outcome: open, map, and then either show what would be sent or send it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta, tzinfo
from itertools import chain, islice
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from importer.errors import BrokenSourceError, ImportMistakeError, RowError
from importer.events import EventBuilder, EventRules
from importer.mapping import ColumnMap, guess_types, map_columns, read_pairs, read_types
from importer.progress import Display, Tally, display
from importer.sender import (
    DEFAULT_IN_FLIGHT,
    DEFAULT_PATIENCE,
    MAX_BATCH_BYTES,
    Batch,
    Endpoint,
    Sender,
    make_batches,
    open_session,
)
from importer.source import BadRow, Row, Source, open_source

SAMPLE_ROWS = 1000
"""Rows looked at before anything is sent, for column names of JSON Lines and types of CSV."""

PREVIEW_EVENTS = 3


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What the command line says about the file. `columns` and `types` are `column=something` pairs."""

    path: Path
    columns: Sequence[str] = ()
    types: Sequence[str] = ()
    timezone: str = "UTC"
    timestamp_format: str | None = None
    event_type: str | None = None
    event_prefix: str = ""
    module: str | None = None
    encoding: str | None = None
    delimiter: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A file that is open and understood. `sample` holds its first rows, `rows` all of them (those too)."""

    source: Source
    names: tuple[str, ...]
    rules: EventRules
    sample: tuple[Row | BadRow, ...]
    rows: Iterator[Row | BadRow] = field(repr=False)


def prepare(options: ImportOptions) -> Plan:
    """Open the file and decide what goes where. Raises `ImportMistakeError`; close `source` when done."""
    source = open_source(options.path, encoding=options.encoding, delimiter=options.delimiter)
    try:
        return _plan(source, options)
    except BaseException:
        source.close()
        raise


def preview(plan: Plan) -> str:
    """What `--dry-run` shows: the mapping, and the first events as they would be sent."""
    builder = EventBuilder(plan.rules)
    parts = [describe_mapping(plan), ""]
    for row in plan.sample[:PREVIEW_EVENTS]:
        try:
            parts.append(_pretty(builder.build(_readable(row))))
        except RowError as error:
            parts.append(f"line {row.line}: {error}")
    return "\n".join(parts)


def describe_mapping(plan: Plan) -> str:
    """One line a column: its name, where it goes, and its type where that is not plain text."""
    width = max((len(name) for name in plan.names), default=0)
    lines = []
    for name in plan.names:
        value_type = plan.rules.columns.types.get(name) if name else None
        typed = f" ({value_type})" if value_type not in (None, "text") else ""
        where = str(plan.rules.columns.destination(name)) if name else "(no name: left out)"
        lines.append(f"{name:<{width}}  →  {'(left out)' if where == '-' else where}{typed}")
    if not any(plan.rules.columns.destination(name).field == "timestamp" for name in plan.names):
        lines.append("No column is a timestamp: events get the time of their import.")
    return "\n".join(lines)


async def send_file(
    plan: Plan, endpoint: Endpoint, *, in_flight: int = DEFAULT_IN_FLIGHT, patience: timedelta = DEFAULT_PATIENCE
) -> Tally:
    """Send every row and return what came of it. Raises `ImportMistakeError` when the gateway cannot be won over.

    As many workers as requests may be in flight share one iterator of batches, so rows are read as they can be sent.
    """
    tally = Tally()
    batches = make_batches(_encoded_events(plan, tally), lambda: plan.source.position)
    with display(plan.source.size) as shown:
        async with open_session(in_flight) as session:
            sender = Sender(session, endpoint, patience=patience)
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(in_flight):
                        group.create_task(_send_batches(sender, batches, tally, shown))
            except* ImportMistakeError as mistakes:
                raise ImportMistakeError(f"{mistakes.exceptions[0]} {_so_far(tally)}") from None
    return tally


def _so_far(tally: Tally) -> str:
    stored = f"{tally.accepted:,} events are stored" if tally.accepted else "Nothing was stored"
    return f"{stored}; running it again stores nothing twice."


async def _send_batches(sender: Sender, batches: Iterator[Batch], tally: Tally, shown: Display) -> None:
    for batch in batches:
        tally.add(await sender.send(batch))
        shown.update(tally, batch.position)


def _encoded_events(plan: Plan, tally: Tally) -> Iterator[tuple[int, bytes]]:
    """The events of the file as JSON. What cannot be read or built is noted in the tally instead."""
    builder = EventBuilder(plan.rules)
    try:
        for row in plan.rows:
            try:
                event = msgspec.json.encode(builder.build(_readable(row)))
                if len(event) > MAX_BATCH_BYTES:
                    raise RowError("it is larger than a request may be")
            except RowError as error:
                tally.add_unreadable(row.line, str(error))
            else:
                yield row.line, event
    except BrokenSourceError as error:
        tally.broken = str(error)


def _readable(row: Row | BadRow) -> Row:
    if isinstance(row, BadRow):
        raise RowError(row.reason)
    return row


def _plan(source: Source, options: ImportOptions) -> Plan:
    rows = source.rows()
    sample, broken = _sample(rows)
    readable = [row for row in sample if isinstance(row, Row)]
    if not readable:
        first = f" (line {sample[0].line}: {sample[0].reason})" if sample and isinstance(sample[0], BadRow) else ""
        raise ImportMistakeError(
            f"{options.path} has no rows that can be read{first}{f': {broken}' if broken else ''}."
        )
    names = source.columns or tuple(dict.fromkeys(name for row in readable for name in row.values))
    columns = _map(source, options, names, readable)
    rules = EventRules(
        columns=columns,
        is_csv=source.is_csv,
        timezone=_timezone(options.timezone),
        timestamp_format=options.timestamp_format,
        event_type=options.event_type,
        event_prefix=options.event_prefix,
        module=options.module,
    )
    return Plan(source, names, rules, sample, chain(sample, _rest(rows, broken)))


def _sample(rows: Iterator[Row | BadRow]) -> tuple[tuple[Row | BadRow, ...], str | None]:
    """The first rows, and why there are no more if the file broke among them."""
    sample: list[Row | BadRow] = []
    try:
        sample.extend(islice(rows, SAMPLE_ROWS))
    except BrokenSourceError as error:
        return tuple(sample), str(error)
    return tuple(sample), None


def _rest(rows: Iterator[Row | BadRow], broken: str | None) -> Iterator[Row | BadRow]:
    if broken is not None:
        raise BrokenSourceError(broken)
    yield from rows


def _map(source: Source, options: ImportOptions, names: Sequence[str], readable: Sequence[Row]) -> ColumnMap:
    guessed = guess_types((row.values for row in readable), names) if source.is_csv else {}
    columns = map_columns(
        names,
        read_pairs("--map", options.columns),
        {**guessed, **read_types(options.types)},
        strict=source.is_csv,
    )
    has_event = any(destination.field == "eventType" for destination in columns.destinations.values())
    if not has_event and options.event_type is None:
        raise ImportMistakeError(
            f"No column of {options.path} names the event (it has {', '.join(name for name in names if name)}): "
            "say which does with --map COLUMN=eventType, or give all rows one name with --event."
        )
    return columns


def _timezone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ImportMistakeError(f"There is no time zone {name!r}: give one such as Europe/Berlin.") from None


def _pretty(event: dict[str, Any]) -> str:
    return msgspec.json.format(msgspec.json.encode(event)).decode()
