"""Rendering the messages of one round of claims, which hold locks and a connection meanwhile.

Guarantees: it runs beside the loop, and a round's renderings take at most `MAX_ROUND_SECONDS` of processor time and
one message more, whatever their templates do; whoever comes too late is told so, and nothing was rendered for him.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

from engine.channels.base import Postpone, Prepared
from engine.dispatch.values import DeliveryError

MAX_ROUND_SECONDS = 3.0
"""A full round of ordinary newsletters takes some 50 ms. A transaction that waits for longer than 30 s is ended."""
LATE_PAUSE = timedelta(minutes=1)
"""Long enough for the others of a send to be rendered, or refused, before the same message is looked at again."""

T = TypeVar("T")


async def render_round(items: Sequence[T], render: Callable[[T], Prepared], *, now: datetime) -> list[Prepared]:
    """What `render` makes of each item, in their order. `now` is business time."""
    late = Postpone(
        until=now + LATE_PAUSE,
        error=DeliveryError(
            "TEMPLATE_SLOW",
            "The templates of the messages before this one took too long: it is rendered later.",
            permanent=False,
            hint="Make the templates simpler: fewer turns of loops, and shorter values in filters.",
        ),
    )

    def run() -> list[Prepared]:
        ends_at = time.thread_time() + MAX_ROUND_SECONDS
        return [render(item) if time.thread_time() < ends_at else late for item in items]

    return await asyncio.to_thread(run)
