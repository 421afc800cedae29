"""Look-ups by key: what is asked for at the same time costs one statement per table and project, whoever asks.

`Lookups` lives as long as the process and gathers what all operations and all items of streams ask for. `Loaders` lives
for one operation, or one item, and remembers what was found: the same row is the same throughout.

An answer is never older than its question. Every key starts with the project, so that no loader can reach into another
one.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from itertools import islice
from typing import Any, Generic, TypeAlias, TypeVar
from uuid import UUID

from db.api_keys import read_api_keys
from db.audiences import AudienceRecord, read_audiences, read_audiences_ever, read_audiences_of_people
from db.audit_entries import AuditEntryRecord, read_audit_entries
from db.boards import BoardRecord, read_boards
from db.consent_changes import ConsentChangeRecord, read_consent_changes
from db.consents import ConsentRecord, read_consents_of_people
from db.database import Database
from db.deliveries import read_attempts, read_deliveries
from db.delivery_records import AttemptRecord, DeliveryRecord
from db.events import read_events_by_seq
from db.inbound_endpoints import InboundEndpointRecord, read_inbound_endpoints
from db.insights import InsightRecord, read_insights
from db.profiles import read_profiles, read_profiles_by_user
from db.providers import ProviderRecord, read_providers
from db.push_tokens import PushTokenRecord, read_push_tokens, read_tokens_by_user
from db.records import ApiKeyRecord, EventRecord, ProfileRecord
from db.sender_domains import SenderDomainRecord, read_sender_domains
from db.templates import TemplateRecord, read_templates
from db.webhook_endpoints import WebhookEndpointRecord, read_webhook_endpoints
from db.workflow_records import RunRecord, RunStepRecord, WorkflowRecord
from db.workflow_run_lists import RunDelivery, read_first_deliveries, read_run_deliveries
from db.workflow_runs import read_run_steps, read_runs
from db.workflow_stats import OutcomeCount, RunCount, count_outcomes, count_runs_by_status
from db.workflows import read_workflow_versions, read_workflows
from engine.reading import Readers
from engine.workflows.definition import Definition
from engine.workflows.stored import decode_definition

MAX_KEYS = 500
"""In one statement: its rows may be large, and others wait behind it."""
MAX_TRACES = 50
"""In one statement: each may have a thousand steps."""
RUN_DELIVERIES = 100
"""Of one run, shown with it."""
MAX_COUNTED = 20
"""Workflows whose runs one statement counts."""

K = TypeVar("K")
R = TypeVar("R")
V = TypeVar("V")

_Askers: TypeAlias = dict[K, list[asyncio.Future[V]]]


class Lookup(Generic[K, V]):
    """Finds values under (project, key). One statement at a time per project; who comes meanwhile goes into the next.

    So a burst of questions costs a few statements and one connection, and a lone question waits for nothing.
    """

    def __init__(
        self,
        connect: Callable[[UUID], AbstractAsyncContextManager[Any]],
        read: Callable[[Any, UUID, list[K]], Awaitable[Mapping[K, V]]],
        *,
        missing: V,
        most: int = MAX_KEYS,
    ) -> None:
        """`connect` gives a connection for a project, `most` is how many keys one statement takes."""
        self._connect = connect
        self._read = read
        self._missing = missing
        self._most = most
        self._waiting: dict[UUID, _Askers[K, V]] = {}
        self._reading: dict[UUID, asyncio.Task[None]] = {}

    def ask(self, project_id: UUID, key: K) -> asyncio.Future[V]:
        """The value, as the database has it after this call; raises what the database raises."""
        answer: asyncio.Future[V] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(project_id, {}).setdefault(key, []).append(answer)
        if project_id not in self._reading:
            # It begins in the next turn of the loop: whoever asks in this one is in.
            self._reading[project_id] = asyncio.create_task(self._read_on(project_id), name="lookup")
        return answer

    async def _read_on(self, project_id: UUID) -> None:
        try:
            while waiting := self._waiting.pop(project_id, None):
                taken = dict(islice(waiting.items(), self._most))
                rest = dict(islice(waiting.items(), self._most, None))
                if rest:
                    self._waiting[project_id] = rest
                await self._answer(project_id, taken)
        finally:
            del self._reading[project_id]

    async def _answer(self, project_id: UUID, askers: _Askers[K, V]) -> None:
        wanted = {key: answers for key, answers in askers.items() if not all(each.done() for each in answers)}
        if not wanted:
            return
        try:
            async with self._connect(project_id) as connection:
                found = await self._read(connection, project_id, list(wanted))
        except Exception as error:
            for answer in _open(wanted):
                answer.set_exception(error)
        except BaseException:
            for answer in _open(wanted):
                answer.cancel()
            raise
        else:
            for key, answers in wanted.items():
                value = found.get(key, self._missing)
                for answer in answers:
                    if not answer.done():
                        answer.set_result(value)


def _open(askers: _Askers[K, V]) -> list[asyncio.Future[V]]:
    return [answer for answers in askers.values() for answer in answers if not answer.done()]


class Loader(Generic[K, V]):
    """What one operation has asked one `Lookup` for."""

    __slots__ = ("_answers", "_lookup")

    def __init__(self, lookup: Lookup[K, V]) -> None:
        self._lookup = lookup
        self._answers: dict[tuple[UUID, K], asyncio.Future[V]] = {}

    def load(self, key: tuple[UUID, K]) -> asyncio.Future[V]:
        """What is found under (project, key); asked for once."""
        answer = self._answers.get(key)
        if answer is None or answer.cancelled():
            answer = self._answers[key] = self._lookup.ask(*key)
        return answer

    async def load_many(self, keys: Iterable[tuple[UUID, K]]) -> list[V]:
        """The same for several, in their order."""
        return await asyncio.gather(*map(self.load, keys))


def _rows(
    database: Database, read: Callable[[Any, UUID, list[K]], Awaitable[list[R]]], key_of: Callable[[R], K]
) -> Lookup[K, R | None]:
    """One row per key. A missing one is None."""

    async def by_key(connection: Any, project_id: UUID, keys: list[K]) -> dict[K, R | None]:
        return {key_of(record): record for record in await read(connection, project_id, keys)}

    return Lookup(lambda _project: database.connection(), by_key, missing=None)


def _groups(
    database: Database,
    read: Callable[[Any, UUID, list[K]], Awaitable[list[R]]],
    key_of: Callable[[R], K],
    *,
    most: int = MAX_KEYS,
) -> Lookup[K, tuple[R, ...]]:
    """Any number of rows per key, in the order in which they are read."""

    async def by_key(connection: Any, project_id: UUID, keys: list[K]) -> dict[K, tuple[R, ...]]:
        found: defaultdict[K, list[R]] = defaultdict(list)
        for record in await read(connection, project_id, keys):
            found[key_of(record)].append(record)
        return {key: tuple(records) for key, records in found.items()}

    return Lookup(lambda _project: database.connection(), by_key, missing=(), most=most)


def _definitions(database: Database) -> Lookup[tuple[UUID, int], Definition | None]:
    """Versions of workflows, decoded once for all who ask at the same time."""

    async def by_version(
        connection: Any, project_id: UUID, keys: list[tuple[UUID, int]]
    ) -> dict[tuple[UUID, int], Definition | None]:
        found = await read_workflow_versions(connection, project_id=project_id, versions=keys)
        return {(each.workflow_id, each.version): decode_definition(bytes(each.definition)) for each in found}

    return Lookup(lambda _project: database.connection(), by_version, missing=None)


WorkflowCounts: TypeAlias = tuple[tuple[RunCount, ...], tuple[OutcomeCount, ...]]
"""A workflow's runs by status, and its steps by label and outcome."""


