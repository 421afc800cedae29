"""What conditions of an audience say about somebody, in memory: as `db.conditions` and `db.condition_times` in SQL.

Guarantees: the same answers, since people are put to the evaluator of events as an event that carries what is known of
them, and counts are read from what is kept (`engine.audiences.counting`); the moment at which time alone may change an
answer is never too late. What the clock of a person's place decides (IS_ANNIVERSARY) is left to SQL. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeAlias

import msgspec

from db.audience_members import KnownPerson
from db.condition_terms import CONSENT_PURPOSES, parse_path
from db.condition_times import count_boundaries
from db.conditions import CONSENT_WITHOUT_RECORD
from db.filters import Condition, ConditionOperator, EventCount
from db.records import EventRecord
from engine.audiences.counting import Counter, History, Shapes, instant, microseconds
from engine.conditions import EventView, compile_conditions, compile_value_test

MAX_STEPS = 100
"""Events that are looked at, one leaving the window after the other, for the moment at which a sum turns."""

_SECOND = 1_000_000
_NOTHING_SAID = dict.fromkeys(CONSENT_PURPOSES, CONSENT_WITHOUT_RECORD)
_FIELDS: Mapping[str, str] = {
    "userId": "event.userId",
    "createdAt": "event.timestamp",
    "lastSeenAt": "event.receivedAt",
    "anonymous": "event.context.anonymous",
    "consent": "event.context.consent",
    "traits": "event.properties",
}
"""Where an event that stands for a person carries what is known of them."""


class Person:
    """Somebody, as conditions look at them at a moment. `history` is what was counted, where that is asked for."""

    __slots__ = ("_known", "_view", "history", "now")

    def __init__(self, known: KnownPerson, history: History | None, now: datetime) -> None:
        self._known = known
        self._view: EventView | None = None
        self.history = history
        self.now = microseconds(now)

    @property
    def view(self) -> EventView:
        """The person as an event."""
        if self._view is None:
            self._view = EventView(_carrier(self._known))
        return self._view

    def counter(self, number: int) -> Counter:
        """What was counted for a shape."""
        if self.history is None:
            raise LookupError("what was counted was not read")
        return self.history.counter(number)


_Test: TypeAlias = Callable[[Person], bool]
_Time: TypeAlias = Callable[[Person], int | None]


class Evaluator(msgspec.Struct, frozen=True):
    """The conditions of an audience. `counts`: they ask for the person's history."""

    holds: _Test
    times: tuple[_Time, ...]
    counts: bool

    def next_change(self, person: Person) -> datetime | None:
        """When time alone may change the answer."""
        found = [at for time in self.times if (at := time(person)) is not None]
        return instant(min(found)) if found else None


def compile_audience(conditions: Sequence[Condition], shapes: Shapes) -> Evaluator | None:
    """None for what only SQL can answer. `shapes` has every count that is tested."""
    tests = list(tests_in(conditions))
    if any(test.op == ConditionOperator.IS_ANNIVERSARY for test in tests):
        return None
    counts = [(test, test.events) for test in tests if test.events is not None]
    times = (_turn(test, count, shapes) for test, count in counts if count.within_seconds is not None)
    return Evaluator(_all(conditions, shapes), tuple(times), counts=bool(counts))


def depends_on_time(conditions: Sequence[Condition]) -> bool:
    """Whether an answer may change although nothing happens."""
    return any(
        test.op == ConditionOperator.IS_ANNIVERSARY
        or (test.events is not None and test.events.within_seconds is not None)
        for test in tests_in(conditions)
    )


def reads_field(conditions: Sequence[Condition], field: str) -> bool:
    """Whether a field of the person is tested."""
    return any(test.path is not None and parse_path(test.path).field == field for test in tests_in(conditions))


