"""The lanes of the log that can be followed live: all that announcements, the hub and streams have to know of each.

Whatever has a `LaneKind` is followed with the same guarantees (engine.live). What an item looks like to a client is the
root field's to say. Pure values; nothing to stop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar
from uuid import UUID

import msgspec

from db.audience_log import read_audience_change_page
from db.audience_records import EVERY_AUDIENCE, AudienceChangeRecord, AudienceFilter
from db.delivery_filters import EVERY_DELIVERY, DeliveryFilter
from db.delivery_log import read_transition_page
from db.delivery_records import TransitionRecord
from db.events import read_event_page
from db.filters import EVERYTHING, EventFilter
from db.records import EventRecord, HeadRecord, Lane
from db.run_filters import EVERY_RUN, RunFilter
from db.workflow_records import RunUpdateRecord
from db.workflow_run_log import read_run_update_page
from engine.audiences.filters import AUDIENCE_MATCHING
from engine.cursors import CursorKind
from engine.dispatch.filters import DELIVERY_MATCHING
from engine.filter_index import Matching
from engine.filters import EVENT_MATCHING
from engine.workflows.run_filters import RUN_MATCHING

if TYPE_CHECKING:
    import asyncpg

RECORD_OVERHEAD = 400
"""Bytes that a record takes in memory besides its JSON, about."""
RENDERED_COPIES = 3
"""How often an event's JSON is held once it has been rendered, at worst: itself, and escaped in a response."""
TRANSITION_JSON_BYTES = 200
"""A transition as JSON, at least: two UUIDs and two instants."""
UPDATE_BYTES = 4_096
"""A rendered transition with its delivery, or an update with its run, up to which it is kept: see
`LaneKind.rendered_bytes`."""
RUN_UPDATE_JSON_BYTES = 200
"""An update of a run as JSON, at least, besides its step: two UUIDs and two instants."""

AUDIENCE_CHANGE_JSON_BYTES = 250
"""A change of an audience as JSON, at least: two UUIDs, a user id and an instant."""


class LaneRecord(Protocol):
    """An item of any lane."""

    @property
    def project_id(self) -> UUID: ...
    @property
    def seq(self) -> int: ...


R = TypeVar("R")
F = TypeVar("F")
F_contra = TypeVar("F_contra", contravariant=True)


class LanePage(msgspec.Struct, Generic[R], frozen=True):
    """Matching items past a position, oldest first, read in one snapshot together with the head row.

    Every matching item up to and including `reached` is in `items` or was in an earlier page.
    """

    items: tuple[R, ...]
    reached: int
    head: HeadRecord


class ReadPage(Protocol[R, F_contra]):
    """Reads a page, see `LanePage`. Raises `LookupError` for an unknown project."""

    async def __call__(
        self, connection: asyncpg.Connection, *, project_id: UUID, after: int, limit: int, item_filter: F_contra
    ) -> LanePage[R]: ...


class LaneKind(msgspec.Struct, Generic[R, F], frozen=True, eq=False):
    """What makes a lane one that can be followed.

    `cursor` is the kind of its streams' positions. `item` is what announcements carry. `json_bytes` is at least what an
    item takes as JSON, `rendered_bytes` about what it takes in memory together with its rendering; a rendering that was
    waited for (it holds more than the item says) is not kept when it is larger than that.
    """

    lane: Lane
    cursor: CursorKind
    item: type[R]
    everything: F
    matching: Matching[F, R]
    read_page: ReadPage[R, F]
    json_bytes: Callable[[R], int]
    rendered_bytes: Callable[[R], int]

    def record_bytes(self, record: R) -> int:
        """About what a record takes in memory."""
        return RECORD_OVERHEAD + self.json_bytes(record)


async def _read_events(
    connection: asyncpg.Connection, *, project_id: UUID, after: int, limit: int, item_filter: EventFilter
) -> LanePage[EventRecord]:
    page = await read_event_page(connection, project_id=project_id, after=after, limit=limit, event_filter=item_filter)
    return LanePage(page.events, page.reached, page.head)


