"""Trends and retention: what is asked, and what it comes to now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.analytics.retention import RetentionCohort, answer_retention, read_retention_input
from engine.analytics.trends import TrendReport, answer_trend, read_trend_input
from engine.identity import Role
from resolvers.context import Context
from resolvers.permissions import require

_INPUT = ("input",)


async def ask_trend(ctx: Context, *, given: Mapping[str, Any], path: tuple[str, ...] = _INPUT) -> TrendReport:
    """A trend as things stand. `given` has the names of TrendInput; `path` led to it."""
    viewer = require(ctx, Role.VIEWER)
    now = ctx.services.clock.now()
    asked = read_trend_input(given, now=now, path=path)
    async with ctx.asking(viewer.project_id) as connection:
        return await answer_trend(connection, project_id=viewer.project_id, asked=asked, now=now)


async def ask_retention(
    ctx: Context, *, given: Mapping[str, Any], path: tuple[str, ...] = _INPUT
) -> Sequence[RetentionCohort]:
    """The retention as things stand. `given` has the names of RetentionInput; `path` led to it."""
    viewer = require(ctx, Role.VIEWER)
    now = ctx.services.clock.now()
    asked = read_retention_input(given, now=now, path=path)
    async with ctx.asking(viewer.project_id) as connection:
        return await answer_retention(connection, project_id=viewer.project_id, asked=asked, now=now)
