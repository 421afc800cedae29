"""The worker process: settings → database → channels → dispatcher and followers, opened and closed in one place.

Any number of them run, on any machine that reaches PostgreSQL and Redis. What each does: announces again what a dead
gateway did not (relay), follows the lanes of the log and makes what follows from them (followers), starts workflows
whose schedules are due (enrolment), sends what is due (dispatcher), and looks once a second for what nobody was told of
(sweeper).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit
from uuid import UUID

from db.audience_members import find_building_projects, find_recheck_projects
from db.audience_sends import find_audience_sends
from db.database import Database
from db.dispatch import find_due_projects, find_expired
from db.enrolment import find_due_schedules
from db.records import Lane
from db.replays import find_replaying_projects
from db.workflow_runs import find_projects_with_runs
from engine.ai.models import Models
from engine.audiences.cache import AudienceCache
from engine.audiences.checking import Checking
from engine.audiences.following import Following
from engine.audiences.keeping import NAME as AUDIENCES_FOLLOWER
from engine.audiences.sending import member_pages
from engine.channels.apns import ApnsSender
from engine.channels.base import ChannelWork
from engine.channels.fcm import FcmSender
from engine.channels.http import HttpClient
from engine.channels.smtp import SmtpAccount, SmtpSender
from engine.channels.web_push import WebPushSender
from engine.clock import DatabaseClock
from engine.dispatch.audience_sends import continue_audience_sends
from engine.dispatch.dispatcher import LEASE, Dispatcher
from engine.dispatch.filters import RUN_REPORTS
from engine.dispatch.replaying import continue_replays
from engine.dispatch.takeover import TAKE_OVER_LIMIT
from engine.dispatch.values import Channel
from engine.email.unsubscribe import UnsubscribeTokens
from engine.email.work import EmailWork
from engine.garbage import settle_collector
from engine.lanes import DELIVERIES, EVENTS, LaneKind, LaneRecord
from engine.live.broadcast import Broadcast
from engine.push.work import PushWork
from engine.sms.work import SmsWork
from engine.tasks import end_tasks
from engine.webhooks import follower as webhooks
from engine.webhooks.work import WebhookWork
from engine.work import Work, WorkKind
from engine.workers.attendance import Attendance, Handler
from engine.workers.followers import PAGE_ITEMS, Follower, Reaction
from engine.workers.hints import Followed, Hints
from engine.workers.jobs import Jobs
from engine.workers.relay import Relay
from engine.workers.sweeper import Finder, Sweeper
from engine.workflows.definitions import Definitions
from engine.workflows.enrolment import Enrolment
from engine.workflows.follower import PAGE_EVENTS, Triggers
from engine.workflows.matching import TriggerCache
from engine.workflows.names import REPORTS_FOLLOWER, TRIGGERS_FOLLOWER
from engine.workflows.reports import report
from engine.workflows.runner import Runner
from settings import Settings, egress_of, public_url_of, required, secrets_of, vault_of
from telemetry import serve_worker_metrics

if TYPE_CHECKING:
    import asyncpg

STOP_GRACE = timedelta(seconds=18)
"""For sends under way, whose time-out is 15 s, and for writing down what became of them."""

QUEUE_CONNECTIONS = 3
"""For jobs, besides the worker's own: asking for them, taking them, and saying that they are still at work."""

_logger = logging.getLogger(__name__)

R = TypeVar("R", bound=LaneRecord)
F = TypeVar("F")


