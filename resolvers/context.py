"""What a resolver is handed: the services of this process, and who asks.

`Services` is built once, in the lifespan. A `Context` lives for one operation, or for one item of a stream, and so do
the loaders and the heads it has read. The viewer is reached only through `resolvers.permissions.require`: without
having asked for a permission a resolver has no project to look in.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from db.database import Database
from db.heads import read_heads
from db.records import HeadRecord, Lane
from engine.accounts.sessions import Accounts
from engine.analytics.live import LiveFunnels
from engine.analytics.pool import AnalyticsPool
from engine.announcements import Announcement
from engine.clock import Clock
from engine.cursors import CursorCodec
from engine.egress import Egress
from engine.email.domains import LookUpTxt, txt_look_up
from engine.identity import Viewer
from engine.live.streams import Streams
from engine.log import EventLog
from engine.project_settings import ProjectSettingsCache
from engine.rate_limits import RateLimits
from engine.reading import Readers
from engine.signatures import Signatures
from engine.trusted_documents import Complaints, TrustedDocuments
from engine.vault import Vault
from engine.work import Work
from resolvers.loaders import Loaders, Lookups

if TYPE_CHECKING:
    import asyncpg


@dataclass(frozen=True, slots=True)
class Services:
    """What every operation of this process shares. `announce` and `wake` never block; `public_url` is where this
    deployment is reached from outside, without a slash at its end.

    `schema_for_all` says whether clients may ask for the schema, None that it depends on who asks;
    `document_complaints` says what keeps a document from being run.

    `database` is for look-ups by key, `readers` for lists and counts, `analytics` for questions that may take seconds;
    `look_up_txt` asks DNS, and `spf_mechanism` is what a sender domain has to allow, e.g. include:_spf.example.com.
    """

    database: Database
    lookups: Lookups
    readers: Readers
    analytics: AnalyticsPool
    live_funnels: LiveFunnels
    log: EventLog
    streams: Streams
    cursors: CursorCodec
    announce: Callable[[Announcement], None]
    clock: Clock
    vault: Vault
    egress: Egress
    wake: Callable[[Work], None]
    public_url: str
    spf_mechanism: str
    accounts: Accounts
    project_settings: ProjectSettingsCache
    signatures: Signatures
    rate_limits: RateLimits
    trusted_documents: TrustedDocuments
    document_complaints: Complaints
    schema_for_all: bool | None
    look_up_txt: LookUpTxt = field(default_factory=txt_look_up)


class Context:
    """One operation's, or one streamed item's. Cheap to make: everything in it is made when it is first used."""

    __slots__ = (
        "_heads",
        "_loaders",
        "_question",
        "_turn",
        "_viewer",
        "bucket",
        "client",
        "cost",
        "selects_head",
        "services",
    )

    def __init__(
        self,
        services: Services,
        viewer: Viewer | None,
        *,
        cost: int = 0,
        client: str | None = None,
        bucket: Hashable = None,
    ) -> None:
        """`cost` is what the operation was charged, in points, from `bucket`; `client` the peer's address."""
        self.services = services
        self.client = client
        self.bucket = bucket
        self.cost = cost
        self._viewer = viewer
        self.selects_head: bool | None = None
        self._loaders: Loaders | None = None
        self._turn: asyncio.Lock | None = None
        self._question: asyncio.Lock | None = None
        self._heads: dict[UUID, asyncio.Task[Mapping[Lane, HeadRecord]]] = {}

    @property
    def loaders(self) -> Loaders:
        """What this operation has looked up."""
        if self._loaders is None:
            self._loaders = Loaders(self.services.lookups)
        return self._loaders

    @asynccontextmanager
    async def reading(self, project_id: UUID) -> AsyncIterator[asyncpg.Connection]:
        """A connection for a list or a count. One at a time: fifty lists in one document take one place, not all."""
        if self._turn is None:
            self._turn = asyncio.Lock()
        async with self._turn, self.services.readers.connection(project_id) as connection:
            yield connection

    @asynccontextmanager
    async def asking(self, project_id: UUID) -> AsyncIterator[asyncpg.Connection]:
        """A connection for a question about people. One at a time: a board of ten insights takes one place, not all."""
        if self._question is None:
            self._question = asyncio.Lock()
        async with self._question, self.services.analytics.connection(project_id) as connection:
            yield connection

    async def heads(self, project_id: UUID) -> Mapping[Lane, HeadRecord]:
        """Where the lanes of a project stood when this operation first asked."""
        task = self._heads.get(project_id)
        if task is None:
            task = asyncio.create_task(_read_heads(self.services.database, project_id))
            self._heads[project_id] = task
        return await asyncio.shield(task)

    def forget_reads(self) -> None:
        """Read heads and rows anew: something was written in this operation."""
        self._heads.clear()
        self._loaders = None


async def _read_heads(database: Database, project_id: UUID) -> Mapping[Lane, HeadRecord]:
    async with database.connection() as connection:
        heads = await read_heads(connection, project_ids=[project_id])
    return {head.lane: head for head in heads}
