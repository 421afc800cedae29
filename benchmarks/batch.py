"""How close does `trackBatch` come to the database's own limit?

Data: batches of 1,000 events of about 220 bytes of properties, 600 users, three event types, all new keys. Ours go over
HTTP as GraphQL, `--in-flight` (default 4) requests at a time, `--batches` (default 60) of them; the yardstick is a bare
asyncpg `COPY` of the same rows, a batch a transaction, into the same table with the same indexes, on one connection (a
log is written by one transaction at a time). Both run alternately in one run, in slices, so that noise meets both.

Shows: rows per second of each, and their ratio (goal: at least 0.4). Counts only when every row is stored exactly once.

Command: `python -m benchmarks.batch [--batches 60] [--in-flight 4]`
"""

from __future__ import annotations

import argparse
import asyncio
import time
from datetime import UTC, datetime
from itertools import count
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import orjson

from benchmarks.harness import BenchmarkError, Gateway, gateway

BATCH = 1000
SLICES = 6
MUTATION = "mutation ($input: TrackBatchInput!) { trackBatch(input: $input) { accepted duplicates rejected } }"
TYPES = ("order.placed", "page.viewed", "product.viewed")


def properties_of(number: int) -> dict[str, object]:
    """About 220 bytes of JSON."""
    return {
        "amount": number % 997 / 10,
        "currency": "EUR",
        "path": f"/products/{number % 500}/details",
        "referrer": "https://www.example.com/search?q=shoes",
        "items": [{"sku": f"SKU-{number % 1000}", "quantity": number % 5 + 1}],
        "campaign": {"source": "newsletter", "medium": "email", "name": "spring"},
    }


def request_body(first: int) -> bytes:
    """One GraphQL request of `BATCH` events."""
    events = [
        {
            "id": f"bench-{number}",
            "eventType": TYPES[number % 3],
            "timestamp": "2026-05-01T12:00:00Z",
            "userId": f"user-{number % 600}",
            "properties": properties_of(number),
        }
        for number in range(first, first + BATCH)
    ]
    return orjson.dumps({"query": MUTATION, "variables": {"input": {"events": events}}})


async def send_all(server: Gateway, bodies: list[bytes], in_flight: int) -> float:
    """Rows per second over HTTP."""
    waiting = iter(bodies)
    url = f"http://127.0.0.1:{server.port}/graphql"
    headers = {**server.headers, "content-type": "application/json"}
    async with aiohttp.ClientSession() as session:

        async def call() -> None:
            for body in waiting:
                async with session.post(url, data=body, headers=headers) as response:
                    answer = orjson.loads(await response.read())
                if answer.get("errors") or answer["data"]["trackBatch"]["accepted"] != BATCH:
                    raise BenchmarkError(f"trackBatch was refused: {str(answer)[:300]}")

        started = time.perf_counter()
        await asyncio.gather(*(call() for _ in range(in_flight)))
        return len(bodies) * BATCH / (time.perf_counter() - started)


async def copy_all(server: Gateway, batches: list[list[tuple[object, ...]]]) -> float:
    """Rows per second by COPY."""
    connection = await asyncpg.connect(server.database_url)
    started = time.perf_counter()
    for rows in batches:
        await connection.copy_records_to_table("events", records=rows, columns=COLUMNS)
    rate = len(batches) * BATCH / (time.perf_counter() - started)
    await connection.close()
    return rate


COLUMNS = (
    "project_id", "seq", "key", "module", "event_type", "timestamp", "received_at", "user_id", "anonymous_id",
    "properties", "context", "batch_token",
)  # fmt: skip


def rows_of(project: UUID, numbers: count[int]) -> list[tuple[object, ...]]:
    """One batch as the table holds it."""
    at = datetime(2026, 5, 1, 12, tzinfo=UTC)
    return [
        (
            project, number, f"bench-{number}", "analytics", TYPES[number % 3], at, at, f"user-{number % 600}", None,
            orjson.dumps(properties_of(number)).decode(), "{}", 1,
        )
        for number, _ in zip(numbers, range(BATCH), strict=False)
    ]  # fmt: skip


async def project_for_copy(server: Gateway) -> UUID:
    """A second project of the same organization, so that COPY meets the same constraints and another partition."""
    connection = await asyncpg.connect(server.database_url)
    project = uuid4()
    await connection.execute(
        "INSERT INTO projects (project_id, organization_id, name, region, salt) "
        "SELECT $1, organization_id, 'copy', region, salt FROM projects WHERE project_id = $2",
        project,
        UUID(server.project_id),
    )
    await connection.close()
    return project


async def stored(server: Gateway) -> int:
    """Rows that came over HTTP."""
    connection = await asyncpg.connect(server.database_url)
    rows = await connection.fetchval(
        "SELECT count(*) FROM events WHERE project_id = $1 AND key LIKE 'bench-%'", UUID(server.project_id)
    )
    await connection.close()
    return int(rows)


async def compare(server: Gateway, batches: int, in_flight: int) -> tuple[float, float]:
    """Mean rows per second: ours, COPY."""
    project, numbers = await project_for_copy(server), count(1)
    per_slice = max(1, batches // SLICES)
    await send_all(server, [request_body(10_000_000)], 1)
    ours, copies = [], []
    for slice_number in range(SLICES):
        first = slice_number * per_slice * BATCH
        bodies = [request_body(first + n * BATCH) for n in range(per_slice)]
        ours.append(await send_all(server, bodies, in_flight))
        copies.append(await copy_all(server, [rows_of(project, numbers) for _ in range(per_slice)]))
    if (rows := await stored(server)) != (SLICES * per_slice + 1) * BATCH:
        raise BenchmarkError(f"{rows} rows are stored, not {(SLICES * per_slice + 1) * BATCH}")
    return sum(ours) / SLICES, sum(copies) / SLICES


def main() -> None:
    """Alternate between ours and COPY."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--in-flight", type=int, default=4)
    arguments = parser.parse_args()
    with gateway() as server:
        ours, copied = asyncio.run(compare(server, arguments.batches, arguments.in_flight))
    print(f"trackBatch {ours:.0f} rows/s, COPY {copied:.0f} rows/s: {ours / copied:.2f} (goal: at least 0.4)")


if __name__ == "__main__":
    main()