class WorkerProcess:
    """Everything one worker process holds. `lease` is how long a delivery is its own while it sends it.

    `run` is all there is to it; tests that hold the clock in their hands (`clock`) go without it: `opened`, and then
    whatever the `finders` find is done by the `handlers`.
    """

    def __init__(self, settings: Settings, *, lease: timedelta = LEASE, clock: DatabaseClock | None = None) -> None:
        self._settings = settings
        self._lease = lease
        self.database = Database(
            required(settings.database_url),
            max_size=settings.worker_pool_size,
            application_name="sendora-worker",
        )
        # A job that is lost with the server is asked for again by the sweeper: no commit of the queue waits for a disk.
        self._queue = Database(
            required(settings.database_url),
            min_size=1,
            max_size=QUEUE_CONNECTIONS,
            application_name="sendora-worker-jobs",
            waits_for_disk=False,
        )
        self._attendance: Attendance | None = None
        self.clock = clock or DatabaseClock(self.database)
        self.broadcast = Broadcast(required(settings.redis_url))
        self.relay = Relay(self.database, self.broadcast)
        self._webhooks = self._follower(webhooks.NAME, EVENTS, webhooks.follow)
        self._definitions = Definitions()
        self._triggers = self._follower(
            TRIGGERS_FOLLOWER, EVENTS, Triggers(TriggerCache(), self._definitions).follow, page_items=PAGE_EVENTS
        )
        self._reports = self._follower(REPORTS_FOLLOWER, DELIVERIES, report, item_filter=RUN_REPORTS)
        self._enrolment = Enrolment(self.database, self.clock, self._definitions, self.broadcast.announce, self._wake)
        audiences = AudienceCache()
        self._audiences = self._follower(AUDIENCES_FOLLOWER, EVENTS, Following(audiences).follow)
        self._checking = Checking(self.database, self.clock, audiences, self.broadcast.announce)
        self._followed = (
            Followed(AUDIENCES_FOLLOWER, Lane.EVENTS, WorkKind.AUDIENCES, bell=WorkKind.EVENTS),
            Followed(webhooks.NAME, Lane.EVENTS, WorkKind.EVENTS, bell=WorkKind.EVENTS),
            Followed(TRIGGERS_FOLLOWER, Lane.EVENTS, WorkKind.TRIGGERS, bell=WorkKind.EVENTS),
            Followed(REPORTS_FOLLOWER, Lane.DELIVERIES, WorkKind.RUN_REPORTS, bell=WorkKind.RUN_REPORTS),
        )

    async def run(self, stop: asyncio.Event, *, grace: timedelta = STOP_GRACE) -> None:
        """Work until `stop`; what is under way is finished within `grace`."""
        async with self.opened() as (dispatcher, runner):
            attendance = self._attendance = Attendance(Jobs(self._queue), self.handlers(dispatcher, runner))
            sweeper = Sweeper(self.database, self.clock, self.finders(), attendance.enqueue)
            hints = Hints(self.broadcast, self._followed, attendance.hint)
            tasks = [
                asyncio.create_task(self.relay.run(stop), name="relay"),
                asyncio.create_task(sweeper.run(stop), name="sweeper"),
                asyncio.create_task(hints.run(), name="hints"),
                asyncio.create_task(attendance.run(), name="attendance"),
            ]
            try:
                settle_collector()
                with _metrics(self._settings, dispatcher, self.broadcast):
                    await _until(stop, tasks)
            finally:
                attendance.stop()
                await runner.stop()
                await dispatcher.stop(grace)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        await tasks[-1]
                await end_tasks(tasks)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[tuple[Dispatcher, Runner]]:
        """Everything connected, for as long as the block lasts."""
        async with AsyncExitStack() as stack:
            await self.database.connect()
            stack.push_async_callback(self.database.disconnect)
            await self._queue.connect()
            stack.push_async_callback(self._queue.disconnect)
            await stack.enter_async_context(self.clock.running())
            await self.broadcast.connect()
            stack.push_async_callback(self.broadcast.disconnect)
            works = await stack.enter_async_context(_channels(self._settings))
            dispatcher = Dispatcher(self.database, works, self.clock, self.broadcast.announce, lease=self._lease)
            egress, vault = egress_of(self._settings), vault_of(self._settings)
            models = Models(self.database, vault, egress)
            stack.push_async_callback(models.close)
            runner = Runner(
                self.database,
                self.clock,
                self.broadcast.announce,
                self._wake,
                vault=vault,
                refuse_url=egress.refusal,
                models=models,
                definitions=self._definitions,
            )
            yield dispatcher, runner

    def _wake(self, work: Work) -> None:
        """Tell whoever attends to it here: then nobody else does. Else tell all workers."""
        if self._attendance is None or not self._attendance.ring(work):
            self.broadcast.wake(work)

    def _follower(
        self,
        name: str,
        kind: LaneKind[R, F],
        react: Reaction[R],
        *,
        item_filter: F | None = None,
        page_items: int = PAGE_ITEMS,
    ) -> Follower[R]:
        return Follower(
            name,
            kind,
            react,
            database=self.database,
            clock=self.clock,
            announce=self.broadcast.announce,
            wake=self._wake,
            item_filter=item_filter,
            page_items=page_items,
        )

    def handlers(self, dispatcher: Dispatcher, runner: Runner) -> Mapping[WorkKind, Handler]:
        """Who does which kind of work."""

        async def dispatch(project_id: UUID) -> bool:
            await dispatcher.drain(project_id)
            while await dispatcher.take_over(project_id) == TAKE_OVER_LIMIT:
                pass
            return False

        def follow(follower: Follower[Any]) -> Handler:
            async def handle(project_id: UUID) -> bool:
                await follower.follow(project_id)
                return False

            return handle

        async def replay(project_id: UUID) -> bool:
            return await continue_replays(self.database, self.clock, self.broadcast.announce, self._wake, project_id)

        pages = member_pages(vault_of(self._settings))

        async def send_to_audiences(project_id: UUID) -> bool:
            return await continue_audience_sends(
                self.database, self.clock, self.broadcast.announce, self._wake, pages, project_id
            )

        return {
            WorkKind.DELIVERIES: dispatch,
            WorkKind.AUDIENCE_SENDS: send_to_audiences,
            WorkKind.AUDIENCES: follow(self._audiences),
            WorkKind.AUDIENCE_CHECKS: self._checking.go_on,
            WorkKind.EVENTS: follow(self._webhooks),
            WorkKind.REPLAYS: replay,
            WorkKind.TRIGGERS: follow(self._triggers),
            WorkKind.RUN_REPORTS: follow(self._reports),
            WorkKind.RUNS: runner.drain,
            WorkKind.SCHEDULES: self._enrolment.carry_out,
        }

    def finders(self) -> Sequence[tuple[WorkKind, Finder]]:
        """Who has which kind of work to be done."""

        async def find_due(connection: asyncpg.Connection) -> list[UUID]:
            due = await find_due_projects(connection, now=self.clock.now())
            return [*due, *await find_expired(connection)]

        async def find_runs(connection: asyncpg.Connection) -> list[UUID]:
            return await find_projects_with_runs(connection, now=self.clock.now())

        async def find_schedules(connection: asyncpg.Connection) -> list[UUID]:
            return await find_due_schedules(connection, now=self.clock.now())

        async def find_sends(connection: asyncpg.Connection) -> list[UUID]:
            return await find_audience_sends(connection, now=self.clock.now())

        async def find_checks(connection: asyncpg.Connection) -> list[UUID]:
            due = await find_recheck_projects(connection, now=self.clock.now())
            return [*due, *await find_building_projects(connection)]

        return (
            (WorkKind.DELIVERIES, find_due),
            (WorkKind.AUDIENCE_CHECKS, find_checks),
            (WorkKind.AUDIENCE_SENDS, find_sends),
            (WorkKind.REPLAYS, find_replaying_projects),
            (WorkKind.RUNS, find_runs),
            (WorkKind.SCHEDULES, find_schedules),
            *((followed.kind, followed.find_behind) for followed in self._followed),
        )


