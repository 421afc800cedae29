"""Followers of a lane of the log: what follows from each item is written once, whatever crashes.

Guarantees: an item takes effect exactly once in PostgreSQL, in the lane's order: what a follower makes of a page and
its new position are one transaction, fenced by the lease and by the old position (a lease alone fails when a process is
stopped and goes on later). Nothing is made of an item that was erased. What is announced, and who is woken, is so after
the commit.
Leaves to others: what follows from an item (`Reaction`). Stops between pages.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar
from uuid import UUID, uuid4

import msgspec

from db.database import Database
from db.erasure import find_tombstones
from db.failures import is_passing
from db.followers import advance_follower, lease_follower, release_follower, spare_disk
from engine.announcements import Announcement
from engine.clock import Clock
from engine.lanes import LaneKind, LanePage, LaneRecord
from engine.work import Work

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg

PAGE_ITEMS = 200
"""Items that take effect together, unless told otherwise: bounds the transaction, and what a crash does over."""
LEASE = timedelta(seconds=6)
"""Longer than a page takes; renewed before each. Real time. No longer than a job of a dead worker waits anyway."""
RETRY_SECONDS = 0.05
"""After a deadlock or a lost connection."""

_logger = logging.getLogger(__name__)

R = TypeVar("R", bound=LaneRecord)
R_contra = TypeVar("R_contra", contravariant=True)


class Reacted(msgspec.Struct, frozen=True):
    """What a reaction has to say once its transaction has committed."""

    announcements: tuple[Announcement, ...] = ()
    works: tuple[Work, ...] = ()


NOTHING = Reacted()


class TakeLess(Exception):
    """Raised by a reaction from which too much would follow at once: only the first `count` items, at least one."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.count = count


class _PageErased(Exception):
    """Rolls back what was made of items that are no more: the page is to be read again."""


class Reaction(Protocol[R_contra]):
    """What follows from items: writes it, in the transaction that moves the position; locks heads last.

    May raise `TakeLess`: it is called again with as many, in a transaction of their own.
    """

    async def __call__(
        self, connection: asyncpg.Connection, *, project_id: UUID, items: Sequence[R_contra], now: datetime
    ) -> Reacted: ...


class Follower(Generic[R]):
    """One reader of a lane of every project, in one worker. `name` is what its positions are stored under.

    `item_filter` leaves out what it takes no notice of, by default nothing; `page_items` take effect together.
    """

    def __init__(
        self,
        name: str,
        kind: LaneKind[R, Any],
        react: Reaction[R],
        *,
        database: Database,
        clock: Clock,
        announce: Callable[[Announcement], None],
        wake: Callable[[Work], None],
        item_filter: Any = None,
        page_items: int = PAGE_ITEMS,
    ) -> None:
        self.name = name
        self._kind = kind
        self._item_filter = kind.everything if item_filter is None else item_filter
        self._page_items = page_items
        self._react = react
        self._database = database
        self._clock = clock
        self._announce = announce
        self._wake = wake
        self._token = uuid4()

    async def follow(self, project_id: UUID) -> None:
        """Read on to the head. Returns early where another worker holds the lease."""
        while (position := await self._lease(project_id)) is not None:
            page = await self._read_page(project_id, position)
            # At the head it is over: whatever comes after it rings again.
            if page.reached <= position or not await self._take_effect(project_id, position, page):
                break
        await self._release(project_id)

    async def _lease(self, project_id: UUID) -> int | None:
        async with self._database.connection() as connection:
            return await lease_follower(
                connection,
                project_id=project_id,
                follower=self.name,
                lane=self._kind.lane,
                token=self._token,
                lease=LEASE,
            )

    async def _read_page(self, project_id: UUID, position: int) -> LanePage[R]:
        async with self._database.connection() as connection:
            return await self._kind.read_page(
                connection, project_id=project_id, after=position, limit=self._page_items, item_filter=self._item_filter
            )

    async def _take_effect(self, project_id: UUID, position: int, page: LanePage[R]) -> bool:
        """One page, or what of it the reaction takes, in one transaction; tried again after whatever passes by itself.

        True: there is more. Where the position has moved nothing is written: the lease was lost, or only the answer to
        the COMMIT was. Who waits for what was announced or woken then is told by the relay and the sweeper.
        """
        while True:
            try:
                reacted = await self._try(project_id, position, page)
                has_grown = any(each.lane is self._kind.lane for each in reacted.announcements)
                return has_grown or page.reached < page.head.head
            except TakeLess as less:
                page = _first_of(page, less.count)
                continue
            except _PageErased:
                return True
            except Exception as error:
                if not is_passing(error):
                    raise
                _logger.info("follower.tried_again", extra={"follower": self.name, "reason": type(error).__name__})
            await asyncio.sleep(RETRY_SECONDS)

    async def _try(self, project_id: UUID, position: int, page: LanePage[R]) -> Reacted:
        now = self._clock.now()
        async with self._database.transaction() as connection:
            moved = await advance_follower(
                connection,
                project_id=project_id,
                follower=self.name,
                lane=self._kind.lane,
                token=self._token,
                position=position,
                reached=page.reached,
            )
            if not moved:
                return NOTHING
            reacted = await self._react(connection, project_id=project_id, items=page.items, now=now)
            await self._check_erased(connection, project_id, page)
            if reacted == NOTHING:
                # Nobody is told of it, so nobody misses it: what is lost with the server is followed once more.
                await spare_disk(connection)
        for announcement in reacted.announcements:
            self._announce(announcement)
        for work in reacted.works:
            self._wake(work)
        return reacted

    async def _check_erased(self, connection: asyncpg.Connection, project_id: UUID, page: LanePage[R]) -> None:
        """Raises `_PageErased` where somebody was erased since the page was read: nothing may be made of it.

        Whoever erases holds all heads at its end, and the reaction has locked those of what it wrote: so either this
        sees the tombstones, or the erasure sees what was written and removes it.
        """
        seqs = [item.seq for item in page.items]
        if seqs and await find_tombstones(connection, project_id=project_id, lane=self._kind.lane, seqs=seqs):
            raise _PageErased

    async def _release(self, project_id: UUID) -> None:
        async with self._database.connection() as connection:
            await release_follower(
                connection, project_id=project_id, follower=self.name, lane=self._kind.lane, token=self._token
            )


def _first_of(page: LanePage[R], count: int) -> LanePage[R]:
    items = page.items[:count]
    return msgspec.structs.replace(page, items=items, reached=items[-1].seq)
