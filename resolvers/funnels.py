"""Funnels: what is asked, and how far people come now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.analytics.funnels import FunnelReport, answer_funnel, read_funnel_input
from engine.identity import Role
from resolvers.context import Context
from resolvers.permissions import require

_INPUT = ("input",)


async def ask_funnel(ctx: Context, *, given: Mapping[str, Any], path: tuple[str, ...] = _INPUT) -> FunnelReport:
    """A funnel as things stand. `given` has the names of FunnelInput; `path` led to it."""
    viewer = require(ctx, Role.VIEWER)
    now = ctx.services.clock.now()
    asked = read_funnel_input(given, now=now, path=path)
    async with ctx.asking(viewer.project_id) as connection:
        return await answer_funnel(connection, project_id=viewer.project_id, asked=asked, now=now)