def _counts(readers: Readers) -> Lookup[tuple[UUID, datetime | None], WorkflowCounts]:
    """How workflows fare since an instant: whoever asks of the same one is in the same two statements."""

    async def by_workflow(
        connection: Any, project_id: UUID, keys: list[tuple[UUID, datetime | None]]
    ) -> dict[tuple[UUID, datetime | None], WorkflowCounts]:
        found: dict[tuple[UUID, datetime | None], WorkflowCounts] = {}
        for since in {since for _, since in keys}:
            wanted = [workflow_id for workflow_id, each in keys if each == since]
            runs = await count_runs_by_status(connection, project_id=project_id, workflow_ids=wanted, since=since)
            steps = await count_outcomes(connection, project_id=project_id, workflow_ids=wanted, since=since)
            for workflow_id in wanted:
                found[workflow_id, since] = (
                    tuple(each for each in runs if each.workflow_id == workflow_id),
                    tuple(each for each in steps if each.workflow_id == workflow_id),
                )
        return found

    return Lookup(readers.connection, by_workflow, missing=((), ()), most=MAX_COUNTED)


class Lookups:
    """One per process. Belongs to one event loop. `readers` are for what takes longer than a look-up by key."""

    def __init__(self, database: Database, readers: Readers) -> None:
        self.profiles_by_user: Lookup[str, ProfileRecord | None] = _rows(
            database,
            lambda connection, project_id, keys: read_profiles_by_user(
                connection, project_id=project_id, user_ids=keys
            ),
            lambda record: record.user_id,
        )
        self.profiles: Lookup[UUID, ProfileRecord | None] = _rows(
            database,
            lambda connection, project_id, keys: read_profiles(connection, project_id=project_id, profile_ids=keys),
            lambda record: record.profile_id,
        )
        self.events: Lookup[int, EventRecord | None] = _rows(
            database,
            lambda connection, project_id, keys: read_events_by_seq(connection, project_id=project_id, seqs=keys),
            lambda record: record.seq,
        )
        self.api_keys: Lookup[UUID, ApiKeyRecord | None] = _rows(
            database,
            lambda connection, project_id, keys: read_api_keys(connection, project_id=project_id, api_key_ids=keys),
            lambda record: record.api_key_id,
        )
        self.deliveries: Lookup[UUID, DeliveryRecord | None] = _rows(
            database,
            lambda connection, project_id, keys: read_deliveries(connection, project_id=project_id, delivery_ids=keys),
            lambda record: record.delivery_id,
        )
        self.attempts: Lookup[UUID, tuple[AttemptRecord, ...]] = _groups(
            database,
            lambda connection, project_id, keys: read_attempts(connection, project_id=project_id, delivery_ids=keys),
            lambda record: record.delivery_id,
        )
        self.providers: Lookup[UUID, ProviderRecord | None] = _rows(
            database,
            lambda connection, project_id, keys: read_providers(connection, project_id=project_id, provider_ids=keys),
            lambda record: record.provider_id,
        )
        self.inbound_endpoints: Lookup[UUID, InboundEndpointRecord | None] = _rows(
            database,
            lambda connection, project_id, keys: read_inbound_endpoints(
                connection, project_id=project_id, endpoint_ids=keys
            ),
            lambda record: record.endpoint_id,
        )
        self.webhook_endpoints: Lookup[UUID, WebhookEndpointRecord | None] = _rows(
            database,
            lambda connection, project_id, keys: read_webhook_endpoints(
                connection, project_id=project_id, endpoint_ids=keys
            ),
            lambda record: record.endpoint_id,
        )
        self.templates: Lookup[UUID, TemplateRecord | None] = _rows(
            database,
            lambda connection, project_id, keys: read_templates(connection, project_id=project_id, template_ids=keys),
            lambda record: record.template_id,
        )
        self.audiences: Lookup[UUID, AudienceRecord | None] = _rows(
            database,
            lambda connection, project_id, keys: read_audiences(connection, project_id=project_id, audience_ids=keys),
            lambda record: record.audience_id,
        )
        self.insights: Lookup[UUID, InsightRecord | None] = _rows(
            database,
            lambda connection, project_id, keys: read_insights(connection, project_id=project_id, insight_ids=keys),
            lambda record: record.insight_id,
        )
        self.audit_entries: Lookup[UUID, AuditEntryRecord | None] = _rows(
            database,
            lambda connection, project_id, keys: read_audit_entries(
                connection, project_id=project_id, audit_entry_ids=keys
            ),
            lambda record: record.audit_entry_id,
        )
        self.consent_changes: Lookup[UUID, ConsentChangeRecord | None] = _rows(
            database,
            lambda connection, project_id, keys: read_consent_changes(
                connection, project_id=project_id, consent_change_ids=keys
            ),
            lambda record: record.consent_change_id,
        )
        self.consents_by_user: Lookup[str, tuple[ConsentRecord, ...]] = _groups(
            database,
            lambda connection, project_id, keys: read_consents_of_people(
                connection, project_id=project_id, user_ids=keys
            ),
            lambda record: record.user_id,
        )
        self.boards: Lookup[UUID, BoardRecord | None] = _rows(
            database,
            lambda connection, project_id, keys: read_boards(connection, project_id=project_id, board_ids=keys),
            lambda record: record.board_id,
        )
        self.workflows: Lookup[UUID, WorkflowRecord | None] = _rows(
            database,
            lambda connection, project_id, keys: read_workflows(connection, project_id=project_id, workflow_ids=keys),
            lambda record: record.workflow_id,
        )
        self.definitions = _definitions(database)
        self.workflow_counts = _counts(readers)
        self.runs: Lookup[UUID, RunRecord | None] = _rows(
            database,
            lambda connection, project_id, keys: read_runs(connection, project_id=project_id, run_ids=keys),
            lambda record: record.run_id,
        )
        self.run_steps: Lookup[UUID, tuple[RunStepRecord, ...]] = _groups(
            database,
            lambda connection, project_id, keys: read_run_steps(connection, project_id=project_id, run_ids=keys),
            lambda record: record.run_id,
            most=MAX_TRACES,
        )
        self.first_deliveries: Lookup[UUID, tuple[RunDelivery, ...]] = _groups(
            database,
            lambda connection, project_id, keys: read_first_deliveries(connection, project_id=project_id, run_ids=keys),
            lambda record: record.run_id,
        )
        self.run_deliveries: Lookup[UUID, tuple[RunDelivery, ...]] = _groups(
            database,
            lambda connection, project_id, keys: read_run_deliveries(
                connection, project_id=project_id, run_ids=keys, per_run=RUN_DELIVERIES
            ),
            lambda record: record.run_id,
        )
        self.audiences_ever: Lookup[UUID, AudienceRecord | None] = _rows(
            database,
            lambda connection, project_id, keys: read_audiences_ever(
                connection, project_id=project_id, audience_ids=keys
            ),
            lambda record: record.audience_id,
        )
        self.audiences_of_people: Lookup[str, tuple[tuple[str, AudienceRecord], ...]] = _groups(
            database,
            lambda connection, project_id, keys: read_audiences_of_people(
                connection, project_id=project_id, user_ids=keys
            ),
            lambda found: found[0],
        )
        self.sender_domains: Lookup[UUID, SenderDomainRecord | None] = _rows(
            database,
            lambda connection, project_id, keys: read_sender_domains(
                connection, project_id=project_id, sender_domain_ids=keys
            ),
            lambda record: record.sender_domain_id,
        )
        self.push_tokens: Lookup[UUID, PushTokenRecord | None] = _rows(
            database,
            lambda connection, project_id, keys: read_push_tokens(
                connection, project_id=project_id, push_token_ids=keys
            ),
            lambda record: record.push_token_id,
        )
        self.push_tokens_by_user: Lookup[str, tuple[PushTokenRecord, ...]] = _groups(
            database,
            lambda connection, project_id, keys: read_tokens_by_user(connection, project_id=project_id, user_ids=keys),
            lambda record: record.user_id or "",
        )


