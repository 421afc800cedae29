"""Making and changing inbound endpoints.

Guarantees: a secret is sealed, fits its verifier and is never given out; a change takes effect as a whole or not at
all, and is noted in the audit log. Leaves to others: who may, and what comes in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import msgspec

from db.database import Database
from db.inbound_endpoints import (
    InboundEndpointRecord,
    insert_inbound_endpoint,
    lock_inbound_endpoint,
    update_inbound_endpoint,
)
from db.inbound_endpoints import delete_inbound_endpoint as remove_endpoint
from engine.audit import Audit
from engine.errors import UserError
from engine.events import EventDraft, normalise
from engine.inbound.verifiers import InboundVerifier, secret_problem
from engine.masking import MASKED, MASKED_ANEW
from engine.node_ids import NodeKind, write_node_id
from engine.vault import CannotOpen, Vault

if TYPE_CHECKING:
    import asyncpg

MAX_ENDPOINTS = 100
"""Per project: a few for each service that it uses."""
MAX_NAME_CHARACTERS = 100
"""Fits on one line of a dashboard."""
MODULE = "inbound"
PURPOSE = "inbound_endpoint"


class EndpointDraft(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for; None leaves a part as it is, and is only possible where there is one. `cleared` are the parts,
    by their names in SaveInboundEndpointInput, that were given as null."""

    name: str | None = None
    verifier: InboundVerifier | None = None
    secret: str | None = None
    event_type: str | None = None
    cleared: tuple[str, ...] = ()


async def create_endpoint(
    database: Database, vault: Vault, draft: EndpointDraft, *, project_id: UUID, audit: Audit
) -> tuple[InboundEndpointRecord | None, tuple[UserError, ...]]:
    """Make an endpoint. Everything is needed. Paths begin with `input`."""
    errors = (*_check_complete(draft), *_check_draft(draft))
    if errors or draft.verifier is None or draft.secret is None:
        return None, errors
    endpoint = InboundEndpointRecord(
        project_id=project_id,
        endpoint_id=uuid4(),
        name=(draft.name or "").strip(),
        verifier=draft.verifier,
        sealed_secret=_seal(vault, draft.secret, project_id),
        event_type=draft.event_type or "",
        created_at=audit.now,
    )
    async with database.transaction() as connection:
        made = await insert_inbound_endpoint(connection, endpoint, most=MAX_ENDPOINTS)
        if made is None:
            return None, (UserError(f"A project has at most {MAX_ENDPOINTS} endpoints.", "LIMIT_EXCEEDED", ("input",)),)
        await audit.note_node(
            connection,
            NodeKind.INBOUND_ENDPOINT,
            made.endpoint_id,
            project_id=project_id,
            before=None,
            after=_shown(made),
        )
    return made, ()


async def change_endpoint(
    database: Database, vault: Vault, draft: EndpointDraft, *, project_id: UUID, endpoint_id: UUID, audit: Audit
) -> tuple[InboundEndpointRecord | None, tuple[UserError, ...]]:
    """Change an endpoint. Requests under the old secret are refused from now on."""
    errors = (*_check_cleared(draft), *_check_draft(draft))
    if errors:
        return None, errors
    async with database.transaction() as connection:
        held = await lock_inbound_endpoint(connection, project_id=project_id, endpoint_id=endpoint_id)
        if held is None:
            return None, (UserError("This project has no such endpoint.", "NOT_FOUND", ("input", "id")),)
        return await _change(connection, vault, held, draft, audit)


async def delete_endpoint(database: Database, *, project_id: UUID, endpoint_id: UUID, audit: Audit) -> bool:
    """Delete an endpoint; whether there was one."""
    async with database.transaction() as connection:
        held = await lock_inbound_endpoint(connection, project_id=project_id, endpoint_id=endpoint_id)
        if held is None:
            return False
        await remove_endpoint(connection, project_id=project_id, endpoint_id=endpoint_id)
        await audit.note_node(
            connection, NodeKind.INBOUND_ENDPOINT, endpoint_id, project_id=project_id, before=_shown(held), after=None
        )
    return True


def open_secret(vault: Vault, endpoint: InboundEndpointRecord) -> str:
    """Raises `CannotOpen`."""
    return vault.open(endpoint.sealed_secret, project_id=endpoint.project_id, purpose=PURPOSE).decode()


