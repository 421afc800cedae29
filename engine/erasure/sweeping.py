"""Removing everything that is theirs: one sweep over every table that holds a person, see `engine.erasure.registry`.

Guarantees: a sweep removes what was committed before it came to a table, in the order of locks, and leaves a tombstone
for whatever it takes from a lane. One that is made again under the heads of all lanes (`remove_late`) finds what came
in between and nothing else: it costs some milliseconds, however much there was. Bounded: no statement takes more than
`CHUNK` rows of what a person may have any number of, so none comes near a time-out.
Leaves to others: locking the person's profile before, removing it after, and committing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

import msgspec

from db.audit_entries import erase_person_of_audit_entries
from db.erasure import (
    blank_sends_in_progress,
    find_events,
    find_late_events,
    hash_suppressions,
    lock_all,
    lock_late,
    lock_push_tokens,
    lock_sessions,
    lock_some,
    remove_batches,
    remove_by_id,
    remove_deliveries,
    remove_events,
    remove_failures,
    remove_memberships,
    remove_of_users,
)
from db.personal_records import PersonIds
from db.records import Lane

if TYPE_CHECKING:
    import asyncpg

CHUNK = 2_000
"""Rows of one kind that one statement removes: some tenths of a second at worst."""

_FIRST = UUID(int=0)

T = TypeVar("T")


class Sweep:
    """What is removed of one person in one transaction. `counts` are rows by table, `ended` sessions that were open."""

    def __init__(self, connection: asyncpg.Connection, person: PersonIds) -> None:
        self.counts: Counter[str] = Counter()
        self.ended: list[UUID] = []
        self._connection = connection
        self._person = person
        self._project_id = person.project_id
        self._user_ids = person.user_ids
        self._late_devices: list[str] = []

    async def remove(self) -> None:
        """Remove what there is."""
        await self._remove(None)

    async def remove_late(self, devices: Iterable[str], *, since: Mapping[Lane, int]) -> None:
        """Again, under the heads: what the lanes got after these positions, and all of `devices` that became theirs."""
        known = self._person.anonymous_ids
        self._late_devices = sorted(frozenset(devices).difference(known))
        self._person = msgspec.structs.replace(self._person, anonymous_ids=(*known, *self._late_devices))
        await self._remove(since)

    async def _remove(self, since: Mapping[Lane, int] | None) -> None:
        await self._remove_identity()
        await self._remove_progress()
        seqs = await self._remove_events(since)
        run_ids = await self._remove_runs(seqs, since)
        await self._remove_deliveries(seqs, run_ids, since)
        await self._remove_devices()
        self.counts.update(
            await remove_memberships(self._connection, project_id=self._project_id, user_ids=self._user_ids)
        )
        await self._remove_of_users("remove_links", "identity_links")
        for user_id in self._user_ids:
            self.counts["audit_entries"] += await erase_person_of_audit_entries(
                self._connection, project_id=self._project_id, user_id=user_id
            )
        self.counts["suppressions"] += await hash_suppressions(
            self._connection, project_id=self._project_id, addresses=self._person.addresses
        )

    async def remove_profiles(self) -> None:
        """The last of them: as long as it is there, its lock keeps the others away."""
        await self._remove_of_users("remove_profiles", "profiles")

    async def _remove_identity(self) -> None:
        """Accounts, sessions and consents."""
        connection, project_id, user_ids = self._connection, self._project_id, self._user_ids
        await self._remove_of_users("remove_users", "users")
        self.counts["sign_in_failures"] += await remove_failures(
            connection, project_id=project_id, subjects=self._person.accounts
        )
        sessions = await lock_sessions(connection, project_id=project_id, user_ids=user_ids)
        self.ended += [each.session_id for each in sessions if each.is_open]
        await self._remove_by_id("remove_sessions", [each.session_id for each in sessions])
        await self._remove_of_users("remove_consents", "consents")
        await self._remove_of_users("blank_consent_changes", "consent_changes")

    async def _remove_progress(self) -> None:
        """Where work that goes on page by page stands at the person, it stands at whoever comes before them."""
        await self._remove_of_users("move_marks_of_audiences", None)
        await self._remove_of_users("move_marks_of_workflows", None)
        await blank_sends_in_progress(
            self._connection,
            project_id=self._project_id,
            user_ids=self._user_ids,
            addresses=self._person.addresses,
        )
        await self._remove_of_users("remove_replays", "send_batches")

    async def _remove_events(self, since: Mapping[Lane, int] | None) -> list[int]:
        """Where they stood."""
        connection, project_id = self._connection, self._project_id
        removed: list[int] = []
        if since is None:
            for user_id in self._user_ids:
                removed += await self._remove_events_of("find_events_of_user", user_id)
            for device in self._person.anonymous_ids:
                removed += await self._remove_events_of("find_events_of_device", device)
            return removed
        for device in self._late_devices:
            removed += await self._remove_events_of("find_events_of_device", device)
        late = await find_late_events(
            connection,
            project_id=project_id,
            user_ids=self._user_ids,
            anonymous_ids=self._person.anonymous_ids,
            since=since[Lane.EVENTS],
        )
        self.counts["events"] += await remove_events(connection, project_id=project_id, seqs=late)
        return removed + late

    async def _remove_events_of(self, statement: str, value: str) -> list[int]:
        removed: list[int] = []
        while seqs := await find_events(
            self._connection,
            statement,
            project_id=self._project_id,
            value=value,
            after=removed[-1] if removed else 0,
            limit=CHUNK,
        ):
            self.counts["events"] += await remove_events(self._connection, project_id=self._project_id, seqs=seqs)
            removed += seqs
        return removed

    async def _remove_runs(self, seqs: Sequence[int], since: Mapping[Lane, int] | None) -> list[UUID]:
        """Runs for the person, and those for nobody that their events started; gives which."""
        removed: list[UUID] = []

        async def remove(run_ids: Sequence[UUID]) -> None:
            await self._remove_by_id("remove_runs", run_ids)
            removed.extend(run_ids)

        await self._remove_some("lock_runs_of_people", self._user_ids, remove)
        await self._remove_following("lock_runs_of_events", seqs, remove)
        if since is not None:
            await self._remove_late("lock_late_runs", since[Lane.RUNS], remove)
        return removed

    async def _remove_deliveries(
        self, seqs: Sequence[int], run_ids: Sequence[UUID], since: Mapping[Lane, int] | None
    ) -> None:
        """Deliveries to the person and to their addresses, those of their runs, and webhooks about their events."""
        batch_ids: set[UUID] = set()

        async def remove(delivery_ids: Sequence[UUID]) -> None:
            removed = await remove_deliveries(self._connection, project_id=self._project_id, delivery_ids=delivery_ids)
            self.counts.update(removed.counts)
            batch_ids.update(removed.batch_ids)

        await self._remove_some("lock_deliveries_of_people", self._user_ids, remove)
        await self._remove_some("lock_deliveries_to_addresses", self._person.addresses, remove)
        await self._remove_following("lock_deliveries_of_runs", run_ids, remove)
        await self._remove_following("lock_deliveries_of_events", seqs, remove)
        if since is not None:
            await self._remove_late("lock_late_deliveries", since[Lane.DELIVERIES], remove)
        values = (*self._user_ids, *self._person.anonymous_ids, *self._person.addresses)
        for some in _chunks(sorted(batch_ids)):
            self.counts["send_batches"] += await remove_batches(
                self._connection, project_id=self._project_id, batch_ids=some, values=values
            )

    async def _remove_some(
        self, statement: str, values: Sequence[str], remove: Callable[[Sequence[UUID]], Awaitable[None]]
    ) -> None:
        """As long as any are found, of each value."""
        for value in values:
            after = _FIRST
            while ids := await lock_some(
                self._connection, statement, project_id=self._project_id, value=value, after=after, limit=CHUNK
            ):
                await remove(ids)
                after = ids[-1]

    async def _remove_following(
        self,
        statement: str,
        causes: Sequence[int] | Sequence[UUID],
        remove: Callable[[Sequence[UUID]], Awaitable[None]],
    ) -> None:
        """What follows from events or runs."""
        for some in _chunks(causes):
            for ids in _chunks(await lock_all(self._connection, statement, project_id=self._project_id, values=some)):
                await remove(ids)

    async def _remove_late(
        self, statement: str, since: int, remove: Callable[[Sequence[UUID]], Awaitable[None]]
    ) -> None:
        ids = await lock_late(self._connection, statement, project_id=self._project_id, since=since)
        if ids:
            await remove(ids)

    async def _remove_devices(self) -> None:
        """After deliveries, other than elsewhere: whoever settles one holds it, and then writes to devices."""
        tokens = await lock_push_tokens(self._connection, project_id=self._project_id, user_ids=self._user_ids)
        await self._remove_by_id("remove_push_tokens", tokens)
        await self._remove_of_users("remove_reservations", "push_reservations")

    async def _remove_by_id(self, statement: str, ids: Sequence[UUID]) -> None:
        if ids:
            self.counts.update(await remove_by_id(self._connection, statement, project_id=self._project_id, ids=ids))

    async def _remove_of_users(self, statement: str, kind: str | None) -> None:
        """Counted as `kind`; what only moves a mark is not counted."""
        changed = await remove_of_users(
            self._connection, statement, project_id=self._project_id, user_ids=self._user_ids
        )
        if kind is not None:
            self.counts[kind] += changed


def _chunks(values: Sequence[T]) -> Iterator[list[T]]:
    source = iter(values)
    while chunk := list(islice(source, CHUNK)):
        yield chunk
