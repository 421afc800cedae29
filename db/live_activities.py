"""Live Activities on devices: the token that starts those of a type, and the token of each that runs.

Guarantees: every function is one statement in the caller's transaction. Leaves to others: locking the device's push
token first, and committing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

import msgspec

from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("live_activities")


class ActivityKey(NamedTuple):
    """Names an activity on a device; without `activity_id`, what starts those of a type there."""

    push_token_id: UUID
    attributes_type: str
    activity_id: str | None


class LiveActivityRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An activity, or what starts those of a type (`activity_id` None, state STARTABLE).

    `state` is STARTABLE, STARTING (no token yet), ACTIVE, ENDED or INVALIDATED.
    """

    project_id: UUID
    live_activity_id: UUID
    push_token_id: UUID
    activity_id: str | None
    attributes_type: str
    token: str | None
    state: str
    created_at: datetime
    updated_at: datetime

    @property
    def key(self) -> ActivityKey:
        """What names it."""
        return ActivityKey(self.push_token_id, self.attributes_type, self.activity_id)

    def __repr__(self) -> str:
        return f"LiveActivityRecord(live_activity_id={self.live_activity_id}, state={self.state})"


class EndedActivity(NamedTuple):
    """How an activity ended: with which token, and in which state."""

    token: str
    state: str


async def register_live_activity(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    live_activity_id: UUID,
    key: ActivityKey,
    token: str,
    now: datetime,
) -> LiveActivityRecord:
    """Keep a token, in the place of the one before. `live_activity_id` is for a new row."""
    row = await connection.fetchrow(
        _SQL["register_live_activity"],
        project_id,
        live_activity_id,
        key.push_token_id,
        key.activity_id,
        key.attributes_type,
        token,
        now,
    )
    return LiveActivityRecord(**dict(row.items()))


async def share_live_activities(
    connection: asyncpg.Connection, *, project_id: UUID, keys: Sequence[ActivityKey]
) -> Mapping[ActivityKey, LiveActivityRecord]:
    """Activities by what names them, locked FOR SHARE in the order of their ids; unknown ones are absent."""
    rows = await connection.fetch(
        _SQL["share_live_activities"],
        project_id,
        [key.push_token_id for key in keys],
        [key.attributes_type for key in keys],
        [key.activity_id for key in keys],
    )
    records = (LiveActivityRecord(**dict(row.items())) for row in rows)
    return {record.key: record for record in records}


async def begin_live_activities(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    started: Mapping[ActivityKey, UUID],
    now: datetime,
) -> None:
    """Keep that activities were started, each with an id for a new row. An active one stays as it is."""
    await connection.execute(
        _SQL["begin_live_activities"],
        project_id,
        list(started.values()),
        [key.push_token_id for key in started],
        [key.activity_id for key in started],
        [key.attributes_type for key in started],
        now,
    )


async def end_live_activities(
    connection: asyncpg.Connection, *, project_id: UUID, ended: Mapping[ActivityKey, EndedActivity], now: datetime
) -> set[ActivityKey]:
    """Keep that activities are over or their tokens dead; gives those that this changed."""
    rows = await connection.fetch(
        _SQL["end_live_activities"],
        project_id,
        [key.push_token_id for key in ended],
        [key.attributes_type for key in ended],
        [key.activity_id for key in ended],
        [each.token for each in ended.values()],
        [each.state for each in ended.values()],
        now,
    )
    return {ActivityKey(row["push_token_id"], row["attributes_type"], row["activity_id"]) for row in rows}
