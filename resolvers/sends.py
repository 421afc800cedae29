"""What the resolvers of sendPush, sendEmail and sendSms have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

import msgspec

from db.audience_sends import AudienceSend
from db.delivery_records import NewDelivery
from engine.dispatch.audience_sends import NO_AUDIENCE, PlanPage, begin_audience_send, page_size
from engine.dispatch.sending import MakeDeliveries, Sending, SendRefused, SentBatch
from engine.dispatch.values import Channel
from engine.errors import UserError
from engine.identity import Viewer
from engine.work import Work, WorkKind
from resolvers.audiences import audience_id_of
from resolvers.context import Context

if TYPE_CHECKING:
    import asyncpg

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
    has_audience: bool = False,
) -> SendOutcome:
    """Accept a send that was checked. `request` as `Sending.send` takes it; `has_audience`: workers go on with it."""
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
    if has_audience:
        services.wake(Work(WorkKind.AUDIENCE_SENDS, viewer.project_id))
    return batch, ()


def as_asked(request: object, audience_id: str | None) -> object:
    """A request that does not know of its audience, as what an idempotency key stands for."""
    return request if audience_id is None else {"request": request, "audienceId": audience_id}


def check_audience(audience_id: str | None) -> tuple[UserError, ...]:
    """Why something cannot be the node id of an audience. Whether there is one is looked at under its lock."""
    if audience_id is None or audience_id_of(audience_id) is not None:
        return ()
    return (UserError(NO_AUDIENCE, "NOT_FOUND", ("input", "audienceId")),)


def to_audience(
    make: MakeDeliveries,
    plan: PlanPage,
    content: Callable[[UUID], msgspec.Struct],
    *,
    project_id: UUID,
    audience_id: str | None,
    scheduled_for: datetime | None,
    per_person: int = 1,
) -> MakeDeliveries:
    """What is sent to those who are named, and besides to an audience, if there is one.

    `content` gives what each delivery to a member asks for, given the batch; each may get `per_person` of them.
    """
    found = None if audience_id is None else audience_id_of(audience_id)
    if found is None:
        return make

    async def make_both(connection: asyncpg.Connection, batch_id: UUID, now: datetime) -> Sequence[NewDelivery]:
        named = await make(connection, batch_id, now)
        text = msgspec.json.encode(content(batch_id))
        send = AudienceSend(
            audience_id=found,
            content=msgspec.Raw(text),
            page=page_size(text, per_person=per_person),
            taken_users=tuple(sorted({each.user_id for each in named if each.user_id is not None})),
            taken_addresses=tuple(sorted({each.recipient.lower() for each in named if each.recipient is not None})),
        )
        made = await begin_audience_send(
            connection, plan, send, project_id=project_id, batch_id=batch_id, scheduled_for=scheduled_for, now=now
        )
        return [*named, *made]

    return make_both
