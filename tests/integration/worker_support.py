"""Whole workers in the test's own hands: the composition of `worker.py`, over a clock that stands still until moved.

Whatever the finders of a worker find is done by its handlers, until they find nothing; then the clock goes on to when
something is due next. So days pass in seconds, exactly, and what a finder misses is never done. Channels are the real
ones, and speak to providers on loopback.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson

from db.workflow_records import RunRecord
from db.workflow_runs import read_run_steps, read_runs
from engine.clock import DatabaseClock
from engine.consent import ConsentPurpose, ConsentState, set_consent
from engine.egress import Egress
from engine.work import WorkKind
from engine.workflows.run_ledger import trace_of
from engine.workflows.state import StepTrace
from settings import Settings
from tests.integration.graphql_support import SECRET, Tenant, open_gateway
from tests.peers.fcm import FcmPeer
from tests.peers.ollama import OllamaPeer
from tests.peers.receiver import WebhookReceiver
from tests.peers.smtp import SmtpPeer, smtp_peer
from tests.peers.twilio import TwilioPeer
from worker import WorkerProcess

START = datetime(2040, 5, 7, 12, tzinfo=UTC)
"""A Monday, later than anything that the database's own clock will say of an event."""
LOOPBACK = "127.0.0.0/8"
DOMAIN = "shop.example"
MOST_ROUNDS = 500
"""Of looking for work: then there is always more."""

CONFIGURE = """mutation ($input: ConfigureProviderInput!) {
  configureProvider(input: $input) { userErrors { path message } }
}"""
ADD_DOMAIN = "mutation ($domain: String!) { addSenderDomain(domain: $domain) { userErrors { code } } }"
VERIFY_DOMAIN = """UPDATE sender_domains SET status = 'VERIFIED', verified_at = $2::timestamptz - interval '60 days'
WHERE project_id = $1"""
ADD_DEVICES = """INSERT INTO push_tokens
  (project_id, push_token_id, platform, environment, token, user_id, timezone, registered_at)
SELECT $1, gen_random_uuid(), 'ANDROID', 'PRODUCTION', token, user_id, timezone, now()
FROM unnest($2::text[], $3::text[], $4::text[]) AS given (token, user_id, timezone)"""
NEXT_DUE = """SELECT min(at) FROM (
    SELECT min(claim_at) FROM workflow_runs WHERE project_id = $1
    UNION ALL SELECT min(next_attempt_at) FROM deliveries WHERE project_id = $1
    UNION ALL SELECT min(next_due_at) FROM workflows WHERE project_id = $1) AS due (at)"""
TRACK_BATCH = """mutation ($events: [EventInput!]!) {
  trackBatch(input: {events: $events}) { accepted userErrors { message path } }
}"""
MAX_BATCH = 500


class StandingClock(DatabaseClock):
    """Business time that stands still until it is moved, for a gateway and its workers."""

    def __init__(self, at: datetime = START) -> None:
        self.at = at

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """See `DatabaseClock.running`; there is nothing to keep right."""
        yield

    def now(self) -> datetime:
        return self.at

    def advance(self, duration: timedelta) -> None:
        self.at += duration


class Worker:
    """One worker process. Its handlers are called when the test says so."""

    def __init__(self, process: WorkerProcess) -> None:
        self._process = process
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Worker:
        self.dispatcher, self.runner = await self._stack.enter_async_context(self._process.opened())
        self._handlers = self._process.handlers(self.dispatcher, self.runner)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.runner.stop()
        await self.dispatcher.stop(timedelta(seconds=1))
        await self._stack.aclose()

    async def do(self, kind: WorkKind, project_id: UUID) -> None:
        """One kind of work, all of it that is due, and what others were asked for it."""
        while await self._handlers[kind](project_id):
            pass
        await self.dispatcher.settled()
        await self.runner.settled()

    async def find(self, project_id: UUID) -> list[WorkKind]:
        """What there is to be done, as the sweeper would find."""
        async with self._process.database.connection() as connection:
            return [kind for kind, find in self._process.finders() if project_id in await find(connection)]

    async def work(self, project_id: UUID, *, but: Collection[WorkKind] = ()) -> None:
        """Do what is due now and what follows from it, until nothing is."""
        for _ in range(MOST_ROUNDS):
            found = [kind for kind in await self.find(project_id) if kind not in but]
            if not found:
                return
            for kind in found:
                await self.do(kind, project_id)
        raise AssertionError(f"there is always more to do: {found}")


