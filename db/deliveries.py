"""Deliveries, their attempts, and appending to their lane of the log.

Guarantees: every function is one statement in the caller's transaction. Leaves to others: the order of locks (profiles,
push tokens, deliveries, then heads; after a head only inserts), committing, and telling anyone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from db.delivery_records import AttemptRecord, DeliveryRecord, NewDelivery, NewTransition, TransitionRecord
from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("deliveries")


async def insert_deliveries(
    connection: asyncpg.Connection, *, project_id: UUID, deliveries: Sequence[NewDelivery]
) -> None:
    """Insert deliveries. Their transitions belong into the same transaction (`engine.dispatch.ledger`)."""
    rows = [{**msgspec.structs.asdict(each), "content": msgspec.Raw(each.content.encode())} for each in deliveries]
    await connection.execute(_SQL["insert_deliveries"], project_id, msgspec.json.encode(rows).decode())


async def append_transitions(
    connection: asyncpg.Connection, *, project_id: UUID, transitions: Sequence[NewTransition], at: datetime
) -> tuple[int, tuple[TransitionRecord, ...]]:
    """Append to the deliveries lane; returns its epoch and what was stored. Locks the lane's head: only inserts after.

    `at` is business time, the same for all of them.
    """
    row = await connection.fetchrow(
        _SQL["append_transitions"],
        project_id,
        column(transitions, "delivery_id"),
        column(transitions, "from_status"),
        column(transitions, "to_status"),
        column(transitions, "attempt_number"),
        column(transitions, "batch_id"),
        column(transitions, "channel"),
        column(transitions, "user_id"),
        column(transitions, "workflow_id"),
        column(transitions, "workflow_run_id"),
        column(transitions, "endpoint_id"),
        column(transitions, "event_type"),
        column(transitions, "error_code"),
        column(transitions, "created_at"),
        at,
    )
    return row["epoch"], transition_records(project_id, row["previous_head"] + 1, transitions, at)


def transition_records(
    project_id: UUID, first_seq: int, transitions: Sequence[NewTransition], at: datetime
) -> tuple[TransitionRecord, ...]:
    """What is stored of transitions whose first one got this seq."""
    return tuple(_transition(project_id, seq, each, at) for seq, each in enumerate(transitions, first_seq))


async def read_deliveries(
    connection: asyncpg.Connection, *, project_id: UUID, delivery_ids: Sequence[UUID]
) -> list[DeliveryRecord]:
    """Deliveries by their ids, in no order; unknown ones are absent."""
    return _deliveries(await connection.fetch(_SQL["read_deliveries"], project_id, delivery_ids))


async def lock_deliveries(
    connection: asyncpg.Connection, *, project_id: UUID, delivery_ids: Sequence[UUID]
) -> list[DeliveryRecord]:
    """The same, locked until the transaction ends, sorted by id."""
    return _deliveries(await connection.fetch(_SQL["lock_deliveries"], project_id, delivery_ids))


async def hold_deliveries(
    connection: asyncpg.Connection, *, project_id: UUID, delivery_ids: Sequence[UUID]
) -> set[UUID]:
    """Those of some deliveries that are there: until the transaction ends nobody can be erased to whom they are."""
    rows = await connection.fetch(_SQL["hold_deliveries"], project_id, delivery_ids)
    return {row["delivery_id"] for row in rows}


async def read_attempts(
    connection: asyncpg.Connection, *, project_id: UUID, delivery_ids: Sequence[UUID]
) -> list[AttemptRecord]:
    """The attempts of some deliveries, by delivery and number."""
    rows = await connection.fetch(_SQL["read_attempts"], project_id, delivery_ids)
    return [AttemptRecord(**dict(row.items())) for row in rows]


def _transition(project_id: UUID, seq: int, new: NewTransition, at: datetime) -> TransitionRecord:
    return TransitionRecord(
        project_id,
        seq,
        new.delivery_id,
        new.from_status,
        new.to_status,
        at,
        new.attempt_number,
        new.batch_id,
        new.channel,
        new.user_id,
        new.workflow_id,
        new.workflow_run_id,
        new.endpoint_id,
        new.event_type,
        new.error_code,
        new.created_at,
    )


def _deliveries(rows: Iterable[Mapping[str, Any]]) -> list[DeliveryRecord]:
    return [delivery_of(row) for row in rows]


def delivery_of(row: Mapping[str, Any]) -> DeliveryRecord:
    """A row with the columns of `DeliveryRecord`."""
    values = dict(row.items())
    values["content"] = msgspec.Raw(values["content"].encode())
    values["payload"] = None if values["payload"] is None else msgspec.Raw(values["payload"].encode())
    values["retry_schedule"] = tuple(values["retry_schedule"])
    return DeliveryRecord(**values)


def column(rows: Sequence[msgspec.Struct], name: str) -> list[Any] | None:
    """One column of some rows. NULL instead of nothing but NULLs: the driver looks at every element several times."""
    values = [getattr(row, name) for row in rows]
    return None if values.count(None) == len(values) else values
