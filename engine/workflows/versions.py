"""What versions of workflows say, kept in memory once read: a version never changes.

Guarantees: bounded by the size of what is kept, the versions used last. Belongs to one event loop.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING
from uuid import UUID

from db.workflows import read_workflow_versions
from engine.workflows.definition import Definition
from engine.workflows.stored import decode_definition

if TYPE_CHECKING:
    import asyncpg

MAX_CACHED_BYTES = 16 * 1024 * 1024
"""As JSON; values take several times as much."""
VERSION_BYTES = 1_000
"""What a version takes besides its text, about."""

Version = tuple[UUID, int]
"""A workflow, and the number of one of its versions."""


class VersionCache:
    """Definitions by project, workflow and number, for one process."""

    def __init__(self, *, max_bytes: int = MAX_CACHED_BYTES) -> None:
        self._max_bytes = max_bytes
        self._size = 0
        self._held: OrderedDict[tuple[UUID, Version], tuple[Definition, int]] = OrderedDict()

    async def read(
        self, connection: asyncpg.Connection, *, project_id: UUID, versions: Iterable[Version]
    ) -> dict[Version, Definition]:
        """Definitions by workflow and number; unknown ones are absent. Asks nothing when all are held."""
        wanted = set(versions)
        found: dict[Version, Definition] = {}
        for version in wanted:
            held = self._held.get((project_id, version))
            if held is not None:
                self._held.move_to_end((project_id, version))
                found[version] = held[0]
        absent = [version for version in wanted if version not in found]
        if absent:
            for row in await read_workflow_versions(connection, project_id=project_id, versions=absent):
                definition = decode_definition(bytes(row.definition))
                version = (row.workflow_id, row.version)
                found[version] = definition
                self._keep((project_id, version), definition, VERSION_BYTES + len(row.definition))
        return found

    def _keep(self, key: tuple[UUID, Version], definition: Definition, size: int) -> None:
        if key in self._held:
            return
        self._held[key] = (definition, size)
        self._size += size
        while self._size > self._max_bytes:
            self._size -= self._held.popitem(last=False)[1][1]
