"""Sender domains: what a customer publishes in DNS to send under their own name, and whether it is there.

Guarantees: a key pair of its own for each domain, its private half sealed; VERIFIED only when all three records were
found in one look: DKIM with our public key, SPF that names us, and DMARC. The first time begins 30 days of probation,
in which less is sent at once. A look that DNS does not answer changes nothing; what one changes is noted in the audit
log. Leaves to others: looking again later.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID

import idna
import msgspec
from uuid_utils.compat import uuid7

from db.sender_domains import (
    SenderDomainRecord,
    insert_sender_domain,
    list_sender_domains,
    lock_sender_domain,
    read_sender_domains,
    update_sender_domain,
)
from engine.audit import Audit
from engine.contacts import Malformed
from engine.email.dkim_signing import make_key_pair
from engine.email.scan import registrable
from engine.errors import UserError
from engine.node_ids import NodeKind
from engine.vault import Vault

if TYPE_CHECKING:
    from db.database import Database

PROBATION = timedelta(days=30)
MAX_DOMAINS = 50
"""Of one project."""
MAX_NAME_CHARACTERS = 253
SELECTOR = "sendora"
LOOKUP_SECONDS = 5.0
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_UNKNOWN = (UserError("This project has no such domain.", "NOT_FOUND", ("id",)),)
_NOT_PUBLIC = frozenset({"arpa", "home", "internal", "invalid", "lan", "local", "localhost", "onion"})

LookUpTxt = Callable[[str], Awaitable[Sequence[str]]]
"""Gives the TXT records of a name, their strings joined; none when it has none. Raises `LookUpFailed`."""


class LookUpFailed(Exception):
    """DNS does not answer: nothing is known."""


class SenderDomainStatus(StrEnum):
    """Where a domain stands."""

    PENDING = "PENDING"
    VERIFIED = "VERIFIED"
    FAILED = "FAILED"


class DnsRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record to publish. `kind` is DKIM, SPF or DMARC; `is_verified`: it was there at the last look."""

    kind: str
    type: str = "TXT"
    name: str
    value: str
    is_verified: bool = False


def read_domain(text: str) -> str | Malformed:
    """A domain in the one form that it is stored in: ASCII, lower case, without a dot at its end. Pure."""
    name = text.strip().removesuffix(".")
    if len(name) > MAX_NAME_CHARACTERS:
        return Malformed(f"A domain has at most {MAX_NAME_CHARACTERS} characters.")
    try:
        name = name.lower() if name.isascii() else idna.encode(name, uts46=True).decode("ascii").lower()
    except (idna.IDNAError, UnicodeError):
        return Malformed("This is no domain name.")
    labels = name.split(".")
    if len(name) > MAX_NAME_CHARACTERS or not all(_LABEL.fullmatch(label) for label in labels):
        return Malformed("This is no domain name: write it like example.com, without http:// and without a path.")
    if len(labels) == 1 or labels[-1].isdigit() or labels[-1] in _NOT_PUBLIC:
        return Malformed("Mail cannot be sent from this name: it takes a public domain, like example.com.")
    if registrable(f"x.{name}") == f"x.{name}":
        return Malformed("This is a suffix under which others register domains: name one of your own.")
    return name


def dns_records(domain: SenderDomainRecord, *, spf_mechanism: str) -> tuple[DnsRecord, ...]:
    """What is to be published for a domain. `spf_mechanism` names who sends, e.g. include:_spf.example.com. Pure."""
    return tuple(
        DnsRecord(kind=kind, name=name, value=value, is_verified=kind in domain.verified_records)
        for kind, name, value in (
            (
                "DKIM",
                f"{domain.dkim_selector}._domainkey.{domain.domain}",
                f"v=DKIM1; k=rsa; p={domain.dkim_public_key}",
            ),
            ("SPF", domain.domain, f"v=spf1 {spf_mechanism} ~all"),
            ("DMARC", f"_dmarc.{domain.domain}", "v=DMARC1; p=none;"),
        )
    )


def is_published(record: DnsRecord, found: Sequence[str]) -> bool:
    """Whether what DNS holds does what the record is for: it may say more, or be stricter. Pure."""
    match record.kind:
        case "DKIM":
            wanted = _tags(record.value)["p"]
            return any(tags.get("p") == wanted and tags.get("v", "DKIM1") == "DKIM1" for tags in map(_tags, found))
        case "SPF":
            policies = [text.lower().split() for text in found if re.match(r"v=spf1(?:\s|$)", text, re.IGNORECASE)]
            mechanism = record.value.lower().split()[1]
            # Two policies are an error to whoever looks at them (RFC 7208 section 3.2).
            return len(policies) == 1 and any(term.lstrip("+") == mechanism for term in policies[0][1:])
    rules = [_tags(text) for text in found if text.lower().startswith("v=dmarc1")]
    return len(rules) == 1 and rules[0].get("p", "").lower() in ("none", "quarantine", "reject")


