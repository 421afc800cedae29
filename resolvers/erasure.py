"""Erasing people, and giving out what is kept of them."""

from __future__ import annotations

from engine.erasure.erasing import ErasureRequest, Receipt, check_request, erase_person
from engine.errors import UserError
from engine.identity import Role
from resolvers.context import Context
from resolvers.permissions import require


async def erase_profile(ctx: Context, *, user_id: str, reason: str) -> tuple[Receipt | None, tuple[UserError, ...]]:
    """Erase a person from everything, for good."""
    viewer = require(ctx, Role.ADMIN)
    services = ctx.services
    request = ErasureRequest(user_id=user_id, reason=reason, actor=viewer.actor)
    errors = check_request(request)
    if errors:
        return None, errors
    done = await erase_person(
        services.database,
        services.announce,
        project_id=viewer.project_id,
        request=request,
        now=services.clock.now(),
    )
    ctx.forget_reads()
    return (None, (done,)) if isinstance(done, UserError) else (done, ())
