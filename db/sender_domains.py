"""Sender domains: customers' own domains to send email from. Whoever opened the transaction commits it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("sender_domains")


class SenderDomainRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A sender domain. `dkim_public_key` is base64 of its DER; the private key is sealed (`engine.vault`).

    `verified_records`: which of DKIM, SPF and DMARC were found when they were last looked for.
    """

    project_id: UUID
    sender_domain_id: UUID
    domain: str
    status: str
    dkim_selector: str
    dkim_public_key: str
    sealed_dkim_private_key: bytes
    verified_records: tuple[str, ...]
    verified_at: datetime | None
    probation_until: datetime | None
    created_at: datetime

    def __repr__(self) -> str:
        return f"SenderDomainRecord(sender_domain_id={self.sender_domain_id}, status={self.status})"


async def insert_sender_domain(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    sender_domain_id: UUID,
    domain: str,
    dkim_selector: str,
    dkim_public_key: str,
    sealed_dkim_private_key: bytes,
    now: datetime,
) -> SenderDomainRecord | None:
    """Make a domain, PENDING. None when the project has it already."""
    values = (project_id, sender_domain_id, domain, dkim_selector, dkim_public_key, sealed_dkim_private_key, now)
    row = await connection.fetchrow(_SQL["insert_sender_domain"], *values)
    return None if row is None else _record(row)


async def read_sender_domains(
    connection: asyncpg.Connection, *, project_id: UUID, sender_domain_ids: Sequence[UUID]
) -> list[SenderDomainRecord]:
    """Domains by id, in any order; unknown ones are absent."""
    return [_record(row) for row in await connection.fetch(_SQL["read_sender_domains"], project_id, sender_domain_ids)]


async def lock_sender_domain(
    connection: asyncpg.Connection, *, project_id: UUID, sender_domain_id: UUID
) -> SenderDomainRecord | None:
    """A domain, locked until the transaction ends."""
    row = await connection.fetchrow(_SQL["lock_sender_domain"], project_id, sender_domain_id)
    return None if row is None else _record(row)


async def find_sender_domains(
    connection: asyncpg.Connection, *, project_id: UUID, domains: Sequence[str]
) -> list[SenderDomainRecord]:
    """Domains by name, in any order; unknown ones are absent."""
    return [_record(row) for row in await connection.fetch(_SQL["find_sender_domains"], project_id, domains)]


async def list_sender_domains(connection: asyncpg.Connection, *, project_id: UUID) -> list[SenderDomainRecord]:
    """All domains of a project, by name."""
    return [_record(row) for row in await connection.fetch(_SQL["list_sender_domains"], project_id)]


async def update_sender_domain(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    sender_domain_id: UUID,
    status: str,
    verified_records: Sequence[str],
    verified_at: datetime | None,
    probation_until: datetime | None,
) -> SenderDomainRecord:
    """Keep what a look into DNS found of a domain that the transaction has locked. The two times count only the first
    time that they are given."""
    row = await connection.fetchrow(
        _SQL["update_sender_domain"],
        project_id,
        sender_domain_id,
        status,
        verified_records,
        verified_at,
        probation_until,
    )
    return _record(row)


def _record(row: Mapping[str, Any]) -> SenderDomainRecord:
    values = dict(row.items())
    return SenderDomainRecord(**{**values, "verified_records": tuple(values["verified_records"])})
