"""Run filters in memory, over the items of the runs lane.

Guarantees: a filter matches here exactly what `db.run_filters` selects in SQL, so that a stream replayed from the log
and the same stream live hold the same updates. Pure; nothing to stop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import msgspec

from db.run_filters import RunFilter
from db.workflow_records import RunUpdateRecord
from engine.filter_index import EVERYWHERE, Matching, Place, all_hold

RunUpdateMatcher: TypeAlias = Callable[[RunUpdateRecord], bool]


def run_filter_key(run_filter: RunFilter) -> bytes:
    """Equal for filters that say the same, whatever the order of their lists."""
    ordered = {name: _ordered(getattr(run_filter, name)) for name in ("ids", "statuses")}
    return msgspec.json.encode(msgspec.structs.replace(run_filter, **ordered))


def compile_run_filter(run_filter: RunFilter) -> RunUpdateMatcher:
    """The filter as one function."""
    return all_hold(list(_tests(run_filter)))


def run_places(run_filter: RunFilter) -> tuple[Place, ...]:
    """Every update that the filter matches is in at least one of these places; none if it can match nothing."""
    if run_filter.ids is not None:
        return tuple(("id", run_id) for run_id in set(run_filter.ids))
    if run_filter.user_id is not None:
        return (("user", run_filter.user_id),)
    if run_filter.workflow_id is not None:
        return (("workflow", run_filter.workflow_id),)
    return (EVERYWHERE,)


def _places_of_update(update: RunUpdateRecord) -> tuple[Place, ...]:
    always = (EVERYWHERE, ("id", update.run_id), ("workflow", update.workflow_id))
    return always if update.user_id is None else (*always, ("user", update.user_id))


def _tests(run_filter: RunFilter) -> Iterable[RunUpdateMatcher]:
    if run_filter.ids is not None:
        yield _is_in(lambda update: update.run_id, frozenset(run_filter.ids))
    if run_filter.statuses is not None:
        yield _is_in(lambda update: update.status, frozenset(run_filter.statuses))
    if (workflow_id := run_filter.workflow_id) is not None:
        yield lambda update: update.workflow_id == workflow_id
    if (user_id := run_filter.user_id) is not None:
        yield lambda update: update.user_id == user_id
    if (since := run_filter.since) is not None:
        yield lambda update: update.started_at >= since
    if (until := run_filter.until) is not None:
        yield lambda update: update.started_at < until


def _is_in(read: Callable[[RunUpdateRecord], object], values: frozenset[object]) -> RunUpdateMatcher:
    return lambda update: read(update) in values


def _ordered(values: tuple[object, ...] | None) -> tuple[object, ...] | None:
    return None if values is None else tuple(sorted(set(values), key=str))


RUN_MATCHING: Matching[RunFilter, RunUpdateRecord] = Matching(
    key=run_filter_key,
    compile=compile_run_filter,
    view=lambda update: update,
    places=run_places,
    places_of=_places_of_update,
)
