"""Which runs: one filter for lists (`workflow_runs AS r`) and for their lane (`workflow_run_updates AS u`).

Values travel as parameters, never in the text.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from db.filter_terms import all_of, compare, equal_any


class RunFilter(msgspec.Struct, frozen=True):
    """Which runs. Everything given must hold; a list given must hold the value, so an empty one matches nothing.

    `since` (inclusive) and `until` (exclusive) are about when the run was started. For an item of the lane, `statuses`
    are about where the run stood from then on.
    """

    ids: tuple[UUID, ...] | None = None
    workflow_id: UUID | None = None
    statuses: tuple[str, ...] | None = None
    user_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


EVERY_RUN = RunFilter()


def run_filter_sql(run_filter: RunFilter, parameters: list[Any]) -> str:
    """A boolean SQL expression over `workflow_runs AS r`; appends its values to `parameters`, refers to them as $n."""
    return _sql(run_filter, parameters, alias="r")


def run_update_filter_sql(run_filter: RunFilter, parameters: list[Any]) -> str:
    """The same over `workflow_run_updates AS u`: `statuses` are those from then on."""
    return _sql(run_filter, parameters, alias="u")


def is_selective(run_filter: RunFilter) -> bool:
    """Whether an index of the lane leads straight to what matches, so that a page costs what it finds."""
    return run_filter.ids is not None or run_filter.user_id is not None


def _sql(run_filter: RunFilter, parameters: list[Any], *, alias: str) -> str:
    return all_of(
        [
            equal_any(f"{alias}.run_id", run_filter.ids, parameters),
            compare(f"{alias}.workflow_id =", run_filter.workflow_id, parameters),
            equal_any(f"{alias}.status", run_filter.statuses, parameters),
            compare(f"{alias}.user_id =", run_filter.user_id, parameters),
            compare(f"{alias}.started_at >=", run_filter.since, parameters),
            compare(f"{alias}.started_at <", run_filter.until, parameters),
        ]
    )
