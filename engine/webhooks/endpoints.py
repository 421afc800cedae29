"""Keeping webhook endpoints: made, changed, deleted, their secrets rotated and retired.

Guarantees: everything that is wrong with what was given is said at once, and then nothing is changed; an endpoint has
one or two active secrets, and never none; a secret is given out once, when it is made; each change is noted in the
audit log, without secrets. A COMMIT whose answer was lost is tried again and finds what it made. Leaves to others: who
may (`resolvers.webhooks`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.database import Database
from db.followers import ensure_follower
from db.records import Lane
from db.webhook_endpoints import (
    WebhookDraft,
    WebhookEndpointRecord,
    WebhookSecretRecord,
    count_webhook_endpoints,
    delete_expired_webhook_secrets,
    delete_webhook_secret,
    expire_webhook_secrets,
    insert_webhook_endpoint,
    insert_webhook_secret,
    lock_webhook_endpoint,
    read_webhook_endpoints,
    update_webhook_endpoint,
)
from db.webhook_endpoints import delete_webhook_endpoint as remove_webhook_endpoint
from engine.audit import Audit
from engine.dispatch.values import DEFAULT_PROVIDER_SCHEDULE
from engine.egress import Egress
from engine.errors import UserError
from engine.node_ids import NodeKind, write_node_id
from engine.transactions import run_transaction
from engine.vault import Vault
from engine.webhooks.follower import NAME as FOLLOWER_NAME
from engine.webhooks.secrets import seal_endpoint_secret
from engine.webhooks.signing import SignatureScheme, hint_of, make_secret

if TYPE_CHECKING:
    import asyncpg

MAX_ENDPOINTS = 200
"""Of a project: the follower reads them all for each page of events."""
MAX_PATTERNS = 200
"""Event types of one endpoint, as in a filter."""
MAX_PATTERN_CHARACTERS = 200
MAX_DESCRIPTION_CHARACTERS = 500
MAX_RETRIES = 20
MAX_RETRY_SECONDS = 604_800
"""A week."""
MAX_GRACE_SECONDS = 2_592_000
"""30 days."""
MAX_ACTIVE_SECRETS = 2

NOT_FOUND = "This project has no such webhook endpoint."


class WebhookChange(msgspec.Struct, frozen=True):
    """What became of a change: the endpoint, and a secret that was just made; or why nothing was changed."""

    endpoint: WebhookEndpointRecord | None = None
    secret: str | None = None
    errors: tuple[UserError, ...] = ()


class _Refused(Exception):
    """Ends a transaction that is to change nothing."""

    def __init__(self, *errors: UserError) -> None:
        super().__init__("; ".join(error.code for error in errors))
        self.errors = errors


class WebhookEndpoints:
    """The endpoints of all projects, for one process."""

    def __init__(self, database: Database, vault: Vault, egress: Egress) -> None:
        self._database = database
        self._vault = vault
        self._egress = egress

    async def create(self, *, project_id: UUID, given: Mapping[str, Any], audit: Audit) -> WebhookChange:
        """An endpoint of what was given, with the names of SaveWebhookEndpointInput, and with its first secret."""
        draft, errors = read_draft(given, None, self._egress)
        if draft is None:
            return WebhookChange(errors=errors)
        endpoint_id, secret_id, secret = uuid7(), uuid7(), make_secret()

        async def action(connection: asyncpg.Connection) -> WebhookEndpointRecord:
            count = await count_webhook_endpoints(connection, project_id=project_id)
            if not await lock_webhook_endpoint(connection, project_id=project_id, endpoint_id=endpoint_id):
                if count >= MAX_ENDPOINTS:
                    message = f"A project has at most {MAX_ENDPOINTS} webhook endpoints: delete one first."
                    raise _Refused(UserError(message, "LIMIT_EXCEEDED", ("input",)))
                await ensure_follower(connection, project_id=project_id, follower=FOLLOWER_NAME, lane=Lane.EVENTS)
                await insert_webhook_endpoint(
                    connection, project_id=project_id, endpoint_id=endpoint_id, draft=draft, now=audit.now
                )
                await self._add_secret(connection, project_id, endpoint_id, secret_id, secret, audit.now)
                made = await _read(connection, project_id, endpoint_id)
                await _note(connection, audit, before=None, after=made)
                return made
            return await _read(connection, project_id, endpoint_id)

        return await self._change(action, secret)

    async def update(
        self, *, project_id: UUID, endpoint_id: UUID, given: Mapping[str, Any], audit: Audit
    ) -> WebhookChange:
        """What is absent stays as it is; null clears it."""

        async def action(connection: asyncpg.Connection) -> WebhookEndpointRecord:
            before = await _lock(connection, project_id, endpoint_id, ("input", "id"))
            draft, errors = read_draft(given, before, self._egress)
            if draft is None:
                raise _Refused(*errors)
            await update_webhook_endpoint(connection, project_id=project_id, endpoint_id=endpoint_id, draft=draft)
            after = await _read(connection, project_id, endpoint_id)
            await _note(connection, audit, before=before, after=after)
            return after

        return await self._change(action)

    async def delete(self, *, project_id: UUID, endpoint_id: UUID, audit: Audit) -> tuple[UserError, ...]:
        """Forget an endpoint with its secrets; why it was not. What still waits for it fails."""
        asked_before = False

        async def action(connection: asyncpg.Connection) -> tuple[UserError, ...]:
            nonlocal asked_before
            if not await lock_webhook_endpoint(connection, project_id=project_id, endpoint_id=endpoint_id):
                # After a COMMIT whose answer was lost it is gone because of this very call.
                return () if asked_before else (UserError(NOT_FOUND, "NOT_FOUND", ("id",)),)
            asked_before = True
            held = await _read(connection, project_id, endpoint_id)
            await remove_webhook_endpoint(connection, project_id=project_id, endpoint_id=endpoint_id)
            await audit.note_node(
                connection,
                NodeKind.WEBHOOK_ENDPOINT,
                endpoint_id,
                project_id=project_id,
                before=_shown(held),
                after=None,
            )
            return ()

        return await run_transaction(self._database, action)

    async def rotate(self, *, project_id: UUID, endpoint_id: UUID, grace_seconds: int, audit: Audit) -> WebhookChange:
        """Add a secret; the one before goes on signing until the grace is over."""
        if not 0 <= grace_seconds <= MAX_GRACE_SECONDS:
            message = f"graceSeconds is 0 to {MAX_GRACE_SECONDS}."
            return WebhookChange(errors=(UserError(message, "INVALID", ("graceSeconds",)),))
        secret_id, secret, now = uuid7(), make_secret(), audit.now

        async def action(connection: asyncpg.Connection) -> WebhookEndpointRecord:
            before = await _lock(connection, project_id, endpoint_id, ("id",))
            active = active_secrets(before, now)
            if all(each.secret_id != secret_id for each in active):
                if len(active) >= MAX_ACTIVE_SECRETS:
                    message = "This endpoint has two active secrets: retire the older one, or wait until it has ended."
                    raise _Refused(UserError(message, "STATE", ("id",)))
                ends = now + timedelta(seconds=grace_seconds)
                await expire_webhook_secrets(connection, project_id=project_id, endpoint_id=endpoint_id, at=ends)
                await delete_expired_webhook_secrets(
                    connection, project_id=project_id, endpoint_id=endpoint_id, now=now
                )
                await self._add_secret(connection, project_id, endpoint_id, secret_id, secret, now)
                after = await _read(connection, project_id, endpoint_id)
                await _note_secrets(connection, audit, "webhook_endpoint.secret_rotated", before=before, after=after)
                return after
            return before

        return await self._change(action, secret)

    async def retire(self, *, project_id: UUID, endpoint_id: UUID, secret_id: UUID, audit: Audit) -> WebhookChange:
        """End an old secret before its grace is over. The newest one stays: it is what all others make room for."""

        async def action(connection: asyncpg.Connection) -> WebhookEndpointRecord:
            before = await _lock(connection, project_id, endpoint_id, ("endpointId",))
            found = next((each for each in active_secrets(before, audit.now) if each.secret_id == secret_id), None)
            if found is None:
                raise _Refused(UserError("This endpoint has no such active secret.", "NOT_FOUND", ("secretId",)))
            if found.expires_at is None:
                message = "This is the endpoint's newest secret: rotate it first, then retire it."
                raise _Refused(UserError(message, "STATE", ("secretId",)))
            await delete_webhook_secret(connection, project_id=project_id, endpoint_id=endpoint_id, secret_id=secret_id)
            after = await _read(connection, project_id, endpoint_id)
            await _note_secrets(connection, audit, "webhook_endpoint.secret_retired", before=before, after=after)
            return after

        return await self._change(action)

    async def _change(self, action: Any, secret: str | None = None) -> WebhookChange:
        try:
            return WebhookChange(await run_transaction(self._database, action), secret)
        except _Refused as refused:
            return WebhookChange(errors=refused.errors)

    async def _add_secret(
        self,
        connection: asyncpg.Connection,
        project_id: UUID,
        endpoint_id: UUID,
        secret_id: UUID,
        secret: str,
        now: datetime,
    ) -> None:
        await insert_webhook_secret(
            connection,
            project_id=project_id,
            endpoint_id=endpoint_id,
            secret_id=secret_id,
            sealed_secret=seal_endpoint_secret(self._vault, secret, project_id=project_id, endpoint_id=endpoint_id),
            hint=hint_of(secret),
            now=now,
        )


def active_secrets(endpoint: WebhookEndpointRecord, now: datetime) -> tuple[WebhookSecretRecord, ...]:
    """Those that sign, the oldest first."""
    return tuple(each for each in endpoint.secrets if each.expires_at is None or each.expires_at > now)


def read_draft(
    given: Mapping[str, Any], before: WebhookEndpointRecord | None, egress: Egress
) -> tuple[WebhookDraft | None, tuple[UserError, ...]]:
    """What an endpoint is to be, from what was given and what it was; or everything that is wrong with it. Pure."""
    plain_http = bool(_chosen(given, "allowPlainHttp", before and before.allow_plain_http))
    schedule = _chosen(given, "retrySchedule", before and before.retry_schedule)
    draft = WebhookDraft(
        url=_chosen(given, "url", before and before.url) or "",
        description=_chosen(given, "description", before and before.description),
        events=tuple(dict.fromkeys(_chosen(given, "events", before and before.events) or ())),
        enabled=_chosen(given, "enabled", before and before.enabled) is not False,
        signature_scheme=_chosen(given, "signatureScheme", before and before.signature_scheme) or SignatureScheme.HEX,
        retry_schedule=DEFAULT_PROVIDER_SCHEDULE if schedule is None else tuple(schedule),
        allow_plain_http=plain_http,
    )
    goes_elsewhere = before is None or bool(given.keys() & {"url", "allowPlainHttp"}) or given.get("enabled") is True
    errors = (
        *(_url_errors(draft, egress) if goes_elsewhere else ()),
        *_description_errors(draft.description),
        *_event_errors(draft.events),
        *_schedule_errors(draft.retry_schedule),
    )
    return (None, errors) if errors else (draft, ())


def _chosen(given: Mapping[str, Any], name: str, before: Any) -> Any:
    """What is absent stays as it was."""
    return given.get(name) if name in given else before


def _url_errors(draft: WebhookDraft, egress: Egress) -> tuple[UserError, ...]:
    if not draft.url:
        return (UserError("An endpoint needs a url.", "INVALID", ("input", "url")),)
    refusal = egress.refusal(draft.url, plain_http=draft.allow_plain_http)
    return () if refusal is None else (UserError(refusal, "BLOCKED_URL", ("input", "url")),)


def _description_errors(description: str | None) -> tuple[UserError, ...]:
    if description is None or (len(description) <= MAX_DESCRIPTION_CHARACTERS and "\0" not in description):
        return ()
    message = f"A description has at most {MAX_DESCRIPTION_CHARACTERS} characters, and no NUL."
    return (UserError(message, "INVALID", ("input", "description")),)


def _event_errors(events: Sequence[str]) -> tuple[UserError, ...]:
    if not 1 <= len(events) <= MAX_PATTERNS:
        message = f"An endpoint names 1 to {MAX_PATTERNS} event types: order.placed, push.*, *.failed, or * for all."
        return (UserError(message, "INVALID", ("input", "events")),)
    message = f"An event type has 1 to {MAX_PATTERN_CHARACTERS} characters, and no NUL."
    return tuple(
        UserError(message, "INVALID", ("input", "events", str(place)))
        for place, name in enumerate(events)
        if not 1 <= len(name) <= MAX_PATTERN_CHARACTERS or "\0" in name
    )


def _schedule_errors(schedule: Sequence[int]) -> tuple[UserError, ...]:
    if len(schedule) > MAX_RETRIES:
        message = f"A schedule has at most {MAX_RETRIES} entries."
        return (UserError(message, "INVALID", ("input", "retrySchedule")),)
    message = f"Each wait is 1 to {MAX_RETRY_SECONDS} seconds."
    return tuple(
        UserError(message, "INVALID", ("input", "retrySchedule", str(place)))
        for place, seconds in enumerate(schedule)
        if not 1 <= seconds <= MAX_RETRY_SECONDS
    )


async def _lock(
    connection: asyncpg.Connection, project_id: UUID, endpoint_id: UUID, path: tuple[str, ...]
) -> WebhookEndpointRecord:
    if not await lock_webhook_endpoint(connection, project_id=project_id, endpoint_id=endpoint_id):
        raise _Refused(UserError(NOT_FOUND, "NOT_FOUND", path))
    return await _read(connection, project_id, endpoint_id)


async def _read(connection: asyncpg.Connection, project_id: UUID, endpoint_id: UUID) -> WebhookEndpointRecord:
    """One that this transaction has locked or made."""
    found = await read_webhook_endpoints(connection, project_id=project_id, endpoint_ids=[endpoint_id])
    return found[0]


async def _note(
    connection: asyncpg.Connection, audit: Audit, *, before: WebhookEndpointRecord | None, after: WebhookEndpointRecord
) -> None:
    await audit.note_node(
        connection,
        NodeKind.WEBHOOK_ENDPOINT,
        after.endpoint_id,
        project_id=after.project_id,
        before=None if before is None else _shown(before),
        after=_shown(after),
    )


async def _note_secrets(
    connection: asyncpg.Connection,
    audit: Audit,
    action: str,
    *,
    before: WebhookEndpointRecord,
    after: WebhookEndpointRecord,
) -> None:
    await audit.note(
        connection,
        action,
        write_node_id(NodeKind.WEBHOOK_ENDPOINT, after.endpoint_id),
        project_id=after.project_id,
        before=_shown_secrets(before, audit.now),
        after=_shown_secrets(after, audit.now),
    )


def _shown(endpoint: WebhookEndpointRecord) -> dict[str, Any]:
    """An endpoint as the audit log has it."""
    return {
        "url": endpoint.url,
        "description": endpoint.description,
        "events": endpoint.events,
        "enabled": endpoint.enabled,
        "disabledReason": endpoint.disabled_reason,
        "signatureScheme": endpoint.signature_scheme,
        "retrySchedule": endpoint.retry_schedule,
        "allowPlainHttp": endpoint.allow_plain_http,
    }


def _shown_secrets(endpoint: WebhookEndpointRecord, now: datetime) -> dict[str, Any]:
    """Which secrets of an endpoint sign, by what may be shown of them."""
    active = [
        {
            "id": write_node_id(NodeKind.WEBHOOK_SECRET, each.secret_id),
            "hint": each.hint,
            "expiresAt": each.expires_at,
        }
        for each in active_secrets(endpoint, now)
    ]
    return {"active": active}