class Loaders:
    """One per operation, or per item of a stream."""

    def __init__(self, lookups: Lookups) -> None:
        self.profiles_by_user = Loader(lookups.profiles_by_user)
        self.profiles = Loader(lookups.profiles)
        self.events = Loader(lookups.events)
        self.api_keys = Loader(lookups.api_keys)
        self.deliveries = Loader(lookups.deliveries)
        self.attempts = Loader(lookups.attempts)
        self.providers = Loader(lookups.providers)
        self.inbound_endpoints = Loader(lookups.inbound_endpoints)
        self.webhook_endpoints = Loader(lookups.webhook_endpoints)
        self.templates = Loader(lookups.templates)
        self.audiences = Loader(lookups.audiences)
        self.audiences_ever = Loader(lookups.audiences_ever)
        self.audiences_of_people = Loader(lookups.audiences_of_people)
        self.insights = Loader(lookups.insights)
        self.audit_entries = Loader(lookups.audit_entries)
        self.consent_changes = Loader(lookups.consent_changes)
        self.consents_by_user = Loader(lookups.consents_by_user)
        self.boards = Loader(lookups.boards)
        self.workflows = Loader(lookups.workflows)
        self.definitions = Loader(lookups.definitions)
        self.workflow_counts = Loader(lookups.workflow_counts)
        self.runs = Loader(lookups.runs)
        self.run_steps = Loader(lookups.run_steps)
        self.first_deliveries = Loader(lookups.first_deliveries)
        self.run_deliveries = Loader(lookups.run_deliveries)
        self.sender_domains = Loader(lookups.sender_domains)
        self.push_tokens = Loader(lookups.push_tokens)
        self.push_tokens_by_user = Loader(lookups.push_tokens_by_user)
