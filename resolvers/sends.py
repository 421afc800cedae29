"""What the resolvers of sendPush, sendEmail and sendSms have in common."""

from __future__ import annotations

from typing import TypeAlias

from engine.dispatch.sending import MakeDeliveries, Sending, SendRefused, SentBatch
from engine.dispatch.values import Channel
from engine.errors import UserError
from engine.identity import Viewer
from resolvers.context import Context

SendOutcome: TypeAlias = tuple[SentBatch | None, tuple[UserError, ...]]
"""A send that was accepted, or why it was not."""


async def accept_send(
    ctx: Context,
    viewer: Viewer,
    *,
    channel: Channel,
    idempotency_key: str | None,
    request: object,
    make: MakeDeliveries,
) -> SendOutcome:
    """Accept a send that was checked. `request` as `Sending.send` takes it."""
    services = ctx.services
    sending = Sending(services.database, services.clock, services.announce, services.wake)
    try:
        batch = await sending.send(
            project_id=viewer.project_id, kind=channel, idempotency_key=idempotency_key, request=request, make=make
        )
    except SendRefused as refused:
        return None, refused.errors
    finally:
        ctx.forget_reads()
    return batch, ()


def check_audience(audience_id: str | None) -> tuple[UserError, ...]:
    """Projects have no audiences yet."""
    if audience_id is None:
        return ()
    return (UserError("This project has no such audience.", "NOT_FOUND", ("input", "audienceId")),)
