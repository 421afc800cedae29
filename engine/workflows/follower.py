"""What starts workflows: a follower of the log turns a page of events into runs.

Guarantees: every active workflow begins one run for each event past the place where the log stood when it was switched
on, that its trigger matches (`conditions.trigger_matches`) and for whom it may (`engine.workflows.starting`), in the
order of the log; on the version that was the newest when the page was read. An event costs its candidates, and a page
without any reads one row. What is more than one step too deep starts nothing, which the log of the worker says.
Leaves to others: exactly once, which comes from the follower's position (engine/workers/followers.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from db.profiles import share_profiles
from db.records import EventRecord
from db.workflow_records import WorkflowStanding
from db.workflows import share_workflows
from engine.dispatch.ledger import MAX_DEPTH
from engine.webhooks.follower import depth_of
from engine.workers.followers import NOTHING, Reacted, TakeLess
from engine.workflows.definitions import Definitions
from engine.workflows.matching import EventTrigger, TriggerCache, TriggerIndex
from engine.workflows.starting import Entrant, admit, start_runs

if TYPE_CHECKING:
    import asyncpg

PAGE_EVENTS = 500
"""Of one transaction: most events start nothing, and of those that start much it takes less. At most 32 MiB of them."""
MAX_ENTRANTS = 1_000
"""Of one transaction, unless one event alone has more."""

_logger = logging.getLogger(__name__)


class Triggers:
    """The reaction to events, with what one process remembers of triggers and definitions."""

    def __init__(self, indexes: TriggerCache, definitions: Definitions) -> None:
        self._indexes = indexes
        self._definitions = definitions

    async def follow(
        self, connection: asyncpg.Connection, *, project_id: UUID, items: Sequence[EventRecord], now: datetime
    ) -> Reacted:
        """Begin the runs that follow from a page of events, in their order. `now` is business time."""
        index = await self._indexes.read(connection, project_id=project_id)
        entrants = await _entrants(index, items)
        if not entrants:
            return NOTHING
        present = await _share_people(connection, project_id, entrants)
        entrants = [each for each in entrants if each.user_id is None or each.user_id in present]
        standings = await share_workflows(
            connection, project_id=project_id, workflow_ids=sorted({each.workflow_id for each in entrants})
        )
        entrants = [each for each in entrants if _may_start(standings.get(each.workflow_id), each)]
        entrants = await admit(connection, project_id=project_id, entrants=entrants, now=now)
        definitions = await self._definitions.read(
            connection, project_id=project_id, versions=((each.workflow_id, each.version) for each in entrants)
        )
        return await start_runs(
            connection,
            project_id=project_id,
            entrants=entrants,
            standings=standings,
            definitions=definitions,
            now=now,
        )


async def _entrants(index: TriggerIndex, events: Sequence[EventRecord]) -> list[Entrant]:
    """Who may enter what because of which event. Raises `TakeLess` where that would be too many at once.

    Lets others have their turn between events: one may be put to thousands of filters.
    """
    entrants: list[Entrant] = []
    for number, event in enumerate(events):
        await asyncio.sleep(0)
        found = index.candidates(event)
        if not found or not _starts_anything(event):
            continue
        if entrants and len(entrants) + len(found) > MAX_ENTRANTS:
            raise TakeLess(number)
        entrants += (_entrant(each, event) for each in found)
    return entrants


def _entrant(trigger: EventTrigger, event: EventRecord) -> Entrant:
    return Entrant(
        workflow_id=trigger.workflow_id,
        version=trigger.version,
        reentry=trigger.trigger.reentry,
        tests=trigger.tests,
        user_id=event.user_id,
        audience_id=trigger.trigger.audience_id,
        event=event,
    )


def _starts_anything(event: EventRecord) -> bool:
    """A run that is one too deep has failed, and is the last: what it says of itself starts nothing."""
    if depth_of(event) <= MAX_DEPTH + 1:
        return True
    _logger.info("workflow.too_deep", extra={"project_id": str(event.project_id), "seq": event.seq})
    return False


def _may_start(standing: WorkflowStanding | None, entrant: Entrant) -> bool:
    """Asked of the workflow as it is under its lock: it may have been switched off since it was matched."""
    if standing is None or entrant.event is None or standing.deleted_at is not None:
        return False
    return standing.is_active and entrant.event.seq > standing.after_seq


async def _share_people(connection: asyncpg.Connection, project_id: UUID, entrants: Iterable[Entrant]) -> set[str]:
    """Lock whoever is named. Who has no profile by now was erased."""
    people = sorted({each.user_id for each in entrants if each.user_id is not None})
    return await share_profiles(connection, project_id=project_id, user_ids=people) if people else set()
