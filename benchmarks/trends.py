"""How close do trends and retention come to the best hand-written SQL, and how do they grow?

Questions: page views a day over 90 days by a property, its five greatest values and the rest; of the people who viewed
a product in each of 12 weeks, how many ordered in each week after. Asked through `read_trend` and `read_retention`,
beside `sql/trend.sql` and `sql/retention.sql` (the same questions written by hand, on the same tables and connection)
and DuckDB (`peers/duckdb`, its own copy of the columns that are read, the property being one, two threads).
Data: as `people.py` makes it, a project of each of `--events` (default 100,000 and 1,000,000).
Shows: the median of `--rounds` (default 7) in ms of each, taken in turn, and ours in ratio to the hand-written one
(goal: at most 1.5). Besides, without a goal: other measures. Counts only where all three give the same numbers.

    python -m benchmarks.trends [--events 100000 1000000] [--rounds 7]
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
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from benchmarks.harness import BenchmarkError
from benchmarks.people import DAYS, END, fill_log
from db.analytics_terms import Step
from db.condition_terms import Path as ValuePath
from db.database import Database
from db.migrate import migrate
from db.projects import insert_organization, insert_project
from db.retention import RetentionQuestion, read_retention
from db.trends import Measure, TrendQuestion, read_trend
from engine.analytics.pool import STATEMENT_TIMEOUT, AnalyticsPool
from engine.errors import TimedOut
from launch.embedded import EmbeddedPostgres

if TYPE_CHECKING:
    import asyncpg

HERE = Path(__file__).parent
DUCKDB = HERE / "peers" / "duckdb"
THREADS = 2
WEEKS = 12
DAY_STARTS = tuple(END - timedelta(days=DAYS - day) for day in range(DAYS))
WEEK_STARTS = tuple(END - timedelta(weeks=WEEKS - week) for week in range(WEEKS))
SOURCE, AMOUNT = (ValuePath("event", "properties", (key,)) for key in ("source", "amount"))

Numbers = dict[tuple[str, str], int]
"""What an answer says, by day or cohort, and by source or weeks later: the same from whoever is asked."""
Ask = Callable[["asyncpg.Connection", UUID], Awaitable[Numbers]]


def step(event_type: str) -> Step:
    """A step of one type."""
    return Step(name=event_type, event_type=event_type, event_types=(event_type,))


def trend(measure: Measure = Measure.COUNT, *, group: ValuePath | None = SOURCE) -> TrendQuestion:
    """Page views a day by source."""
    value = None if measure in (Measure.COUNT, Measure.UNIQUE_USERS) else AMOUNT
    return TrendQuestion(
        step=step("page.viewed"),
        measure=measure,
        edges=DAY_STARTS,
        until=END,
        value=value,
        group=group,
        group_limit=5,
    )


RETENTION = RetentionQuestion(
    start=step("product.viewed"), back=step("order.placed"), edges=WEEK_STARTS, until=END, end=END, periods=WEEKS
)
OTHERS = {
    "users, by source": trend(Measure.UNIQUE_USERS),
    "users": trend(Measure.UNIQUE_USERS, group=None),
    "sum, by source": trend(Measure.SUM),
    "p90, by source": trend(Measure.P90),
}


async def ask_trend(connection: asyncpg.Connection, project_id: UUID) -> Numbers:
    """Ours."""
    cells = await read_trend(connection, project_id=project_id, question=trend(), now=END)
    return {
        (str(DAY_STARTS[cell.bucket - 1].date()), str(cell.name)): int(cell.value)
        for cell in cells
        if cell.bucket is not None
    }


async def ask_retention(connection: asyncpg.Connection, project_id: UUID) -> Numbers:
    """Ours."""
    cells = await read_retention(connection, project_id=project_id, question=RETENTION, now=END)
    return {(str(WEEK_STARTS[cell.cohort - 1].date()), str(cell.later)): cell.people for cell in cells}


def by_hand(question: str, since: Any) -> Ask:
    """What is written in `sql/`."""
    text = (HERE / "sql" / f"{question}.sql").read_text(encoding="utf-8")

    async def ask(connection: asyncpg.Connection, project_id: UUID) -> Numbers:
        rows = await connection.fetch(text, project_id, since, END)
        return {(str(row[0].date()), str(row[1])): row[2] for row in rows}

    return ask


QUESTIONS: dict[str, tuple[Ask, Ask]] = {
    "trend": (ask_trend, by_hand("trend", DAY_STARTS[0])),
    "retention": (ask_retention, by_hand("retention", WEEK_STARTS[0])),
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
        with tempfile.TemporaryDirectory() as folder:
            await self.export(project_id, folder)
            for name, (ours, hand) in QUESTIONS.items():
                await self.compare_one(f"{events:>10,} events, {name}", project_id, ours, hand, folder, name)
        for name, question in OTHERS.items():
            try:
                print(
                    f"{'':>18} {name}: {_ms([await self.ask_once(project_id, question) for _ in range(self.rounds)])}"
                )
            except TimedOut:
                print(f"{'':>18} {name}: TIMEOUT, no answer in {STATEMENT_TIMEOUT.total_seconds():g} s")

    async def ask_once(self, project_id: UUID, question: TrendQuestion) -> float:
        """Seconds of one question."""
        async with self.pool.connection(project_id) as connection:
            started = time.perf_counter()
            await read_trend(connection, project_id=project_id, question=question, now=END)
            return time.perf_counter() - started

    async def compare_one(self, title: str, project_id: UUID, ours: Ask, hand: Ask, folder: str, name: str) -> None:
        """Print one question."""
        taken: dict[Ask, list[float]] = {ours: [], hand: []}
        answers: list[Numbers] = []
        for _ in range(self.rounds):
            async with self.pool.connection(project_id) as connection:
                for ask, seconds in taken.items():
                    started = time.perf_counter()
                    answers.append(await ask(connection, project_id))
                    seconds.append(time.perf_counter() - started)
        found = await asyncio.to_thread(_run_duckdb, folder, name, self.rounds)
        answers.append({(str(first), str(second)): int(count) for first, second, count in found["answer"]})
        if any(answer != answers[0] for answer in answers):
            raise BenchmarkError(f"the answers to {name} differ")
        ratio = statistics.median(taken[ours]) / statistics.median(taken[hand])
        print(
            f"{title}: ours {_ms(taken[ours])}, by hand {_ms(taken[hand])}: {ratio:.2f}; "
            f"DuckDB {_ms(found['seconds'])}; {len(answers[0])} numbers, {sum(answers[0].values())} in all"
        )

    async def export(self, project_id: UUID, folder: str) -> None:
        """What DuckDB reads."""
        columns = "seq, timestamp, event_type, user_id, anonymous_id, properties ->> 'source' AS source"
        async with self.writing.connection() as connection:
            for table, selected in (("events", columns), ("identity_links", "kind, alias, user_id")):
                await connection.copy_from_query(
                    f"SELECT {selected} FROM {table} WHERE project_id = $1",
                    project_id,
                    output=Path(folder) / f"{table}.csv",
                    format="csv",
                    header=True,
                    timeout=600,
                )


def _run_duckdb(folder: str, name: str, rounds: int) -> Any:
    environment = DUCKDB / ".venv"
    python = environment / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        subprocess.run([python, "-m", "pip", "install", "-qq", "-r", DUCKDB / "requirements.txt"], check=True)
    question = HERE / "sql" / f"{name}_duckdb.sql"
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
