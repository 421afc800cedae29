"""Pages of a lane for readers that are behind, shared: a thousand at one place cost one query.

Guarantees: at most `CATCH_UP_QUERIES` queries at once; readers of one filter near each other share pages, also while
they are being read, and what was rendered of them; what the ring still holds costs no query. At most `CACHE_BYTES` are
kept, for `PAGE_AGE` seconds. Leaves to others: trying again, and judging the head that comes with a page.
Stops when `stop` is awaited.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Hashable
from itertools import islice
from time import monotonic
from typing import Any, TypeAlias
from uuid import UUID

from db.database import Database
from db.records import HeadRecord, Lane
from engine.lanes import LaneKind, LaneRecord
from engine.live.cohorts import Cohort
from engine.live.items import Item, Output
from engine.tasks import end_tasks

CATCH_UP_QUERIES = 4
"""Per gateway: the rest of the pool is for requests."""
PAGE_ITEMS = 200
"""Items per page. Pages begin at multiples of it, so that readers a few items apart ask for the same one."""
CACHE_BYTES = 16 * 1024 * 1024
PAGE_AGE = 5.0
"""Seconds: long enough for a crowd to pass, short enough that an erased item is soon gone from here too."""

_Shelf: TypeAlias = tuple[UUID, Lane, int, bytes]
"""Project, lane, epoch and filter: what was read of a log that was replaced is never looked at again."""


class Page:
    """Every matching item past `start`, up to and including `reached`.

    `head` came in the same snapshot; it is None where no query was needed.
    """

    def __init__(
        self,
        kind: LaneKind[Any, Any],
        start: int,
        reached: int,
        records: tuple[LaneRecord, ...],
        head: HeadRecord | None,
    ) -> None:
        self.start = start
        self.reached = reached
        self.head = head
        self.records = records
        self.read_at = monotonic()
        self.bytes = 1_000 + sum(map(kind.rendered_bytes, records))
        self._items: dict[Hashable, tuple[Item, ...]] = {}

    def holds(self, position: int) -> bool:
        """Whether a reader at this position gets on with this page."""
        return self.start <= position < self.reached

    def items(self, cohort: Cohort) -> tuple[Item, ...]:
        """The page as items of the cohort's output: one set for all who share it."""
        output: Output = cohort.output
        items = self._items.get(output)
        if items is None:
            items = tuple(Item(record, cohort.streams.cursor_at(record.seq), output) for record in self.records)
            self._items[output] = items
        return items


class Pages:
    """Reads and keeps pages. Belongs to one event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = asyncio.Semaphore(CATCH_UP_QUERIES)
        self._kept: OrderedDict[tuple[_Shelf, int], Page] = OrderedDict()
        self._bytes = 0
        self._reading: dict[tuple[_Shelf, int], asyncio.Task[Page]] = {}
        self.queries = 0

    async def stop(self) -> None:
        """End what is being read."""
        await end_tasks(list(self._reading.values()))

    async def read(self, cohort: Cohort, position: int) -> Page:
        """The page for a reader of this cohort at this position; its `reached` is past it, unless the log ends there.

        Raises what the database raises, and `LookupError` for a project that is gone.
        """
        feed = cohort.streams.feed
        shelf = (feed.project_id, feed.kind.lane, feed.epoch, cohort.filter_key)
        start = position - position % PAGE_ITEMS
        for key in ((shelf, start), (shelf, position)):
            page = self._get(key)
            if page is not None and page.holds(position):
                return page
        if feed.ring.covers(position):
            return self._read_ring(shelf, cohort, max(start, feed.ring.floor))
        page = await self._read_once((shelf, start), cohort)
        if page.holds(position):
            return page
        # What was being read began too early, or ends before this reader.
        return await self._read_once((shelf, position), cohort)

    def forget(self, project_id: UUID, lane: Lane) -> None:
        """Drop what is kept of a lane."""
        for key in [key for key in self._kept if key[0][:2] == (project_id, lane)]:
            self._drop(key)

    def _get(self, key: tuple[_Shelf, int]) -> Page | None:
        page = self._kept.get(key)
        if page is not None and monotonic() - page.read_at > PAGE_AGE:
            self._drop(key)
            return None
        return page

    def _read_ring(self, shelf: _Shelf, cohort: Cohort, start: int) -> Page:
        """Recent items, without a query: up to the feed's last, or `PAGE_ITEMS` matches."""
        feed = cohort.streams.feed
        matching = feed.kind.matching
        matches = matching.compile(cohort.item_filter)
        recent = feed.ring.after(start, len(feed.ring))
        found = tuple(islice((record for record in recent if matches(matching.view(record))), PAGE_ITEMS))
        reached = found[-1].seq if len(found) == PAGE_ITEMS else feed.last
        page = Page(feed.kind, start, reached, found, None)
        self._keep((shelf, start), page)
        return page

    async def _read_once(self, key: tuple[_Shelf, int], cohort: Cohort) -> Page:
        """Shielded, so that a reader who goes away does not take the page from the others."""
        task = self._reading.get(key)
        if task is None:
            task = asyncio.create_task(self._query(cohort.streams.kind, key, cohort.item_filter), name="catch-up-page")
            self._reading[key] = task
            task.add_done_callback(lambda done: self._done(key, done))
        return await asyncio.shield(task)

    async def _query(self, kind: LaneKind[Any, Any], key: tuple[_Shelf, int], item_filter: Any) -> Page:
        (project_id, *_), start = key
        async with self._queries, self._database.connection() as connection:
            self.queries += 1
            page = await kind.read_page(
                connection, project_id=project_id, after=start, limit=PAGE_ITEMS, item_filter=item_filter
            )
        return Page(kind, start, page.reached, page.items, page.head)

    def _done(self, key: tuple[_Shelf, int], task: asyncio.Task[Page]) -> None:
        self._reading.pop(key, None)
        if not task.cancelled() and task.exception() is None:
            self._keep(key, task.result())

    def _keep(self, key: tuple[_Shelf, int], page: Page) -> None:
        self._drop(key)
        self._kept[key] = page
        self._bytes += page.bytes
        while self._bytes > CACHE_BYTES:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: tuple[_Shelf, int]) -> None:
        page = self._kept.pop(key, None)
        if page is not None:
            self._bytes -= page.bytes
