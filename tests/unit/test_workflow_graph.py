"""Where steps lead, and circles that never wait."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.workflows.definition import Branch, BranchCondition, ConditionSource, Step, StepType, Target, Wait
from engine.workflows.graph import (
    FINISHED,
    UnknownTarget,
    find_endless_circle,
    next_step,
    resolve_target,
    successors,
)

TEST = BranchCondition(ConditionSource.TRAIT, "a", "EQ", 1)


def plain(label: str, *, then: Target | None = None, delay: float = 0) -> Step:
    return Step(label, StepType.WAIT, Wait(), delay_minutes=delay, next=then)


def branch(label: str, yes: Target, no: Target, *, delay: float = 0) -> Step:
    return Step(label, StepType.BRANCH, Branch(TEST, yes, no), delay_minutes=delay)


@pytest.mark.parametrize(
    ("target", "index"), [("a", 0), ("b", 1), (0, 0), ("1", 1), ("end", FINISHED), ("END", FINISHED)]
)
def test_a_target_is_a_label_an_index_or_the_end(target: Target, index: int) -> None:
    assert resolve_target(["a", "b"], target) == index


@pytest.mark.parametrize("target", ["c", 2, -1, "-1", "01", ""])
def test_a_target_that_is_no_step_is_unknown(target: Target) -> None:
    with pytest.raises(UnknownTarget):
        resolve_target(["a", "b"], target)


def test_a_step_goes_on_to_the_next_in_the_list_unless_it_says() -> None:
    steps = (plain("a"), plain("b", then="d"), plain("c", then="end"), plain("d"))
    assert [next_step(steps, index) for index in range(4)] == [1, 3, FINISHED, FINISHED]
    assert successors((branch("a", "c", 1), plain("b"), plain("c")), 0) == (2, 1)


def test_a_circle_is_found_wherever_it_begins() -> None:
    steps = (plain("a"), branch("b", "end", "d"), plain("c"), plain("d", then="b"))
    assert find_endless_circle(steps) == (1, 3)
    assert find_endless_circle((plain("a", then=0),)) == (0,)


def test_two_ways_to_one_step_are_no_circle() -> None:
    assert find_endless_circle((branch("a", "b", "c"), plain("b", then="d"), plain("c"), plain("d"))) is None


def test_a_circle_that_nothing_leads_to_is_one_too() -> None:
    assert find_endless_circle((plain("a", then="end"), plain("b", then="c"), plain("c", then="b"))) == (1, 2)


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Step, ...]:
    count = draw(st.integers(1, 7))
    targets = st.sampled_from([*range(count), "end"])
    steps = []
    for index in range(count):
        delay = draw(st.sampled_from([0, 0, 0, 5]))
        if draw(st.booleans()):
            steps.append(branch(f"s{index}", draw(targets), draw(targets), delay=delay))
        else:
            steps.append(plain(f"s{index}", then=draw(st.none() | targets), delay=delay))
    return tuple(steps)


@settings(max_examples=200, deadline=None)
@given(graphs())
def test_there_is_an_endless_circle_exactly_when_steps_reach_themselves_without_a_wait(steps: tuple[Step, ...]) -> None:
    quick = {index for index, step in enumerate(steps) if step.delay_minutes == 0}

    def reaches_itself(start: int) -> bool:
        seen: set[int] = set()
        ahead = {start}
        while ahead:
            ahead = {n for index in ahead for n in successors(steps, index)} & quick - seen
            seen |= ahead
        return start in seen

    circle = find_endless_circle(steps)
    assert (circle is not None) == any(reaches_itself(index) for index in quick)
    if circle is not None:
        assert set(circle) <= quick
        assert all(n in successors(steps, index) for index, n in zip(circle, (*circle[1:], circle[0]), strict=True))
