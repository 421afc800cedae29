"""Which workflows an event may start: an index by event type, over the triggers of a project's active workflows.

Guarantees: whatever `conditions.trigger_matches` says of an event is among its candidates; what is not asked of the
person is decided here, so that an event costs a look-up and its candidates, however many workflows are active: by its
type, and by the values of fields that have to be one value. The index is of one generation of the project's triggers,
and is read anew when that has changed. Bounded in memory.
Leaves to others: whether a candidate is still active, and everything about the person (`engine.workflows.starting`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

import msgspec

from db.condition_terms import Path
from db.filters import Condition, ConditionOperator
from db.records import EventRecord
from db.workflow_records import ActiveTrigger
from db.workflows import read_active_triggers, read_generation
from engine.conditions import EventView, Matcher, compile_conditions, equality_of, stand_in
from engine.filter_index import EVERYWHERE, Place, place_of_name, places_of_name
from engine.taxonomy import expand_names
from engine.webhooks.follower import depth_of
from engine.workflows.conditions import fits_trigger, is_bare_wildcard
from engine.workflows.definition import Trigger
from engine.workflows.stored import decode_trigger

if TYPE_CHECKING:
    import asyncpg

MAX_REMEMBERED = 100_000
"""Workflows that one index remembers for the event types it has met: projects have few types, attackers many."""
MAX_CACHED_BYTES = 32 * 1024 * 1024
"""Of the triggers of all projects that one process keeps, as JSON; values take several times as much."""
TRIGGER_BYTES = 1_000
"""What a trigger takes besides its text, about."""
_BY_AGE = attrgetter("workflow_id")


class EventTrigger(msgspec.Struct, frozen=True, eq=False):
    """An active workflow that events start. `passes` is what its filters ask of the event alone, `tests` the rest.

    `is_bare`: by a wildcard that is for nothing that a run, or a delivery, has caused. `wanted`: the first field that
    has to be one value, and what stands for that.
    """

    workflow_id: UUID
    version: int
    trigger: Trigger
    passes: Matcher
    tests: tuple[Condition, ...]
    size: int
    is_bare: bool
    wanted: tuple[Path, Hashable] | None


Known: TypeAlias = Mapping[tuple[UUID, int], EventTrigger | None]
"""Triggers by workflow and version; None for one that a schedule starts."""


class TriggerIndex:
    """The event triggers of one project. Only read, but for what it remembers of the types it has met."""

    def __init__(self, generation: int, known: Known) -> None:
        self.generation = generation
        self.known = known
        triggers = [each for each in known.values() if each is not None]
        self.size = TRIGGER_BYTES * len(known) + sum(each.size for each in triggers)
        self._places: dict[Place, dict[str, list[EventTrigger]]] = {}
        self._remembered: dict[str, _OfType] = {}
        self._remembered_size = 0
        for each in triggers:
            for name in expand_names((each.trigger.event_type or "",)):
                self._places.setdefault(place_of_name(name), {}).setdefault(name, []).append(each)

    def candidates(self, event: EventRecord) -> list[EventTrigger]:
        """What an event may start, the oldest workflow first."""
        known = self._of_type(event.event_type)
        if not known.count:
            return []
        view, is_caused = EventView(event), depth_of(event) > 0
        return [each for each in known.look_up(view) if not (is_caused and each.is_bare) and each.passes(view)]

    def _of_type(self, event_type: str) -> _OfType:
        known = self._remembered.get(event_type)
        if known is None:
            known = _OfType(self._find(event_type))
            self._remembered_size += 1 + known.count
            if self._remembered_size > MAX_REMEMBERED:
                self._remembered, self._remembered_size = {}, 1 + known.count
            self._remembered[event_type] = known
        return known

    def _find(self, event_type: str) -> Sequence[EventTrigger]:
        found: dict[UUID, EventTrigger] = {}
        for place in (EVERYWHERE, *places_of_name(event_type)):
            for name, triggers in self._places.get(place, {}).items():
                if fits_trigger(event_type, name):
                    found |= {each.workflow_id: each for each in triggers}
        return [found[workflow_id] for workflow_id in sorted(found)]


class _OfType:
    """The triggers of one event type; those that want one value of a field are looked up by it."""

    def __init__(self, triggers: Sequence[EventTrigger]) -> None:
        self.count = len(triggers)
        self._others: list[EventTrigger] = []
        self._by_value: dict[Path, dict[Hashable, list[EventTrigger]]] = {}
        for each in triggers:
            if each.wanted is None:
                self._others.append(each)
            else:
                path, value = each.wanted
                self._by_value.setdefault(path, {}).setdefault(value, []).append(each)

    def look_up(self, view: EventView) -> list[EventTrigger]:
        """Those that the event may start, as far as one value tells; the oldest workflow first."""
        found = list(self._others)
        for path, by_value in self._by_value.items():
            found += by_value.get(stand_in(view, path), ())
        found.sort(key=_BY_AGE)
        return found


class TriggerCache:
    """The indexes of the projects that one process follows, those used last."""

    def __init__(self, *, max_bytes: int = MAX_CACHED_BYTES) -> None:
        self._max_bytes = max_bytes
        self._indexes: OrderedDict[UUID, TriggerIndex] = OrderedDict()

    async def read(self, connection: asyncpg.Connection, *, project_id: UUID) -> TriggerIndex:
        """The index as the caller's transaction finds it; reads one row while nothing has changed."""
        # Before the triggers: if they change in between, the index is older than it says and is read again.
        generation = await read_generation(connection, project_id=project_id)
        held = self._indexes.get(project_id)
        if held is None or held.generation != generation:
            known = {} if held is None else held.known
            rows = await read_active_triggers(connection, project_id=project_id, known=known)
            held = self._indexes[project_id] = build_index(generation, rows, known)
        self._indexes.move_to_end(project_id)
        self._forget()
        return held

    def _forget(self) -> None:
        """All but the newest, whose page is being matched."""
        size = sum(index.size for index in self._indexes.values())
        while size > self._max_bytes and len(self._indexes) > 1:
            size -= self._indexes.popitem(last=False)[1].size


def build_index(generation: int, rows: Sequence[ActiveTrigger], known: Known) -> TriggerIndex:
    """An index of what is active. `known` are triggers that were read before: a version never changes."""
    triggers = {
        (row.workflow_id, row.version): known[row.workflow_id, row.version]
        if row.trigger is None
        else _read_trigger(row, bytes(row.trigger))
        for row in rows
    }
    return TriggerIndex(generation, triggers)


def _read_trigger(row: ActiveTrigger, text: bytes) -> EventTrigger | None:
    trigger = decode_trigger(text)
    if trigger.event_type is None:
        return None
    alone = [each for each in trigger.filters if _is_of_event_alone(each)]
    rest = tuple(each for each in trigger.filters if not _is_of_event_alone(each))
    return EventTrigger(
        workflow_id=row.workflow_id,
        version=row.version,
        trigger=trigger,
        passes=compile_conditions(alone),
        tests=rest,
        size=len(text),
        is_bare=is_bare_wildcard(trigger.event_type),
        wanted=next((found for each in alone if (found := equality_of(each)) is not None), None),
    )


def _is_of_event_alone(condition: Condition) -> bool:
    """Whether nothing but the event decides it. An anniversary is one in the person's time zone."""
    inner = condition.any or condition.all or (() if condition.negate is None else (condition.negate,))
    if inner:
        return all(map(_is_of_event_alone, inner))
    is_of_event = condition.path is not None and condition.path.startswith("event.")
    return is_of_event and condition.op != ConditionOperator.IS_ANNIVERSARY
