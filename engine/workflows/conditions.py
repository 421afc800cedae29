"""Conditions in workflows: filters of triggers and conditions of branches, over an event, a person and a run.

One language (docs/conditions.md) and one evaluator: `engine.conditions` decides about events, so what a path of a
person or of a run leads to is put to it as if an event's had led there. Guarantees: the same answers as filters
of events and lists of people give; nothing that was accepted raises, whatever is stored. *Today*, for IS_ANNIVERSARY,
is the day of the decision in the person's time zone (trait `timezone`, the project's when absent or unknown).
Leaves to others: membership of audiences, and counts of events, which need the log (`counts_in` says which; their
answers come in `Subject.counted`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from db.condition_terms import FieldKind, Path, PathError, parse_instant, parse_path
from db.filters import Condition, ConditionOperator
from db.records import EventRecord, ProfileRecord
from engine.conditions import EventView, compile_conditions
from engine.consent import ConsentState
from engine.filter_index import EVERYWHERE, place_of_name
from engine.push.quiet_hours import find_zone
from engine.taxonomy import expand_names
from engine.webhooks.follower import depth_of
from engine.wildcards import fits, split_pattern
from engine.workflows.configs import condition_path
from engine.workflows.definition import BranchCondition, ConditionSource, Trigger

_ZONE_TRAIT = "timezone"
_OF_RUNS = "automation."
_IN_ORDER = frozenset({ConditionOperator.GT, ConditionOperator.GTE, ConditionOperator.LT, ConditionOperator.LTE})
_ON_LISTS = frozenset({ConditionOperator.IN, ConditionOperator.NOT_IN})
_ON_STRINGS = frozenset({ConditionOperator.STARTS_WITH, ConditionOperator.ENDS_WITH})
_NOTHING = msgspec.Raw(b"{}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """What conditions are about. `consents` are what the person said by purpose in lower case, `vars` the run's.

    `counted` holds the tests of counts that were looked up, each with its answer; `default_zone` is the project's.
    """

    event: EventRecord | None
    profile: ProfileRecord | None
    now: datetime
    consents: Mapping[str, ConsentState] = {}
    vars: Mapping[str, Any] = {}
    counted: tuple[tuple[Condition, bool], ...] = ()
    default_zone: str = "UTC"


def trigger_matches(trigger: Trigger, subject: Subject) -> bool:
    """Whether an event starts a run: its type, by name, alias or wildcard, and the filters.

    `subject.now` is when the event was received, so that the answer is the same whenever it is asked. Whether the
    person is in the audience, may come in again, and agreed is not looked at.
    """
    event = subject.event
    if event is None or trigger.event_type is None:
        return False
    if is_bare_wildcard(trigger.event_type) and depth_of(event):
        return False
    if not any(fits_trigger(event.event_type, name) for name in expand_names((trigger.event_type,))):
        return False
    return holds(trigger.filters, subject)


def is_bare_wildcard(name: str) -> bool:
    """Whether it spells neither the first part of a name nor the last. What a run, or a delivery, has caused starts
    nothing by such a one: each run would start several, and each of those as many again, down to the bound on depth.
    """
    return place_of_name(name) is EVERYWHERE


def fits_trigger(event_type: str, name: str) -> bool:
    """Whether an event's type is what a trigger names: the same name, or one that its wildcard stands for.

    What runs say of themselves (`automation.*`) no bare wildcard stands for, whoever says it.
    """
    if is_bare_wildcard(name) and event_type.startswith(_OF_RUNS):
        return False
    return fits(event_type, split_pattern(name))


def holds(conditions: Sequence[Condition], subject: Subject) -> bool:
    """Whether all of them do. Raises `LookupError` for a count that was not looked up."""
    return all(_holds(condition, subject) for condition in conditions)


def counts_in(conditions: Sequence[Condition]) -> Iterator[Condition]:
    """The tests of counts of events, wherever they stand."""
    for condition in conditions:
        if condition.events is not None:
            yield condition
        yield from counts_in(condition.any or ())
        yield from counts_in(condition.all or ())
        yield from counts_in(() if condition.negate is None else (condition.negate,))


def without_event(test: Condition, subject: Subject) -> Condition:
    """The test of a count that gives of the events before this one what `test` gives of all of them."""
    own = _own_count(test, subject)
    if not own:
        return test
    value = [_less(each, own) for each in test.value] if isinstance(test.value, list) else _less(test.value, own)
    return msgspec.structs.replace(test, value=value)


def count_passes(test: Condition, measured: int) -> bool:
    """What the test of a count says about a number."""
    asked = Condition(path="event.properties", op=test.op, value=test.value)
    return compile_conditions([asked])(_Reading(measured, _EPOCH))


def branch_holds(condition: BranchCondition, value: Any, subject: Subject) -> bool:
    """Which way a branch goes. `value` is the condition's, filled in."""
    operator = ConditionOperator(condition.op)
    if not _is_comparable(operator, value):
        return False
    return any(_test(Condition(path=text, op=operator, value=value), subject) for text in _paths_of(condition, subject))