def endpoint_url(public_url: str, endpoint_id: UUID) -> str:
    """Where the other service is to send to."""
    return f"{public_url}/inbound/{write_node_id(NodeKind.INBOUND_ENDPOINT, endpoint_id)}"


async def _change(
    connection: asyncpg.Connection, vault: Vault, held: InboundEndpointRecord, draft: EndpointDraft, audit: Audit
) -> tuple[InboundEndpointRecord | None, tuple[UserError, ...]]:
    errors = _check_kept_secret(vault, held, draft)
    if errors:
        return None, errors
    changes: dict[str, Any] = {
        "name": None if draft.name is None else draft.name.strip(),
        "verifier": draft.verifier,
        "event_type": draft.event_type,
        "sealed_secret": None if draft.secret is None else _seal(vault, draft.secret, held.project_id),
    }
    given = {name: value for name, value in changes.items() if value is not None}
    changed = msgspec.structs.replace(held, **given)
    stored = await update_inbound_endpoint(connection, changed)
    secret = MASKED_ANEW if draft.secret is not None and not _is_held(vault, held, draft.secret) else MASKED
    await audit.note_node(
        connection,
        NodeKind.INBOUND_ENDPOINT,
        held.endpoint_id,
        project_id=held.project_id,
        before=_shown(held),
        after=_shown(changed, secret),
    )
    return stored, ()


def _is_held(vault: Vault, held: InboundEndpointRecord, secret: str) -> bool:
    try:
        return open_secret(vault, held) == secret
    except CannotOpen:
        return False


def _shown(endpoint: InboundEndpointRecord, secret: str = MASKED) -> dict[str, Any]:
    """An endpoint as the audit log has it."""
    return {
        "name": endpoint.name,
        "verifier": endpoint.verifier,
        "eventType": endpoint.event_type,
        "secret": secret,
    }


def _check_kept_secret(vault: Vault, held: InboundEndpointRecord, draft: EndpointDraft) -> tuple[UserError, ...]:
    """A secret that stays has to fit the verifier that comes, and one that comes the verifier that stays."""
    verifier = draft.verifier or InboundVerifier(held.verifier)
    try:
        problem = secret_problem(verifier, draft.secret if draft.secret is not None else open_secret(vault, held))
    except CannotOpen:
        problem = "The stored secret cannot be opened any more: give it again."
    return () if problem is None else (UserError(problem, "INVALID", ("input", "secret")),)


def _check_complete(draft: EndpointDraft) -> list[UserError]:
    parts = {
        "name": draft.name,
        "verifier": draft.verifier,
        "secret": draft.secret,
        "eventType": draft.event_type,
    }
    return [
        UserError("A new endpoint needs this.", "INVALID", ("input", name))
        for name, value in parts.items()
        if value is None
    ]


def _check_cleared(draft: EndpointDraft) -> list[UserError]:
    return [
        UserError("An endpoint needs this: leave it out and it stays as it is.", "INVALID", ("input", name))
        for name in draft.cleared
    ]


def _check_draft(draft: EndpointDraft) -> tuple[UserError, ...]:
    """What is given, each part by itself; the secret too where its verifier is given with it."""
    errors = []
    if draft.name is not None and (not 1 <= len(draft.name.strip()) <= MAX_NAME_CHARACTERS or "\0" in draft.name):
        errors.append(
            UserError(f"A name has 1 to {MAX_NAME_CHARACTERS} characters without NUL.", "INVALID", ("input", "name"))
        )
    if draft.event_type is not None:
        [checked] = normalise([EventDraft(draft.event_type, MODULE)], salt=b"")
        if isinstance(checked, UserError):
            errors.append(UserError(checked.message, checked.code, ("input", *checked.path)))
    if draft.secret is not None and draft.verifier is not None:
        problem = secret_problem(draft.verifier, draft.secret)
        if problem is not None:
            errors.append(UserError(problem, "INVALID", ("input", "secret")))
    return tuple(errors)


def _seal(vault: Vault, secret: str, project_id: UUID) -> bytes:
    return vault.seal(secret.encode(), project_id=project_id, purpose=PURPOSE)
