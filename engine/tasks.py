"""Ending tasks for certain."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

RECANCEL_SECONDS = 0.2
"""A cancellation that arrives in the same moment as an answer is swallowed by some libraries: then it is repeated."""


async def end_tasks(tasks: Iterable[asyncio.Task[Any] | None]) -> None:
    """Cancel, and return when all have ended; their errors are not raised. None is passed over."""
    running = {task for task in tasks if task is not None}
    while running:
        for task in running:
            task.cancel()
        done, running = await asyncio.wait(running, timeout=RECANCEL_SECONDS)
        for task in done:
            if not task.cancelled():
                task.exception()