@contextlib.contextmanager
def _metrics(settings: Settings, dispatcher: Dispatcher, broadcast: Broadcast) -> Iterator[None]:
    if not settings.metrics_port:
        yield
        return
    end = serve_worker_metrics(
        dispatcher.stats, lambda: broadcast.connected, host=settings.host, port=settings.metrics_port
    )
    try:
        yield
    finally:
        end()


@asynccontextmanager
async def _channels(settings: Settings) -> AsyncIterator[Mapping[Channel, ChannelWork]]:
    """Every channel, over one guarded session."""
    egress, vault, public_url = egress_of(settings), vault_of(settings), public_url_of(settings)
    if not egress.guarded:
        _logger.warning("ssrf_guard.off")
    http = HttpClient(egress)
    works: list[ChannelWork] = [
        WebhookWork(vault, http),
        SmsWork(vault, http, public_url=public_url),
        EmailWork(
            vault,
            http,
            SmtpSender(egress),
            UnsubscribeTokens(*secrets_of(settings)),
            public_url=public_url,
            system_pool=_system_pool(settings),
        ),
        PushWork(
            vault,
            contact=settings.contact,
            apns=ApnsSender(egress),
            fcm=FcmSender(http),
            web_push=WebPushSender(http),
        ),
    ]
    try:
        yield {work.channel: work for work in works}
    finally:
        for work in works:
            await work.close()
        await http.close()


def _system_pool(settings: Settings) -> SmtpAccount | None:
    """Where mail of the platform itself goes."""
    if settings.system_smtp_url is None:
        return None
    parts = urlsplit(settings.system_smtp_url.get_secret_value())
    return SmtpAccount(
        host=parts.hostname or "",
        port=parts.port or {"smtps": 465}.get(parts.scheme, 587),
        security="TLS" if parts.scheme == "smtps" else "STARTTLS",
        username=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
        from_address=settings.system_from,
    )


async def _until(stop: asyncio.Event, tasks: Sequence[asyncio.Task[None]]) -> None:
    """Until `stop` is set. A task that ends before has failed: raises what it raised, and the process ends."""
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done() and not stop.is_set():
                await task
    finally:
        await end_tasks([stopping])
