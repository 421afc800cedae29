"""What an outcome means for a delivery."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.channels.base import Accepted, Deferred, Outcome, Rejected, Unknown
from engine.dispatch.retry import (
    MAX_JITTER,
    MAX_LOST_ATTEMPTS,
    MAX_RETRY_AFTER,
    Plan,
    judge,
    judge_lost,
    wait_before_next,
)
from engine.dispatch.values import DEFAULT_PROVIDER_SCHEDULE, Channel, DeliveryError, DeliveryStatus

NOW = datetime(2026, 5, 1, tzinfo=UTC)
ERROR = DeliveryError("Throttled", "Too many.", permanent=False)


def plan(attempt: int = 1, *, channel: Channel = Channel.WEBHOOK, repeatable: bool = True, offset: int = 0) -> Plan:
    return Plan(
        channel=channel,
        schedule=DEFAULT_PROVIDER_SCHEDULE,
        schedule_offset=offset,
        attempt_number=attempt,
        repeatable=repeatable,
    )


@pytest.mark.parametrize(
    ("given_plan", "outcome", "status"),
    [
        (plan(), Accepted(is_final=True), DeliveryStatus.DELIVERED),
        (plan(), Accepted(), DeliveryStatus.SENT),
        (plan(), Rejected(error=ERROR), DeliveryStatus.FAILED),
        (plan(), Deferred(error=ERROR), DeliveryStatus.RETRYING),
        # the receiver drops what it has: asking again does no harm
        (plan(), Unknown(error=ERROR), DeliveryStatus.RETRYING),
        (plan(repeatable=False), Unknown(error=ERROR), DeliveryStatus.UNCERTAIN),
        # it did not take it, so it may be asked again whether it deduplicates or not
        (plan(repeatable=False), Deferred(error=ERROR), DeliveryStatus.RETRYING),
        # the sixth attempt is the last
        (plan(5), Deferred(error=ERROR), DeliveryStatus.RETRYING),
        (plan(6), Deferred(error=ERROR), DeliveryStatus.DEAD_LETTERED),
        (plan(6), Unknown(error=ERROR), DeliveryStatus.DEAD_LETTERED),
        (plan(6, channel=Channel.EMAIL), Deferred(error=ERROR), DeliveryStatus.FAILED),
        # a replay after six attempts begins anew
        (plan(7, offset=6), Deferred(error=ERROR), DeliveryStatus.RETRYING),
        (plan(12, offset=6), Deferred(error=ERROR), DeliveryStatus.DEAD_LETTERED),
    ],
)
def test_an_outcome_decides(given_plan: Plan, outcome: Outcome, status: DeliveryStatus) -> None:
    verdict = judge(given_plan, outcome, now=NOW, jitter=0.5)

    assert verdict.status is status
    assert (verdict.next_attempt_at is not None) == (status is DeliveryStatus.RETRYING)
    assert (verdict.error is None) == (status in (DeliveryStatus.SENT, DeliveryStatus.DELIVERED))


def test_the_default_schedule_waits_as_it_says() -> None:
    waits = [wait_before_next(plan(number), retry_after=timedelta(), jitter=0.0) for number in range(1, 7)]

    assert waits == [*(timedelta(seconds=seconds) for seconds in (2, 8, 30, 90, 1670)), None]


@given(
    schedule=st.lists(st.integers(0, 100_000), min_size=1, max_size=8),
    made=st.integers(1, 8),
    offset=st.integers(0, 20),
    asked=st.integers(0, 10_000_000),
    jitter=st.floats(0, 1),
)
def test_a_wait_is_never_shorter_than_the_schedule_and_hardly_longer(
    schedule: list[int], made: int, offset: int, asked: int, jitter: float
) -> None:
    given_plan = Plan(
        channel=Channel.WEBHOOK,
        schedule=schedule,
        schedule_offset=offset,
        attempt_number=made + offset,
        repeatable=True,
    )

    wait = wait_before_next(given_plan, retry_after=timedelta(seconds=asked), jitter=jitter)

    if made > len(schedule):
        assert wait is None
        return
    assert wait is not None
    whole = max(timedelta(seconds=schedule[made - 1]), min(timedelta(seconds=asked), MAX_RETRY_AFTER))
    assert whole <= wait <= whole + min(whole * 0.1, MAX_JITTER)


def test_a_lost_attempt_is_repeated_at_once_where_that_does_no_harm() -> None:
    verdict = judge_lost(plan(6), lost_before=0, error=ERROR, now=NOW)

    assert (verdict.status, verdict.next_attempt_at) == (DeliveryStatus.RETRYING, NOW)


def test_a_lost_attempt_is_uncertain_where_it_might_be_sent_twice() -> None:
    assert judge_lost(plan(repeatable=False), lost_before=0, error=ERROR, now=NOW).status is DeliveryStatus.UNCERTAIN


@pytest.mark.parametrize(
    ("channel", "status"),
    [(Channel.WEBHOOK, DeliveryStatus.DEAD_LETTERED), (Channel.EMAIL, DeliveryStatus.FAILED)],
)
def test_what_kills_every_worker_is_given_up(channel: Channel, status: DeliveryStatus) -> None:
    verdict = judge_lost(plan(channel=channel), lost_before=MAX_LOST_ATTEMPTS - 1, error=ERROR, now=NOW)

    assert verdict.status is status
