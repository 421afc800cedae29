"""Entries of the audit log."""

from __future__ import annotations

from datetime import datetime

import msgspec
import strawberry

from db.audit_entries import AuditEntryRecord
from engine.node_ids import NodeKind, write_node_id
from resolvers.paging import Page
from schema.node import Node
from schema.paging import PageInfo, edges_of
from schema.scalars import JSON, Cursor


@strawberry.type(
    description=(
        "One change of configuration, keys, workflows, endpoints or consent: stored with the change itself, and kept. "
        "Needs ADMIN."
    )
)
class AuditEntry(Node):
    at: datetime = strawberry.field(description="When it was changed.")
    actor: str = strawberry.field(
        description=(
            "Who changed it: api_key:<prefix>, member:<email>, user:<userId>, operator for a command on the "
            "deployment, system for what nobody asked for."
        )
    )
    action: str = strawberry.field(description="object.past_tense_verb, e.g. workflow.updated.")
    subject: str = strawberry.field(description="What was changed: a node id, or user:<userId>.")
    before: JSON | None = strawberry.field(
        description=(
            "What it was, secrets masked; null for what is new. A member beyond 4 KiB is {sha256, bytes} of its JSON."
        )
    )
    after: JSON | None = strawberry.field(description="What it is since, like before; null for what is gone.")

    @staticmethod
    def of(record: AuditEntryRecord) -> AuditEntry:
        return AuditEntry(
            id=strawberry.ID(write_node_id(NodeKind.AUDIT_ENTRY, record.audit_entry_id)),
            at=record.at,
            actor=record.actor,
            action=record.action,
            subject=record.subject,
            before=_json(record.before),
            after=_json(record.after),
        )


@strawberry.type(description="A change and its position in the log. Needs ADMIN.")
class AuditEntryEdge:
    cursor: Cursor = strawberry.field(description="Position in the audit log.")
    node: AuditEntry = strawberry.field(description="The change.")


@strawberry.type(description="A page of the audit log, newest first. Needs ADMIN.")
class AuditEntryConnection:
    edges: list[AuditEntryEdge] = strawberry.field(description="Up to 100 changes.")
    page_info: PageInfo = strawberry.field(description="Where this page stands in the log.")

    @staticmethod
    def of(page: Page[AuditEntryRecord]) -> AuditEntryConnection:
        return AuditEntryConnection(
            edges=edges_of(page, AuditEntryEdge, AuditEntry.of),
            page_info=PageInfo.of(page),
        )


def _json(text: str | None) -> JSON | None:
    return None if text is None else JSON(msgspec.Raw(text.encode()))
