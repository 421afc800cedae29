"""One question to DuckDB, over events and links that PostgreSQL wrote as CSV: seconds of each round, and the answer.

Command: `ask.py FOLDER QUESTION.sql ROUNDS THREADS`; prints one JSON object. Loading is not measured.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import duckdb


def main(folder: str, question: str, rounds: int, threads: int) -> None:
    """Load, ask, print."""
    connection = duckdb.connect(config={"threads": threads})
    connection.execute("SET TimeZone = 'UTC'")
    for table in ("events", "identity_links"):
        connection.execute(f"CREATE TABLE {table} AS FROM read_csv('{folder}/{table}.csv', header = true)")
    text, seconds, answer = Path(question).read_text(encoding="utf-8"), [], None
    for _ in range(rounds):
        started = time.perf_counter()
        answer = connection.execute(text).fetchall()
        seconds.append(time.perf_counter() - started)
    print(json.dumps({"seconds": seconds, "answer": answer}, default=str))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
