"""Filters of the audiences lane in memory: of one audience, or all.

Guarantees: a filter matches here exactly what `db.audience_log` reads. Pure; nothing to stop.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from db.audience_records import AudienceChangeRecord, AudienceFilter
from engine.filter_index import EVERYWHERE, Matching, Place


def _compile(audience_filter: AudienceFilter) -> Callable[[AudienceChangeRecord], bool]:
    wanted = audience_filter.audience_id
    return lambda change: wanted in (None, change.audience_id)


def _places(audience_filter: AudienceFilter) -> tuple[Place, ...]:
    wanted = audience_filter.audience_id
    return (EVERYWHERE,) if wanted is None else (("audience", wanted),)


AUDIENCE_MATCHING: Matching[AudienceFilter, AudienceChangeRecord] = Matching(
    key=msgspec.json.encode,
    compile=_compile,
    view=lambda change: change,
    places=_places,
    places_of=lambda change: (EVERYWHERE, ("audience", change.audience_id)),
)