async def add_sender_domain(
    database: Database, vault: Vault, *, project_id: UUID, domain: str, audit: Audit
) -> tuple[SenderDomainRecord | None, tuple[UserError, ...]]:
    """Make a domain with its key pair."""
    name = read_domain(domain)
    if isinstance(name, Malformed):
        return None, (UserError(name.message, "INVALID", ("domain",)),)
    keys = await asyncio.to_thread(make_key_pair)
    async with database.transaction() as connection:
        held = await list_sender_domains(connection, project_id=project_id)
        if len(held) >= MAX_DOMAINS:
            return None, (UserError(f"A project has at most {MAX_DOMAINS} domains.", "LIMIT_EXCEEDED", ("domain",)),)
        made = await insert_sender_domain(
            connection,
            project_id=project_id,
            sender_domain_id=uuid7(),
            domain=name,
            dkim_selector=SELECTOR,
            dkim_public_key=keys.public_base64,
            sealed_dkim_private_key=vault.seal(keys.private_pem, project_id=project_id, purpose=dkim_purpose(name)),
            now=audit.now,
        )
        if made is None:
            return None, (UserError("This project has the domain already.", "CONFLICT", ("domain",)),)
        await audit.note_node(
            connection,
            NodeKind.SENDER_DOMAIN,
            made.sender_domain_id,
            project_id=project_id,
            before=None,
            after=_shown(made),
        )
    return made, ()


async def verify_sender_domain(
    database: Database,
    look_up: LookUpTxt,
    *,
    project_id: UUID,
    sender_domain_id: UUID,
    spf_mechanism: str,
    audit: Audit,
) -> tuple[SenderDomainRecord | None, tuple[UserError, ...]]:
    """Look for a domain's records and keep what was found. No connection is held while DNS is asked."""
    async with database.connection() as connection:
        found = await read_sender_domains(connection, project_id=project_id, sender_domain_ids=[sender_domain_id])
    if not found:
        return None, _UNKNOWN
    records = dns_records(found[0], spf_mechanism=spf_mechanism)
    try:
        published = await asyncio.gather(*(look_up(record.name) for record in records))
    except LookUpFailed:
        return None, (UserError("DNS does not answer for this domain: try again in a minute.", "STATE", ("id",)),)
    kinds = [record.kind for record, texts in zip(records, published, strict=True) if is_published(record, texts)]
    is_verified = len(kinds) == len(records)
    async with database.transaction() as connection:
        held = await lock_sender_domain(connection, project_id=project_id, sender_domain_id=sender_domain_id)
        if held is None:
            return None, _UNKNOWN
        changed = await update_sender_domain(
            connection,
            project_id=project_id,
            sender_domain_id=sender_domain_id,
            status=SenderDomainStatus.VERIFIED if is_verified else SenderDomainStatus.FAILED,
            verified_records=kinds,
            verified_at=audit.now if is_verified else None,
            probation_until=audit.now + PROBATION if is_verified else None,
        )
        await audit.note_node(
            connection,
            NodeKind.SENDER_DOMAIN,
            sender_domain_id,
            project_id=project_id,
            before=_shown(held),
            after=_shown(changed),
        )
    return changed, ()


def _shown(domain: SenderDomainRecord) -> dict[str, Any]:
    """A domain as the audit log has it."""
    return {"domain": domain.domain, "status": domain.status, "verifiedRecords": sorted(domain.verified_records)}


def dkim_purpose(domain: str) -> str:
    """What the vault seals a domain's private key for."""
    return f"dkim:{domain}"


def txt_look_up(nameserver: tuple[str, int] | None = None) -> LookUpTxt:
    """Asks the machine's name servers, or the one given."""

    async def look_up(name: str) -> Sequence[str]:
        # Imported when first needed: most processes never ask.
        from dns.asyncresolver import Resolver
        from dns.exception import DNSException
        from dns.resolver import NXDOMAIN, NoAnswer

        resolver = Resolver(configure=nameserver is None)
        if nameserver is not None:
            resolver.nameservers = [nameserver[0]]
            resolver.port = nameserver[1]
        try:
            answer = await resolver.resolve(f"{name}.", "TXT", lifetime=LOOKUP_SECONDS)
        except (NXDOMAIN, NoAnswer):
            return ()
        except (DNSException, OSError) as error:
            raise LookUpFailed(type(error).__name__) from None
        return tuple(b"".join(data.strings).decode("utf-8", "replace") for data in answer)

    return look_up


def _tags(text: str) -> Mapping[str, str]:
    """Tags of a DKIM or DMARC record; blanks mean nothing."""
    pairs = (part.partition("=") for part in text.split(";"))
    return {name.strip(): re.sub(r"\s+", "", value) for name, _, value in pairs if name.strip()}
