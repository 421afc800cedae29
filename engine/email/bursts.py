"""How much mail leaves at once: limits per project, and lower ones for new domains, kept by counting in the database.

Guarantees: a place in a window is counted in the transaction that commits SENDING, so that no number of workers
overshoots. What finds no place is put off to the first later window that is not full of others that were put off
before: each mail waits once, or a few times, however long the queue is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from db.send_counters import find_last_window, reserve_sends
from engine.channels.base import Postpone
from engine.email.policy import WINDOW, BurstLimits, rate_limited, window_of

if TYPE_CHECKING:
    import asyncpg

MAX_WINDOWS_AHEAD = 24 * 60
"""A day: further ahead nothing is planned, and looked at again then."""


class Bursts:
    """The limits of a deployment."""

    def __init__(self, limits: BurstLimits) -> None:
        self._limits = limits

    async def reserve(
        self,
        connection: asyncpg.Connection,
        *,
        project_id: UUID,
        wanted: Mapping[UUID, str],
        new_domains: Collection[str],
        now: datetime,
    ) -> dict[UUID, Postpone]:
        """Find places for deliveries, given with their senders' domains; returns those that have to wait."""
        by_domain: defaultdict[str, list[UUID]] = defaultdict(list)
        for delivery_id, domain in wanted.items():
            by_domain[domain].append(delivery_id)
        late: dict[UUID, Postpone] = {}
        # One order for all workers: counters are locks.
        for domain in sorted(set(by_domain) & set(new_domains)):
            limit, scope = self._limits.per_new_domain, f"email:{domain}"
            held = by_domain[domain]
            granted = await _take(connection, project_id, scope, now, len(held), limit)
            late |= await _put_off(connection, project_id, scope, now, held[granted:], limit)
            del held[granted:]
        kept = [each for domain in sorted(by_domain) for each in by_domain[domain]]
        if kept:
            limit = self._limits.per_project
            granted = await _take(connection, project_id, "email", now, len(kept), limit)
            late |= await _put_off(connection, project_id, "email", now, kept[granted:], limit)
        return late


async def _take(
    connection: asyncpg.Connection, project_id: UUID, scope: str, now: datetime, wanted: int, limit: int
) -> int:
    return await reserve_sends(
        connection, project_id=project_id, scope=scope, window_start=window_of(now), wanted=wanted, limit=limit
    )


async def _put_off(
    connection: asyncpg.Connection,
    project_id: UUID,
    scope: str,
    now: datetime,
    deliveries: Sequence[UUID],
    limit: int,
) -> dict[UUID, Postpone]:
    """To the last window that others wait for, and then to the ones after it."""
    if not deliveries:
        return {}
    waiting = f"{scope}:waiting"
    first, last = window_of(now) + WINDOW, window_of(now) + MAX_WINDOWS_AHEAD * WINDOW
    found = await find_last_window(connection, project_id=project_id, scope=waiting)
    window = first if found is None else min(max(found, first), last)
    late: dict[UUID, Postpone] = {}
    left = list(deliveries)
    while left:
        granted = await reserve_sends(
            connection, project_id=project_id, scope=waiting, window_start=window, wanted=len(left), limit=limit
        )
        if window >= last:
            granted = len(left)
        for delivery_id in left[:granted]:
            late[delivery_id] = Postpone(until=window, error=rate_limited(limit))
        del left[:granted]
        window += WINDOW
    return late
