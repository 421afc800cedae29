"""A real shop's six months: 31,106 page events of 600 people, who have ids from the start."""

from __future__ import annotations

import csv
import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from db.database import Database
from db.events import append_events
from tests.integration.log_support import make_project, new_event

SHOP = Path(__file__).parents[2].parent / "shared" / "data" / "ecom.csv.gz"
"""It stays beside the checkout."""


async def load_shop(database: Database) -> UUID:
    project = await make_project(database)
    with gzip.open(SHOP, "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    async with database.transaction() as connection:
        for first in range(0, len(rows), 1000):
            events = [
                new_event(
                    str(number),
                    event_type=row["event"],
                    user_id=row["user_id"],
                    timestamp=datetime.fromisoformat(row["timestamp"]).replace(tzinfo=UTC),
                    properties=json.dumps({"platform": row["platform"]}),
                )
                for number, row in enumerate(rows[first : first + 1000], start=first)
            ]
            await append_events(connection, project_id=project, batch_token=1, events=events)
    return project