@dataclass
class Store:
    """A project that sends on every channel, its providers, and its workers."""

    tenant: Tenant
    clock: StandingClock
    workers: Sequence[Worker]
    fcm: FcmPeer
    smtp: SmtpPeer
    twilio: TwilioPeer
    receiver: WebhookReceiver
    ollama: OllamaPeer

    @property
    def project_id(self) -> UUID:
        return self.tenant.project_id

    async def data(self, document: str, **variables: Any) -> Any:
        """What the only root field of an operation gives; there must be no errors of any kind."""
        [payload] = (await self.tenant.data(document, **variables)).values()
        assert not isinstance(payload, dict) or payload.get("userErrors", []) == [], payload
        return payload

    async def fetch(self, statement: str, *arguments: Any) -> list[Any]:
        """Rows of the project, which is $1."""
        async with self.tenant.gateway.services.database.connection() as connection:
            return list(await connection.fetch(statement, self.project_id, *arguments))

    async def configure(self, *, with_model: bool = False) -> None:
        """Accounts with all providers, and a domain to send from that is old enough."""
        accounts: list[dict[str, Any]] = [
            {
                "kind": "FCM",
                "settings": {"endpoint": self.fcm.url},
                "secrets": {"serviceAccount": orjson.loads(self.fcm.service_account)},
            },
            {
                "kind": "SMTP",
                "settings": {
                    "host": "127.0.0.1",
                    "port": self.smtp.port,
                    "security": "NONE",
                    "from": f"Shop <hello@{DOMAIN}>",
                },
            },
            {"kind": "TWILIO", "settings": self.twilio.settings(), "secrets": self.twilio.secrets()},
        ]
        if with_model:
            accounts.append({"kind": "OLLAMA", "settings": self.ollama.settings()})
        for account in accounts:
            await self.data(CONFIGURE, input=account)
        await self.data(ADD_DOMAIN, domain=DOMAIN)
        await self.fetch(VERIFY_DOMAIN, self.clock.now())

    async def track(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Store events as an SDK does, a batch at a time."""
        given = list(events)
        for start in range(0, len(given), MAX_BATCH):
            await self.data(TRACK_BATCH, events=given[start : start + MAX_BATCH])

    async def identify(self, people: Mapping[str, Mapping[str, Any]]) -> None:
        """People with their traits."""
        await self.track(
            {"eventType": "user.identified", "userId": user_id, "context": {"traits": traits}}
            for user_id, traits in people.items()
        )

    async def add_devices(self, devices: Iterable[tuple[str, str, str | None]]) -> None:
        """Registration token, person and time zone of each."""
        columns = [list(each) for each in zip(*devices, strict=True)] or [[], [], []]
        await self.fetch(ADD_DEVICES, *columns)

    async def say(self, user_id: str, purpose: ConsentPurpose, state: ConsentState) -> None:
        """A person's word."""
        async with self.tenant.gateway.services.database.transaction() as connection:
            await set_consent(
                connection,
                project_id=self.project_id,
                user_id=user_id,
                purpose=purpose,
                state=state,
                source="test",
                actor="test",
                now=self.clock.now(),
            )

    def forget_messages(self) -> None:
        """As if nothing had arrived yet."""
        for came in (self.fcm.accepted, self.smtp.received, self.twilio.messages, self.receiver.requests):
            came.clear()

    async def work(self, *, but: Collection[WorkKind] = ()) -> None:
        """Let all workers do what is due now, at the same time."""
        await asyncio.gather(*(worker.work(self.project_id, but=but) for worker in self.workers))

    async def pass_time(self, duration: timedelta = timedelta(days=400)) -> None:
        """Let time pass, from one moment at which something is due to the next; whatever is due then is done."""
        until = self.clock.now() + duration
        await self.work()
        while (due := await self.next_due()) is not None and due <= until:
            self.clock.at = max(due, self.clock.at)
            await self.work()
        self.clock.at = until

    async def next_due(self) -> datetime | None:
        [row] = await self.fetch(NEXT_DUE)
        due: datetime | None = row[0]
        return due

    async def runs(self) -> list[RunRecord]:
        """All there are, in the order in which they began."""
        async with self.tenant.gateway.services.database.connection() as connection:
            ids = await connection.fetch("SELECT run_id FROM workflow_runs WHERE project_id = $1", self.project_id)
            found = await read_runs(connection, project_id=self.project_id, run_ids=[row["run_id"] for row in ids])
        return sorted(found, key=lambda run: run.run_id)

    async def traces(self, run_ids: Sequence[UUID]) -> dict[UUID, list[StepTrace]]:
        """What the steps of runs did, in their order."""
        traces: dict[UUID, list[StepTrace]] = {run_id: [] for run_id in run_ids}
        async with self.tenant.gateway.services.database.connection() as connection:
            for step in await read_run_steps(connection, project_id=self.project_id, run_ids=run_ids):
                traces[step.run_id].append(trace_of(step))
        return traces


@asynccontextmanager
async def open_store(
    database_url: str,
    redis_url: str,
    *,
    workers: int = 1,
    clock: StandingClock | None = None,
    has_streams: bool = False,
) -> AsyncIterator[Store]:
    """A new project; nothing is configured yet. With `has_streams` its gateway follows what happens."""
    clock = clock or StandingClock()
    settings = Settings(
        DATABASE_URL=database_url, REDIS_URL=redis_url, secret_key=SECRET.decode(), egress_allow=LOOPBACK
    )  # type: ignore[call-arg]
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        follows = redis_url if has_streams else None
        gateway = await enter(open_gateway(database_url, follows, egress=Egress(allowed=LOOPBACK), clock=clock))
        yield Store(
            tenant=await gateway.tenant(),
            clock=clock,
            fcm=await enter(FcmPeer()),
            smtp=await enter(smtp_peer()),
            twilio=await enter(TwilioPeer.running()),
            receiver=await enter(WebhookReceiver.running()),
            ollama=await enter(OllamaPeer.running()),
            workers=[await enter(Worker(WorkerProcess(settings, clock=clock))) for _ in range(workers)],
        )
