"""A worker whose attempts and leases last seconds, so that a test need not wait a minute for a take-over.

`python -m tests.acceptance.chaos_deliveries.worker_with_short_lease`, with the settings of `cli.py worker`.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from datetime import timedelta

import asyncpg
import uvloop

import engine.channels.http
import engine.channels.smtp
import engine.dispatch.dispatcher
from settings import read_settings
from telemetry import configure_logging
from worker import WorkerProcess

SEND_SECONDS = 1.5
ATTEMPT_SECONDS = 2.0
NEEDED_SECONDS = 3.5
LEASE_SECONDS = 5.0
"""In the proportions of a worker's own."""


async def work() -> None:
    """Until SIGTERM."""
    settings = read_settings()
    configure_logging(settings.log_level)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await WorkerProcess(settings, lease=timedelta(seconds=LEASE_SECONDS)).run(stop)


def main() -> None:
    """A worker's whole life."""
    for channel in (engine.channels.http, engine.channels.smtp):
        channel.SEND_TIMEOUT = timedelta(seconds=SEND_SECONDS)
    engine.dispatch.dispatcher.ATTEMPT_SECONDS = ATTEMPT_SECONDS
    engine.dispatch.dispatcher.NEEDED_SECONDS = NEEDED_SECONDS
    try:
        uvloop.run(work())
    except (OSError, asyncpg.PostgresError) as error:
        sys.exit(f"PostgreSQL was away ({type(error).__name__}): start again")


if __name__ == "__main__":
    main()
