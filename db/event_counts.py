"""Counts of people's events as of a moment: what a condition's test of a count said when an event had come.

The statement's text is made of constants; whatever a caller supplies is a parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from db.conditions import count_test_sql
from db.filters import Condition

if TYPE_CHECKING:
    import asyncpg

UP_TO_NOW = 2**63 - 1
"""As a `seq`: all events there are."""


class Moment(msgspec.Struct, frozen=True):
    """A person and a point of the log: events up to `seq` count, and `withinSeconds` looks back from `at`."""

    user_id: str
    seq: int
    at: datetime


async def find_passing(
    connection: asyncpg.Connection, *, project_id: UUID, test: Condition, moments: Sequence[Moment]
) -> set[Moment]:
    """The moments at which a test of a count held. Counts no further than the test can tell apart."""
    parameters: list[Any] = [
        project_id,
        [moment.user_id for moment in moments],
        [moment.seq for moment in moments],
        [moment.at for moment in moments],
    ]
    text = f"""
        SELECT moment.ordinal
        FROM unnest(CAST($2 AS text[]), CAST($3 AS bigint[]), CAST($4 AS timestamptz[]))
            WITH ORDINALITY AS moment (user_id, seq, at, ordinal)
        WHERE {count_test_sql(test, parameters, alias="moment", project="$1")}"""  # noqa: S608
    return {moments[row["ordinal"] - 1] for row in await connection.fetch(text, *parameters)}