def tests_in(conditions: Sequence[Condition]) -> Iterator[Condition]:
    """The tests of paths and counts, wherever they stand."""
    for condition in conditions:
        if condition.path is not None or condition.events is not None:
            yield condition
        yield from tests_in(condition.any or ())
        yield from tests_in(condition.all or ())
        yield from tests_in(() if condition.negate is None else (condition.negate,))


def _all(conditions: Sequence[Condition], shapes: Shapes) -> _Test:
    tests = [_compile(condition, shapes) for condition in conditions]
    if len(tests) == 1:
        return tests[0]
    return lambda person: all(test(person) for test in tests)


def _compile(condition: Condition, shapes: Shapes) -> _Test:
    if condition.any is not None:
        tests = [_compile(each, shapes) for each in condition.any]
        return lambda person: any(test(person) for test in tests)
    if condition.all is not None:
        return _all(condition.all, shapes)
    if condition.negate is not None:
        negated = _compile(condition.negate, shapes)
        return lambda person: not negated(person)
    if condition.events is not None:
        return _count_test(condition, condition.events, shapes)
    matches = compile_conditions([msgspec.structs.replace(condition, path=_carried(condition.path or ""))])
    return lambda person: matches(person.view)


def _count_test(test: Condition, count: EventCount, shapes: Shapes) -> _Test:
    number, passes = shapes.number_of(count), compile_value_test(test.op or "", test.value)
    if count.within_seconds is None:
        return lambda person: passes(person.counter(number).measure(0))
    span = count.within_seconds * _SECOND

    def holds(person: Person) -> bool:
        counter = person.counter(number)
        return passes(counter.measure(counter.start(person.now - span)))

    return holds


def _turn(test: Condition, count: EventCount, shapes: Shapes) -> _Time:
    """When the event leaves the window with which the answer of a test turns."""
    number, span = shapes.number_of(count), (count.within_seconds or 0) * _SECOND
    boundaries = None if count.sum is not None else count_boundaries(test.op, test.value)
    passes = compile_value_test(test.op or "", test.value)
    leaving = _first_turn(passes) if boundaries is None else _last_of(boundaries)

    def turns_at(person: Person) -> int | None:
        counter = person.counter(number)
        at = leaving(counter, counter.start(person.now - span))
        # A window has its first moment in it.
        return None if at is None else at + span + 1

    return turns_at


def _last_of(boundaries: Sequence[int]) -> Callable[[Counter, int], int | None]:
    """Of the events from a place on, the earliest with which their number falls below a boundary."""

    def leaving(counter: Counter, start: int) -> int | None:
        times = counter.times
        within = [each for each in boundaries if each <= len(times) - start]
        return times[-max(within)] if within else None

    return leaving


def _first_turn(passes: Callable[[object], bool]) -> Callable[[Counter, int], int | None]:
    """Of the events from a place on, the earliest with which the answer turns; at the latest the last looked at."""

    def leaving(counter: Counter, start: int) -> int | None:
        times = counter.times
        answer, end = passes(counter.measure(start)), min(len(times), start + MAX_STEPS)
        for place in range(start, end):
            is_last_of_moment = place + 1 == len(times) or times[place + 1] != times[place]
            if is_last_of_moment and passes(counter.measure(place + 1)) != answer:
                return times[place]
        return times[end - 1] if end < len(times) else None

    return leaving


def _carried(path: str) -> str:
    """A path of a person, as that of the event that stands for them."""
    field = parse_path(path).field
    return _FIELDS[field] + path.removeprefix(f"profile.{field}")


def _carrier(known: KnownPerson) -> EventRecord:
    profile = known.profile
    said = {"anonymous": profile.anonymous, "consent": {**_NOTHING_SAID, **known.said}}
    return EventRecord(
        profile.project_id,
        0,
        "",
        "",
        "",
        profile.created_at.astimezone(UTC),
        profile.last_seen_at,  # type: ignore[arg-type]  # nothing, as a path that leads nowhere
        profile.user_id,
        None,
        profile.traits,
        msgspec.Raw(msgspec.json.encode(said)),
    )
