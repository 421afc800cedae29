"""Anything by its node id. What is unknown, malformed or another project's is null: the three look the same."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeAlias
from uuid import UUID

import msgspec

from db.audiences import AudienceRecord
from db.audit_entries import AuditEntryRecord
from db.boards import BoardRecord
from db.consent_changes import ConsentChangeRecord
from db.delivery_records import DeliveryRecord
from db.insights import InsightRecord
from db.push_tokens import PushTokenRecord
from db.records import ApiKeyRecord, EventRecord, ProfileRecord, ProjectRecord
from db.sender_domains import SenderDomainRecord
from db.templates import TemplateRecord
from db.webhook_endpoints import WebhookEndpointRecord
from db.workflow_records import RunRecord, WorkflowRecord
from engine.errors import BadUserInput, Forbidden
from engine.identity import Role, Viewer
from engine.node_ids import NodeId, NodeKind, parse_node_id
from engine.providers.configuring import ShownProvider
from resolvers.context import Context
from resolvers.inbound import ShownEndpoint
from resolvers.inbound import show as show_endpoint
from resolvers.permissions import require
from resolvers.providers import show as show_provider
from resolvers.workflows import find_workflow

MAX_NODES = 100
"""Ids in one `nodes`: as many as a page has items."""


class FoundEvent(msgspec.Struct, frozen=True):
    """An event, with what its project belongs to."""

    organization_id: UUID
    record: EventRecord


class FoundOrganization(msgspec.Struct, frozen=True):
    """The viewer's organization, as far as one project of it may see it."""

    project: ProjectRecord


Found: TypeAlias = (
    FoundEvent
    | ProfileRecord
    | ProjectRecord
    | FoundOrganization
    | ApiKeyRecord
    | DeliveryRecord
    | ConsentChangeRecord
    | ShownProvider
    | ShownEndpoint
    | WebhookEndpointRecord
    | PushTokenRecord
    | TemplateRecord
    | AudienceRecord
    | AuditEntryRecord
    | InsightRecord
    | BoardRecord
    | SenderDomainRecord
    | WorkflowRecord
    | RunRecord
)


async def find_node(ctx: Context, *, node_id: str) -> Found | None:
    """The record behind an id. Keys and audit entries need ADMIN: below it they are null, like what is not there.

    A session is refused whatever is not its own person's, what is not there included.
    """
    viewer = require(ctx, Role.INGEST)
    if viewer.session is None:
        require(ctx, Role.VIEWER)
    parsed = parse_node_id(node_id)
    found = None if parsed is None else await _find(ctx, viewer, parsed)
    if viewer.session is not None:
        require(ctx, Role.VIEWER, person=_person_of(found))
    return found


async def find_nodes(ctx: Context, *, node_ids: Sequence[str]) -> list[Found | Forbidden | None]:
    """In the order of the ids, with None for what is not there, and why where one is not for this session."""
    viewer = require(ctx, Role.INGEST)
    if viewer.session is None:
        require(ctx, Role.VIEWER)
    if len(node_ids) > MAX_NODES:
        raise BadUserInput(f"ids has too many entries: at most {MAX_NODES}.")
    return list(await asyncio.gather(*(_find_or_refuse(ctx, node_id) for node_id in node_ids)))


async def _find_or_refuse(ctx: Context, node_id: str) -> Found | Forbidden | None:
    """One id that is refused does not take the others with it."""
    try:
        return await find_node(ctx, node_id=node_id)
    except Forbidden as refusal:
        return refusal


def _person_of(found: Found | None) -> str | None:
    """Of whom a record is, among those that a person may read of themselves."""
    match found:
        case FoundEvent(record=record):
            return record.user_id
        case ProfileRecord() | DeliveryRecord() | PushTokenRecord() | ConsentChangeRecord():
            return found.user_id
    return None


async def _find(ctx: Context, viewer: Viewer, node_id: NodeId) -> Found | None:
    project = viewer.project
    match node_id.kind:
        case NodeKind.EVENT if node_id.uuid == viewer.project_id:
            record = await ctx.loaders.events.load((viewer.project_id, node_id.seq))
            return None if record is None else FoundEvent(project.organization_id, record)
        case NodeKind.PROFILE:
            return await ctx.loaders.profiles.load((viewer.project_id, node_id.uuid))
        case NodeKind.PROJECT if node_id.uuid == viewer.project_id:
            return project
        case NodeKind.ORGANIZATION if node_id.uuid == project.organization_id:
            return FoundOrganization(project)
        case NodeKind.API_KEY if viewer.role >= Role.ADMIN:
            return await ctx.loaders.api_keys.load((viewer.project_id, node_id.uuid))
        case NodeKind.AUDIT_ENTRY if viewer.role >= Role.ADMIN:
            return await ctx.loaders.audit_entries.load((viewer.project_id, node_id.uuid))
        case NodeKind.CONSENT_CHANGE:
            return await ctx.loaders.consent_changes.load((viewer.project_id, node_id.uuid))
        case NodeKind.DELIVERY:
            return await ctx.loaders.deliveries.load((viewer.project_id, node_id.uuid))
        case NodeKind.WEBHOOK_ENDPOINT:
            return await ctx.loaders.webhook_endpoints.load((viewer.project_id, node_id.uuid))
        case NodeKind.PUSH_TOKEN:
            return await ctx.loaders.push_tokens.load((viewer.project_id, node_id.uuid))
        case NodeKind.TEMPLATE:
            return await ctx.loaders.templates.load((viewer.project_id, node_id.uuid))
        case NodeKind.AUDIENCE:
            return await ctx.loaders.audiences.load((viewer.project_id, node_id.uuid))
        case NodeKind.INSIGHT:
            return await ctx.loaders.insights.load((viewer.project_id, node_id.uuid))
        case NodeKind.BOARD:
            return await ctx.loaders.boards.load((viewer.project_id, node_id.uuid))
        case NodeKind.WORKFLOW if viewer.session is None:
            return await find_workflow(ctx, workflow_id=node_id.uuid)
        case NodeKind.WORKFLOW_RUN:
            return await ctx.loaders.runs.load((viewer.project_id, node_id.uuid))
        case NodeKind.SENDER_DOMAIN:
            return await ctx.loaders.sender_domains.load((viewer.project_id, node_id.uuid))
        case NodeKind.PROVIDER if viewer.session is None:
            provider = await ctx.loaders.providers.load((viewer.project_id, node_id.uuid))
            return None if provider is None else show_provider(ctx, provider)
        case NodeKind.INBOUND_ENDPOINT if viewer.session is None:
            endpoint = await ctx.loaders.inbound_endpoints.load((viewer.project_id, node_id.uuid))
            return None if endpoint is None else show_endpoint(ctx, endpoint)
    return None
