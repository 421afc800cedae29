"""Rendering a round of messages: not in the loop, and not for longer than a transaction may wait."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime

import pytest

from engine.channels.base import Postpone, Prepared, Refuse
from engine.dispatch.values import DeliveryError
from engine.templates import rounds
from engine.templates.rounds import LATE_PAUSE, render_round

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
DONE = Refuse(error=DeliveryError("TEMPLATE", "The template takes too long.", permanent=True))


async def test_templates_that_take_long_hold_up_neither_the_loop_nor_their_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rounds, "MAX_ROUND_SECONDS", 0.05)
    rendered, turns = [], 0

    def render(item: int) -> Prepared:
        assert threading.current_thread() is not threading.main_thread()
        rendered.append(item)
        ends_at = time.thread_time() + 0.02
        while time.thread_time() < ends_at:
            pass
        return DONE

    rendering = asyncio.create_task(render_round(range(32), render, now=NOW))
    while not rendering.done():
        turns += 1
        await asyncio.sleep(0)
    prepared = await rendering

    assert rendered == [0, 1, 2]
    assert prepared[:3] == [DONE] * 3
    assert {type(each) for each in prepared[3:]} == {Postpone}
    late = prepared[-1]
    assert isinstance(late, Postpone)
    assert (late.until, late.error and late.error.code) == (NOW + LATE_PAUSE, "TEMPLATE_SLOW")
    assert len(prepared) == 32
    assert turns > 3


async def test_what_is_quick_is_rendered_as_a_whole() -> None:
    assert await render_round(range(32), lambda _: DONE, now=NOW) == [DONE] * 32
