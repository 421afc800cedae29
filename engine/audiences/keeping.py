"""Keeping who belongs to audiences: what was found about some people goes over what is kept, and what changed is said.

Guarantees: what is kept of a pair is what its conditions said when it was last looked at, and every change of that is
an item of the audiences lane, in the same transaction; where something happened, an event too (`audience.entered`,
`audience.exited`). Nobody has to be looked at again later than `audience_rechecks` says. Of a person who was erased
meanwhile nothing is written. What is looked at together is read in a handful of statements, however many audiences
there are: people as of one head of the log, and their events up to it.
The caller holds the project's follower `audiences`, so that nothing that was found earlier goes over what was found
later. Leaves to others: whom to look at, and when. Takes the heads last: only COMMIT may follow.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from datetime import datetime
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.audience_members import (
    Kept,
    KnownPeople,
    KnownPerson,
    Pair,
    delete_members,
    delete_rechecks,
    evaluate,
    hold_people,
    insert_members,
    read_kept,
    read_people,
    write_rechecks,
)
from db.audience_records import NewAudienceChange
from db.filters import Condition
from db.records import NewEvent
from engine.announcements import Announcement
from engine.audiences.cache import Audiences
from engine.audiences.counting import History
from engine.audiences.dependencies import Direction
from engine.audiences.evaluation import Person
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


class Touch(msgspec.Struct, frozen=True):
    """Why to look at somebody for an audience, and which way they may have moved."""

    direction: Direction
    cause: Cause


Asked: TypeAlias = Mapping[str, Mapping[UUID, Touch]]
"""Whom to look at, and for which audiences."""

_PASSING_OF_TIME = Touch(Direction.EITHER, Cause())
_SETTLED = {True: Direction.IN, False: Direction.OUT}
"""Whoever belongs stays where one can only come in, and the other way round."""


class _Found:
    """What conditions say about pairs, and by when to look at people again."""

    def __init__(self) -> None:
        self.answers: dict[Pair, bool] = {}
        self.rechecks: dict[str, datetime] = {}

    def add(self, audience_id: UUID, user_id: str, *, is_member: bool, recheck_at: datetime | None) -> None:
        self.answers[(audience_id, user_id)] = is_member
        if recheck_at is not None:
            self.rechecks[user_id] = min(recheck_at, self.rechecks.get(user_id, recheck_at))


async def look_at(
    connection: asyncpg.Connection, asked: Asked, audiences: Audiences, *, now: datetime
) -> tuple[Announcement, ...]:
    """Look at people because of what happened; returns what to announce after the commit."""
    return await _look(connection, asked, audiences, now, due=frozenset())


async def look_again(
    connection: asyncpg.Connection, due: Set[str], audiences: Audiences, *, now: datetime
) -> tuple[Announcement, ...]:
    """Look at people whose time has come, for whatever it may change; returns what to announce after the commit."""
    timed = dict.fromkeys(audiences.project.timed, _PASSING_OF_TIME)
    return await _look(connection, dict.fromkeys(sorted(due), timed), audiences, now, due=due)


async def look_for_one(
    connection: asyncpg.Connection,
    user_ids: Sequence[str],
    audience_id: UUID,
    conditions: Sequence[Condition],
    *,
    project_id: UUID,
    now: datetime,
) -> tuple[Announcement, ...]:
    """Look at people for an audience that was saved; that is no event, since nothing happened to them."""
    kept = await read_kept(connection, project_id=project_id, audience_id=audience_id, user_ids=user_ids)
    found = _Found()
    await _ask_sql(connection, {audience_id: user_ids}, {audience_id: conditions}, found, project_id, now)
    return await _keep(connection, found, kept, project_id=project_id, now=now)


async def _look(
    connection: asyncpg.Connection, asked: Asked, audiences: Audiences, now: datetime, *, due: Set[str]
) -> tuple[Announcement, ...]:
    project_id, project = audiences.project_id, audiences.project
    read = await read_people(
        connection,
        project_id=project_id,
        user_ids=list(asked),
        with_last_seen=project.reads_last_seen,
        with_consent=project.reads_consent,
    )
    found = await _ask(connection, asked, read, audiences, now)
    return await _keep(
        connection,
        found,
        {known.profile.user_id: known.kept for known in read.people},
        project_id=project_id,
        now=now,
        due=due,
        events=lambda moved: _events(moved, found, asked, project.names, now),
    )


async def _ask(
    connection: asyncpg.Connection, asked: Asked, read: KnownPeople, audiences: Audiences, now: datetime
) -> _Found:
    """What the conditions of the pairs say that can have moved.

    That the time to look at the others again is not moved on costs one look too many when it comes.
    """
    found, left = _Found(), defaultdict[UUID, list[str]](list)
    open_pairs = [(known, _open(known.kept, asked[known.profile.user_id])) for known in read.people]
    histories = await _histories(connection, open_pairs, audiences, read.head, now)
    evaluators = audiences.project.evaluators
    for known, audience_ids in open_pairs:
        user_id = known.profile.user_id
        history = histories.get(user_id)
        person = Person(known, history, now)
        for audience_id in audience_ids:
            evaluator = evaluators[audience_id]
            if evaluator is None or (evaluator.counts and (history is None or not history.is_whole)):
                left[audience_id].append(user_id)
            else:
                recheck_at = evaluator.next_change(person)
                found.add(audience_id, user_id, is_member=evaluator.holds(person), recheck_at=recheck_at)
    await _ask_sql(connection, left, audiences.project.conditions, found, audiences.project_id, now)
    return found


def _open(kept: Kept, touches: Mapping[UUID, Touch]) -> list[UUID]:
    return [
        audience_id
        for audience_id, touch in touches.items()
        if touch.direction is not _SETTLED[audience_id in kept.audience_ids]
    ]


async def _histories(
    connection: asyncpg.Connection,
    open_pairs: Iterable[tuple[KnownPerson, Sequence[UUID]]],
    audiences: Audiences,
    head: int,
    now: datetime,
) -> dict[str, History]:
    evaluators = audiences.project.evaluators
    counting = {
        audience_id for audience_id, evaluator in evaluators.items() if evaluator is not None and evaluator.counts
    }
    return await audiences.histories.read(
        connection,
        [known.profile for known, audience_ids in open_pairs if not counting.isdisjoint(audience_ids)],
        project_id=audiences.project_id,
        shapes=audiences.project.shapes,
        log_start=audiences.log_start,
        up_to=head,
        now=now,
    )


async def _ask_sql(
    connection: asyncpg.Connection,
    people: Mapping[UUID, Sequence[str]],
    conditions: Mapping[UUID, Sequence[Condition]],
    found: _Found,
    project_id: UUID,
    now: datetime,
) -> None:
    """What is not answered in memory: one statement for each audience."""
    for audience_id, user_ids in people.items():
        turns = await evaluate(
            connection, project_id=project_id, conditions=conditions[audience_id], user_ids=user_ids, now=now
        )
        for turn in turns:
            found.add(audience_id, turn.user_id, is_member=turn.is_member, recheck_at=turn.recheck_at)


async def _keep(
    connection: asyncpg.Connection,
    found: _Found,
    kept: Mapping[str, Kept],
    *,
    project_id: UUID,
    now: datetime,
    due: Set[str] = frozenset(),
    events: Callable[[Sequence[Pair]], Sequence[NewEvent]] = lambda _moved: (),
) -> tuple[Announcement, ...]:
    """Keep what was found. `events` says it in the log."""
    moved = [
        pair
        for pair, is_member in found.answers.items()
        if pair[1] in kept and is_member != (pair[0] in kept[pair[1]].audience_ids)
    ]
    sooner = {
        user_id: at
        for user_id, at in found.rechecks.items()
        if user_id in kept and (user_id in due or _is_sooner(at, kept[user_id].recheck_at))
    }
    over = sorted(due - found.rechecks.keys())
    touched = {user_id for _, user_id in moved} | sooner.keys()
    present = await hold_people(connection, project_id=project_id, user_ids=sorted(touched)) if touched else set()
    moved = [pair for pair in moved if pair[1] in present]
    sooner = {user_id: at for user_id, at in sooner.items() if user_id in present}
    if sooner:
        await write_rechecks(connection, project_id=project_id, times=sooner)
    if over:
        await delete_rechecks(connection, project_id=project_id, user_ids=over)
    entered = [pair for pair in moved if found.answers[pair]]
    exited = [pair for pair in moved if not found.answers[pair]]
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
        events=events(moved),
        audience_changes=[NewAudienceChange(pair[0], pair[1], found.answers[pair]) for pair in moved],
        now=now,
    )


def _is_sooner(at: datetime, known: datetime | None) -> bool:
    """An earlier time that is kept stays: that costs one look too many, to move it on each event costs a write."""
    return known is None or at < known


def _events(
    moved: Sequence[Pair], found: _Found, asked: Asked, names: Mapping[UUID, str], now: datetime
) -> list[NewEvent]:
    """One for each who moved, but for what is so derived that it may start nothing more: it could go on for ever."""
    events = []
    for audience_id, user_id in moved:
        cause = asked[user_id][audience_id].cause
        if cause.depth < MAX_DEPTH:
            is_member = found.answers[(audience_id, user_id)]
            events.append(_event(audience_id, user_id, names[audience_id], cause, now, is_member=is_member))
    return events


def _event(audience_id: UUID, user_id: str, name: str, cause: Cause, now: datetime, *, is_member: bool) -> NewEvent:
    """`context.depth` is how far it is from what a client sent, as in events about deliveries."""
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
