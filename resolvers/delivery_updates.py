"""What the items of the deliveries lane lead to."""

from __future__ import annotations

from db.delivery_records import AttemptRecord, DeliveryRecord, TransitionRecord
from engine.dispatch.values import DeliveryStatus
from engine.errors import NotFound
from engine.identity import Role
from resolvers.context import Context
from resolvers.permissions import require


async def delivery_of(ctx: Context, *, transition: TransitionRecord) -> DeliveryRecord:
    """The delivery as it is now."""
    require(ctx, Role.VIEWER, person=transition.user_id)
    found = await ctx.loaders.deliveries.load((transition.project_id, transition.delivery_id))
    if found is None:
        raise NotFound("This delivery no longer exists.")
    return found


async def attempt_of(ctx: Context, *, transition: TransitionRecord) -> AttemptRecord | None:
    """The attempt that led to the transition. One that only begins with it has led to nothing yet."""
    require(ctx, Role.VIEWER)
    if transition.attempt_number is None or transition.to_status == DeliveryStatus.SENDING:
        return None
    attempts = await ctx.loaders.attempts.load((transition.project_id, transition.delivery_id))
    return next((each for each in attempts if each.number == transition.attempt_number), None)
