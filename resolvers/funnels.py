"""Funnels: what is asked, and how far people come now."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from datetime import timedelta
from typing import Any

from engine.analytics.funnels import FunnelReport, answer_funnel, read_funnel_input
from engine.errors import BadUserInput
from engine.identity import Role
from resolvers.context import Context
from resolvers.permissions import require

_INPUT = ("input",)
MIN_INTERVAL_MS, MAX_INTERVAL_MS = 250, 3_600_000
"""Of a report that is followed: more often than anybody can read, and once an hour."""
DEFAULT_INTERVAL_MS = 1_000


async def ask_funnel(ctx: Context, *, given: Mapping[str, Any], path: tuple[str, ...] = _INPUT) -> FunnelReport:
    """A funnel as things stand. `given` has the names of FunnelInput; `path` led to it."""
    viewer = require(ctx, Role.VIEWER)
    now = ctx.services.clock.now()
    asked = read_funnel_input(given, now=now, path=path)
    async with ctx.asking(viewer.project_id) as connection:
        return await answer_funnel(connection, project_id=viewer.project_id, asked=asked, now=now)


def follow_funnel(
    ctx: Context, *, given: Mapping[str, Any], interval_ms: int | None
) -> AsyncGenerator[FunnelReport, None]:
    """The funnel's report now, and whenever it has changed, at most once per interval."""
    viewer = require(ctx, Role.VIEWER)
    interval = DEFAULT_INTERVAL_MS if interval_ms is None else interval_ms
    if not MIN_INTERVAL_MS <= interval <= MAX_INTERVAL_MS:
        raise BadUserInput(f"intervalMs must be {MIN_INTERVAL_MS} to {MAX_INTERVAL_MS}.", path=("intervalMs",))
    read_funnel_input(given, now=ctx.services.clock.now(), path=_INPUT)
    return ctx.services.live_funnels.follow(viewer.project_id, given, timedelta(milliseconds=interval))
