"""What happened, as the references read it: a list of events, and who each of them is of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Event:
    """One event of a history. `seq` says which of two was stored first."""

    seq: int
    timestamp: datetime
    event_type: str
    user_id: str | None = None
    anonymous_id: str | None = None
    properties: dict[str, Any] = field(default_factory=dict)


Person = tuple[str, str]
"""A user ("u") or somebody who is known by an anonymous id only ("a"): never the same, even if spelt alike."""


def persons(events: Sequence[Event]) -> dict[int, Person | None]:
    """Who each event is of, by seq: its user; else whom its device was first seen with, ever; else its device."""
    seen_with: dict[str, str] = {}
    for event in sorted(events, key=lambda each: each.seq):
        if event.anonymous_id is not None and event.user_id is not None:
            seen_with.setdefault(event.anonymous_id, event.user_id)

    def person(event: Event) -> Person | None:
        user_id = event.user_id or seen_with.get(event.anonymous_id or "")
        if user_id is not None:
            return ("u", user_id)
        return None if event.anonymous_id is None else ("a", event.anonymous_id)

    return {event.seq: person(event) for event in events}


Test = Callable[[Event, Person | None], bool]
"""Whether an event is one that is asked for; it is given whose the event is."""
