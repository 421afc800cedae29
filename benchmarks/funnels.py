"""How close does a funnel come to the best hand-written SQL, and how does it grow?

Question: product.viewed → cart.updated → order.placed in order, within 7 days, over the last 30 days, with median and
p90 per step; asked through `count_funnel`, beside `sql/funnel.sql` (the same question written by hand, on the same
tables and connection) and DuckDB (`peers/duckdb`, its own copy of the five columns that are read, two threads).
Data: as `people.py` makes it, a project of each of `--events` (default 100,000 and 1,000,000).
Shows: the median of `--rounds` (default 7) in ms of each, taken in turn, and ours in ratio to the hand-written one
(goal: at most 1.5). Besides, without a goal: the same steps STRICT and UNORDERED, broken down by a property, and with
conditions on properties. Counts only where all three give the same numbers.

    python -m benchmarks.funnels [--events 100000 1000000] [--rounds 7]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from benchmarks.harness import BenchmarkError
from benchmarks.people import END, fill_log
from db.analytics_terms import Period, Step
from db.condition_terms import Path as ValuePath
from db.database import Database
from db.filters import Condition
from db.funnels import Funnel, FunnelCount, FunnelOrder, count_funnel
from db.migrate import migrate
from db.projects import insert_organization, insert_project
from engine.analytics.pool import STATEMENT_TIMEOUT, AnalyticsPool
from launch.embedded import EmbeddedPostgres

if TYPE_CHECKING:
    import asyncpg

HERE = Path(__file__).parent
DUCKDB = HERE / "peers" / "duckdb"
THREADS = 2
PERIOD = Period(END - timedelta(days=30), END)
WEEK_SECONDS = 7 * 24 * 3600
TYPES = ("product.viewed", "cart.updated", "order.placed")


def step(event_type: str, *where: Condition) -> Step:
    """A step of one type."""
    return Step(name=event_type, event_type=event_type, event_types=(event_type,), where=where)


STEPS = tuple(step(event_type) for event_type in TYPES)
DEAR = Condition(path="event.properties.amount", op="GTE", value=100)
PLAIN = Funnel(steps=STEPS, window_seconds=WEEK_SECONDS)
OTHERS = {
    "STRICT": Funnel(steps=STEPS, window_seconds=WEEK_SECONDS, order=FunnelOrder.STRICT),
    "UNORDERED": Funnel(steps=STEPS, window_seconds=WEEK_SECONDS, order=FunnelOrder.UNORDERED),
    "by a property": Funnel(
        steps=STEPS, window_seconds=WEEK_SECONDS, group=ValuePath("event", "properties", ("source",))
    ),
    "with conditions": Funnel(steps=tuple(step(event_type, DEAR) for event_type in TYPES), window_seconds=WEEK_SECONDS),
    "excluding a type": Funnel(steps=STEPS, window_seconds=WEEK_SECONDS, exclude=(step("search.performed"),)),
}


class Bench:
    """One database, a project per size."""

    def __init__(self, url: str, rounds: int) -> None:
        self.writing = Database(url, statement_timeout=timedelta(minutes=20))
        self.asking = Database(url, statement_timeout=STATEMENT_TIMEOUT)
        self.pool = AnalyticsPool(self.asking)
        self.rounds = rounds

    async def make_project(self, events: int) -> UUID:
        """A project with a log."""
        project_id, organization_id = uuid4(), uuid4()
        async with self.writing.transaction() as connection:
            await insert_organization(connection, organization_id=organization_id, name="bench", region="us")
            await insert_project(
                connection,
                project_id=project_id,
                organization_id=organization_id,
                name=f"{events} events",
                region="us",
                salt=bytes(32),
            )
        async with self.writing.connection() as connection:
            await fill_log(connection, project_id=project_id, events=events)
        return project_id

    async def compare(self, events: int) -> None:
        """Print one size."""
        project_id = await self.make_project(events)
        ours, by_hand, answers = [], [], []
        for _ in range(self.rounds):
            async with self.pool.connection(project_id) as connection:
                seconds, counted = await ask(connection, project_id, PLAIN)
                ours.append(seconds)
                seconds, row = await ask_by_hand(connection, project_id)
                by_hand.append(seconds)
            answers += [[each.people for each in counted.steps], row]
        duckdb, row = await self.ask_duckdb(project_id)
        if any(answer != row for answer in answers):
            raise BenchmarkError(f"the answers differ: {answers}, {row}")
        ratio = statistics.median(ours) / statistics.median(by_hand)
        print(
            f"{events:>10,} events: ours {_ms(ours)}, by hand {_ms(by_hand)}: {ratio:.2f}; DuckDB {_ms(duckdb)}; {row}"
        )
        for name, funnel in OTHERS.items():
            print(f"{'':>18} {name}: {_ms([await self.ask_once(project_id, funnel) for _ in range(self.rounds)])}")

    async def ask_once(self, project_id: UUID, funnel: Funnel) -> float:
        """Seconds of one question."""
        async with self.pool.connection(project_id) as connection:
            return (await ask(connection, project_id, funnel))[0]

    async def ask_duckdb(self, project_id: UUID) -> tuple[list[float], list[int]]:
        """Seconds of each round, and who came how far."""
        with tempfile.TemporaryDirectory() as folder:
            async with self.writing.connection() as connection:
                for table, columns in (
                    ("events", "seq, timestamp, event_type, user_id, anonymous_id"),
                    ("identity_links", "kind, alias, user_id"),
                ):
                    await connection.copy_from_query(
                        f"SELECT {columns} FROM {table} WHERE project_id = $1",
                        project_id,
                        output=Path(folder) / f"{table}.csv",
                        format="csv",
                        header=True,
                        timeout=600,
                    )
            found = await asyncio.to_thread(_run_duckdb, folder, self.rounds)
        return found["seconds"], found["answer"][0][:3]


async def ask(connection: asyncpg.Connection, project_id: UUID, funnel: Funnel) -> tuple[float, FunnelCount]:
    """Seconds, and the answer."""
    started = time.perf_counter()
    counted = await count_funnel(
        connection, project_id=project_id, funnel=funnel, period=PERIOD, audience=None, now=END
    )
    return time.perf_counter() - started, counted


async def ask_by_hand(connection: asyncpg.Connection, project_id: UUID) -> tuple[float, list[int]]:
    """Seconds, and who came how far."""
    text = (HERE / "sql" / "funnel.sql").read_text(encoding="utf-8")
    started = time.perf_counter()
    row = await connection.fetchrow(text, project_id, PERIOD.since, PERIOD.until)
    return time.perf_counter() - started, list(row)[:3]


def _run_duckdb(folder: str, rounds: int) -> Any:
    environment = DUCKDB / ".venv"
    python = environment / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        subprocess.run([python, "-m", "pip", "install", "-qq", "-r", DUCKDB / "requirements.txt"], check=True)
    question = HERE / "sql" / "funnel_duckdb.sql"
    command = [python, DUCKDB / "ask.py", folder, question, str(rounds), str(THREADS)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _ms(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1000:.0f} ms"


async def run(url: str, sizes: list[int], rounds: int) -> None:
    """Every size in turn."""
    await migrate(url)
    bench = Bench(url, rounds)
    await bench.writing.connect()
    await bench.asking.connect()
    for events in sizes:
        await bench.compare(events)
    await bench.asking.disconnect()
    await bench.writing.disconnect()


def main() -> None:
    """A PostgreSQL of its own, and every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        server = EmbeddedPostgres(Path(directory))
        server.start()
        try:
            asyncio.run(run(server.url, arguments.events, arguments.rounds))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
