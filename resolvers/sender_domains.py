"""Sender domains: adding them, looking for their records in DNS, and listing them."""

from __future__ import annotations

from db.sender_domains import SenderDomainRecord
from db.sender_domains import list_sender_domains as read_sender_domain_list
from engine.email import domains
from engine.errors import UserError
from engine.identity import Role
from engine.node_ids import NodeKind, parse_node_id
from resolvers.audit import audit_of
from resolvers.context import Context
from resolvers.permissions import require

Outcome = tuple[SenderDomainRecord | None, tuple[UserError, ...]]


async def list_sender_domains(ctx: Context) -> list[SenderDomainRecord]:
    """All of the project, by name."""
    viewer = require(ctx, Role.VIEWER)
    async with ctx.services.database.connection() as connection:
        return await read_sender_domain_list(connection, project_id=viewer.project_id)


def dns_records(ctx: Context, *, record: SenderDomainRecord) -> tuple[domains.DnsRecord, ...]:
    """What is to be published for a domain that the viewer has been given."""
    require(ctx, Role.VIEWER)
    return domains.dns_records(record, spf_mechanism=ctx.services.spf_mechanism)


async def add_sender_domain(ctx: Context, *, domain: str) -> Outcome:
    """Make a domain with its DKIM key pair."""
    viewer = require(ctx, Role.EDITOR)
    services = ctx.services
    outcome = await domains.add_sender_domain(
        services.database, services.vault, project_id=viewer.project_id, domain=domain, audit=audit_of(ctx, viewer)
    )
    ctx.forget_reads()
    return outcome


async def verify_sender_domain(ctx: Context, *, node_id: str) -> Outcome:
    """Look for a domain's records in DNS."""
    viewer = require(ctx, Role.EDITOR)
    services, parsed = ctx.services, parse_node_id(node_id)
    if parsed is None or parsed.kind is not NodeKind.SENDER_DOMAIN:
        return None, (UserError("This project has no such domain.", "NOT_FOUND", ("id",)),)
    outcome = await domains.verify_sender_domain(
        services.database,
        services.look_up_txt,
        project_id=viewer.project_id,
        sender_domain_id=parsed.uuid,
        spf_mechanism=services.spf_mechanism,
        audit=audit_of(ctx, viewer),
    )
    ctx.forget_reads()
    return outcome
