"""What moves people in and out of an audience: which events, and being new.

Guarantees: whoever's answer an event may have changed is touched by it: by a counted event (its type, and `where`), by
traits that the conditions read, by a word about consent, by any event where the time somebody was last seen is read.
Where one event more can only move people in (at least three), or only out, the touch says so.
An event says in `context.traits` which traits it merged (`engine.events`; what workflows merge says so too). Somebody
new is looked at where the conditions may hold for a person of whom nothing is known. Leaves to others: the passing of
time (`db.condition_times`). Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import TypeAlias
from uuid import UUID

import msgspec

from db.condition_terms import Path, parse_path
from db.filters import Condition, ConditionOperator
from db.records import EventRecord, ProfileRecord
from engine.audiences.counting import Shapes
from engine.conditions import EventView
from engine.consent import CONSENT_EVENTS
from engine.workflows.conditions import Subject, count_passes, holds

ZONE_TRAIT = "timezone"
"""What an anniversary's day depends on."""

_KNOWN_OF_EVERYBODY = frozenset({"userId", "anonymous", "createdAt"})
"""Fields that somebody new has, and which then stay."""


class Direction(Enum):
    """Which way an event may move its person."""

    IN = 1
    OUT = -1
    EITHER = 0

    @property
    def opposite(self) -> Direction:
        return Direction(-self.value)


_DIRECTIONS: Mapping[str, Direction] = {
    ConditionOperator.GT: Direction.IN,
    ConditionOperator.GTE: Direction.IN,
    ConditionOperator.LT: Direction.OUT,
    ConditionOperator.LTE: Direction.OUT,
}

_Answers: TypeAlias = frozenset[bool]
"""What a condition may say about somebody of whom nothing is known."""
_EITHER: _Answers = frozenset({True, False})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NOBODY_KNOWN = Subject(
    event=None,
    profile=ProfileRecord(UUID(int=0), UUID(int=0), "", False, msgspec.Raw(b"{}"), _EPOCH, None),
    now=_EPOCH,
)


class _Traits(msgspec.Struct):
    """Of an event's context."""

    traits: dict[str, msgspec.Raw] | None = None


_read_traits = msgspec.json.Decoder(_Traits).decode


class Dependencies:
    """Of all audiences of a project, indexed: an event costs what it touches. Only read once it is made."""

    def __init__(self, audiences: Mapping[UUID, Sequence[Condition]], shapes: Shapes) -> None:
        self._shapes = shapes
        self._counts: defaultdict[int, dict[UUID, Direction]] = defaultdict(dict)
        self._by_trait: defaultdict[str, set[UUID]] = defaultdict(set)
        self._all_traits: set[UUID] = set()
        self._consent: set[UUID] = set()
        self._seen: set[UUID] = set()
        self.newcomers: frozenset[UUID] = frozenset(
            audience_id for audience_id, conditions in audiences.items() if may_hold_for_nobody_known(conditions)
        )
        for audience_id, conditions in audiences.items():
            self._add(audience_id, conditions)

    def touched_by(self, event: EventRecord) -> dict[UUID, Direction]:
        """The audiences to which the event's person may belong now and did not before, or the other way round."""
        found: dict[UUID, Direction] = {}
        view = EventView(event)
        for number in self._shapes.counting(event):
            amount = self._shapes.amount(number, view)
            if amount is None:
                continue
            for audience_id, usually in self._counts[number].items():
                # One event more makes no count smaller, and a number that is not negative no sum.
                direction = Direction.EITHER if amount < 0 else usually
                found[audience_id] = direction if found.get(audience_id, direction) is direction else Direction.EITHER
        for audience_id in self._touched_otherwise(event):
            found[audience_id] = Direction.EITHER
        return found

    def _touched_otherwise(self, event: EventRecord) -> set[UUID]:
        found = set(self._seen)
        if event.event_type in CONSENT_EVENTS:
            found |= self._consent
        if self._by_trait or self._all_traits:
            names = merged_traits(event)
            found |= self._all_traits if names else set()
            for name in names:
                found |= self._by_trait.get(name, set())
        return found

    def _add(self, audience_id: UUID, conditions: Sequence[Condition]) -> None:
        for test, is_negated in signed_tests_in(conditions):
            if test.events is None:
                self._add_path(audience_id, parse_path(test.path or ""), test.op)
                continue
            usually = _DIRECTIONS.get(test.op or "", Direction.EITHER)
            direction = usually.opposite if is_negated else usually
            counted = self._counts[self._shapes.number_of(test.events)]
            counted[audience_id] = direction if counted.get(audience_id, direction) is direction else Direction.EITHER

    def _add_path(self, audience_id: UUID, path: Path, op: str | None) -> None:
        if op == ConditionOperator.IS_ANNIVERSARY:
            self._by_trait[ZONE_TRAIT].add(audience_id)
        match path.field:
            case "traits" if path.keys:
                self._by_trait[path.keys[0]].add(audience_id)
            case "traits":
                self._all_traits.add(audience_id)
            case "consent":
                self._consent.add(audience_id)
            case "lastSeenAt":
                self._seen.add(audience_id)


def signed_tests_in(conditions: Iterable[Condition], *, is_negated: bool = False) -> Iterator[tuple[Condition, bool]]:
    """The tests of paths and counts, wherever they stand, and whether the whole is the likelier to hold the less each
    does."""
    for condition in conditions:
        if condition.path is not None or condition.events is not None:
            yield condition, is_negated
        yield from signed_tests_in(condition.any or (), is_negated=is_negated)
        yield from signed_tests_in(condition.all or (), is_negated=is_negated)
        negated = () if condition.negate is None else (condition.negate,)
        yield from signed_tests_in(negated, is_negated=not is_negated)


def merged_traits(event: EventRecord) -> frozenset[str]:
    """The names of the traits that an event may have merged into its person's."""
    context = bytes(event.context)
    if event.user_id is None or b'"traits"' not in context:
        return frozenset()
    try:
        return frozenset(_read_traits(context).traits or ())
    except msgspec.ValidationError:
        return frozenset()


def may_hold_for_nobody_known(conditions: Sequence[Condition]) -> bool:
    """Whether conditions may hold for a person without traits, consent and events."""
    return True in _all(map(_answers, conditions))


def _answers(condition: Condition) -> _Answers:
    if condition.any is not None:
        return _negated(_all(_negated(_answers(each)) for each in condition.any))
    if condition.all is not None:
        return _all(map(_answers, condition.all))
    if condition.negate is not None:
        return _negated(_answers(condition.negate))
    if condition.events is not None:
        return frozenset({count_passes(condition, 0)})
    if parse_path(condition.path or "").field in _KNOWN_OF_EVERYBODY:
        return _EITHER
    return frozenset({holds([condition], _NOBODY_KNOWN)})


def _all(answers: Iterable[_Answers]) -> _Answers:
    """What may be said when every one of some conditions has to hold."""
    said = list(answers)
    if any(True not in each for each in said):
        return frozenset({False})
    return _EITHER if any(False in each for each in said) else frozenset({True})


def _negated(answers: _Answers) -> _Answers:
    return frozenset(not each for each in answers)
