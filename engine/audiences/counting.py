"""What audiences count of people's events, kept in memory, so that an event costs what it adds and not what was before.

Guarantees: what is kept of a person equals what the log holds up to a head: each time it is asked for, what has come
since is read and added. It is read anew once the audiences, the person (by the id of their profile) or the start of the
log have changed. Memory is bounded: whoever was not asked for longest is forgotten, and of whoever has too many events
nothing is kept (`is_whole`). The caller holds the project's follower `audiences`, and has appended nothing yet in its
transaction. Leaves to others: windows, and what a number means (`engine.audiences.evaluation`).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

from db.audience_members import CountedTypes, read_counted
from db.condition_terms import Path, parse_path
from db.filters import Condition, EventCount, EventFilter
from db.records import EventRecord, ProfileRecord
from engine.conditions import EventView
from engine.filter_index import FilterIndex
from engine.filters import EVENT_MATCHING, filter_key

if TYPE_CHECKING:
    import asyncpg

MAX_EVENTS = 5_000
"""Of one person, counted ones: some 20 ms to read. Whoever has more is asked about in SQL."""
MAX_PEOPLE = 20_000
"""Of whom one process keeps counts, some KiB each."""
MAX_ENTRIES = 1_000_000
"""Of all of them: an event in a count, 8 to 50 bytes."""
CLOCK_MARGIN = timedelta(days=1)
"""By which a clock may be put back without a window reaching to where nothing was read."""

LogStart: TypeAlias = tuple[int, int]
"""Epoch and first seq of a log: what changes when events are taken from it."""
Number: TypeAlias = int | Decimal

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_EXACT = Context(prec=200_000, Emax=MAX_EMAX, Emin=MIN_EMIN)
"""More digits than PostgreSQL's numbers have on both sides of the point."""


class Shapes:
    """What the audiences of a project count, but for windows: each is kept once, however many ask for it."""

    def __init__(self, tests: Iterable[Condition]) -> None:
        self._index: FilterIndex[int, EventFilter, EventRecord] = FilterIndex(EVENT_MATCHING)
        self._numbers: dict[tuple[bytes, str | None], int] = {}
        self._sums: list[Path | None] = []
        names: set[str] = set()
        spans: set[int | None] = set()
        for test in tests:
            if test.events is not None:
                self._add(test.events)
                names.update(test.events.event_types)
                spans.add(test.events.within_seconds)
        self._names = tuple(sorted(names))
        self._longest = None if None in spans else timedelta(seconds=max(filter(None, spans), default=0))

    def number_of(self, count: EventCount) -> int:
        """Of one of those that were given."""
        return self._numbers[_key(count)]

    def counting(self, event: EventRecord) -> list[int]:
        """The shapes that an event counts for."""
        return self._index.match(event)

    def types(self, now: datetime) -> CountedTypes:
        """Which events have to be read."""
        return CountedTypes(self._names, None if self._longest is None else now - self._longest - CLOCK_MARGIN)

    def counter(self, number: int) -> Counter:
        """An empty one."""
        return Counter(is_sum=self._sums[number] is not None)

    def amount(self, number: int, view: EventView) -> Number | None:
        """What an event adds; None for nothing."""
        path = self._sums[number]
        if path is None:
            return 1
        value = view.read(path)
        return value if isinstance(value, int | Decimal) and not isinstance(value, bool) else None

    def _add(self, count: EventCount) -> None:
        key = _key(count)
        if key not in self._numbers:
            number = self._numbers[key] = len(self._numbers)
            self._index.add(number, _filter_of(count))
            self._sums.append(None if count.sum is None else parse_path(count.sum))


class Counter:
    """The events of a person that count for one shape, by time, and the sums of all up to each."""

    __slots__ = ("_sums", "times")

    def __init__(self, *, is_sum: bool) -> None:
        self.times = array("q")
        """In microseconds since 1970."""
        self._sums: list[Number] | None = [] if is_sum else None

    def add(self, at: int, amount: Number) -> None:
        """One event more, in any order of time."""
        place = bisect_right(self.times, at)
        self.times.insert(place, at)
        if self._sums is not None:
            self._sums.insert(place, self._before(place))
            for later in range(place, len(self._sums)):
                self._sums[later] = _plus(self._sums[later], amount)

    def start(self, since: int | None) -> int:
        """The place of the first event from then on."""
        return 0 if since is None else bisect_left(self.times, since)

    def measure(self, start: int) -> Number:
        """The count, or the sum, of those from a place on."""
        if self._sums is None:
            return len(self.times) - start
        return _minus(self._sums[-1], self._before(start)) if self._sums else 0

    def _before(self, place: int) -> Number:
        return self._sums[place - 1] if place and self._sums is not None else 0