async def _read_transitions(
    connection: asyncpg.Connection, *, project_id: UUID, after: int, limit: int, item_filter: DeliveryFilter
) -> LanePage[TransitionRecord]:
    page = await read_transition_page(
        connection, project_id=project_id, after=after, limit=limit, delivery_filter=item_filter
    )
    return LanePage(page.transitions, page.reached, page.head)


async def _read_run_updates(
    connection: asyncpg.Connection, *, project_id: UUID, after: int, limit: int, item_filter: RunFilter
) -> LanePage[RunUpdateRecord]:
    page = await read_run_update_page(
        connection, project_id=project_id, after=after, limit=limit, run_filter=item_filter
    )
    return LanePage(page.updates, page.reached, page.head)


async def _read_audience_changes(
    connection: asyncpg.Connection, *, project_id: UUID, after: int, limit: int, item_filter: AudienceFilter
) -> LanePage[AudienceChangeRecord]:
    page = await read_audience_change_page(
        connection, project_id=project_id, after=after, limit=limit, audience_filter=item_filter
    )
    return LanePage(page.changes, page.reached, page.head)


def _event_json_bytes(event: EventRecord) -> int:
    return len(event.properties) + len(event.context)


def _run_update_json_bytes(update: RunUpdateRecord) -> int:
    return RUN_UPDATE_JSON_BYTES + len(update.step)


EVENTS: LaneKind[EventRecord, EventFilter] = LaneKind(
    lane=Lane.EVENTS,
    cursor=CursorKind.EVENTS,
    item=EventRecord,
    everything=EVERYTHING,
    matching=EVENT_MATCHING,
    read_page=_read_events,
    json_bytes=_event_json_bytes,
    rendered_bytes=lambda event: RECORD_OVERHEAD + RENDERED_COPIES * _event_json_bytes(event),
)
DELIVERIES: LaneKind[TransitionRecord, DeliveryFilter] = LaneKind(
    lane=Lane.DELIVERIES,
    cursor=CursorKind.DELIVERIES,
    item=TransitionRecord,
    everything=EVERY_DELIVERY,
    matching=DELIVERY_MATCHING,
    read_page=_read_transitions,
    json_bytes=lambda _transition: TRANSITION_JSON_BYTES,
    rendered_bytes=lambda _transition: RECORD_OVERHEAD + TRANSITION_JSON_BYTES + UPDATE_BYTES,
)
RUNS: LaneKind[RunUpdateRecord, RunFilter] = LaneKind(
    lane=Lane.RUNS,
    cursor=CursorKind.RUNS,
    item=RunUpdateRecord,
    everything=EVERY_RUN,
    matching=RUN_MATCHING,
    read_page=_read_run_updates,
    json_bytes=_run_update_json_bytes,
    rendered_bytes=lambda update: RECORD_OVERHEAD + RENDERED_COPIES * _run_update_json_bytes(update) + UPDATE_BYTES,
)
AUDIENCES: LaneKind[AudienceChangeRecord, AudienceFilter] = LaneKind(
    lane=Lane.AUDIENCES,
    cursor=CursorKind.AUDIENCES,
    item=AudienceChangeRecord,
    everything=EVERY_AUDIENCE,
    matching=AUDIENCE_MATCHING,
    read_page=_read_audience_changes,
    json_bytes=lambda _change: AUDIENCE_CHANGE_JSON_BYTES,
    rendered_bytes=lambda _change: RECORD_OVERHEAD + AUDIENCE_CHANGE_JSON_BYTES + UPDATE_BYTES,
)

LANE_KINDS: Mapping[Lane, LaneKind[Any, Any]] = MappingProxyType(
    {kind.lane: kind for kind in (EVENTS, DELIVERIES, RUNS, AUDIENCES)}
)
