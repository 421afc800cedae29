"""Sender domains."""

from __future__ import annotations

from datetime import datetime

import strawberry

from db.sender_domains import SenderDomainRecord
from engine.email import domains
from engine.email.domains import SenderDomainStatus
from engine.errors import UserError as EngineUserError
from engine.node_ids import NodeKind, write_node_id
from resolvers import sender_domains as resolve
from schema.descriptions import described_enum
from schema.errors import MutationPayload, user_errors
from schema.info import Info
from schema.node import Node

described_enum(
    SenderDomainStatus,
    "Whether mail may be sent from a domain.",
    PENDING="Nobody has looked for its records yet.",
    VERIFIED="All of its records were there at the last look.",
    FAILED="Some of its records were not there at the last look: dnsRecords says which.",
)


@strawberry.type(description="A record to publish in DNS. Needs VIEWER.")
class DnsRecord:
    type: str = strawberry.field(description="TXT.")
    name: str = strawberry.field(description="The full name, without a dot at its end.")
    value: str = strawberry.field(
        description="What it holds. A stricter DMARC policy, and an SPF record that names others too, are as good."
    )
    verified: bool = strawberry.field(description="Whether it was there at the last look.")

    @staticmethod
    def of(record: domains.DnsRecord) -> DnsRecord:
        return DnsRecord(type=record.type, name=record.name, value=record.value, verified=record.is_verified)


@strawberry.type(
    description=(
        "A domain of the customer's own to send email from. Mail over SMTP is signed with its DKIM key; Resend signs "
        "with keys of its own, for domains that were verified there as well. Needs VIEWER."
    )
)
class SenderDomain(Node):
    domain: str = strawberry.field(description="In ASCII and lower case. Addresses under it may be senders.")
    status: SenderDomainStatus = strawberry.field(description="Whether mail may be sent from it.")
    probation_until: datetime | None = strawberry.field(
        description="Until then less is sent at once, so that a new name earns its reputation; null before VERIFIED."
    )

    record: strawberry.Private[SenderDomainRecord]

    @strawberry.field(description="DKIM, SPF and DMARC: all three are needed. Needs VIEWER.")
    def dns_records(self, info: Info) -> list[DnsRecord]:
        return [DnsRecord.of(each) for each in resolve.dns_records(info.context, record=self.record)]

    @staticmethod
    def of(record: SenderDomainRecord) -> SenderDomain:
        return SenderDomain(
            id=strawberry.ID(write_node_id(NodeKind.SENDER_DOMAIN, record.sender_domain_id)),
            domain=record.domain,
            status=SenderDomainStatus(record.status),
            record=record,
            probation_until=record.probation_until,
        )


@strawberry.type(description="Outcome of addSenderDomain and verifySenderDomain. Needs EDITOR.")
class SenderDomainPayload(MutationPayload):
    sender_domain: SenderDomain | None = strawberry.field(description="As it is now; null when nothing was changed.")

    @staticmethod
    def of(record: SenderDomainRecord | None, errors: tuple[EngineUserError, ...]) -> SenderDomainPayload:
        return SenderDomainPayload(
            sender_domain=None if record is None else SenderDomain.of(record), user_errors=user_errors(errors)
        )
