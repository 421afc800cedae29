"""Giving out everything that is kept of a person, page by page.

Guarantees: every record of every table that holds people (`engine.erasure.registry`) is given once, on whatever page;
what was there when the first page was read and stayed is in the export. A page has as many records as were asked for,
or fewer where they are large. Of somebody who was erased, or was never there, there is nothing.
Leaves to others: who may ask, and signing positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from db.erasure import read_heir
from db.personal_records import SOURCES, PersonalRecord, PersonIds, Source, read_personal_records
from db.profiles import read_profiles_by_user
from db.records import ProjectRecord
from engine.erasure.persons import know_person
from engine.errors import BadUserInput

if TYPE_CHECKING:
    import asyncpg

MAX_PAGE = 1_000
"""Records in a page."""
MAX_PAGE_BYTES = 4 * 1024 * 1024
"""Of a page, beyond which it ends: one record may have 64 KiB and more."""
READ_AT_ONCE = 200
"""Records that one statement reads: so that a page of large ones reads few in vain."""
TAKEN_OVER = "This user was taken over by another one: ask for that one, whose records hold all that was this one's."
_KINDS = {source.kind: place for place, source in enumerate(SOURCES)}


class ExportPosition(msgspec.Struct, frozen=True):
    """Behind which record to go on."""

    kind: str
    key: tuple[str, ...]


class ExportPage(msgspec.Struct, frozen=True):
    """JSON lines, each ended, `count` of them; `end` is where the last one stands, if there is one."""

    lines: str
    count: int
    end: ExportPosition | None
    has_next: bool


async def export_person(
    connection: asyncpg.Connection,
    project: ProjectRecord,
    user_id: str,
    *,
    after: ExportPosition | None,
    first: int,
) -> ExportPage:
    """One page of what is kept of somebody. Raises `BadUserInput` for a user whom another one took over."""
    if await read_heir(connection, project_id=project.project_id, user_id=user_id) is not None:
        raise BadUserInput(TAKEN_OVER)

    async def read(user_ids: Sequence[str]) -> list[msgspec.Raw]:
        profiles = await read_profiles_by_user(connection, project_id=project.project_id, user_ids=user_ids)
        return [each.traits for each in profiles]

    person = await know_person(connection, project, user_id, read)
    page = _Page(first)
    for source in SOURCES[0 if after is None else _KINDS[after.kind] :]:
        key = after.key if after is not None and after.kind == source.kind else None
        await _fill(connection, page, source, person, key)
        if page.is_full:
            break
    return ExportPage("".join(page.lines), len(page.lines), page.end, has_next=page.is_full)


def is_position(kind: str, key: Sequence[object]) -> bool:
    """Whether a cursor stands where an export can be gone on with. Pure."""
    return kind in _KINDS and len(key) == len(SOURCES[_KINDS[kind]].keys)


class _Page:
    """What was found so far. One record more than fits says that there are more."""

    def __init__(self, limit: int) -> None:
        self.lines: list[str] = []
        self.end: ExportPosition | None = None
        self.is_full = False
        self._limit = limit
        self._bytes = 0

    @property
    def room(self) -> int:
        """Records to read: those that may fit, and one more."""
        return min(READ_AT_ONCE, self._limit - len(self.lines) + 1)

    def add(self, source: Source, found: PersonalRecord) -> None:
        """The next record, unless the page is full."""
        line = f'{{"kind":"{source.kind}","record":{bytes(found.record).decode()}}}\n'
        if len(self.lines) == self._limit or (self.lines and self._bytes + len(line) > MAX_PAGE_BYTES):
            self.is_full = True
            return
        self.lines.append(line)
        self._bytes += len(line)
        self.end = ExportPosition(source.kind, found.key)


async def _fill(
    connection: asyncpg.Connection, page: _Page, source: Source, person: PersonIds, after: tuple[str, ...] | None
) -> None:
    """Add what a source has behind a key, as far as it fits."""
    while not page.is_full:
        limit = page.room
        found = await read_personal_records(connection, source, person, after=after, limit=limit)
        for each in found:
            if not page.is_full:
                page.add(source, each)
                after = each.key
        if len(found) < limit:
            return
