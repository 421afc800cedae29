"""Look-ups by key, batched within one operation: each list below costs one statement, however many rows ask.

Every key starts with the project, so that no loader can reach into another one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar
from uuid import UUID

from strawberry.dataloader import DataLoader

from db.api_keys import read_api_keys
from db.database import Database
from db.deliveries import read_attempts, read_deliveries
from db.delivery_records import AttemptRecord, DeliveryRecord
from db.events import read_events_by_seq
from db.profiles import read_profiles, read_profiles_by_user
from db.providers import ProviderRecord, read_providers
from db.records import ApiKeyRecord, EventRecord, ProfileRecord

K = TypeVar("K")
R = TypeVar("R")


class _ByProject(Generic[K, R]):
    """Loads what is found under (project, key) with one statement per project."""

    def __init__(
        self, database: Database, read: Callable[[Any, UUID, list[K]], Awaitable[list[R]]], key_of: Callable[[R], K]
    ) -> None:
        self._database = database
        self._read = read
        self._key_of = key_of

    async def __call__(self, keys: list[tuple[UUID, K]]) -> Sequence[R | None]:
        wanted: defaultdict[UUID, list[K]] = defaultdict(list)
        for project_id, key in keys:
            wanted[project_id].append(key)
        found: dict[tuple[UUID, K], R] = {}
        async with self._database.connection() as connection:
            for project_id, of_project in wanted.items():
                records = await self._read(connection, project_id, of_project)
                found.update({(project_id, self._key_of(record)): record for record in records})
        return [found.get(key) for key in keys]


class _AttemptsByDelivery:
    """Loads all attempts of deliveries with one statement per project; none is an empty tuple."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def __call__(self, keys: list[tuple[UUID, UUID]]) -> list[tuple[AttemptRecord, ...]]:
        wanted: defaultdict[UUID, list[UUID]] = defaultdict(list)
        for project_id, delivery_id in keys:
            wanted[project_id].append(delivery_id)
        found: defaultdict[tuple[UUID, UUID], list[AttemptRecord]] = defaultdict(list)
        async with self._database.connection() as connection:
            for project_id, of_project in wanted.items():
                for record in await read_attempts(connection, project_id=project_id, delivery_ids=of_project):
                    found[project_id, record.delivery_id].append(record)
        return [tuple(found[key]) for key in keys]


class Loaders:
    """One per operation. A missing row is None."""

    def __init__(self, database: Database) -> None:
        self.profiles_by_user: DataLoader[tuple[UUID, str], ProfileRecord | None] = DataLoader(
            _ByProject(
                database,
                lambda connection, project_id, keys: read_profiles_by_user(
                    connection, project_id=project_id, user_ids=keys
                ),
                lambda record: record.user_id,
            )
        )
        self.profiles: DataLoader[tuple[UUID, UUID], ProfileRecord | None] = DataLoader(
            _ByProject(
                database,
                lambda connection, project_id, keys: read_profiles(connection, project_id=project_id, profile_ids=keys),
                lambda record: record.profile_id,
            )
        )
        self.events: DataLoader[tuple[UUID, int], EventRecord | None] = DataLoader(
            _ByProject(
                database,
                lambda connection, project_id, keys: read_events_by_seq(connection, project_id=project_id, seqs=keys),
                lambda record: record.seq,
            )
        )
        self.api_keys: DataLoader[tuple[UUID, UUID], ApiKeyRecord | None] = DataLoader(
            _ByProject(
                database,
                lambda connection, project_id, keys: read_api_keys(connection, project_id=project_id, api_key_ids=keys),
                lambda record: record.api_key_id,
            )
        )
        self.deliveries: DataLoader[tuple[UUID, UUID], DeliveryRecord | None] = DataLoader(
            _ByProject(
                database,
                lambda connection, project_id, keys: read_deliveries(
                    connection, project_id=project_id, delivery_ids=keys
                ),
                lambda record: record.delivery_id,
            )
        )
        self.attempts: DataLoader[tuple[UUID, UUID], tuple[AttemptRecord, ...]] = DataLoader(
            _AttemptsByDelivery(database)
        )
        self.providers: DataLoader[tuple[UUID, UUID], ProviderRecord | None] = DataLoader(
            _ByProject(
                database,
                lambda connection, project_id, keys: read_providers(
                    connection, project_id=project_id, provider_ids=keys
                ),
                lambda record: record.provider_id,
            )
        )
