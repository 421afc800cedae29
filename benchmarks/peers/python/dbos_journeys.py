"""The same journeys on DBOS: each a durable workflow of two steps, the second a transaction of the application's own.

As its documentation writes it for speed: workflows are coroutines on one event loop, `UNDER_WAY` at a time, and the
update is a transaction of a datasource, so that it and its checkpoint are one commit. An event that has to be matched
is a workflow of its own, as DBOS makes of each message that it consumes: what was received is handled though the
process ends. What matches is enqueued with a delay. Prints {"seconds": …, "cpu": …}.
Command: `python dbos_journeys.py DATABASE_URL QUESTION COUNT`, where QUESTION is steps or events.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import sqlalchemy as sa
from dbos import DBOS, AsyncSQLAlchemyDatasource, DBOSConfig, SetEnqueueOptions
from journeys import LARGE, WAIT_MINUTES, events_to_match, events_to_step, handlers

UNDER_WAY = 40
"""Workflows at once: 10 and 80 were no faster."""
POOL = 20
MERGE = sa.text(
    "UPDATE profiles SET traits = traits || jsonb_build_object('tier', CAST(:tier AS text)) WHERE user_id = :user_id"
)
QUEUE = "journeys"


def define(datasource: AsyncSQLAlchemyDatasource) -> dict[str, Callable[[dict[str, Any]], Coroutine[Any, Any, Any]]]:
    """Workflows by what is asked."""
    known = handlers()

    @DBOS.step()
    async def branch(event: dict[str, Any]) -> str:
        return "large" if event["properties"]["amount"] >= LARGE else "small"

    @datasource.transaction(isolation_level="READ COMMITTED")
    async def update_profile(user_id: str, tier: str) -> None:
        await datasource.sql_session().execute(MERGE, {"tier": tier, "user_id": user_id})

    @DBOS.workflow()
    async def journey(event: dict[str, Any]) -> None:
        await update_profile(event["userId"], await branch(event))

    @DBOS.workflow()
    async def on_event(event: dict[str, Any]) -> None:
        for handler in known:
            if handler.matches(event):
                with SetEnqueueOptions(delay_seconds=WAIT_MINUTES * 60):
                    await DBOS.enqueue_workflow_async(QUEUE, journey, event)

    return {"steps": journey, "events": on_event}


async def run(url: str, question: str, count: int) -> tuple[float, float]:
    """Seconds, and of this process's CPU, from the first event to the end of the last workflow."""
    datasource = await AsyncSQLAlchemyDatasource.create(url, engine_kwargs={"pool_size": POOL, "max_overflow": 0})
    config: DBOSConfig = {
        "name": "journeys",
        "system_database_url": url,
        "sys_db_pool_size": POOL,
        "log_level": "ERROR",
    }
    DBOS(config=config)
    workflow = define(datasource)[question]
    DBOS.launch()
    await DBOS.register_queue_async(QUEUE)
    events = events_to_step(count) if question == "steps" else events_to_match(count)
    try:
        started, cpu = time.perf_counter(), time.process_time()
        await run_all(workflow, events)
        return time.perf_counter() - started, time.process_time() - cpu
    finally:
        DBOS.destroy()


async def run_all(
    workflow: Callable[[dict[str, Any]], Coroutine[Any, Any, Any]], events: Sequence[dict[str, Any]]
) -> None:
    """Some at a time."""
    left = iter(events)

    async def go_on() -> None:
        for event in left:
            handle = await DBOS.start_workflow_async(workflow, event)
            await handle.get_result()

    await asyncio.gather(*(go_on() for _ in range(UNDER_WAY)))


if __name__ == "__main__":
    seconds, cpu = asyncio.run(run(sys.argv[1], sys.argv[2], int(sys.argv[3])))
    print(json.dumps({"seconds": seconds, "cpu": cpu}))
