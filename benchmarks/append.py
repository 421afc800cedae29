"""How close does the append come to the fastest way into the same table?

Question: rows per second of `append_events` (dedupe, numbering, profiles, counts, head) beside a bare asyncpg COPY into
the same partitioned table with the same indexes, interleaved in one run on one connection.
Data: events of about 160 bytes of properties and 40 of context, 200 people, 5 types, deterministic; each batch has keys
of its own. `--batch` events a transaction, `--rounds` of each, on an embedded PostgreSQL with fsync on.
Shows: the median of the rounds for COPY, for the function alone, and for `EventLog.append` (checks, hashing of
addresses and records included), and the last two as a share of COPY.
Counts only if the log then holds every event exactly once, without gaps.

    python -m benchmarks.append --batch 1000 --rounds 30
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

from db.database import Database
from db.events import append_events
from db.heads import read_head
from db.migrate import migrate
from db.projects import insert_organization, insert_project
from db.records import Lane, NewEvent
from engine.events import EventDraft
from engine.log import EventLog
from launch.embedded import EmbeddedPostgres

PEOPLE = 200
TYPES = ("order.placed", "product.viewed", "cart.updated", "page.viewed", "search.performed")
CONTEXT = '{"ip": "203.0.113.77", "locale": "de-DE"}'
STORED_CONTEXT = '{"ip": "0011223344556677", "locale": "de-DE"}'
START = datetime(2026, 5, 1, tzinfo=UTC)


def properties(number: int) -> str:
    return (
        f'{{"orderId": "order-{number}", "amount": {number % 500}.90, "currency": "EUR", "coupon": null,'
        f' "items": [{{"sku": "A-{number % 97}", "qty": 2}}, {{"sku": "B-{number % 89}", "qty": 1}}], "source": "web"}}'
    )


def draft(number: int) -> EventDraft:
    return EventDraft(
        key=f"event-{number:012}",
        event_type=TYPES[number % len(TYPES)],
        timestamp=START + timedelta(seconds=number),
        user_id=f"user-{number % PEOPLE}",
        properties=properties(number).encode(),
        context=CONTEXT.encode(),
    )


def new_event(number: int) -> NewEvent:
    return NewEvent(
        f"event-{number:012}",
        "analytics",
        TYPES[number % len(TYPES)],
        START + timedelta(seconds=number),
        f"user-{number % PEOPLE}",
        None,
        properties(number),
        STORED_CONTEXT,
    )


def copied_row(project_id: UUID, number: int) -> tuple[object, ...]:
    event = new_event(number)
    return (
        project_id,
        number + 1,
        0,
        event.timestamp,
        event.timestamp,
        event.key,
        event.module,
        event.event_type,
        event.user_id,
        event.anonymous_id,
        event.properties,
        event.context,
    )


COPY_COLUMNS = [
    "project_id",
    "seq",
    "batch_token",
    "timestamp",
    "received_at",
    "key",
    "module",
    "event_type",
    "user_id",
    "anonymous_id",
    "properties",
    "context",
]


class Bench:
    """Three projects, one per way in, in one database."""

    def __init__(self, database: Database, batch: int) -> None:
        self.database = database
        self.batch = batch
        self.projects = {name: uuid4() for name in ("copy", "function", "log")}
        self.log = EventLog(database, lambda _announcement: None)

    async def prepare(self) -> None:
        async with self.database.transaction() as connection:
            organization_id = uuid4()
            await insert_organization(connection, organization_id=organization_id, name="bench", region="us")
            for name, project_id in self.projects.items():
                await insert_project(
                    connection,
                    project_id=project_id,
                    organization_id=organization_id,
                    name=name,
                    region="us",
                    salt=os.urandom(32),
                )

    async def copy(self, round_number: int) -> float:
        rows = [copied_row(self.projects["copy"], n) for n in self.numbers(round_number)]
        async with self.database.connection() as connection:
            return await seconds(lambda: connection.copy_records_to_table("events", records=rows, columns=COPY_COLUMNS))

    async def function(self, round_number: int) -> float:
        events = [new_event(n) for n in self.numbers(round_number)]
        async with self.database.connection() as connection:
            return await seconds(
                lambda: append_events(
                    connection, project_id=self.projects["function"], batch_token=round_number + 1, events=events
                )
            )

    async def whole(self, round_number: int) -> float:
        drafts = [draft(n) for n in self.numbers(round_number)]
        return await seconds(lambda: self.log.append(self.projects["log"], drafts))

    def numbers(self, round_number: int) -> range:
        return range(round_number * self.batch, (round_number + 1) * self.batch)

    async def verify(self, rounds: int) -> None:
        expected = rounds * self.batch
        async with self.database.connection() as connection:
            for name in ("function", "log"):
                head = await read_head(connection, project_id=self.projects[name], lane=Lane.EVENTS)
                counted = await connection.fetchrow(
                    "SELECT count(*), count(DISTINCT key), max(seq) FROM events WHERE project_id = $1",
                    self.projects[name],
                )
                if [head.head, *counted] != [expected] * 4:
                    raise SystemExit(f"{name}: the log is not what was sent: {head.head}, {list(counted)}")


async def seconds(action: Callable[[], Awaitable[object]]) -> float:
    started = time.perf_counter()
    await action()
    return time.perf_counter() - started


async def run(url: str, batch: int, rounds: int) -> None:
    await migrate(url)
    database = Database(url)
    await database.connect()
    bench = Bench(database, batch)
    await bench.prepare()
    ways = {"COPY": bench.copy, "append_events": bench.function, "EventLog.append": bench.whole}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            taken[name].append(await way(number))
    await bench.verify(rounds)
    report(taken, batch)
    await database.disconnect()


def report(taken: dict[str, list[float]], batch: int) -> None:
    copied = statistics.median(taken["COPY"])
    for name, times in taken.items():
        median = statistics.median(times)
        rate, share = batch / median, copied / median
        print(f"{name:16} {median * 1000:8.2f} ms a batch  {rate:10,.0f} rows/s  {share:5.0%} of COPY")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        server = EmbeddedPostgres(Path(directory))
        server.start()
        try:
            asyncio.run(run(server.url, arguments.batch, arguments.rounds))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
