"""Funnels, slowly and obviously: every way through every person's events is looked at, as docs/analytics.md says.

A *way* to a step is a list of a person's events. It begins at the first step; an event stands for one step; steps come
in order, and only optional ones are left out. It takes no longer than the window, nothing excluded lies between its
first and its last event, and where a value is held all its events have that value. Events are ordered by time, then by
seq.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, permutations
from typing import Any, NamedTuple


class Happened(NamedTuple):
    """An event. `at` is in seconds; `seq` is its position in the log."""

    seq: int
    at: int
    event_type: str
    user_id: str | None = None
    anonymous_id: str | None = None
    order: str | None = None
    plan: str | None = None


class ReferenceStep(NamedTuple):
    """Events of a type, of one plan where one is given."""

    event_type: str
    plan: str | None = None
    optional: bool = False

    def counts(self, event: Happened) -> bool:
        return event.event_type == self.event_type and self.plan in (None, event.plan)


class Asked(NamedTuple):
    """A funnel over [since, until)."""

    steps: tuple[ReferenceStep, ...]
    order: str
    window: int
    exclude: tuple[ReferenceStep, ...] = ()
    hold: bool = False
    since: int = 0
    until: int = 1000


class Arrival(NamedTuple):
    """How a person came to a step with one event. Smaller: sooner; at the same time, longer under way."""

    at: int
    left_previous_at: int
    began: int
    """Which of the person's events was the first of the way."""


def people_of(
    events: Iterable[Happened], takeovers: Sequence[tuple[str, str]] = ()
) -> dict[tuple[str, str], list[Happened]]:
    """Everybody's events in order. The first event (by seq) with both ids links them; a takeover links users."""
    linked: dict[str, str] = {}
    for event in sorted(events, key=lambda event: event.seq):
        if event.user_id is not None and event.anonymous_id is not None:
            linked.setdefault(event.anonymous_id, event.user_id)
    now: dict[str, str] = {}
    for alias, user_id in takeovers:
        if alias not in now and _end(user_id, now) != alias:
            now[alias] = user_id
    people: dict[tuple[str, str], list[Happened]] = {}
    for event in sorted(events, key=lambda event: (event.at, event.seq)):
        user = event.user_id if event.user_id is not None else linked.get(event.anonymous_id or "")
        if user is not None:
            people.setdefault(("user", _end(user, now)), []).append(event)
        elif event.anonymous_id is not None:
            people.setdefault(("anonymous", event.anonymous_id), []).append(event)
    return people


def _end(user: str, takeovers: dict[str, str]) -> str:
    while user in takeovers:
        user = takeovers[user]
    return user


def count_people(
    events: Iterable[Happened], asked: Asked, takeovers: Sequence[tuple[str, str]] = ()
) -> dict[tuple[str, str], list[Arrival | None]]:
    """Who entered, and how they came to each step; None where they did not."""
    found = {}
    for person, history in people_of(events, takeovers).items():
        within = [event for event in history if asked.since <= event.at < asked.until]
        arrivals = [_first(within, asked, step) for step in range(len(asked.steps))]
        if arrivals[0] is not None:
            found[person] = arrivals
    return found


def first_event(history: Sequence[Happened], asked: Asked, arrivals: Sequence[Arrival | None]) -> Happened:
    """The event that decides on a person's group: the first of the ways by which they came furthest."""
    within = [event for event in history if asked.since <= event.at < asked.until]
    required = [number for number, step in enumerate(asked.steps) if not step.optional]
    furthest = max(number for number in required if arrivals[number] is not None)
    return within[min(arrival.began for arrival in _arrivals(within, asked, furthest))]


def _first(events: Sequence[Happened], asked: Asked, step: int) -> Arrival | None:
    return min(_arrivals(events, asked, step), default=None)


def _arrivals(events: Sequence[Happened], asked: Asked, step: int) -> list[Arrival]:
    """One per event with which any way arrives: that of the way that began last, then left the previous step last."""
    best: dict[int, tuple[int, int]] = {}
    for way, previous in _ways(events, asked, step):
        if _is_good(way, events, asked):
            began = (way[0], events[previous].at)
            best[way[-1]] = max(best.get(way[-1], began), began)
    return [Arrival(events[last].at, left, began) for last, (began, left) in best.items()]


def _is_good(way: Sequence[int], events: Sequence[Happened], asked: Asked) -> bool:
    first, last = way[0], way[-1]
    if events[last].at - events[first].at > asked.window:
        return False
    if asked.hold and (events[first].order is None or len({events[number].order for number in way}) > 1):
        return False
    if asked.order == "STRICT" and list(way) != list(range(first, last + 1)):
        return False
    return not any(step.counts(events[number]) for step in asked.exclude for number in range(first + 1, last))


def _ways(events: Sequence[Happened], asked: Asked, step: int) -> Iterator[tuple[list[int], int]]:
    """Numbers of events, and which of them was at the required step before (the event itself, at the first step)."""
    if asked.order == "UNORDERED":
        for chosen in combinations(range(len(events)), step + 1):
            if _do_different_steps([events[number] for number in chosen], asked.steps):
                yield list(chosen), chosen[-2] if step else chosen[-1]
        return
    for number, event in enumerate(events):
        if not asked.steps[step].counts(event):
            continue
        if step == 0:
            yield [number], number
        for earlier in reversed(range(step)):
            for way, previous in _ways(events[:number], asked, earlier):
                yield [*way, number], previous if asked.steps[earlier].optional else way[-1]
            if not asked.steps[earlier].optional:
                break


def _do_different_steps(chosen: Sequence[Happened], steps: Sequence[ReferenceStep]) -> bool:
    """Each event stands for the first step it counts for; a step that is asked for twice takes two."""
    kinds = [next((steps.index(step) for step in steps if step.counts(event)), None) for event in chosen]
    return None not in kinds and any(
        all(steps[place] == steps[kind] for place, kind in zip(places, kinds, strict=True) if kind is not None)
        for places in permutations(range(len(steps)), len(chosen))
    )


def percentile(values: Sequence[float], share: float) -> float | None:
    """Between the two nearest values, in proportion."""
    ordered: list[Any] = sorted(values)
    if not ordered:
        return None
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return float(ordered[low] + (ordered[high] - ordered[low]) * (place - low))
