"""How long does a replay of very many deliveries take, and how long is a project's lane held by each of its chunks?

Data: `--deliveries` (default 100,000) failed webhooks of about 300 bytes to one endpoint, with 3 attempts behind them
and the 3 transitions that led there, on an embedded PostgreSQL with fsync on; nothing sends meanwhile.
Shows: how long the mutation takes (counting the set and its first chunk), all of it, and the p50, p99 and longest of
its chunks of `CHUNK` deliveries, each one transaction.
Counts only if then every delivery is due once, its schedule of retries starts again, and the lane holds one transition
to QUEUED of each.

Command: `python -m benchmarks.replay [--deliveries 100000]`
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

from benchmarks.harness import BenchmarkError
from db.database import Database
from db.delivery_filters import DeliveryFilter
from db.migrate import migrate
from db.projects import insert_organization, insert_project
from db.replays import read_replay_set
from engine.audit import SYSTEM, Audit
from engine.dispatch.replaying import CHUNK, REPLAYED_BY_DEFAULT, BulkReplay, Replays
from launch.embedded import EmbeddedPostgres

FILL = """
    INSERT INTO deliveries (project_id, delivery_id, channel, status, endpoint_id, dispatch_key, content, payload,
        retry_schedule, created_at, scheduled_for, finished_at, attempt_count, event_type, error_code, error_message,
        error_permanent)
    SELECT $1, uuidv7(), 'WEBHOOK', 'DEAD_LETTERED', $2, 'https://shop.example:443',
        jsonb_build_object('eventId', 'event_' || number, 'body', repeat('x', 150)),
        jsonb_build_object('order', number, 'text', repeat('x', 150)),
        '{2,8}', now(), now(), now(), 3, 'order.placed', 'HTTP_503', 'The receiver answered 503.', false
    FROM generate_series(1, $3::integer) AS number"""
FILL_LANE = """
    INSERT INTO delivery_transitions (project_id, seq, delivery_id, from_status, to_status, at, channel, endpoint_id,
        event_type, created_at)
    SELECT d.project_id, row_number() OVER (ORDER BY step.number, d.delivery_id), d.delivery_id, step.before,
        step.after, d.created_at, d.channel, d.endpoint_id, d.event_type, d.created_at
    FROM deliveries AS d
    CROSS JOIN (
        VALUES (1, NULL, 'QUEUED'), (2, 'QUEUED', 'SENDING'), (3, 'SENDING', 'DEAD_LETTERED')
    ) AS step (number, before, after)
    WHERE d.project_id = $1"""
MOVE_HEAD = "UPDATE heads SET head = $2 WHERE project_id = $1 AND lane = 2"
STEPS = 3
QUEUED = """
    SELECT count(*) FROM deliveries
    WHERE project_id = $1 AND batch_id = $2 AND status = 'QUEUED' AND next_attempt_at <= $3 AND attempt_count = 3
        AND schedule_offset = 3 AND finished_at IS NULL"""
TRANSITIONS = """
    SELECT count(*), count(DISTINCT delivery_id), max(seq) - min(seq) + 1 FROM delivery_transitions
    WHERE project_id = $1 AND batch_id = $2 AND to_status = 'QUEUED'"""


class RealTime:
    """Business time without a database to ask."""

    def now(self) -> datetime:
        return datetime.now(UTC)


async def fill(database: Database, project_id: UUID, count: int) -> None:
    """The project, its deliveries, and their transitions."""
    async with database.transaction() as connection:
        organization_id = uuid4()
        await insert_organization(connection, organization_id=organization_id, name="bench", region="us")
        await insert_project(
            connection,
            project_id=project_id,
            organization_id=organization_id,
            name="bench",
            region="us",
            salt=os.urandom(32),
        )
        await connection.execute("SET LOCAL statement_timeout = 0")
        await connection.execute(FILL, project_id, uuid4(), count, timeout=600)
        await connection.execute(FILL_LANE, project_id, timeout=600)
        await connection.execute(MOVE_HEAD, project_id, count * STEPS)
    async with database.connection() as connection:
        await connection.execute("VACUUM ANALYZE deliveries, delivery_transitions", timeout=600)


async def replay(database: Database, project_id: UUID) -> tuple[BulkReplay, list[float]]:
    """All of it, and how long each transaction took; the first with the counting before it, as in the mutation."""
    replays = Replays(database, RealTime(), lambda _announcement: None, lambda _work: None)
    wanted = DeliveryFilter(statuses=tuple(REPLAYED_BY_DEFAULT))
    taken, started = [], time.perf_counter()
    async with database.connection() as connection:
        found = await read_replay_set(connection, project_id=project_id, delivery_filter=wanted)
    begun = await replays.begin(
        project_id=project_id, delivery_filter=wanted, found=found, audit=Audit(SYSTEM, datetime.now(UTC))
    )
    if not isinstance(begun, BulkReplay):
        raise BenchmarkError(f"the replay was not accepted: {begun}")
    is_going_on = True
    while is_going_on:
        taken.append(time.perf_counter() - started)
        started = time.perf_counter()
        is_going_on = await replays.go_on(project_id=project_id)
    return begun, taken


async def verify(database: Database, project_id: UUID, batch_id: UUID, count: int) -> None:
    """Raises `BenchmarkError` where a delivery is not queued, or not exactly once."""
    async with database.connection() as connection:
        queued = await connection.fetchval(QUEUED, project_id, batch_id, datetime.now(UTC))
        transitions = await connection.fetchrow(TRANSITIONS, project_id, batch_id)
    if [queued, *transitions] != [count] * 4:
        raise BenchmarkError(f"of {count}, {queued} attempts are due, and the lane holds {list(transitions)}")


async def run(url: str, count: int) -> None:
    """One replay, and what it came to."""
    await migrate(url)
    database = Database(url)
    await database.connect()
    project_id = uuid4()
    await fill(database, project_id, count)
    begun, taken = await replay(database, project_id)
    await verify(database, project_id, begun.batch_id, count)
    await database.disconnect()
    chunks = sorted(taken[1:]) or taken
    print(
        f"{begun.replayed:,} deliveries queued again in {sum(taken):.1f} s ({count / sum(taken):,.0f}/s), the mutation "
        f"{taken[0] * 1000:.0f} ms; chunks of {CHUNK:,}: p50 {statistics.median(chunks) * 1000:.0f} ms, "
        f"p99 {chunks[int(len(chunks) * 0.99)] * 1000:.0f} ms, longest {chunks[-1] * 1000:.0f} ms"
    )


def main() -> None:
    """One run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deliveries", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        server = EmbeddedPostgres(Path(directory))
        server.start()
        try:
            asyncio.run(run(server.url, arguments.deliveries))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
