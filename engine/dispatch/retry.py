"""What an attempt's outcome means for its delivery: done, again and when, or given up. Pure.

A schedule holds the seconds before attempt 2, 3, …: attempts end with it. A wait is never shorter than the schedule
says; a little is added, so that what failed together does not come back together. `Retry-After` only makes a wait
longer, by one hour at the most: a receiver may ask for patience, not for haste, and not for a delivery to be forgotten.
A replay, and an attempt whose worker died, move `schedule_offset`: what lies before it is not counted by the schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from engine.channels.base import Accepted, Deferred, Outcome, Rejected, Unknown
from engine.dispatch.values import Channel, DeliveryError, DeliveryStatus

MAX_RETRY_AFTER = timedelta(hours=1)
"""More than that is taken for a mistake of the receiver's."""
JITTER_SHARE = 0.1
"""Of the wait, at most …"""
MAX_JITTER = timedelta(seconds=5)
"""… but no longer: half an hour stays half an hour."""
MAX_LOST_ATTEMPTS = 5
"""A delivery that has cost so many workers their life is to blame itself."""


class Verdict(msgspec.Struct, frozen=True):
    """What a delivery becomes. `next_attempt_at` is set when it is RETRYING."""

    status: DeliveryStatus
    error: DeliveryError | None = None
    next_attempt_at: datetime | None = None


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What decides besides the outcome: whose delivery it is, and where in its schedule it stands.

    `attempt_number` is the attempt that has just ended, from 1 on.
    """

    channel: Channel
    schedule: Sequence[int]
    schedule_offset: int
    attempt_number: int
    repeatable: bool


def judge(plan: Plan, outcome: Outcome, *, now: datetime, jitter: float) -> Verdict:
    """What becomes of a delivery after an attempt. `jitter` is at random from 0 to 1."""
    match outcome:
        case Accepted(is_final=is_final):
            return Verdict(DeliveryStatus.DELIVERED if is_final else DeliveryStatus.SENT)
        case Rejected(error=error):
            return Verdict(DeliveryStatus.FAILED, error)
        case Unknown(error=error):
            if not plan.repeatable:
                return Verdict(DeliveryStatus.UNCERTAIN, error)
            return _again(plan, error, timedelta(), now, jitter)
        case Deferred(error=error, retry_after=retry_after):
            return _again(plan, error, retry_after or timedelta(), now, jitter)


def judge_lost(plan: Plan, *, lost_before: int, error: DeliveryError, now: datetime) -> Verdict:
    """What becomes of a delivery whose worker died during an attempt: it may have been sent, or not.

    It is repeated at once where the receiver drops what it has. The schedule is for failures, which this may not have
    been: so it is not used up by it, and ends only what has lost `MAX_LOST_ATTEMPTS` workers.
    """
    if not plan.repeatable:
        return Verdict(DeliveryStatus.UNCERTAIN, error)
    if lost_before + 1 >= MAX_LOST_ATTEMPTS:
        return Verdict(_given_up(plan.channel), error)
    return Verdict(DeliveryStatus.RETRYING, error, now)


def wait_before_next(plan: Plan, *, retry_after: timedelta, jitter: float) -> timedelta | None:
    """How long to wait before the next attempt, or None when there is none."""
    made = plan.attempt_number - plan.schedule_offset
    if made > len(plan.schedule):
        return None
    wait = max(timedelta(seconds=plan.schedule[made - 1]), min(retry_after, MAX_RETRY_AFTER))
    return wait + min(wait * JITTER_SHARE, MAX_JITTER) * jitter


def _again(plan: Plan, error: DeliveryError, retry_after: timedelta, now: datetime, jitter: float) -> Verdict:
    wait = wait_before_next(plan, retry_after=retry_after, jitter=jitter)
    if wait is None:
        return Verdict(_given_up(plan.channel), error)
    return Verdict(DeliveryStatus.RETRYING, error, now + wait)


def _given_up(channel: Channel) -> DeliveryStatus:
    return DeliveryStatus.DEAD_LETTERED if channel is Channel.WEBHOOK else DeliveryStatus.FAILED
