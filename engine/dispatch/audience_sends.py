"""Sends to audiences: made page by page, so that a hundred thousand members are no transaction of their own.

Guarantees: whoever belongs to the audience throughout gets it exactly once, whatever dies: a page of members, their
deliveries and how far the send has come are one transaction. Who belongs is looked up when a page is made; what the
audience asks for is fixed when its first page is, which is when the send is due. One that was deleted gets no further
page. Two people with one address are two members; whoever was named besides the audience is left out of it.
Leaves to others: what a channel makes of a page (`PlanPage`), finding the projects to go on with, and sending.

The first page is made when a send is accepted, unless it is for later or names others besides; the rest is made by
workers, in `continue_audience_sends`, one page of each send in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

import msgspec

from db.audience_members import hold_people
from db.audience_sends import (
    AudienceSend,
    count_unfinished_audience_sends,
    lock_audience_send,
    move_audience_send,
)
from db.audiences import share_audiences
from db.delivery_records import NewDelivery
from engine.announcements import Announcement
from engine.audiences.conditions import decode_conditions
from engine.audiences.membership import find_audience, page_members
from engine.clock import Clock
from engine.dispatch.ledger import create_deliveries
from engine.dispatch.sending import MAX_BATCH_BYTES, SendRefused
from engine.dispatch.values import Channel
from engine.errors import UserError
from engine.transactions import run_transaction
from engine.work import Work, WorkKind

if TYPE_CHECKING:
    import asyncpg

    from db.database import Database

PAGE_MEMBERS = 500
"""Members whose deliveries are made in one transaction: some tens of milliseconds."""
MAX_UNFINISHED_SENDS = 100
"""Of one project, scheduled ones included."""
NO_AUDIENCE = "This project has no such audience."


class MemberPage(msgspec.Struct, frozen=True, kw_only=True):
    """Members to send to. `content` is the JSON of what each delivery asks for; nobody with one of `taken_addresses`
    (in lower case) gets anything."""

    project_id: UUID
    batch_id: UUID
    content: msgspec.Raw
    user_ids: Sequence[str]
    taken_addresses: frozenset[str]
    now: datetime


class PlanPage(Protocol):
    """Makes the deliveries of a page, under the locks that its channel takes; locks no heads."""

    async def __call__(self, connection: asyncpg.Connection, page: MemberPage) -> Sequence[NewDelivery]: ...


class _Page(msgspec.Struct, frozen=True):
    """What one transaction has made."""

    announcements: tuple[Announcement, ...]
    is_due: bool


def page_size(content: bytes, *, per_person: int = 1) -> int:
    """How many members are taken at once, each of whom may get `per_person` deliveries."""
    return min(PAGE_MEMBERS, max(1, MAX_BATCH_BYTES // (per_person * max(1, len(content)))))


async def begin_audience_send(
    connection: asyncpg.Connection,
    plan: PlanPage,
    send: AudienceSend,
    *,
    project_id: UUID,
    batch_id: UUID,
    scheduled_for: datetime | None,
    now: datetime,
) -> Sequence[NewDelivery]:
    """Begin in the transaction that accepts a send: what is made of it at once. `send` has come nowhere yet.

    Raises `SendRefused` for an audience that is not there, and where too many sends are unfinished.
    """
    if not await share_audiences(connection, project_id=project_id, audience_ids=[send.audience_id]):
        raise SendRefused(UserError(NO_AUDIENCE, "NOT_FOUND", ("input", "audienceId")))
    if await count_unfinished_audience_sends(connection, project_id=project_id) >= MAX_UNFINISHED_SENDS:
        message = f"{MAX_UNFINISHED_SENDS} sends to audiences are not finished: wait until one of them is."
        raise SendRefused(UserError(message, "LIMIT_EXCEEDED", ("input", "audienceId")))
    is_later = scheduled_for is not None and scheduled_for > now
    if is_later or send.taken_users or send.taken_addresses:
        await move_audience_send(
            connection,
            project_id=project_id,
            batch_id=batch_id,
            send=send,
            continue_at=scheduled_for if is_later else now,
        )
        return ()
    return await _make_page(connection, plan, send, project_id=project_id, batch_id=batch_id, now=now)


async def continue_audience_sends(
    database: Database,
    clock: Clock,
    announce: Callable[[Announcement], None],
    wake: Callable[[Work], None],
    plans: Mapping[Channel, PlanPage],
    project_id: UUID,
) -> bool:
    """Make one page of a project's sends; call it again while it says True. Raises `Unavailable`."""
    now = clock.now()
    made = await run_transaction(database, lambda connection: _go_on(connection, plans, project_id, now))
    if made is None:
        return False
    for announcement in made.announcements:
        announce(announcement)
    if made.is_due:
        wake(Work(WorkKind.DELIVERIES, project_id))
    return True


async def _go_on(
    connection: asyncpg.Connection, plans: Mapping[Channel, PlanPage], project_id: UUID, now: datetime
) -> _Page | None:
    found = await lock_audience_send(connection, project_id=project_id, now=now)
    if found is None:
        return None
    plan = plans[Channel(found.kind)]
    deliveries = await _make_page(connection, plan, found.send, project_id=project_id, batch_id=found.batch_id, now=now)
    announcements = await create_deliveries(connection, project_id=project_id, deliveries=deliveries, now=now)
    is_due = any(each.next_attempt_at is not None and each.next_attempt_at <= now for each in deliveries)
    return _Page(announcements, is_due)


async def _make_page(
    connection: asyncpg.Connection,
    plan: PlanPage,
    send: AudienceSend,
    *,
    project_id: UUID,
    batch_id: UUID,
    now: datetime,
) -> Sequence[NewDelivery]:
    """The deliveries of the next members, and how far the send has come with them."""
    audience = await find_audience(connection, project_id=project_id, audience_id=send.audience_id)
    if audience is None:
        await move_audience_send(connection, project_id=project_id, batch_id=batch_id, send=None, continue_at=None)
        return ()
    conditions = bytes(audience.conditions).decode() if send.conditions is None else send.conditions
    members = await page_members(
        connection,
        project_id=project_id,
        conditions=decode_conditions(conditions),
        after_user_id=send.after,
        limit=send.page,
        now=now,
    )
    # Who was erased since is not sent to, nor named as where the send stands.
    present = await hold_people(connection, project_id=project_id, user_ids=members) if members else set()
    is_last = len(members) < send.page
    after = next((each for each in reversed(members) if each in present), send.after)
    rest = None if is_last else msgspec.structs.replace(send, conditions=conditions, after=after)
    await move_audience_send(
        connection, project_id=project_id, batch_id=batch_id, send=rest, continue_at=None if is_last else now
    )
    page = MemberPage(
        project_id=project_id,
        batch_id=batch_id,
        content=send.content,
        user_ids=[each for each in members if each in present and each not in set(send.taken_users)],
        taken_addresses=frozenset(send.taken_addresses),
        now=now,
    )
    return await plan(connection, page) if page.user_ids else ()
