"""What moves people in and out of an audience: which events, and being new.

Guarantees: whoever's answer an event may have changed is touched by it: by a counted event (its type, and `where`), by
traits that the conditions read, by a word about consent, by any event where the time somebody was last seen is read.
An event says in `context.traits` which traits it merged (`engine.events`; what workflows merge says so too). Somebody
new is looked at where the conditions may hold for a person of whom nothing is known. Leaves to others: the passing of
time (`db.condition_times`). Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeAlias
from uuid import UUID

import msgspec

from db.condition_terms import Path, parse_path
from db.filters import Condition, ConditionOperator, EventFilter
from db.records import EventRecord
from engine.filter_index import FilterIndex
from engine.filters import EVENT_MATCHING
from engine.workflows.conditions import Subject, count_passes, holds

CONSENT_EVENTS = frozenset({"consent.granted", "consent.revoked"})
ZONE_TRAIT = "timezone"
"""What an anniversary's day depends on."""

_KNOWN_OF_EVERYBODY = frozenset({"userId", "anonymous", "createdAt"})
"""Fields that somebody new has, and which then stay."""


_Answers: TypeAlias = frozenset[bool]
"""What a condition may say about somebody of whom nothing is known."""
_EITHER: _Answers = frozenset({True, False})
_NOBODY_KNOWN = Subject(event=None, profile=None, now=datetime(1970, 1, 1, tzinfo=UTC))


class _Traits(msgspec.Struct):
    """Of an event's context."""

    traits: dict[str, msgspec.Raw] | None = None


_read_traits = msgspec.json.Decoder(_Traits).decode


class Dependencies:
    """Of all audiences of a project, indexed: an event costs what it touches. Only read once it is made."""

    def __init__(self, audiences: Mapping[UUID, Sequence[Condition]]) -> None:
        self._counts: FilterIndex[tuple[UUID, int], EventFilter, EventRecord] = FilterIndex(EVENT_MATCHING)
        self._by_trait: defaultdict[str, set[UUID]] = defaultdict(set)
        self._all_traits: set[UUID] = set()
        self._consent: set[UUID] = set()
        self._seen: set[UUID] = set()
        self.newcomers: frozenset[UUID] = frozenset(
            audience_id for audience_id, conditions in audiences.items() if may_hold_for_nobody_known(conditions)
        )
        for audience_id, conditions in audiences.items():
            self._add(audience_id, conditions)

    def touched_by(self, event: EventRecord) -> set[UUID]:
        """The audiences to which the event's person may belong now and did not before, or the other way round."""
        found = {audience_id for audience_id, _ in self._counts.match(event)} | self._seen
        if event.event_type in CONSENT_EVENTS:
            found |= self._consent
        if self._by_trait or self._all_traits:
            names = merged_traits(event)
            found |= self._all_traits if names else set()
            for name in names:
                found |= self._by_trait.get(name, set())
        return found

    def _add(self, audience_id: UUID, conditions: Sequence[Condition]) -> None:
        for number, test in enumerate(tests_in(conditions)):
            if test.events is not None:
                counted = EventFilter(event_types=test.events.event_types, where=test.events.where)
                self._counts.add((audience_id, number), counted)
            else:
                self._add_path(audience_id, parse_path(test.path or ""), test.op)

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


def tests_in(conditions: Iterable[Condition]) -> Iterator[Condition]:
    """The tests of paths and counts, wherever they stand."""
    for condition in conditions:
        if condition.path is not None or condition.events is not None:
            yield condition
        yield from tests_in(condition.any or ())
        yield from tests_in(condition.all or ())
        yield from tests_in(() if condition.negate is None else (condition.negate,))


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
