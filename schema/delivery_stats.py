"""What became of deliveries: counts, rates, latencies, and what goes wrong most."""

from __future__ import annotations

from datetime import datetime

import strawberry

from db.delivery_lists import ReasonRecord
from engine.dispatch.values import Channel, DeliveryStatus
from resolvers.delivery_stats import RECENT_FAILURES, TOP_REASONS, DeliverySummary, HealthReport
from schema.delivery import Delivery
from schema.scalars import BigInt


@strawberry.type(description="How many deliveries have a status. Needs VIEWER.")
class StatusCount:
    status: DeliveryStatus = strawberry.field(description="The status that they have now.")
    count: BigInt = strawberry.field(description="At least 1.")


@strawberry.type(description="How many deliveries left, or were to leave, by a channel. Needs VIEWER.")
class ChannelCount:
    channel: Channel = strawberry.field(description="How they leave.")
    count: BigInt = strawberry.field(description="At least 1.")


@strawberry.type(
    description="Deliveries made in a period, as they are now. Rates are from 0 to 1, and 0 of nothing. Needs VIEWER."
)
class DeliveryStats:
    total: BigInt = strawberry.field(description="All of them, those that were held back included.")
    by_status: list[StatusCount] = strawberry.field(description="Every status that occurs.")
    by_channel: list[ChannelCount] = strawberry.field(description="Every channel that occurs.")
    delivered_rate: float = strawberry.field(
        description="Of those that were tried at least once, the share that is SENT or DELIVERED."
    )
    open_rate: float = strawberry.field(
        description="Of pushes and emails that are SENT or DELIVERED, the share that was opened."
    )
    click_rate: float = strawberry.field(
        description="Of pushes and emails that are SENT or DELIVERED, the share that was clicked."
    )
    p50_ms: float | None = strawberry.field(
        description=(
            "Median milliseconds from when a delivery was due (scheduledFor, else createdAt) until it was handed over "
            "(sentAt, else deliveredAt), retries included; null when none was."
        )
    )
    p99_ms: float | None = strawberry.field(description="The same for the 99th percentile.")

    @staticmethod
    def of(summary: DeliverySummary) -> DeliveryStats:
        return DeliveryStats(
            total=BigInt(summary.total),
            by_status=[StatusCount(status=status, count=BigInt(count)) for status, count in summary.by_status],
            by_channel=[ChannelCount(channel=channel, count=BigInt(count)) for channel, count in summary.by_channel],
            delivered_rate=summary.delivered_rate,
            open_rate=summary.open_rate,
            click_rate=summary.click_rate,
            p50_ms=summary.latency.p50_ms,
            p99_ms=summary.latency.p99_ms,
        )


@strawberry.type(description="Why deliveries failed or were held back, and how often. Needs VIEWER.")
class ReasonCount:
    channel: Channel = strawberry.field(description="How they were to leave.")
    reason: str = strawberry.field(
        description="A SuppressedReason, or DeliveryError.code of the last attempt; else the status."
    )
    hint: str | None = strawberry.field(description="What usually causes it and what to do.")
    count: BigInt = strawberry.field(description="Deliveries.")
    last_seen_at: datetime = strawberry.field(description="When it happened last.")

    @staticmethod
    def of(record: ReasonRecord) -> ReasonCount:
        return ReasonCount(
            channel=Channel(record.channel),
            reason=record.reason,
            hint=record.hint,
            count=BigInt(record.deliveries),
            last_seen_at=record.last_seen_at,
        )


@strawberry.type(description="What goes wrong with deliveries. Needs VIEWER.")
class DeliveryHealth:
    top_reasons: list[ReasonCount] = strawberry.field(
        description=(
            f"The {TOP_REASONS} most frequent reasons of each channel, of deliveries made in the period that are "
            "FAILED, DEAD_LETTERED, UNCERTAIN or SUPPRESSED; by channel, the most frequent first."
        )
    )
    recent_failures: list[Delivery] = strawberry.field(
        description=(
            f"The {RECENT_FAILURES} deliveries that failed last (FAILED, DEAD_LETTERED, UNCERTAIN), in whatever "
            "period; the last one first."
        )
    )

    @staticmethod
    def of(report: HealthReport) -> DeliveryHealth:
        return DeliveryHealth(
            top_reasons=[ReasonCount.of(record) for record in report.reasons],
            recent_failures=[Delivery.of(record) for record in report.failures],
        )
