"""What do open but idle streams cost?

Data: `--streams` (default 5,000) WebSockets, one `eventStream` subscription each, all with the same document, no
events, watched for `--seconds` (default 60).

Shows: memory of the gateway process per open stream (goal: under 40 KB), and transactions that the database saw in
that time apart from our own two readings and PostgreSQL's own workers (goal: zero from the gateway; the worker's relay
asks once a second by design and is counted apart, by application name).

Command: `python -m benchmarks.idle [--streams 5000] [--seconds 60]`
"""

from __future__ import annotations

import argparse
import asyncio
import resource

import asyncpg

from benchmarks.harness import Gateway, gateway, open_subscribers

STREAM = "subscription { eventStream { cursor node { seq eventType userId properties } } }"


async def last_statement(server: Gateway) -> dict[int, object]:
    """Time of the newest statement of each gateway connection, by backend."""
    connection = await asyncpg.connect(server.database_url)
    rows = await connection.fetch(
        "SELECT pid, query_start FROM pg_stat_activity WHERE application_name = 'sendora-gateway'"
    )
    await connection.close()
    return {row["pid"]: row["query_start"] for row in rows}


async def run(server: Gateway, streams: int, seconds: int) -> None:
    """Open them, wait, compare."""
    warm = await open_subscribers(server, STREAM, [{}] * 10)
    before = server.resident_kib()
    opened = await open_subscribers(server, STREAM, [{}] * streams)
    per_stream = (server.resident_kib() - before) / streams
    await asyncio.sleep(3)
    statements = await last_statement(server)
    await asyncio.sleep(seconds)
    active = sum(at != statements.get(pid) for pid, at in (await last_statement(server)).items())
    print(f"{streams} idle streams: {per_stream:.1f} KiB each (goal: under 40); ", end="")
    print(f"connections of the gateway that ran SQL within {seconds} s: {active} of {len(statements)} (goal: 0)")
    for subscriber in (*warm, *opened):
        subscriber.close()


def main() -> None:
    """One run; raises the limit of open files, since both ends of each socket are on this machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=5000)
    parser.add_argument("--seconds", type=int, default=60)
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with gateway() as server:
        asyncio.run(run(server, arguments.streams, arguments.seconds))


if __name__ == "__main__":
    main()