def _paths_of(condition: BranchCondition, subject: Subject) -> tuple[str, ...]:
    """One path. A name of the event is its property; where it has none of that name, a field of its envelope."""
    first = condition_path(condition)
    if condition.source is not ConditionSource.EVENT or _reads_something(first, subject):
        return (first,)
    envelope = f"event.{condition.name}"
    try:
        parse_path(envelope)
    except PathError:
        return (first,)
    return (envelope,)


def _reads_something(text: str, subject: Subject) -> bool:
    return _test(Condition(path=text, op=ConditionOperator.EXISTS), subject)


def _holds(condition: Condition, subject: Subject) -> bool:
    if condition.any is not None:
        return any(_holds(inner, subject) for inner in condition.any)
    if condition.all is not None:
        return holds(condition.all, subject)
    if condition.negate is not None:
        return not _holds(condition.negate, subject)
    return _test(condition, subject)


def _test(condition: Condition, subject: Subject) -> bool:
    """One test, put to the evaluator as one of an event."""
    if condition.path is None:
        return _counted(condition, subject)
    path = parse_path(condition.path)
    is_instant = path.kind is FieldKind.INSTANT
    if is_instant and not _is_instant(condition.op, condition.value):
        return condition.op in (ConditionOperator.NE, ConditionOperator.NOT_IN)
    asked = msgspec.structs.replace(condition, path="event.timestamp" if is_instant else "event.properties")
    matches = compile_conditions([asked], timezone=_zone(subject))
    return matches(_Reading(_read(path, subject), subject.now))


def _counted(test: Condition, subject: Subject) -> bool:
    for known, answer in subject.counted:
        if known == test:
            return answer
    raise LookupError("a count of events was not looked up")


def _own_count(test: Condition, subject: Subject) -> int | Decimal:
    """What the event itself adds to a count, or to a sum."""
    count, event = test.events, subject.event
    if count is None or event is None or event.user_id is None:
        return 0
    is_counted = any(fits(event.event_type, split_pattern(name)) for name in count.event_types)
    if count.within_seconds is not None:
        is_counted &= event.timestamp >= subject.now - timedelta(seconds=count.within_seconds)
    if not is_counted or not holds(count.where, subject):
        return 0
    if count.sum is None:
        return 1
    added = EventView(event).read(parse_path(count.sum))
    return added if isinstance(added, int | Decimal) and not isinstance(added, bool) else 0


def _less(value: int | float, own: int | Decimal) -> int | float:
    left = Decimal(repr(value)) - own
    return int(left) if left == left.to_integral_value() else float(left)


class _Reading(EventView):
    """An event, received now, whatever path of which leads to one value."""

    __slots__ = ("_value",)

    def __init__(self, value: Any, now: datetime) -> None:
        super().__init__(_carrier(_NOTHING, now))
        self._value = value

    def read(self, _path: Path) -> Any:
        """See `EventView`."""
        return self._value


def _read(path: Path, subject: Subject) -> Any:
    """What a path leads to; None for nothing."""
    event, profile = subject.event, subject.profile
    match path.root, path.field:
        case "event", _:
            return None if event is None else EventView(event).read(path)
        case "profile", "traits":
            return None if profile is None else _walk(profile.traits, path.keys, subject.now)
        case "profile", "consent":
            return subject.consents.get(path.keys[0], ConsentState.UNKNOWN).value
        case "run", _:
            return _walk(msgspec.Raw(msgspec.json.encode(subject.vars)), path.keys, subject.now)
    if profile is None:
        return None
    return {
        "userId": profile.user_id,
        "anonymous": profile.anonymous,
        "createdAt": profile.created_at,
        "lastSeenAt": profile.last_seen_at,
    }[path.field]


def _walk(json: msgspec.Raw, keys: tuple[str, ...], now: datetime) -> Any:
    """Into JSON, as into the properties of an event."""
    return EventView(_carrier(json, now)).read(Path("event", "properties", keys))


def _carrier(properties: msgspec.Raw, now: datetime) -> EventRecord:
    nobody = UUID(int=0)
    return EventRecord(nobody, 0, "", "", "", now, now, None, None, properties, _NOTHING)


def _is_comparable(operator: ConditionOperator, value: Any) -> bool:
    """Whether a value that was filled in still is what its operator compares with."""
    if operator in _IN_ORDER:
        return isinstance(value, int | float | str) and not isinstance(value, bool)
    if operator in _ON_STRINGS:
        return isinstance(value, str)
    return isinstance(value, list) if operator in _ON_LISTS else True


def _is_instant(operator: str | None, value: Any) -> bool:
    """Whether a value can be compared with an instant."""
    if operator in _IN_ORDER or operator in (ConditionOperator.EQ, ConditionOperator.NE):
        return value is None or (isinstance(value, str) and parse_instant(value) is not None)
    if operator in _ON_LISTS:
        return all(each is None or (isinstance(each, str) and parse_instant(each) is not None) for each in value)
    return True


def _zone(subject: Subject) -> tzinfo:
    return _zone_of(subject.profile) or find_zone(subject.default_zone) or UTC


def _zone_of(profile: ProfileRecord | None) -> tzinfo | None:
    """A person's own; None when it is absent or unknown."""
    if profile is None or _ZONE_TRAIT.encode() not in bytes(profile.traits):
        return None
    name = msgspec.json.decode(profile.traits).get(_ZONE_TRAIT)
    return find_zone(name) if isinstance(name, str) else None
