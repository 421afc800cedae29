"""What became of a project's deliveries: counts, rates and latencies, and what goes wrong most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from db.delivery_filters import DeliveryFilter
from db.delivery_lists import (
    Latency,
    ReasonRecord,
    StatusCount,
    count_by_status,
    read_latency,
    read_reasons,
    read_recent_failures,
)
from db.delivery_records import DeliveryRecord
from engine.dispatch.reasons import hint_of
from engine.dispatch.values import Channel, DeliveryStatus
from engine.errors import BadUserInput
from engine.identity import Role
from resolvers.context import Context
from resolvers.delivery_filters import DeliveryFilterArguments, read_delivery_filter
from resolvers.filters import check_instant
from resolvers.permissions import require

STATS_PERIOD = timedelta(days=30)
"""What statistics are of when no period is given."""
HEALTH_PERIOD = timedelta(days=7)
"""What reasons are of when no period is given: older ones have mostly been mended."""
TOP_REASONS = 10
"""Per channel."""
RECENT_FAILURES = 10
YOUNGEST_FAILURES = 1_000
"""Among how many the last failures are looked for: a delivery fails for good within a day of being made, mostly within
half an hour."""

ARRIVED = frozenset({DeliveryStatus.SENT, DeliveryStatus.DELIVERED})
"""Handed over, and nothing bad was heard of it."""
OPENABLE = frozenset({Channel.PUSH, Channel.EMAIL})
"""The channels that can tell of opens and clicks."""


class DeliverySummary(msgspec.Struct, frozen=True):
    """Deliveries made in a period. Counts are in the order of the enums, those of 0 left out; rates are 0 to 1."""

    total: int
    by_status: tuple[tuple[DeliveryStatus, int], ...]
    by_channel: tuple[tuple[Channel, int], ...]
    delivered_rate: float
    open_rate: float
    click_rate: float
    latency: Latency


class HealthReport(msgspec.Struct, frozen=True):
    """What goes wrong: reasons by channel and count, and the deliveries that failed last, latest first."""

    reasons: tuple[ReasonRecord, ...]
    failures: tuple[DeliveryRecord, ...]


async def read_stats(
    ctx: Context, *, since: datetime | None, until: datetime | None, delivery_filter: DeliveryFilterArguments | None
) -> DeliverySummary:
    """Statistics of the deliveries that match and were made in a period, by default the last 30 days."""
    viewer = require(ctx, Role.VIEWER)
    check_instant(since, "since")
    check_instant(until, "until")
    if since is not None and until is not None and since >= until:
        raise BadUserInput("since must be before until.")
    start = since if since is not None else (until or ctx.services.clock.now()) - STATS_PERIOD
    wanted = within(read_delivery_filter(delivery_filter), since=start, until=until)
    async with ctx.reading(viewer.project_id) as connection:
        counts = await count_by_status(connection, project_id=viewer.project_id, delivery_filter=wanted)
        latency = await read_latency(connection, project_id=viewer.project_id, delivery_filter=wanted)
    return summarise(counts, latency)


async def read_health(ctx: Context, *, since: datetime | None) -> HealthReport:
    """Why deliveries made since then, by default 7 days ago, failed or were held back; and the last failures."""
    viewer = require(ctx, Role.VIEWER)
    project_id = viewer.project_id
    check_instant(since, "since")
    start = since if since is not None else ctx.services.clock.now() - HEALTH_PERIOD
    async with ctx.reading(project_id) as connection:
        reasons = await read_reasons(connection, project_id=project_id, since=start, per_channel=TOP_REASONS)
        failed = await read_recent_failures(
            connection, project_id=project_id, limit=RECENT_FAILURES, among=YOUNGEST_FAILURES
        )
    found = await ctx.loaders.deliveries.load_many([(project_id, delivery_id) for delivery_id in failed])
    return HealthReport(
        reasons=tuple(msgspec.structs.replace(each, hint=each.hint or hint_of(each.reason)) for each in reasons),
        failures=tuple(record for record in found if record is not None),
    )


def within(delivery_filter: DeliveryFilter, *, since: datetime, until: datetime | None) -> DeliveryFilter:
    """The filter, narrowed to a period."""
    ends = [end for end in (delivery_filter.until, until) if end is not None]
    return msgspec.structs.replace(
        delivery_filter,
        since=since if delivery_filter.since is None else max(since, delivery_filter.since),
        until=min(ends) if ends else None,
    )


def summarise(counts: Sequence[StatusCount], latency: Latency) -> DeliverySummary:
    """Pure: totals and rates of counts by channel and status."""
    by_status, by_channel = Counter[str](), Counter[str]()
    for each in counts:
        by_status[each.status] += each.deliveries
        by_channel[each.channel] += each.deliveries
    arrived = [each for each in counts if each.status in ARRIVED]
    openable = [each for each in arrived if each.channel in OPENABLE]
    could_open = sum(each.deliveries for each in openable)
    return DeliverySummary(
        total=by_status.total(),
        by_status=tuple((status, by_status[status]) for status in DeliveryStatus if by_status[status]),
        by_channel=tuple((channel, by_channel[channel]) for channel in Channel if by_channel[channel]),
        delivered_rate=_rate(sum(each.tried for each in arrived), sum(each.tried for each in counts)),
        open_rate=_rate(sum(each.opened for each in openable), could_open),
        click_rate=_rate(sum(each.clicked for each in openable), could_open),
        latency=latency,
    )


def _rate(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
