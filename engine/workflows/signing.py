"""What the webhooks of a project's workflow steps are signed with: one secret for all of them, so that a receiver can
be told it.

Guarantees: it is made once, when it is first needed, and is the same for everybody from then on; rotated, the one
before goes on signing until its grace is over, and every attempt is signed with all that are active then. A secret is
given out once, when it is rotated in, which is noted in the audit log, as is the making of the first. A COMMIT whose
answer was lost is tried again and finds what it made. Leaves to others: who may (`resolvers.workflow_secrets`); signing
(`engine.webhooks`), which asks here at each attempt: a delivery of a step holds no secret of its own
(`WebhookContent.sealed_secret` is None), its `workflow_run_id` says that it is signed with these.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.database import Database
from db.workflow_secrets import (
    WorkflowSecretRecord,
    delete_expired_workflow_secrets,
    expire_workflow_secrets,
    insert_workflow_secret,
    lock_workflow_secrets,
    read_workflow_secrets,
)
from engine.audit import SYSTEM, Audit
from engine.errors import UserError
from engine.node_ids import NodeKind, write_node_id
from engine.transactions import run_transaction
from engine.vault import Vault
from engine.webhooks.endpoints import MAX_ACTIVE_SECRETS, MAX_GRACE_SECONDS
from engine.webhooks.signing import make_secret

if TYPE_CHECKING:
    import asyncpg

DEFAULT_GRACE_SECONDS = 86_400
"""A day: for whoever deploys the new one."""
PURPOSE = "workflow_secret"
"""What the vault seals them for."""

_TWO_ACTIVE = UserError(
    "Two secrets are active: wait until the older one has ended, or end both at once with graceSeconds 0.",
    "STATE",
    ("graceSeconds",),
)


class RotatedSecret(msgspec.Struct, frozen=True):
    """The secret that signs from now on; or why nothing was changed."""

    secret: str | None = None
    errors: tuple[UserError, ...] = ()


async def active_step_secrets(
    connection: asyncpg.Connection, vault: Vault, *, project_id: UUID, now: datetime
) -> tuple[str, ...]:
    """Those that sign, the oldest first; the first is made if need be. Raises `engine.vault.CannotOpen`."""
    held = await read_workflow_secrets(connection, project_id=project_id, now=now)
    if not held:
        await _make_first(connection, vault, project_id=project_id, now=now)
        held = await read_workflow_secrets(connection, project_id=project_id, now=now)
    return tuple(vault.open(each.sealed_secret, project_id=project_id, purpose=PURPOSE).decode() for each in held)


async def rotate_step_secret(
    database: Database, vault: Vault, *, project_id: UUID, grace_seconds: int, audit: Audit
) -> RotatedSecret:
    """Make another secret. The one before signs until the grace is over; without any, all older ones end at once."""
    if not 0 <= grace_seconds <= MAX_GRACE_SECONDS:
        message = f"graceSeconds is 0 to {MAX_GRACE_SECONDS}."
        return RotatedSecret(errors=(UserError(message, "INVALID", ("graceSeconds",)),))
    secret_id, secret, now = uuid7(), make_secret(), audit.now

    async def action(connection: asyncpg.Connection) -> RotatedSecret:
        await lock_workflow_secrets(connection, project_id=project_id)
        active = await read_workflow_secrets(connection, project_id=project_id, now=now)
        if any(each.secret_id == secret_id for each in active):
            return RotatedSecret(secret)
        if grace_seconds and len(active) >= MAX_ACTIVE_SECRETS:
            return RotatedSecret(errors=(_TWO_ACTIVE,))
        # The second time at most: a worker may have made the first one meanwhile.
        while not await _add(connection, vault, secret, project_id=project_id, secret_id=secret_id, now=now):
            ends = now + timedelta(seconds=grace_seconds)
            await expire_workflow_secrets(connection, project_id=project_id, at=ends)
        await delete_expired_workflow_secrets(connection, project_id=project_id, now=now)
        after = await read_workflow_secrets(connection, project_id=project_id, now=now)
        await audit.note(
            connection,
            "workflow_secret.rotated",
            write_node_id(NodeKind.PROJECT, project_id),
            project_id=project_id,
            before={"active": _ids(active)},
            after={"active": _ids(after), "graceSeconds": grace_seconds},
        )
        return RotatedSecret(secret)

    return await run_transaction(database, action)


async def _make_first(connection: asyncpg.Connection, vault: Vault, *, project_id: UUID, now: datetime) -> None:
    async with connection.transaction():
        secret_id = uuid7()
        if await _add(connection, vault, make_secret(), project_id=project_id, secret_id=secret_id, now=now):
            await Audit(SYSTEM, now).note(
                connection,
                "workflow_secret.created",
                write_node_id(NodeKind.PROJECT, project_id),
                project_id=project_id,
                before=None,
                after={"active": [secret_id.hex]},
            )


def _ids(held: Sequence[WorkflowSecretRecord]) -> list[str]:
    return [each.secret_id.hex for each in held]


async def _add(
    connection: asyncpg.Connection, vault: Vault, secret: str, *, project_id: UUID, secret_id: UUID, now: datetime
) -> bool:
    sealed = vault.seal(secret.encode(), project_id=project_id, purpose=PURPOSE)
    return await insert_workflow_secret(
        connection, project_id=project_id, secret_id=secret_id, sealed_secret=sealed, now=now
    )
