"""Webhook endpoints: reading them, keeping them, and sending samples to them.

EDITOR makes, changes and deletes endpoints, and is shown the secret of one that it makes; ADMIN alone handles the
secrets of those that are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from db.webhook_endpoints import WebhookEndpointRecord, WebhookSecretRecord
from db.webhook_endpoints import list_webhook_endpoints as read_webhook_endpoint_list
from engine.cursors import Cursor, CursorKind
from engine.errors import UserError
from engine.identity import Role
from engine.node_ids import NodeKind, parse_node_id
from engine.webhooks.endpoints import NOT_FOUND, WebhookChange, WebhookEndpoints, active_secrets
from engine.webhooks.samples import SampleWebhook, SampleWebhooks
from engine.work import Work, WorkKind
from resolvers.audit import audit_of
from resolvers.context import Context
from resolvers.paging import Page, PageArguments, read_window
from resolvers.permissions import require


async def list_webhook_endpoints(ctx: Context, *, arguments: PageArguments) -> Page[WebhookEndpointRecord]:
    """A page of the project's endpoints, newest first."""
    viewer = require(ctx, Role.VIEWER)
    codec, project_id = ctx.services.cursors, viewer.project_id
    window = read_window(arguments, codec, project_id=project_id, kind=CursorKind.WEBHOOK_ENDPOINTS)
    after = None if window.after is None else UUID(hex=str(window.after.key[0]))
    async with ctx.reading(project_id) as connection:
        found = await read_webhook_endpoint_list(connection, project_id=project_id, after=after, limit=window.limit + 1)
    records = tuple(found[: window.limit])
    cursors = tuple(
        codec.encode(Cursor(CursorKind.WEBHOOK_ENDPOINTS, project_id, 0, (record.endpoint_id.hex,)))
        for record in records
    )
    return window.page(records, cursors, has_more=len(found) > window.limit)


async def endpoint_of(ctx: Context, *, endpoint_id: UUID | None) -> WebhookEndpointRecord | None:
    """An endpoint of the viewer's project; None when it was deleted."""
    viewer = require(ctx, Role.VIEWER)
    if endpoint_id is None:
        return None
    return await ctx.loaders.webhook_endpoints.load((viewer.project_id, endpoint_id))


def secrets_of(ctx: Context, *, record: WebhookEndpointRecord) -> tuple[WebhookSecretRecord, ...]:
    """The secrets that sign, the oldest first, without themselves."""
    require(ctx, Role.VIEWER)
    return active_secrets(record, ctx.services.clock.now())


async def save_webhook_endpoint(ctx: Context, *, given: Mapping[str, Any]) -> WebhookChange:
    """Make an endpoint, or change the one with the id that was given."""
    viewer = require(ctx, Role.EDITOR)
    endpoints, audit = _endpoints(ctx), audit_of(ctx, viewer)
    if given.get("id") is None:
        change = await endpoints.create(project_id=viewer.project_id, given=given, audit=audit)
    else:
        endpoint_id = _node(given["id"], NodeKind.WEBHOOK_ENDPOINT)
        if endpoint_id is None:
            return _unknown("input", "id")
        change = await endpoints.update(project_id=viewer.project_id, endpoint_id=endpoint_id, given=given, audit=audit)
    ctx.forget_reads()
    return change


async def delete(ctx: Context, *, node_id: str) -> tuple[str | None, tuple[UserError, ...]]:
    """Forget an endpoint with its secrets; gives its node id. What still waits for it fails."""
    viewer = require(ctx, Role.EDITOR)
    endpoint_id = _node(node_id, NodeKind.WEBHOOK_ENDPOINT)
    if endpoint_id is None:
        return None, _unknown("id").errors
    errors = await _endpoints(ctx).delete(
        project_id=viewer.project_id, endpoint_id=endpoint_id, audit=audit_of(ctx, viewer)
    )
    ctx.forget_reads()
    return (None, errors) if errors else (node_id, ())


async def rotate_webhook_secret(ctx: Context, *, node_id: str, grace_seconds: int) -> WebhookChange:
    """A second active secret for an endpoint."""
    viewer = require(ctx, Role.ADMIN)
    endpoint_id = _node(node_id, NodeKind.WEBHOOK_ENDPOINT)
    if endpoint_id is None:
        return _unknown("id")
    change = await _endpoints(ctx).rotate(
        project_id=viewer.project_id,
        endpoint_id=endpoint_id,
        grace_seconds=grace_seconds,
        audit=audit_of(ctx, viewer),
    )
    ctx.forget_reads()
    return change


async def retire_webhook_secret(ctx: Context, *, node_id: str, secret_node_id: str) -> WebhookChange:
    """End an old secret of an endpoint."""
    viewer = require(ctx, Role.ADMIN)
    endpoint_id = _node(node_id, NodeKind.WEBHOOK_ENDPOINT)
    if endpoint_id is None:
        return _unknown("endpointId")
    change = await _endpoints(ctx).retire(
        project_id=viewer.project_id,
        endpoint_id=endpoint_id,
        # A secret without an id is nobody's.
        secret_id=_node(secret_node_id, NodeKind.WEBHOOK_SECRET) or UUID(int=0),
        audit=audit_of(ctx, viewer),
    )
    ctx.forget_reads()
    return change


async def send_test_webhook(ctx: Context, *, node_id: str | None, url: str | None, event_type: str) -> SampleWebhook:
    """Queue a sample event for an endpoint or a URL."""
    viewer = require(ctx, Role.EDITOR)
    services = ctx.services
    if (node_id is None) == (url is None):
        return SampleWebhook(errors=(UserError("Give endpointId or url, and not both.", "INVALID", ("endpointId",)),))
    endpoint_id = None if node_id is None else _node(node_id, NodeKind.WEBHOOK_ENDPOINT)
    if node_id is not None and endpoint_id is None:
        return SampleWebhook(errors=_unknown("endpointId").errors)
    sample = await SampleWebhooks(services.database, services.vault, services.egress).send(
        project=viewer.project, endpoint_id=endpoint_id, url=url, event_type=event_type, now=services.clock.now()
    )
    for announcement in sample.announcements:
        services.announce(announcement)
    if sample.delivery is not None:
        services.wake(Work(WorkKind.DELIVERIES, viewer.project_id))
    ctx.forget_reads()
    return sample


def _endpoints(ctx: Context) -> WebhookEndpoints:
    return WebhookEndpoints(ctx.services.database, ctx.services.vault, ctx.services.egress)


def _node(text: str, kind: NodeKind) -> UUID | None:
    parsed = parse_node_id(text)
    return parsed.uuid if parsed is not None and parsed.kind is kind else None


def _unknown(*path: str) -> WebhookChange:
    return WebhookChange(errors=(UserError(NOT_FOUND, "NOT_FOUND", path),))
