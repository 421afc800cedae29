"""Keeping who belongs to audiences: what was found about some people goes over what is kept, and what changed is said.

Guarantees: what is kept of a pair is what its conditions said when it was last looked at, and every change of that is
an item of the audiences lane, in the same transaction; with `said`, an event too (`audience.entered`,
`audience.exited`). Of a person who was erased meanwhile nothing is written. The caller holds the project's follower
`audiences`, so that nothing that was found earlier goes over what was found later.
Leaves to others: whom to look at, and when. Takes the heads last: only COMMIT may follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.audience_members import (
    Kept,
    Pair,
    delete_members,
    delete_rechecks,
    evaluate,
    hold_people,
    insert_members,
    read_kept,
    write_rechecks,
)
from db.audience_records import NewAudienceChange
from db.condition_times import Turn
from db.filters import Condition
from db.records import NewEvent
from engine.announcements import Announcement
from engine.dispatch.ledger import MAX_DEPTH, record
from engine.node_ids import NodeKind, write_node_id

if TYPE_CHECKING:
    import asyncpg

NAME = "audiences"
"""Of the follower whose position is the lock of everything that is kept."""
MODULE = "audience"
ENTERED, EXITED = "audience.entered", "audience.exited"


class Cause(msgspec.Struct, frozen=True):
    """Why somebody is looked at: an event, by its node id, or the passing of time; `depth` is the event's."""

    node_id: str | None = None
    depth: int = 0


PASSING_OF_TIME = Cause()


class Said(msgspec.Struct, frozen=True):
    """That events are to be appended, too: by the names of audiences and, where it is not time, the causes of pairs."""

    names: Mapping[UUID, str]
    causes: Mapping[Pair, Cause] = {}


async def look_at(
    connection: asyncpg.Connection,
    people: Mapping[UUID, Sequence[str]],
    conditions: Mapping[UUID, Sequence[Condition]],
    *,
    project_id: UUID,
    now: datetime,
    said: Said | None,
) -> tuple[Announcement, ...]:
    """Look at people for audiences, by audience, and keep what is found; returns what to announce after the commit.

    Without `said` no events are appended: nothing happened to anybody.
    """
    found: dict[Pair, Turn] = {}
    for audience_id, user_ids in people.items():
        turns = await evaluate(
            connection, project_id=project_id, conditions=conditions[audience_id], user_ids=user_ids, now=now
        )
        found |= {(audience_id, turn.user_id): turn for turn in turns}
    return await keep(connection, found, project_id=project_id, now=now, said=said) if found else ()


async def keep(
    connection: asyncpg.Connection, found: Mapping[Pair, Turn], *, project_id: UUID, now: datetime, said: Said | None
) -> tuple[Announcement, ...]:
    """Keep what was found."""
    kept = await read_kept(connection, project_id=project_id, pairs=list(found))
    moved = [pair for pair, turn in found.items() if turn.is_member != kept[pair].is_member]
    if moved:
        people = sorted({user_id for _, user_id in moved})
        present = await hold_people(connection, project_id=project_id, user_ids=people)
        moved = [pair for pair in moved if pair[1] in present]
    await _keep_rechecks(connection, project_id, found, kept, now)
    entered = [pair for pair in moved if found[pair].is_member]
    exited = [pair for pair in moved if not found[pair].is_member]
    if entered:
        await insert_members(connection, project_id=project_id, pairs=entered, now=now)
    if exited:
        await delete_members(connection, project_id=project_id, pairs=exited)
    if not moved:
        return ()
    return await record(
        connection,
        project_id=project_id,
        transitions=[],
        events=[] if said is None else _events(moved, found, said, now),
        audience_changes=[NewAudienceChange(pair[0], pair[1], found[pair].is_member) for pair in moved],
        now=now,
    )


async def _keep_rechecks(
    connection: asyncpg.Connection,
    project_id: UUID,
    found: Mapping[Pair, Turn],
    kept: Mapping[Pair, Kept],
    now: datetime,
) -> None:
    """An earlier time that is kept stays: that costs one look too many, to move it on each event costs a write."""
    sooner, over = [], []
    for pair, turn in found.items():
        before = kept[pair].recheck_at
        is_to_come = before is not None and before > now
        if turn.recheck_at is not None and not (is_to_come and before is not None and before <= turn.recheck_at):
            sooner.append((pair, turn.recheck_at))
        elif turn.recheck_at is None and before is not None and not is_to_come:
            over.append(pair)
    if sooner:
        await write_rechecks(connection, project_id=project_id, times=sooner)
    if over:
        await delete_rechecks(connection, project_id=project_id, pairs=over)


def _events(moved: Sequence[Pair], found: Mapping[Pair, Turn], said: Said, now: datetime) -> list[NewEvent]:
    """One for each who moved, but for what is so derived that it may start nothing more: it could go on for ever."""
    events = []
    for pair in moved:
        cause = said.causes.get(pair, PASSING_OF_TIME)
        if cause.depth < MAX_DEPTH:
            events.append(_event(pair, found[pair].is_member, said.names[pair[0]], cause, now))
    return events


def _event(pair: Pair, is_member: bool, name: str, cause: Cause, now: datetime) -> NewEvent:
    """`context.depth` is how far it is from what a client sent, as in events about deliveries."""
    audience_id, user_id = pair
    node_id = write_node_id(NodeKind.AUDIENCE, audience_id)
    return NewEvent(
        key=str(uuid7()),
        module=MODULE,
        event_type=ENTERED if is_member else EXITED,
        timestamp=now,
        user_id=user_id,
        anonymous_id=None,
        properties=msgspec.json.encode({"audienceId": node_id, "audienceName": name}).decode(),
        context=msgspec.json.encode({"cause": cause.node_id or node_id, "depth": cause.depth + 1}).decode(),
    )
