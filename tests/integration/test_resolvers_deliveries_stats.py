"""What deliveries are reported to have become: numbers that were computed by hand."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from db.delivery_filters import DeliveryFilter
from db.delivery_lists import Latency, StatusCount
from engine.dispatch.reasons import hint_of
from engine.dispatch.values import SuppressedReason
from resolvers.delivery_stats import summarise, within
from tests.integration.delivery_support import make_delivery, node_id
from tests.integration.graphql_support import Gateway, Tenant

STATS = """query ($since: DateTime, $until: DateTime, $filter: DeliveryFilter) {
  deliveryStats(since: $since, until: $until, filter: $filter) {
    total byStatus { status count } byChannel { channel count } deliveredRate openRate clickRate p50Ms p99Ms
  }
}"""
HEALTH = """query ($since: DateTime) {
  deliveryHealth(since: $since) {
    topReasons { channel reason hint count lastSeenAt } recentFailures { id attempts { number } }
  }
}"""


@pytest.fixture
def now(gateway: Gateway) -> datetime:
    return gateway.services.clock.now()


async def total(shop: Tenant, **arguments: Any) -> int:
    found: int = (await shop.data(STATS, **arguments))["deliveryStats"]["total"]
    return found


async def test_statistics_are_those_of_the_deliveries_made(shop: Tenant, now: datetime) -> None:
    hour_ago = now - timedelta(hours=1)

    def after(milliseconds: int) -> datetime:
        return hour_ago + timedelta(milliseconds=milliseconds)

    made: list[dict[str, Any]] = [
        # handed over: after 100, 200 and 300 ms, and 1000 ms after it was due
        {"status": "SENT", "attempt_count": 1, "sent_at": after(100), "opened_at": now, "clicked_at": now},
        {"status": "DELIVERED", "attempt_count": 2, "sent_at": after(200), "delivered_at": now, "opened_at": now},
        {"status": "SENT", "attempt_count": 1, "sent_at": after(300), "channel": "EMAIL"},
        {
            "status": "DELIVERED",
            "attempt_count": 1,
            "delivered_at": after(61_000),
            "scheduled_for": after(60_000),
            "channel": "WEBHOOK",
        },
        # tried in vain
        {"status": "FAILED", "attempt_count": 1},
        {"status": "RETRYING", "attempt_count": 1},
        {"status": "UNCERTAIN", "attempt_count": 1, "opened_at": now},
        {"status": "DEAD_LETTERED", "attempt_count": 6, "channel": "WEBHOOK"},
        # never tried
        {"status": "SUPPRESSED", "suppressed_reason": "CONSENT"},
        {"status": "QUEUED"},
    ]
    for values in made:
        await make_delivery(shop, created_at=hour_ago, **values)

    assert (await shop.data(STATS))["deliveryStats"] == {
        "total": 10,
        "byStatus": [
            {"status": "QUEUED", "count": 1},
            {"status": "RETRYING", "count": 1},
            {"status": "SENT", "count": 2},
            {"status": "DELIVERED", "count": 2},
            {"status": "FAILED", "count": 1},
            {"status": "SUPPRESSED", "count": 1},
            {"status": "DEAD_LETTERED", "count": 1},
            {"status": "UNCERTAIN", "count": 1},
        ],
        "byChannel": [
            {"channel": "PUSH", "count": 7},
            {"channel": "EMAIL", "count": 1},
            {"channel": "WEBHOOK", "count": 2},
        ],
        # 4 of 8 that were tried; 2 and 1 of the 3 pushes and emails that arrived
        "deliveredRate": 0.5,
        "openRate": pytest.approx(2 / 3),
        "clickRate": pytest.approx(1 / 3),
        # of 100, 200, 300 and 1000
        "p50Ms": pytest.approx(250),
        "p99Ms": pytest.approx(979),
    }


async def test_statistics_of_nothing_are_zero(shop: Tenant) -> None:
    assert (await shop.data(STATS))["deliveryStats"] == {
        "total": 0,
        "byStatus": [],
        "byChannel": [],
        "deliveredRate": 0.0,
        "openRate": 0.0,
        "clickRate": 0.0,
        "p50Ms": None,
        "p99Ms": None,
    }


async def test_statistics_are_of_the_last_30_days_unless_another_period_is_named(shop: Tenant, now: datetime) -> None:
    for days in (0, 29, 31, 59, 61):
        await make_delivery(shop, created_at=now - timedelta(days=days))

    def ago(days: int) -> str:
        return (now - timedelta(days=days)).isoformat()

    assert await total(shop) == 2
    assert await total(shop, since=ago(60)) == 4
    assert await total(shop, until=ago(30)) == 2
    assert await total(shop, since=ago(60), until=ago(30)) == 2
    assert await total(shop, since=ago(60), filter={"until": ago(31)}) == 1
    assert await total(shop, filter={"channels": ["SMS"]}) == 0
    for arguments in (
        {"since": ago(1), "until": ago(1)},
        {"since": "9999-01-01T00:00:00Z"},
        {"until": "0001-01-01T00:00:00Z"},
        {"filter": {"userId": "\0"}},
    ):
        assert await shop.codes(STATS, **arguments) == ["BAD_USER_INPUT"], arguments


async def test_the_clock_of_the_business_says_when_30_days_ago_was(shop: Tenant, gateway: Gateway) -> None:
    await make_delivery(shop)
    gateway.services.clock.advance(timedelta(days=31))  # type: ignore[attr-defined]
    assert await total(shop) == 0
    assert (await shop.data(HEALTH))["deliveryHealth"]["topReasons"] == []


def test_a_period_only_narrows_a_filter() -> None:
    early, middle, late = (datetime.fromisoformat(f"2026-05-0{day}T00:00:00+00:00") for day in (1, 2, 3))
    own = DeliveryFilter(since=middle, until=middle)
    assert within(own, since=early, until=late) == own
    assert within(DeliveryFilter(), since=early, until=None) == DeliveryFilter(since=early)
    assert within(DeliveryFilter(since=early, until=late), since=middle, until=middle) == own


def test_a_rate_is_of_what_was_tried_and_not_of_what_was_held_back() -> None:
    counts = [
        StatusCount("SMS", "SENT", deliveries=3, tried=3, opened=0, clicked=0),
        StatusCount("SMS", "FAILED", deliveries=5, tried=1, opened=0, clicked=0),
        StatusCount("SMS", "CANCELLED", deliveries=9, tried=0, opened=0, clicked=0),
    ]
    summary = summarise(counts, Latency(None, None))
    assert (summary.total, summary.delivered_rate, summary.open_rate) == (17, 0.75, 0.0)


async def test_health_names_the_10_most_frequent_reasons_of_each_channel(shop: Tenant, now: datetime) -> None:
    hour_ago = now - timedelta(hours=1)
    for number in range(1, 12):
        for _ in range(2 if number == 7 else 1):
            await make_delivery(
                shop,
                status="FAILED",
                error_code=f"E{number:02}",
                error_message="no",
                error_permanent=True,
                error_hint=f"Mend {number}." if number == 7 else None,
                finished_at=hour_ago + timedelta(minutes=number),
            )
    for _ in range(3):
        await make_delivery(shop, channel="EMAIL", status="SUPPRESSED", suppressed_reason="BOUNCED", finished_at=now)
    await make_delivery(shop, channel="SMS", status="UNCERTAIN", finished_at=now)
    # neither old ones, nor what is well, nor what is still tried
    for _ in range(2):
        await make_delivery(shop, status="FAILED", error_code="OLD", created_at=now - timedelta(days=8))
    await make_delivery(shop, status="SENT")
    await make_delivery(shop, status="RETRYING", error_code="E99")

    reasons = (await shop.data(HEALTH))["deliveryHealth"]["topReasons"]
    email, *push, sms = reasons
    assert (email["channel"], email["reason"], email["count"]) == ("EMAIL", "BOUNCED", 3)
    assert email["hint"] == hint_of("BOUNCED")
    assert [each["reason"] for each in push] == ["E07", *(f"E{number:02}" for number in range(1, 11) if number != 7)]
    assert (push[0]["count"], push[0]["hint"]) == (2, "Mend 7.")
    assert push[0]["lastSeenAt"] == (hour_ago + timedelta(minutes=7)).isoformat().replace("+00:00", "Z")
    assert (push[1]["count"], push[1]["hint"]) == (1, None)
    assert (sms["channel"], sms["reason"], sms["hint"]) == ("SMS", "UNCERTAIN", None)
    older = (await shop.data(HEALTH, since=(now - timedelta(days=9)).isoformat()))["deliveryHealth"]["topReasons"]
    assert [each["reason"] for each in older[1:4]] == ["E07", "OLD", "E01"]
    assert await shop.codes(HEALTH, since="9999-01-01T00:00:00Z") == ["BAD_USER_INPUT"]


async def test_health_shows_the_10_deliveries_that_failed_last(shop: Tenant, now: datetime) -> None:
    failed = []
    for number in range(12):
        # those made later failed earlier
        finished_at = now - timedelta(minutes=number)
        status = ("FAILED", "DEAD_LETTERED", "UNCERTAIN")[number % 3]
        failed.append(node_id(await make_delivery(shop, status=status, finished_at=finished_at)))
    await make_delivery(shop, status="SUPPRESSED", suppressed_reason="CONSENT", finished_at=now)
    await make_delivery(shop, status="SENT", finished_at=now)
    found = (await shop.data(HEALTH))["deliveryHealth"]["recentFailures"]
    assert [each["id"] for each in found] == failed[:10]


def test_every_reason_of_ours_says_what_to_do() -> None:
    assert all(hint_of(reason) for reason in SuppressedReason)
    assert hint_of("BadDeviceToken") is None
