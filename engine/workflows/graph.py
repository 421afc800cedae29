"""Where a workflow's steps lead: targets by label or index, and circles that never wait. Pure.

A label is never a number and never `end`, so a target means one thing only. Steps that nothing leads to are allowed:
they do no harm, and somebody may be about to use them.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.workflows.definition import END, Branch, Step, Target

FINISHED = -1
"""In the place of a step's index: the run is complete."""


class UnknownTarget(LookupError):
    """A target that is no label, no index and not `end`."""


def resolve_target(labels: Sequence[str], target: Target) -> int:
    """The index of the step that a target means, or `FINISHED`. Raises `UnknownTarget`."""
    if isinstance(target, str) and target.lower() == END:
        return FINISHED
    for index, label in enumerate(labels):
        if target in (label, index, str(index)):
            return index
    raise UnknownTarget(target)


def next_step(steps: Sequence[Step], index: int) -> int:
    """What follows a step that is not a branch: an index or `FINISHED`."""
    target = steps[index].next
    if target is not None:
        return resolve_target(_labels(steps), target)
    return index + 1 if index + 1 < len(steps) else FINISHED


def successors(steps: Sequence[Step], index: int) -> tuple[int, ...]:
    """Everything that may follow a step: for a branch, what is true first."""
    config = steps[index].config
    if isinstance(config, Branch):
        labels = _labels(steps)
        return resolve_target(labels, config.if_true), resolve_target(labels, config.if_false)
    return (next_step(steps, index),)


def find_endless_circle(steps: Sequence[Step]) -> tuple[int, ...] | None:
    """Indexes of steps that lead round to the first of them without a wait anywhere; None when there is no such circle.

    A step that waits cannot be part of one, so those are left out; what remains must be free of circles.
    """
    waiting = {index for index, step in enumerate(steps) if step.delay_minutes > 0}
    cleared = set(waiting)
    for start in range(len(steps)):
        circle = _walk(steps, start, cleared)
        if circle is not None:
            return circle
    return None


def _labels(steps: Sequence[Step]) -> list[str]:
    return [step.label for step in steps]


def _walk(steps: Sequence[Step], start: int, cleared: set[int]) -> tuple[int, ...] | None:
    """Depth first from one step; what cannot be part of a circle is cleared. No recursion."""
    if start in cleared:
        return None
    trail = [start]
    ahead = [list(successors(steps, start))]
    while trail:
        if not ahead[-1]:
            cleared.add(trail.pop())
            ahead.pop()
            continue
        following = ahead[-1].pop()
        if following in trail:
            return tuple(trail[trail.index(following) :])
        if following != FINISHED and following not in cleared:
            trail.append(following)
            ahead.append(list(successors(steps, following)))
    return None
