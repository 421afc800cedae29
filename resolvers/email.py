"""Sending mail."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from db.delivery_records import NewDelivery
from engine.dispatch.audience_sends import MemberPage
from engine.dispatch.sending import check_idempotency_key
from engine.dispatch.values import Channel
from engine.email.accepting import EmailRequest, check_request, content_of, make_deliveries, make_for_members
from engine.errors import UserError
from engine.identity import Role
from engine.node_ids import NodeKind, parse_node_id
from resolvers.context import Context
from resolvers.permissions import require
from resolvers.sends import SendOutcome, accept_send, as_asked, check_audience, to_audience

if TYPE_CHECKING:
    import asyncpg


class EmailArguments(msgspec.Struct, frozen=True, kw_only=True):
    """SendEmailInput as it comes in."""

    user_ids: tuple[str, ...] = ()
    to: tuple[str, ...] = ()
    audience_id: str | None = None
    template_id: str | None = None
    subject: str | None = None
    body_html: str | None = None
    body_text: str | None = None
    sender: str | None = None
    reply_to: str | None = None
    variables: Mapping[str, Any] | None = None
    scheduled_for: datetime | None = None
    idempotency_key: str | None = None


async def send_email(ctx: Context, *, arguments: EmailArguments) -> SendOutcome:
    """Accept a mail to people and addresses."""
    viewer = require(ctx, Role.EDITOR)
    services, request = ctx.services, _request(arguments)
    errors = (
        *_check_references(arguments, request),
        *check_idempotency_key(arguments.idempotency_key, "input", "idempotencyKey"),
        # Reading its templates may take tenths of a second: not in the loop that everybody is served by.
        *await asyncio.to_thread(
            check_request, request, now=services.clock.now(), has_audience=arguments.audience_id is not None
        ),
    )
    if errors:
        return None, errors

    async def make(connection: asyncpg.Connection, batch_id: UUID, now: datetime) -> Sequence[NewDelivery]:
        return await make_deliveries(
            connection, services.vault, request, project_id=viewer.project_id, batch_id=batch_id, now=now
        )

    async def make_page(connection: asyncpg.Connection, page: MemberPage) -> Sequence[NewDelivery]:
        return await make_for_members(connection, services.vault, page)

    return await accept_send(
        ctx,
        viewer,
        channel=Channel.EMAIL,
        idempotency_key=arguments.idempotency_key,
        request=as_asked(request, arguments.audience_id),
        make=to_audience(
            make,
            make_page,
            lambda _batch_id: content_of(request),
            project_id=viewer.project_id,
            audience_id=arguments.audience_id,
            scheduled_for=request.scheduled_for,
        ),
        has_audience=arguments.audience_id is not None,
    )


def _request(arguments: EmailArguments) -> EmailRequest:
    parsed = None if arguments.template_id is None else parse_node_id(arguments.template_id)
    return EmailRequest(
        user_ids=arguments.user_ids,
        to=arguments.to,
        template_id=parsed.uuid if parsed is not None and parsed.kind is NodeKind.TEMPLATE else None,
        subject=arguments.subject,
        body_html=arguments.body_html,
        body_text=arguments.body_text,
        sender=arguments.sender,
        reply_to=arguments.reply_to,
        variables=arguments.variables,
        scheduled_for=arguments.scheduled_for,
    )


def _check_references(arguments: EmailArguments, request: EmailRequest) -> list[UserError]:
    errors = [*check_audience(arguments.audience_id)]
    if arguments.template_id is not None and request.template_id is None:
        errors.append(UserError("This project has no such template.", "NOT_FOUND", ("input", "templateId")))
    return errors
