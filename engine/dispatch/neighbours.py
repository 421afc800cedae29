"""Which projects had little to send lately: what is theirs should not wait behind a backlog of others.

A round of claims keeps the worker and the database busy for as long as it is large, and whatever comes meanwhile waits
for that. So a project with a backlog takes smaller rounds while others send a little now and then; alone, or among
other backlogs, it takes the large ones, which cost less per delivery. Measured in benchmarks/webhooks.py.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

NEIGHBOUR_SECONDS = 1.0
"""For how long whoever sent a little is reckoned with: people and steps come in flocks."""
ROUND_BESIDE_OTHERS = 16
"""Deliveries in one round then: a third of the time of a round of 64, at two thirds of its deliveries a second."""


class Neighbours:
    """Belongs to one event loop. `monotonic` is in seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._seen: dict[UUID, float] = {}

    def sent_little(self, project_id: UUID) -> None:
        """A round found something for a project, and nothing was left."""
        now = self._monotonic()
        self._seen.pop(project_id, None)
        self._seen[project_id] = now
        while self._seen[oldest := next(iter(self._seen))] < now - NEIGHBOUR_SECONDS:
            del self._seen[oldest]

    def round_limit(self, project_id: UUID, limit: int) -> int:
        """How many deliveries of a project may be claimed at once, at most `limit`."""
        since = self._monotonic() - NEIGHBOUR_SECONDS
        latest = next((at for other, at in reversed(self._seen.items()) if other != project_id), None)
        return limit if latest is None or latest < since else min(limit, ROUND_BESIDE_OTHERS)
