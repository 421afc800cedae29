"""The same journeys on Procrastinate: a job that decides and defers the next, which updates the profile.

As its documentation writes it for speed: asynchronous tasks, one worker with `CONCURRENCY` jobs at once, first jobs
deferred in batches. An event that has to be matched is a job: what was received is handled though the process ends; it
defers what matches, scheduled. Prints {"seconds": …, "cpu": …}.
Command: `python procrastinate_journeys.py DATABASE_URL QUESTION COUNT`, where QUESTION is steps or events.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from journeys import LARGE, WAIT_MINUTES, chunks, events_to_match, events_to_step, handlers
from procrastinate import App, PsycopgConnector
from psycopg.types.json import Jsonb

CONCURRENCY = 20
"""Jobs at once: 5 and 40 were no faster."""
BATCH = 500
MERGE = "UPDATE profiles SET traits = traits || %s WHERE user_id = %s"


def define(app: App, connector: PsycopgConnector) -> dict[str, Any]:
    """First jobs by what is asked."""
    known = handlers()

    @app.task(name="update_profile", queue="journeys")
    async def update_profile(user_id: str, tier: str) -> None:
        async with connector.pool.connection() as connection:
            await connection.execute(MERGE, (Jsonb({"tier": tier}), user_id))

    @app.task(name="branch", queue="journeys")
    async def branch(event: dict[str, Any]) -> None:
        tier = "large" if event["properties"]["amount"] >= LARGE else "small"
        await update_profile.defer_async(user_id=event["userId"], tier=tier)

    @app.task(name="on_event", queue="journeys")
    async def on_event(event: dict[str, Any]) -> None:
        for handler in known:
            if handler.matches(event):
                await branch.configure(schedule_in={"minutes": WAIT_MINUTES}).defer_async(event=event)

    return {"steps": branch, "events": on_event}


async def run(url: str, question: str, count: int) -> tuple[float, float]:
    """Seconds, and of this process's CPU, from the first event until the worker has nothing left to do."""
    connector = PsycopgConnector(conninfo=url, min_size=CONCURRENCY, max_size=CONCURRENCY + 5)
    app = App(connector=connector)
    task = define(app, connector)[question]
    events = events_to_step(count) if question == "steps" else events_to_match(count)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        started, cpu = time.perf_counter(), time.process_time()
        for some in chunks(events, BATCH):
            await task.batch_defer_async(*({"event": event} for event in some))
        await app.run_worker_async(concurrency=CONCURRENCY, wait=False, install_signal_handlers=False)
        return time.perf_counter() - started, time.process_time() - cpu


if __name__ == "__main__":
    seconds, cpu = asyncio.run(run(sys.argv[1], sys.argv[2], int(sys.argv[3])))
    print(json.dumps({"seconds": seconds, "cpu": cpu}))
