"""Definitions of versions, as the runner needs them again and again: read once per process and kept.

A version never changes, so what is kept is never stale. Bounded by `MAX_KEPT`; what was not used for longest goes.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

import msgspec

from db.workflows import read_workflow_versions
from engine.workflows.definition import Definition
from engine.workflows.stored import decode_definition

if TYPE_CHECKING:
    import asyncpg

MAX_KEPT = 1_000
"""As many as a project may have active; some 10 KiB each."""

Version: TypeAlias = tuple[UUID, int]
"""Of a workflow, and which."""

_logger = logging.getLogger(__name__)


class Definitions:
    """Those of one process. Belongs to one event loop."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Version, Definition] = OrderedDict()

    async def read(
        self, connection: asyncpg.Connection, *, project_id: UUID, versions: Iterable[Version]
    ) -> dict[Version, Definition]:
        """Definitions by workflow and version; those that are not there, or cannot be read, are absent."""
        wanted = set(versions)
        found = {each: self._kept[each] for each in wanted if each in self._kept}
        missing = sorted(wanted - found.keys())
        if missing:
            for record in await read_workflow_versions(connection, project_id=project_id, versions=missing):
                definition = _decode(bytes(record.definition), record.workflow_id)
                if definition is not None:
                    found[record.workflow_id, record.version] = definition
        for version, definition in found.items():
            self._kept[version] = definition
            self._kept.move_to_end(version)
        while len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return found


def _decode(text: bytes, workflow_id: UUID) -> Definition | None:
    try:
        return decode_definition(text)
    except msgspec.DecodeError as error:
        names = {"workflow_id": str(workflow_id), "reason": type(error).__name__}
        _logger.warning("workflow.unreadable", extra=names)
        return None
