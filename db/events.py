"""The events lane of the log: appending to it and reading it.

Guarantees: an append is one round trip inside the caller's transaction and keeps the order of locks (profiles, then the
head, last); a page and the head it is judged by come from one snapshot. Leaves to others: committing, trying again, and
telling anyone. JSON travels as text.

Where a statement is composed here, its text is made of constants; whatever a caller supplies is a parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.erasure import trim_tombstones
from db.event_filters import bound_sql, filter_sql, is_selective
from db.filters import EVERYTHING, EventFilter
from db.records import AppendResult, CappedCount, EventList, EventPage, EventRecord, HeadRecord, Lane, NewEvent
from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

MAX_SCANNED = 50_000
"""How many positions one page looks at when no index leads to its matches: about 100 ms of one backend."""
COUNT_CAP = 10_000
"""Counting further would cost more than the number is worth to a reader."""

_NOWHERE = 0
"""The seq of what is not stored."""

_SQL = statements("events")
_COLUMNS = (
    "e.project_id, e.seq, e.key, e.module, e.event_type, e.timestamp, e.received_at, e.user_id, e.anonymous_id,"
    " e.properties, e.context"
)


async def append_events(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    batch_token: int,
    events: Sequence[NewEvent],
    check_consent: bool = False,
) -> AppendResult:
    """Append a batch to a project's log: each key once, without gaps, in the order given.

    Of several events with one key the first is stored. `batch_token` (63 bits, random) must be the same when the same
    batch is tried again after its COMMIT was left unanswered: what that try stored is then reported as fresh.
    `check_consent` leaves out events of module analytics whose people do not allow them. What was erased stays away.

    Raises `SerializationError` or `DeadlockDetectedError` (try again), `ForeignKeyViolationError` for an unknown
    project, and `DataError` or `IntegrityConstraintViolationError` for a value that PostgreSQL cannot hold.
    """
    distinct = _first_of_each_key(events)
    users = sorted({event.user_id for event in distinct if event.user_id is not None})
    row = await connection.fetchrow(
        _SQL["append_events"],
        project_id,
        batch_token,
        [event.key for event in distinct],
        [event.module for event in distinct],
        [event.event_type for event in distinct],
        [event.timestamp for event in distinct],
        [event.user_id for event in distinct],
        [event.anonymous_id for event in distinct],
        [event.properties for event in distinct],
        [event.context for event in distinct],
        [event.traits for event in distinct],
        users,
        [uuid7() for _ in users],
        check_consent,
    )
    return _append_result(row, events)


async def read_event_page(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    after: int,
    until: int | None = None,
    limit: int,
    event_filter: EventFilter = EVERYTHING,
    now: datetime | None = None,
) -> EventPage:
    """Up to `limit` matching events with `after` < seq ≤ `until` (or the head), oldest first, and the head row.

    A page may be short, or empty, before the end: go on from `reached` until it is `head.head`. Compare `after` with
    `head.first_seq`: what lies below was removed. `now` is for conditions that look back from it.
    Raises `LookupError` for an unknown project.
    """
    window = MAX_SCANNED if event_filter != EVERYTHING and not is_selective(event_filter) else None
    parameters: list[Any] = [project_id, after, until, limit, window]
    text = f"""
        SELECT h.lane, h.head, h.first_seq, h.epoch, b.last, page.*
        FROM heads AS h
        CROSS JOIN LATERAL (SELECT least(h.head, $3::bigint, $2::bigint + $5::bigint) AS last) AS b
        LEFT JOIN LATERAL (
            SELECT {_COLUMNS}
            FROM events AS e
            WHERE e.project_id = $1 AND e.seq > $2 AND e.seq <= b.last
                AND {filter_sql(event_filter, parameters, now=now or datetime.now(UTC))}
            ORDER BY e.seq
            LIMIT $4
        ) AS page ON true
        WHERE h.project_id = $1 AND h.lane = 1
        ORDER BY page.seq"""  # noqa: S608
    rows = await connection.fetch(text, *parameters)
    if not rows:
        raise LookupError("unknown project")
    head = HeadRecord(project_id, Lane(rows[0]["lane"]), rows[0]["head"], rows[0]["first_seq"], rows[0]["epoch"])
    events = tuple(event_of(row) for row in rows if row["seq"] is not None)
    reached = events[-1].seq if len(events) == limit else max(after, rows[0]["last"])
    return EventPage(events, reached, head)


async def list_events(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    limit: int,
    newest_first: bool = True,
    after: int | None = None,
    before: int | None = None,
    from_end: bool = False,
    event_filter: EventFilter = EVERYTHING,
    now: datetime | None = None,
) -> EventList:
    """Up to `limit` events of a list, in the list's order, between the seqs `after` and `before` in that order.

    `from_end` takes the last ones of that range instead of the first. `has_more` says whether the range holds more.
    """
    above, below = (before, after) if newest_first else (after, before)
    parameters: list[Any] = [project_id, limit + 1]
    tests = [
        bound_sql("e.seq >", above, parameters),
        bound_sql("e.seq <", below, parameters),
        filter_sql(event_filter, parameters, now=now or datetime.now(UTC)),
    ]
    text = f"""
        SELECT {_COLUMNS}
        FROM events AS e
        WHERE e.project_id = $1 AND {" AND ".join(tests)}
        ORDER BY e.seq {"DESC" if newest_first != from_end else "ASC"}
        LIMIT $2"""  # noqa: S608
    found = [event_of(row) for row in await connection.fetch(text, *parameters)]
    page = found[:limit]
    return EventList(tuple(reversed(page)) if from_end else tuple(page), has_more=len(found) > limit)


async def count_events(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    event_filter: EventFilter = EVERYTHING,
    now: datetime | None = None,
) -> CappedCount:
    """How many events match, counted no further than `COUNT_CAP`."""
    parameters: list[Any] = [project_id, COUNT_CAP + 1]
    text = f"""
        SELECT count(*) FROM (
            SELECT FROM events AS e
            WHERE e.project_id = $1 AND {filter_sql(event_filter, parameters, now=now or datetime.now(UTC))}
            LIMIT $2
        ) AS counted"""  # noqa: S608
    counted: int = await connection.fetchval(text, *parameters)
    return CappedCount(min(counted, COUNT_CAP), is_capped=counted > COUNT_CAP)


async def read_events_by_seq(
    connection: asyncpg.Connection, *, project_id: UUID, seqs: Sequence[int]
) -> list[EventRecord]:
    """The events at some positions, by seq; positions that hold none are absent."""
    return _events(await connection.fetch(_SQL["read_events_by_seq"], project_id, seqs))


async def read_events_by_key(
    connection: asyncpg.Connection, *, project_id: UUID, keys: Sequence[str]
) -> list[EventRecord]:
    """The events under some idempotency keys, by seq; unknown keys are absent."""
    return _events(await connection.fetch(_SQL["read_events_by_key"], project_id, keys))


async def find_first_since(
    connection: asyncpg.Connection, *, project_id: UUID, first: int, end: int, received_since: datetime
) -> int:
    """Of the events with `first` ≤ seq < `end`, the seq of the first that was received then or later; else `end`.

    Looks at every one of them: keep the range short.
    """
    seq: int = await connection.fetchval(_SQL["find_first_since"], project_id, first, end, received_since)
    return seq


async def trim_events(connection: asyncpg.Connection, *, project_id: UUID, first_seq: int) -> int:
    """Delete the events below `first_seq` and move the lane's floor there, in the caller's transaction.

    Never past the head, never back. Returns how many were deleted. The caller takes care of followers that are behind,
    and goes in steps: the head is locked meanwhile, so that no reader finds the floor and the rows in disagreement.
    """
    head = await connection.fetchrow(_SQL["lock_events_head"], project_id)
    if head is None:
        raise LookupError("unknown project")
    floor = min(first_seq, head["head"] + 1)
    if floor <= head["first_seq"]:
        return 0
    status: str = await connection.execute(_SQL["delete_events_before"], project_id, floor)
    await connection.execute(_SQL["delete_erased_keys_before"], project_id, floor)
    await trim_tombstones(connection, project_id=project_id, lane=Lane.EVENTS, first_seq=floor)
    await connection.execute(_SQL["move_first_seq"], project_id, floor)
    return int(status.rpartition(" ")[2])


def _first_of_each_key(events: Sequence[NewEvent]) -> list[NewEvent]:
    firsts: dict[str, NewEvent] = {}
    for event in events:
        firsts.setdefault(event.key, event)
    return list(firsts.values())


def _append_result(row: Mapping[str, Any], events: Sequence[NewEvent]) -> AppendResult:
    """New keys got the numbers after the previous head, in order; a repeated key is fresh where it came first."""
    held = zip(row["held_keys"] or (), row["held_seqs"] or (), row["held_mine"] or (), strict=True)
    places = {key: (seq, mine) for key, seq, mine in held}
    dropped, erased = frozenset(row["dropped_keys"] or ()), frozenset(row["erased_keys"] or ())
    places.update(dict.fromkeys(dropped | erased, (_NOWHERE, False)))
    number: int = row["previous_head"]
    seqs, fresh = [], []
    for event in events:
        place = places.get(event.key)
        if place is None:
            number += 1
            place = (number, True)
        seqs.append(place[0])
        fresh.append(place[1])
        places[event.key] = (place[0], False)
    return AppendResult(row["epoch"], row["received_at"], tuple(seqs), tuple(fresh), dropped, erased)


def _events(rows: Iterable[Mapping[str, Any]]) -> list[EventRecord]:
    return [event_of(row) for row in rows]


def event_of(row: Mapping[str, Any]) -> EventRecord:
    """A row of a statement that reads events."""
    return EventRecord(
        row["project_id"],
        row["seq"],
        row["key"],
        row["module"],
        row["event_type"],
        row["timestamp"],
        row["received_at"],
        row["user_id"],
        row["anonymous_id"],
        msgspec.Raw(row["properties"].encode()),
        msgspec.Raw(row["context"].encode()),
    )
