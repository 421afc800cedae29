"""Rounds of claims: large alone and among backlogs, small while others send a little."""

from __future__ import annotations

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from engine.dispatch.neighbours import NEIGHBOUR_SECONDS, ROUND_BESIDE_OTHERS, Neighbours

LIMIT = 64
BACKLOG, SHOP, BAKERY = (UUID(int=number) for number in range(1, 4))


class StillClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_alone_a_project_takes_large_rounds() -> None:
    neighbours = Neighbours(StillClock())
    neighbours.sent_little(BACKLOG)

    assert neighbours.round_limit(BACKLOG, LIMIT) == LIMIT


def test_beside_somebody_who_sends_a_little_rounds_are_small() -> None:
    neighbours = Neighbours(StillClock())
    neighbours.sent_little(SHOP)
    neighbours.sent_little(BACKLOG)

    assert neighbours.round_limit(BACKLOG, LIMIT) == ROUND_BESIDE_OTHERS
    assert neighbours.round_limit(SHOP, LIMIT) == ROUND_BESIDE_OTHERS


def test_a_smaller_limit_stays_as_it_is() -> None:
    neighbours = Neighbours(StillClock())
    neighbours.sent_little(SHOP)

    assert neighbours.round_limit(BACKLOG, 3) == 3


def test_who_sent_long_ago_is_not_reckoned_with() -> None:
    clock = StillClock()
    neighbours = Neighbours(clock)
    neighbours.sent_little(SHOP)
    clock.now += NEIGHBOUR_SECONDS + 0.001

    assert neighbours.round_limit(BACKLOG, LIMIT) == LIMIT


@given(st.lists(st.tuples(st.sampled_from([BACKLOG, SHOP, BAKERY]), st.floats(0, 2)), max_size=20))
def test_rounds_are_small_exactly_while_another_project_sent_within_the_time(sent: list[tuple[UUID, float]]) -> None:
    clock = StillClock()
    neighbours = Neighbours(clock)
    times: dict[UUID, float] = {}
    for project_id, pause in sent:
        neighbours.sent_little(project_id)
        times[project_id] = clock.now
        clock.now += pause

    for project_id in (BACKLOG, SHOP, BAKERY):
        others = [at for other, at in times.items() if other != project_id]
        is_beside = any(at >= clock.now - NEIGHBOUR_SECONDS for at in others)
        assert neighbours.round_limit(project_id, LIMIT) == (ROUND_BESIDE_OTHERS if is_beside else LIMIT)
