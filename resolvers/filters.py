"""Filters as clients write them, checked and frozen for the engine.

Refused here is what could never match or would break below: NUL, which PostgreSQL cannot hold, lists without bounds,
and instants in a year that only a mistake writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from db.filters import Condition, EventFilter
from engine.conditions import parse_conditions
from engine.errors import BadUserInput
from engine.taxonomy import expand_names

MAX_NAMES = 200
"""Event types or modules in one filter."""
MAX_KEYS = 1000
"""As many as a batch has events."""
MAX_NAME_CHARACTERS = 200
MAX_TEXT_CHARACTERS = 512
"""Of a user id, a key or a search: longer ones cannot be stored."""
EARLIEST, LATEST = datetime(2, 1, 1, tzinfo=UTC), datetime(9998, 12, 31, tzinfo=UTC)
"""Beyond lies what languages write for no date at all."""

EVENT_ROOTS = frozenset({"event", "profile", "events"})
STREAM_ROOTS = frozenset({"event"})
"""Whether a stream holds an event is decided by the event alone, or a resume could lose or repeat one."""
PROFILE_ROOTS = frozenset({"profile", "events"})


class EventFilterArguments(msgspec.Struct, frozen=True):
    """EventFilter as it comes in. `where` holds ConditionInput as mappings with the names of GraphQL."""

    event_types: Sequence[str] | None = None
    modules: Sequence[str] | None = None
    user_id: str | None = None
    anonymous_id: str | None = None
    keys: Sequence[str] | None = None
    since: datetime | None = None
    until: datetime | None = None
    where: Sequence[Mapping[str, Any]] | None = None


NO_ARGUMENTS = EventFilterArguments()


def read_event_filter(arguments: EventFilterArguments | None, *, roots: frozenset[str]) -> EventFilter:
    """Raises `BadUserInput`, naming the part of the filter that can never work."""
    given = arguments or NO_ARGUMENTS
    return EventFilter(
        event_types=read_names(given.event_types, "filter.eventTypes", expand=True),
        modules=read_names(given.modules, "filter.modules"),
        user_id=check_text(given.user_id, "filter.userId"),
        anonymous_id=check_text(given.anonymous_id, "filter.anonymousId"),
        keys=check_texts(given.keys, "filter.keys", limit=MAX_KEYS),
        since=check_instant(given.since, "filter.since"),
        until=check_instant(given.until, "filter.until"),
        where=read_conditions(given.where, roots=roots, path=("filter", "where")),
    )


def read_conditions(
    where: Sequence[Mapping[str, Any]] | None, *, roots: frozenset[str], path: tuple[str, ...]
) -> tuple[Condition, ...]:
    """No conditions for None."""
    return parse_conditions(where, roots=roots, path=path) if where else ()


def check_text(text: str | None, name: str, *, limit: int = MAX_TEXT_CHARACTERS) -> str | None:
    """The text itself. Raises `BadUserInput` when it is too long or holds what cannot be stored."""
    if text is None:
        return None
    if len(text) > limit:
        raise bad_input(name, f"is too long: at most {limit} characters.")
    if "\0" in text:
        raise bad_input(name, "holds a NUL character, which no stored text can.")
    return text


def read_names(names: Sequence[str] | None, name: str, *, expand: bool = False) -> tuple[str, ...] | None:
    """Names, wildcards allowed. `expand` puts in the other names of a canonical type."""
    texts = check_texts(names, name, limit=MAX_NAMES, characters=MAX_NAME_CHARACTERS)
    return expand_names(texts) if texts is not None and expand else texts


def check_texts(
    texts: Iterable[str] | None, name: str, *, limit: int, characters: int = MAX_TEXT_CHARACTERS
) -> tuple[str, ...] | None:
    """The texts, each once. Raises `BadUserInput` for too many, and for those that `check_text` refuses."""
    if texts is None:
        return None
    read = tuple(dict.fromkeys(texts))
    if len(read) > limit:
        raise bad_input(name, f"has too many entries: at most {limit}.")
    for text in read:
        check_text(text, name, limit=characters)
    return read


def check_instant(instant: datetime | None, name: str) -> datetime | None:
    """The instant itself. Raises `BadUserInput` for a year that only a mistake writes."""
    if instant is not None and not EARLIEST <= instant <= LATEST:
        raise bad_input(name, "must lie within the years 2 to 9998.")
    return instant


def bad_input(name: str, problem: str) -> BadUserInput:
    """What is wrong with a part of the arguments. `name` is its path, joined by dots."""
    return BadUserInput(f"{name} {problem}", path=tuple(name.split(".")))
