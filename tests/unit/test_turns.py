"""Long work is done by one at a time, the others have as long in between, and those that wait are bounded."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

import pytest

from transport.execution.turns import TooManyWaitingError, Turns

LONG = 0.02


async def busy(turns: Turns, ended: list[float]) -> None:
    async with turns:
        time.sleep(LONG)  # noqa: ASYNC251 (what a turn is for)
        ended.append(time.perf_counter())


async def test_between_two_turns_there_is_as_much_time_for_everybody_else() -> None:
    turns, ended = Turns(10), list[float]()
    await asyncio.gather(*(busy(turns, ended) for _ in range(4)))
    pauses = [after - before - LONG for before, after in pairwise(ended)]
    assert min(pauses) >= 0.9 * LONG


async def test_who_is_one_too_many_is_told_to_come_again() -> None:
    turns, ended = Turns(2), list[float]()
    outcomes = await asyncio.gather(*(busy(turns, ended) for _ in range(4)), return_exceptions=True)
    [refusal] = [outcome for outcome in outcomes if outcome is not None]
    assert isinstance(refusal, TooManyWaitingError)
    assert refusal.as_graphql_error().extensions == {"code": "RATE_LIMITED", "retryAfterMs": 1_000}
    await asyncio.gather(*(busy(turns, ended) for _ in range(2)))
    assert len(ended) == 5


async def test_a_turn_that_fails_or_whose_client_leaves_takes_no_place() -> None:
    turns, ended = Turns(1), list[float]()
    with pytest.raises(ValueError, match="no document"):
        async with turns:
            raise ValueError("no document")
    leaving = asyncio.create_task(busy(turns, ended))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    await busy(turns, ended)
    assert ended