_NOTHING_COUNTED = Counter(is_sum=False)


class History:
    """What was counted of one person, up to a seq. If it is not whole, it is nothing to go by."""

    __slots__ = ("_counters", "_events", "as_of", "is_whole", "log_start", "profile_id", "shapes", "size")

    def __init__(self, shapes: Shapes, profile_id: UUID, log_start: LogStart) -> None:
        self.shapes = shapes
        self.profile_id = profile_id
        self.log_start = log_start
        self.as_of = 0
        self.is_whole = True
        self.size = 0
        """Events in counters."""
        self._events = 0
        self._counters: dict[int, Counter] = {}

    def counter(self, number: int) -> Counter:
        """Only to be read."""
        return self._counters.get(number, _NOTHING_COUNTED)

    def add(self, events: Sequence[EventRecord], up_to: int) -> None:
        """The counted events after `as_of` up to a seq, at most `MAX_EVENTS` and one."""
        self._events += len(events)
        if self._events > MAX_EVENTS:
            self.is_whole, self.size, self._counters = False, 0, {}
            return
        for event in events:
            if event.seq > self.as_of:
                self._add(event)
        self.as_of = max(self.as_of, up_to)

    def _add(self, event: EventRecord) -> None:
        shapes, view, at = self.shapes, EventView(event), microseconds(event.timestamp)
        for number in shapes.counting(event):
            amount = shapes.amount(number, view)
            if amount is not None:
                if number not in self._counters:
                    self._counters[number] = shapes.counter(number)
                self._counters[number].add(at, amount)
                self.size += 1


class Histories:
    """What one process keeps of people."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[UUID, str], History] = OrderedDict()
        self._entries = 0

    async def read(
        self,
        connection: asyncpg.Connection,
        profiles: Sequence[ProfileRecord],
        *,
        project_id: UUID,
        shapes: Shapes,
        log_start: LogStart,
        up_to: int,
        now: datetime,
    ) -> dict[str, History]:
        """What was counted of people up to a seq, by user id."""
        found = {each.user_id: self._take(each, shapes, log_start) for each in profiles}
        behind = [(user_id, each.as_of) for user_id, each in found.items() if each.is_whole and each.as_of < up_to]
        if behind:
            read = await read_counted(
                connection,
                project_id=project_id,
                after=behind,
                up_to=up_to,
                types=shapes.types(now),
                limit=MAX_EVENTS + 1,
            )
            for (user_id, _), events in zip(behind, read, strict=True):
                found[user_id].add(events, up_to)
        for user_id, history in found.items():
            self._keep((project_id, user_id), history)
        return found

    def forget(self, project_id: UUID) -> None:
        """Whatever is kept of a project's people: one of them was erased, and nobody says any more who that was."""
        for key in [key for key in self._kept if key[0] == project_id]:
            self._entries -= self._kept.pop(key).size

    def _take(self, profile: ProfileRecord, shapes: Shapes, log_start: LogStart) -> History:
        """What is kept, if it is still true; it is taken out."""
        kept = self._kept.pop((profile.project_id, profile.user_id), None)
        if kept is not None:
            self._entries -= kept.size
            if kept.shapes is shapes and kept.profile_id == profile.profile_id and kept.log_start == log_start:
                return kept
        return History(shapes, profile.profile_id, log_start)

    def _keep(self, key: tuple[UUID, str], history: History) -> None:
        """One that has outgrown its bound is read anew: windows may have left most of it behind."""
        if not history.is_whole and history.as_of:
            return
        self._kept[key] = history
        self._entries += history.size
        while len(self._kept) > MAX_PEOPLE or self._entries > MAX_ENTRIES:
            self._entries -= self._kept.popitem(last=False)[1].size


def microseconds(at: datetime) -> int:
    """Since 1970."""
    return (at - _EPOCH) // _MICROSECOND


def instant(at: int) -> datetime:
    """So many microseconds after 1970."""
    return _EPOCH + at * _MICROSECOND


def _filter_of(count: EventCount) -> EventFilter:
    return EventFilter(event_types=count.event_types, where=count.where)


def _key(count: EventCount) -> tuple[bytes, str | None]:
    return filter_key(_filter_of(count)), count.sum


def _plus(one: Number, other: Number) -> Number:
    return one + other if isinstance(one, int) and isinstance(other, int) else _EXACT.add(Decimal(one), Decimal(other))


def _minus(one: Number, other: Number) -> Number:
    if isinstance(one, int) and isinstance(other, int):
        return one - other
    return _EXACT.subtract(Decimal(one), Decimal(other))
