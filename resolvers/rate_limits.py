"""What the caller has left."""

from __future__ import annotations

from engine.identity import Role
from engine.rate_limits import Standing
from resolvers.context import Context
from resolvers.permissions import require


async def read_rate_limit(ctx: Context) -> tuple[Standing, int]:
    """What is left after this operation, as of now and on all gateways together, and what the operation costs."""
    require(ctx, Role.INGEST)
    return await ctx.services.rate_limits.account(ctx.bucket).settle(), ctx.cost
