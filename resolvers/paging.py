"""Relay's paging arguments, read and bounded: 1 to 100 items, by default 20, never by offset."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar
from uuid import UUID

import msgspec

from db.records import CappedCount, HeadRecord
from engine.cursors import Cursor, CursorCodec, CursorKind
from engine.errors import BadUserInput, CursorExpired

DEFAULT_PAGE = 20
MAX_PAGE = 100
"""Items. What one list may cost at most; asking for more gives this many."""

R = TypeVar("R")


class PageArguments(msgspec.Struct, frozen=True):
    """As a client writes them."""

    first: int | None = None
    after: str | None = None
    last: int | None = None
    before: str | None = None


class Page(msgspec.Struct, Generic[R], frozen=True):
    """Records in the list's order, each with its cursor."""

    records: tuple[R, ...]
    cursors: tuple[str, ...]
    has_next: bool
    has_previous: bool


class Counter:
    """How many there are in a whole list: counted once, and only when somebody asks."""

    def __init__(self, read: Callable[[], Awaitable[CappedCount]]) -> None:
        self._read = read
        self._counting: asyncio.Future[CappedCount] | None = None

    async def count(self) -> CappedCount:
        """Shielded, so that one field of two that ask may be cancelled alone."""
        if self._counting is None:
            self._counting = asyncio.ensure_future(self._read())
        return await asyncio.shield(self._counting)


class Listed(msgspec.Struct, Generic[R], frozen=True):
    """A page and what counts the whole list."""

    page: Page[R]
    counter: Counter


class Window(msgspec.Struct, frozen=True):
    """The part of a list that is asked for: up to `limit` items between two positions, from its end when `from_end`."""

    limit: int
    from_end: bool
    after: Cursor | None
    before: Cursor | None

    def page(self, records: tuple[R, ...], cursors: tuple[str, ...], *, has_more: bool) -> Page[R]:
        """`has_more`: the window holds more than was read, on the far side."""
        return Page(
            records,
            cursors,
            has_next=self.before is not None if self.from_end else has_more,
            has_previous=has_more if self.from_end else self.after is not None,
        )


def read_window(arguments: PageArguments, codec: CursorCodec, *, project_id: UUID, kind: CursorKind) -> Window:
    """Check and bound the arguments. Raises `BadUserInput` and `CursorInvalid`."""
    if arguments.first is not None and arguments.last is not None:
        raise BadUserInput("Give first or last, not both.")
    for name, value in (("first", arguments.first), ("last", arguments.last)):
        if value is not None and value < 1:
            raise BadUserInput(f"{name} must be at least 1; a page has up to {MAX_PAGE} items.")
    after, before = (
        None if text is None else codec.decode(text, project_id=project_id, kinds=frozenset({kind}))
        for text in (arguments.after, arguments.before)
    )
    return Window(
        limit=min(arguments.first or arguments.last or DEFAULT_PAGE, MAX_PAGE),
        from_end=arguments.last is not None,
        after=after,
        before=before,
    )


def check_position(cursor: Cursor | None, head: HeadRecord) -> int | None:
    """The seq of a lane's cursor. Raises `CursorExpired` for one of another epoch or beyond the head."""
    if cursor is None:
        return None
    seq = cursor.key[0]
    if not isinstance(seq, int) or cursor.epoch != head.epoch or seq > head.head:
        raise CursorExpired("This cursor is of a log that no longer exists: read the list from its start.")
    return seq
