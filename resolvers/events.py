"""Reading the log: lists of events, their counts, and the types that a project knows."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import msgspec

from db.event_types import list_event_types as read_event_type_list
from db.event_types import read_event_types
from db.events import count_events
from db.events import list_events as read_event_list
from db.filters import EventFilter
from db.records import CappedCount, EventRecord, EventTypeRecord, Lane, ProfileRecord
from engine.cursors import Cursor, CursorKind
from engine.errors import CursorExpired
from engine.identity import Role, Viewer
from engine.taxonomy import CANONICAL
from resolvers.context import Context
from resolvers.filters import EVENT_ROOTS, EventFilterArguments, check_text, read_event_filter
from resolvers.paging import Counter, Page, PageArguments, Window, check_position, read_window
from resolvers.permissions import require


class ListedEvents(msgspec.Struct, frozen=True):
    """A page of events and what counts the whole list."""

    organization_id: UUID
    page: Page[EventRecord]
    counter: Counter


async def list_events(
    ctx: Context, *, arguments: PageArguments, event_filter: EventFilterArguments | None, newest_first: bool = True
) -> ListedEvents:
    """A page of the project's events. A session sees those that name its own person."""
    viewer = require(ctx, Role.VIEWER, person=event_filter.user_id if event_filter else None)
    wanted = read_event_filter(event_filter, roots=EVENT_ROOTS)
    return await _list(ctx, viewer, arguments, wanted, newest_first)


async def list_timeline(
    ctx: Context, *, profile: ProfileRecord, arguments: PageArguments, event_filter: EventFilterArguments | None
) -> ListedEvents:
    """A page of one person's events, newest first. A filter for another person matches nothing."""
    viewer = require(ctx, Role.VIEWER, person=profile.user_id)
    wanted = read_event_filter(event_filter, roots=EVENT_ROOTS)
    if wanted.user_id not in (None, profile.user_id):
        wanted = msgspec.structs.replace(wanted, keys=())
    wanted = msgspec.structs.replace(wanted, user_id=profile.user_id)
    return await _list(ctx, viewer, arguments, wanted, newest_first=True)


async def profile_of(ctx: Context, *, project_id: UUID, user_id: str | None) -> ProfileRecord | None:
    """The person whom an event names."""
    require(ctx, Role.VIEWER, person=user_id)
    return None if user_id is None else await ctx.loaders.profiles_by_user.load((project_id, user_id))


class EventTypeEntry(msgspec.Struct, frozen=True):
    """A type of event: seen, canonical, or both."""

    event_type: str
    module: str
    seen: EventTypeRecord | None

    @property
    def key(self) -> tuple[str, str]:
        return self.event_type, self.module


async def list_event_types(
    ctx: Context, *, arguments: PageArguments, module: str | None, search: str | None
) -> Page[EventTypeEntry]:
    """The types that the project has seen, and the canonical ones that it has not, by name and module."""
    viewer = require(ctx, Role.VIEWER)
    codec = ctx.services.cursors
    window = read_window(arguments, codec, project_id=viewer.project_id, kind=CursorKind.EVENT_TYPES)
    after = None if window.after is None else (str(window.after.key[0]), str(window.after.key[1]))
    check_text(module, "module")
    check_text(search, "search")
    async with ctx.reading(viewer.project_id) as connection:
        seen = await read_event_type_list(
            connection, project_id=viewer.project_id, limit=window.limit, after=after, module=module, search=search
        )
        canonical = await read_event_types(connection, project_id=viewer.project_id, event_types=list(CANONICAL))
    unseen = _unseen(canonical, after=after, module=module, search=search)
    entries = sorted(
        [*unseen, *(EventTypeEntry(record.event_type, record.module, record) for record in seen.event_types)],
        key=lambda entry: entry.key,
    )
    shown = tuple(entries[: window.limit])
    cursors = tuple(codec.encode(Cursor(CursorKind.EVENT_TYPES, viewer.project_id, 0, entry.key)) for entry in shown)
    return window.page(shown, cursors, has_more=len(entries) > window.limit or seen.has_more)


def _unseen(
    seen: Sequence[EventTypeRecord], *, after: tuple[str, str] | None, module: str | None, search: str | None
) -> list[EventTypeEntry]:
    """The canonical types that nothing was seen of, in the module asked for."""
    known = {record.event_type for record in seen if module is None or record.module == module}
    return [
        EventTypeEntry(each.event_type, each.module, None)
        for each in CANONICAL.values()
        if each.event_type not in known
        and (after is None or (each.event_type, each.module) > after)
        and (module is None or each.module == module)
        and (search is None or search.lower() in each.event_type)
    ]


async def _list(
    ctx: Context, viewer: Viewer, arguments: PageArguments, event_filter: EventFilter, newest_first: bool
) -> ListedEvents:
    project_id = viewer.project_id
    codec = ctx.services.cursors
    window = read_window(arguments, codec, project_id=project_id, kind=CursorKind.EVENTS)
    head = (await ctx.heads(project_id))[Lane.EVENTS]
    after, before = check_position(window.after, head), check_position(window.before, head)
    if not newest_first and after is not None and after + 1 < head.first_seq:
        raise CursorExpired("This cursor is older than the log's retention: read the list from its start.")
    async with ctx.reading(project_id) as connection:
        found = await read_event_list(
            connection,
            project_id=project_id,
            limit=window.limit,
            newest_first=newest_first,
            after=after,
            before=before,
            from_end=window.from_end,
            event_filter=event_filter,
        )
    page = _page(ctx, window, found.events, head.epoch, has_more=found.has_more)
    counter = Counter(lambda: _count(ctx, project_id, event_filter))
    return ListedEvents(viewer.project.organization_id, page, counter)


async def _count(ctx: Context, project_id: UUID, event_filter: EventFilter) -> CappedCount:
    async with ctx.reading(project_id) as connection:
        return await count_events(connection, project_id=project_id, event_filter=event_filter)


def _page(
    ctx: Context, window: Window, events: tuple[EventRecord, ...], epoch: int, *, has_more: bool
) -> Page[EventRecord]:
    cursors = tuple(event_cursor(ctx, project_id=event.project_id, epoch=epoch, seq=event.seq) for event in events)
    return window.page(events, cursors, has_more=has_more)


def event_cursor(ctx: Context, *, project_id: UUID, epoch: int, seq: int) -> str:
    """The position of an event in its project's log."""
    return ctx.services.cursors.encode(Cursor(CursorKind.EVENTS, project_id, epoch, (seq,)))
