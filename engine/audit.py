"""The audit log: who changed what, what it was before and what it is now.

Guarantees: an entry and the change that it tells of are one transaction; nothing that is secret comes in, because
whoever records a change hands in what may be shown, and what looks like a secret all the same is masked
(`engine.masking`); a change that changes nothing leaves no entry; an entry is at most some 34 kB, whatever was changed.
Entries are kept for as long as their project is. Leaves to others: committing, and who may read it (`resolvers.audit`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.audit_entries import AuditEntryRecord, insert_audit_entry
from engine.masking import mask
from engine.node_ids import NodeKind, write_node_id

if TYPE_CHECKING:
    import asyncpg

SYSTEM = "system"
"""The actor of what nobody asked for: a schedule, a provider's report, a limit that was reached."""
OPERATOR = "operator"
"""The actor of commands: whoever runs the deployment."""
MAX_MEMBER_BYTES = 4_096
"""Of one member of `before` or `after` as JSON: texts and definitions beyond it are told by their digest and size."""
MAX_SIDE_BYTES = 16_384
"""Of `before`, and of `after`."""


class Audit(msgspec.Struct, frozen=True):
    """Who changes something, and when in business time: what whoever makes a change needs to note it."""

    actor: str
    now: datetime

    async def note_node(
        self,
        connection: asyncpg.Connection,
        kind: NodeKind,
        node: UUID,
        *,
        project_id: UUID,
        before: Mapping[str, Any] | None,
        after: Mapping[str, Any] | None,
    ) -> None:
        """A thing was created (`before` None), updated, or deleted (`after` None): the action says which."""
        done = "created" if before is None else "deleted" if after is None else "updated"
        action, subject = f"{kind.name.lower()}.{done}", write_node_id(kind, node)
        await self.note(connection, action, subject, project_id=project_id, before=before, after=after)

    async def note(
        self,
        connection: asyncpg.Connection,
        action: str,
        subject: str,
        *,
        project_id: UUID,
        before: Mapping[str, Any] | None,
        after: Mapping[str, Any] | None,
        user_id: str | None = None,
    ) -> None:
        """`record_change` of this actor, now."""
        await record_change(
            connection,
            project_id=project_id,
            actor=self.actor,
            action=action,
            subject=subject,
            before=before,
            after=after,
            now=self.now,
            user_id=user_id,
        )


async def record_change(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    actor: str,
    action: str,
    subject: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    now: datetime,
    user_id: str | None = None,
) -> None:
    """Note a change, in the caller's transaction; none if `before` and `after` say the same.

    `actor` is `Viewer.actor` or `SYSTEM`; `action` is object.past_tense_verb; `subject` is the node id of what was
    changed, or `user:<user id>`. `before` is None for what is new, `after` for what is gone. `user_id` names the person
    whom it is about, so that erasure finds it. `now` is business time.
    """
    if before is not None and after is not None and _digest(before) == _digest(after):
        return
    await insert_audit_entry(
        connection,
        AuditEntryRecord(
            project_id=project_id,
            audit_entry_id=uuid7(),
            at=now,
            actor=actor,
            action=action,
            subject=subject,
            before=shown_text(before),
            after=shown_text(after),
            user_id=user_id,
        ),
    )


def shown_text(side: Mapping[str, Any] | None) -> str | None:
    """The JSON of one side as it is kept: masked, and no larger than `MAX_SIDE_BYTES`. Pure."""
    if side is None:
        return None
    bounded = {name: _bounded(value, MAX_MEMBER_BYTES) for name, value in side.items()}
    return _json(_bounded(mask(bounded), MAX_SIDE_BYTES)).decode()


def _bounded(value: Any, most: int) -> Any:
    """The value, or its digest where it is too large to keep."""
    text = _json(value)
    return value if len(text) <= most else {"sha256": hashlib.sha256(text).hexdigest(), "bytes": len(text)}


def _digest(value: Any) -> bytes:
    """1 is not true, as it is to Python; the order of members does not matter."""
    return hashlib.sha256(_json(value)).digest()


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value, order="sorted")
