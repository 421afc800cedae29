"""From an event to the end of a run without anybody looking for work: each worker is told by whoever made it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from db.followers import ensure_follower
from db.records import Lane
from engine.events import EventDraft
from engine.live.broadcast import Broadcast
from engine.log import EventLog
from engine.tasks import end_tasks
from engine.workers.sweeper import Sweeper
from engine.workflows.definition import Step, StepType, UpdateProfile, Webhook
from engine.workflows.names import REPORTS_FOLLOWER
from settings import Settings
from tests.integration.graphql_support import SECRET
from tests.integration.trigger_support import Stage, open_stage
from tests.peers.receiver import WebhookReceiver
from worker import WorkerProcess

PATIENCE_SECONDS = 20
"""Of a busy machine: milliseconds on a quiet one."""


@pytest.fixture(autouse=True)
def own_collector() -> Iterator[None]:
    """A worker settles the garbage collector of its process, which here is that of the tests."""
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.fixture
async def stage(module_database_url: str) -> AsyncIterator[Stage]:
    async with open_stage(module_database_url) as opened:
        yield opened


@asynccontextmanager
async def worker_that_looks_once(
    stage: Stage, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[WorkerProcess]:
    """A worker whose sweeper finds out which projects are followed, and then sleeps."""
    looked = asyncio.Event()

    async def look_once(sweeper: Sweeper, stop: asyncio.Event) -> None:
        await sweeper.step()
        looked.set()
        await stop.wait()

    monkeypatch.setattr(Sweeper, "run", look_once)
    settings = Settings(
        DATABASE_URL=stage.url, REDIS_URL=redis_url, secret_key=SECRET.decode(), egress_allow="127.0.0.0/8"
    )  # type: ignore[call-arg]
    process, stop = WorkerProcess(settings), asyncio.Event()
    running = asyncio.create_task(process.run(stop))
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await looked.wait()
        yield process
    finally:
        stop.set()
        await running


async def test_a_run_goes_from_its_event_to_its_end_by_hints_alone(
    stage: Stage, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a webhook: what became of it is reported to the run as soon as it is known."""
    async with WebhookReceiver.running() as receiver:
        await stage.workflow(
            "order.placed",
            steps=[
                Step(label="call", type=StepType.WEBHOOK, config=Webhook(url=f"{receiver.url}/hook", body={})),
                Step(label="note", type=StepType.UPDATE_PROFILE, config=UpdateProfile({"called": True})),
            ],
        )
        async with stage.database.transaction() as connection:
            await ensure_follower(
                connection, project_id=stage.project_id, follower=REPORTS_FOLLOWER, lane=Lane.DELIVERIES
            )
        async with worker_that_looks_once(stage, redis_url, monkeypatch):
            broadcast = Broadcast(redis_url)
            await broadcast.connect()
            log = EventLog(stage.database, broadcast.announce)
            draft = EventDraft(
                event_type="order.placed", user_id="ada", properties=b"{}", context=b"{}", module="analytics"
            )
            await log.append(stage.project_id, [draft])
            waiting = asyncio.create_task(finished(stage))
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await waiting
            finally:
                await end_tasks([waiting])
                await log.close()
                await broadcast.disconnect()
        assert len(receiver.requests) == 1
    [run] = await stage.runs()
    assert (run.status, run.error) == ("COMPLETED", None)


async def finished(stage: Stage) -> None:
    """Return once a run is over."""
    while not any(run.finished_at is not None for run in await stage.runs()):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
