"""The dispatcher: what is claimed, sent and written down, in what order, and who is kept from waiting."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from time import monotonic
from typing import Any, cast
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest

from db.delivery_records import DeliveryRecord
from db.dispatch import LOST_CODE, find_due_projects, find_expired
from db.failures import is_passing
from db.records import NewEvent
from db.statements import statements
from engine.channels.base import (
    Answer,
    Deferred,
    Outcome,
    Postpone,
    Prepared,
    Refuse,
    Rejected,
    Settled,
    Suppress,
    Unknown,
)
from engine.dispatch.breaker import FAILURES_TO_OPEN
from engine.dispatch.dispatcher import Dispatcher
from engine.dispatch.lanes import LANE_LIMIT
from engine.dispatch.ledger import create_deliveries
from engine.dispatch.settlement import Ended, Settlement
from engine.dispatch.status import delivery_event
from engine.dispatch.values import Channel, DeliveryError, DeliveryStatus, SuppressedReason
from tests.integration.dispatch_support import HOST, START, Desk, new_delivery, open_desk, until
from tests.integration.log_support import open_database, wait_until_blocked
from tests.peers.memory_channel import MemoryChannel, MemoryMessage, accept

BUSY = DeliveryError("Busy", "It has too much to do.", permanent=False)
GONE = DeliveryError("Gone", "Nobody is there.", permanent=True)
OTHER = "https://other.example:443"


class Gate:
    """A receiver that answers when it is opened, and counts who waits."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.waiting = 0

    async def __call__(self, message: MemoryMessage) -> Outcome:
        self.waiting += 1
        await self.opened.wait()
        return accept(message)


async def test_a_due_delivery_is_sent_and_every_step_is_in_the_lane(module_database_url: str) -> None:
    async with open_desk(module_database_url) as desk:
        project = await desk.project()
        (webhook,) = await desk.enqueue(project)
        (push,) = await desk.enqueue(project, channel=Channel.PUSH)

        await desk.drain(desk.dispatcher(), project)

        assert await desk.steps(project) == {
            webhook: ["QUEUED", "SENDING", "DELIVERED"],
            push: ["QUEUED", "SENDING", "SENT"],
        }
        assert await desk.events(project) == {"push.send_requested": 1, "push.sent": 1}
        assert [message.key for message in (*desk.webhook.received, *desk.push.received)] == [webhook, push]
        stored = await desk.delivery(project, webhook)
        assert (stored.attempt_count, stored.delivered_at, stored.error_code) == (1, desk.clock.at, None)
        (attempt,) = await desk.attempts(project, webhook)
        assert (attempt.number, attempt.at, attempt.error_code) == (1, desk.clock.at, None)
        told = [(each.lane, each.first, each.last) for each in desk.announced]
        assert told == [(2, 3, 4), (1, 2, 2), (2, 5, 6)]


async def test_what_is_not_due_yet_stays(module_database_url: str) -> None:
    async with open_desk(module_database_url) as desk:
        project = await desk.project()
        await desk.enqueue(project, next_attempt_at=START + timedelta(seconds=5))

        await desk.drain(desk.dispatcher(), project)
        assert desk.webhook.received == []

        desk.clock.advance(seconds=5)
        await desk.drain(desk.dispatcher(), project)
        assert await desk.statuses(project) == {"DELIVERED": 1}


async def test_attempts_follow_the_schedule_and_end_with_it(module_database_url: str) -> None:
    async with open_desk(module_database_url) as desk:
        project = await desk.project()
        answer = Answer(status_code=503, response_body="too \0 busy" + "é" * 5000)
        desk.webhook.script = lambda _message: Deferred(error=BUSY, answer=answer)
        (webhook,) = await desk.enqueue(project, retry_schedule=[2, 8])
        dispatcher = desk.dispatcher()

        for wait in (2, 8, 60):
            await desk.drain(dispatcher, project)
            desk.clock.advance(seconds=wait - 0.5)
            await desk.drain(dispatcher, project)
            desk.clock.advance(seconds=0.5 + wait * 0.1)

        assert await desk.steps(project) == {
            webhook: ["QUEUED", *["SENDING", "RETRYING"] * 2, "SENDING", "DEAD_LETTERED"]
        }
        assert await desk.events(project) == {"webhook.delivery_dead_lettered": 1}
        stored = await desk.delivery(project, webhook)
        assert (stored.attempt_count, stored.error_code, stored.finished_at is not None) == (3, "Busy", True)
        attempts = await desk.attempts(project, webhook)
        assert [(each.number, each.status_code, each.error_code) for each in attempts] == [
            (number, 503, "Busy") for number in (1, 2, 3)
        ]
        assert len((attempts[0].response_body or "").encode()) <= 4096


async def test_what_may_have_arrived_is_repeated_only_where_that_does_no_harm(module_database_url: str) -> None:
    async with open_desk(module_database_url) as desk:
        project = await desk.project()
        desk.webhook.script = desk.push.script = lambda _message: Unknown(error=BUSY)
        (webhook,) = await desk.enqueue(project)
        (push,) = await desk.enqueue(project, channel=Channel.PUSH)

        await desk.drain(desk.dispatcher(), project)

        assert await desk.steps(project) == {
            webhook: ["QUEUED", "SENDING", "RETRYING"],
            push: ["QUEUED", "SENDING", "UNCERTAIN"],
        }


async def test_a_channel_that_breaks_its_promise_leaves_doubt_and_harms_nobody(module_database_url: str) -> None:
    def script(message: MemoryMessage) -> Outcome:
        if message.key == broken:
            raise ZeroDivisionError
        return accept(message)

    async with open_desk(module_database_url) as desk:
        project = await desk.project()
        desk.push.script = script
        broken, sound = await desk.enqueue(project, 2, channel=Channel.PUSH)

        await desk.drain(desk.dispatcher(), project)

        steps = await desk.steps(project)
        assert (steps[broken][-1], steps[sound][-1]) == ("UNCERTAIN", "SENT")


async def test_policy_holds_deliveries_back_without_an_attempt(module_database_url: str) -> None:
    later = START + timedelta(hours=8)
    async with open_desk(module_database_url) as desk:
        project = await desk.project()
        suppressed, postponed, refused = await desk.enqueue(project, 3, channel=Channel.PUSH)
        decisions: dict[UUID, Prepared] = {
            suppressed: Suppress(reason=SuppressedReason.FREQUENCY_CAP),
            postponed: Postpone(until=later),
            refused: Refuse(error=GONE),
        }
        desk.push.decide = lambda delivery, now: decisions[delivery.delivery_id] if now < later else None
        dispatcher = desk.dispatcher()

        await desk.drain(dispatcher, project)

        assert await desk.steps(project) == {
            suppressed: ["QUEUED", "SUPPRESSED"],
            postponed: ["QUEUED", "SCHEDULED"],
            refused: ["QUEUED", "FAILED"],
        }
        assert await desk.events(project) == {
            "push.send_requested": 3,
            "push.suppressed": 1,
            "push.scheduled": 1,
            "push.failed": 1,
        }
        waiting = await desk.delivery(project, postponed)
        assert (waiting.scheduled_for, waiting.next_attempt_at, waiting.attempt_count) == (later, later, 0)
        assert (await desk.delivery(project, refused)).error_code == "Gone"
        assert (await desk.delivery(project, suppressed)).suppressed_reason == "FREQUENCY_CAP"

        desk.clock.at = later
        desk.push.decide = lambda _delivery, _now: Postpone(until=later + timedelta(hours=1))
        await desk.drain(dispatcher, project)
        assert (await desk.events(project))["push.scheduled"] == 2

        desk.clock.advance(hours=1)
        desk.push.decide = lambda _delivery, _now: None
        await desk.drain(dispatcher, project)
        assert desk.push.keys == {postponed: 1}


async def wait_until_somebody_is_blocked(watching: asyncpg.Connection) -> int:
    """The backend that waits for a lock."""
    pid = None
    while pid is None:
        pid = await watching.fetchval("SELECT pid FROM pg_locks WHERE NOT granted")
    await wait_until_blocked(watching, pid)
    return int(pid)


async def test_a_delivery_that_cannot_be_prepared_is_put_off_alone(module_database_url: str) -> None:
    def decide(delivery: DeliveryRecord, _now: datetime) -> None:
        if delivery.delivery_id == faulty:
            raise ZeroDivisionError

    async with open_desk(module_database_url) as desk:
        project = await desk.project()
        made = await desk.enqueue(project, 7)
        faulty = made[4]
        desk.webhook.decide = decide
        dispatcher = desk.dispatcher()

        await desk.drain(dispatcher, project)

        assert await desk.statuses(project) == {"DELIVERED": 6, "SCHEDULED": 1}
        stored = await desk.delivery(project, faulty)
        assert (stored.status, stored.error_code, stored.attempt_count) == ("SCHEDULED", "InternalError", 0)
        assert max(desk.webhook.keys.values()) == 1

        desk.webhook.decide = lambda _delivery, _now: None
        desk.clock.advance(minutes=2)
        await desk.drain(dispatcher, project)
        assert await desk.statuses(project) == {"DELIVERED": 7}


async def test_an_outcome_that_its_channel_cannot_heed_is_written_all_the_same(module_database_url: str) -> None:
    def events_of(settled: Settled) -> tuple[NewEvent, ...]:
        if settled.delivery.delivery_id == faulty:
            raise ZeroDivisionError
        return (delivery_event(settled.delivery, "push.token_invalidated"),)

    async with open_desk(module_database_url) as desk:
        project = await desk.project()
        faulty, *_ = await desk.enqueue(project, 4, channel=Channel.PUSH)
        desk.push.script = lambda _message: Rejected(error=GONE, address_is_dead=True)
        desk.push.events_of = events_of

        await desk.drain(desk.dispatcher(), project)

        assert await desk.statuses(project) == {"FAILED": 4}
        events = await desk.events(project)
        assert (events["push.failed"], events["push.token_invalidated"]) == (4, 3)


async def test_a_revocation_that_commits_before_the_dispatch_wins(module_database_url: str) -> None:
    async with open_desk(module_database_url) as desk, open_database(module_database_url) as other:
        project = await desk.project()
        async with desk.database.connection() as connection:
            await connection.execute(
                "INSERT INTO profiles (project_id, profile_id, user_id, created_at)"
                " VALUES ($1, gen_random_uuid(), 'u1', now())",
                project,
            )
        (push,) = await desk.enqueue(project, channel=Channel.PUSH, user_id="u1")
        dispatcher = desk.dispatcher()
        async with other.transaction() as revoking:
            await revoking.execute("SELECT FROM profiles WHERE project_id = $1 FOR NO KEY UPDATE", project)
            drain = asyncio.create_task(desk.drain(dispatcher, project))
            async with other.connection() as watching:
                await wait_until_somebody_is_blocked(watching)
            await revoking.execute(
                "INSERT INTO consents VALUES ($1, 'u1', 'PUSH', 'REVOKED', 'test', clock_timestamp())", project
            )
        await drain

        assert await desk.steps(project) == {push: ["QUEUED", "SUPPRESSED"]}
        assert desk.push.received == []


async def accept_slowly(message: MemoryMessage) -> Outcome:
    await asyncio.sleep(0.01)
    return accept(message)


async def test_two_dispatchers_never_make_the_same_attempt(module_database_url: str) -> None:
    async with open_desk(module_database_url) as desk, open_database(module_database_url) as other:
        project = await desk.project()
        desk.webhook.script = desk.push.script = accept_slowly
        await desk.enqueue(project, 150)
        await desk.enqueue(project, 150, channel=Channel.PUSH)
        first = desk.dispatcher(lane_limit=10)
        second = Desk(other, desk.clock, desk.webhook, desk.push).dispatcher(lane_limit=10)

        await asyncio.gather(desk.drain(first, project), desk.drain(second, project))

        assert await desk.statuses(project) == {"DELIVERED": 150, "SENT": 150}
        assert set((desk.webhook.keys + desk.push.keys).values()) == {1}
        assert {len(each) for each in (await desk.steps(project)).values()} == {3}
        assert (await desk.events(project))["push.sent"] == 150
        assert min(sum(each.stats().settled.values()) for each in (first, second)) > 0


async def test_an_outcome_that_comes_after_its_lease_changes_nothing_but_its_attempt(module_database_url: str) -> None:
    async with open_desk(module_database_url) as desk:
        project = await desk.project()
        gate = Gate()
        desk.webhook.script = desk.push.script = gate
        (webhook,) = await desk.enqueue(project)
        (push,) = await desk.enqueue(project, channel=Channel.PUSH)
        slow, other = desk.dispatcher(), desk.dispatcher()
        await slow.drain(project)
        await until(lambda: gate.waiting == 2)

        assert await other.take_over(project) == 0
        await desk.end_leases(project)
        async with desk.database.connection() as connection:
            assert project in await find_expired(connection)
        desk.webhook.script = lambda _message: Deferred(error=BUSY)
        assert await other.take_over(project) == 2
        await other.settled()
        assert [each.error_code for each in await desk.attempts(project, push)] == [LOST_CODE]
        gate.opened.set()
        await slow.settled()

        assert await desk.steps(project) == {
            webhook: ["QUEUED", "SENDING", "RETRYING", "SENDING", "RETRYING"],
            push: ["QUEUED", "SENDING", "UNCERTAIN"],
        }
        assert slow.stats().late == 2
        # What take-over assumed of the attempts is replaced by what is known of them.
        assert [each.error_code for each in await desk.attempts(project, push)] == [None]
        assert [each.error_code for each in await desk.attempts(project, webhook)] == [None, "Busy"]
        stored = await desk.delivery(project, webhook)
        # A lost worker does not use up the schedule.
        assert (stored.attempt_count, stored.schedule_offset) == (2, 1)


async def test_a_late_outcome_does_not_end_the_attempt_of_another_worker(module_database_url: str) -> None:
    gates = {1: Gate(), 2: Gate()}
    async with open_desk(module_database_url) as desk:
        project = await desk.project()
        desk.webhook.script = lambda message: gates[message.attempt_number](message)
        (webhook,) = await desk.enqueue(project)
        slow, other = desk.dispatcher(), desk.dispatcher()
        await slow.drain(project)
        await until(lambda: gates[1].waiting == 1)
        await desk.end_leases(project)
        await other.take_over(project)
        await until(lambda: gates[2].waiting == 1)

        gates[1].opened.set()
        await slow.settled()
        assert (await desk.delivery(project, webhook)).status == "SENDING"

        gates[2].opened.set()
        await other.settled()
        assert await desk.steps(project) == {webhook: ["QUEUED", "SENDING", "RETRYING", "SENDING", "DELIVERED"]}
        assert [each.error_code for each in await desk.attempts(project, webhook)] == [None, None]


async def test_a_claim_that_was_not_committed_and_the_next_one_settle_in_one_round(module_database_url: str) -> None:
    async with open_desk(module_database_url) as desk:
        project = await desk.project()
        gate = Gate()
        desk.webhook.script = gate
        (webhook,) = await desk.enqueue(project)
        dispatcher = desk.dispatcher()
        (claimed,) = (await dispatcher.step(project)).claimed
        # Given one whose COMMIT failed, so that it was given back under a lease that nobody knows
        lost = msgspec.structs.replace(claimed, lease=msgspec.structs.replace(claimed.lease, token=uuid4()))
        works = {Channel.WEBHOOK: desk.webhook}
        settlement = Settlement(desk.database, works, desk.clock, desk.announced.append, lambda _ended: None, writers=1)

        settlement.add(Ended(lost, None, desk.clock.now()))
        settlement.add(Ended(claimed, accept(cast(MemoryMessage, claimed.message)), desk.clock.now()))
        await settlement.finish()

        assert await desk.steps(project) == {webhook: ["QUEUED", "SENDING", "DELIVERED"]}
        assert (settlement.counts, settlement.late) == ({DeliveryStatus.DELIVERED: 1}, 1)
        gate.opened.set()
        await dispatcher.settled()


async def test_what_is_claimed_is_numbered_after_what_its_lane_got_meanwhile(module_database_url: str) -> None:
    """A claim and its transitions are one statement, which sees the lane as it was before it waited for its head."""
    async with open_desk(module_database_url) as desk, open_database(module_database_url) as other:
        project = await desk.project()
        due = await desk.enqueue(project, 3)
        later = new_delivery(desk.clock.now(), next_attempt_at=START + timedelta(days=1))
        dispatcher = desk.dispatcher()
        async with other.transaction() as making:
            await create_deliveries(making, project_id=project, deliveries=[later], now=desk.clock.now())
            drain = asyncio.create_task(desk.drain(dispatcher, project))
            async with other.connection() as watching:
                await wait_until_somebody_is_blocked(watching)
        await drain

        done = ["QUEUED", "SENDING", "DELIVERED"]
        assert await desk.steps(project) == {**dict.fromkeys(due, done), later.delivery_id: ["QUEUED"]}


async def test_a_connection_that_breaks_in_a_claim_delays_it_and_loses_nothing(module_database_url: str) -> None:
    async with open_desk(module_database_url) as desk, open_database(module_database_url) as other:
        project = await desk.project()
        due = await desk.enqueue(project, 3)
        dispatcher = desk.dispatcher()
        async with other.transaction() as holding:
            await holding.execute("SELECT FROM heads WHERE project_id = $1 FOR UPDATE", project)
            drain = asyncio.create_task(dispatcher.drain(project))
            async with other.connection() as cutting:
                await cutting.execute("SELECT pg_terminate_backend($1)", await wait_until_somebody_is_blocked(cutting))
            await asyncio.wait([drain])
        assert is_passing(cast(Exception, drain.exception()))
        await dispatcher.settled()

        assert await desk.steps(project) == {each: ["QUEUED", "SENDING", "DELIVERED"] for each in due}
        assert set(desk.webhook.keys.values()) == {1}
        assert (dispatcher.stats().held, dispatcher.stats().sending) == (0, 0)


async def test_a_lease_that_is_nearly_over_is_given_back_instead_of_used(module_database_url: str) -> None:
    asleep = 0.0

    def fall_asleep(_announcement: object) -> None:
        nonlocal asleep
        asleep += 50.0 if asleep == 0.0 else 0.0

    async with open_desk(module_database_url) as desk:
        project = await desk.project()
        (push,) = await desk.enqueue(project, channel=Channel.PUSH)
        works = {Channel.PUSH: desk.push}
        dispatcher = Dispatcher(desk.database, works, desk.clock, fall_asleep, monotonic=lambda: monotonic() + asleep)

        await desk.drain(dispatcher, project)

        assert await desk.steps(project) == {push: ["QUEUED", "SENDING", "QUEUED", "SENDING", "SENT"]}
        assert [each.number for each in await desk.attempts(project, push)] == [1]


def test_a_lease_too_short_for_an_attempt_is_refused(module_database_url: str) -> None:
    desk = Desk(open_desk(module_database_url))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="lease"):
        Dispatcher(desk.database, {}, desk.clock, print, lease=timedelta(seconds=20))


async def test_stopping_finishes_what_is_under_way_and_gives_the_rest_back(module_database_url: str) -> None:
    async with open_desk(module_database_url) as desk:
        project = await desk.project()
        gate = Gate()
        desk.push.script = gate
        await desk.enqueue(project, 30, channel=Channel.PUSH)
        dispatcher = desk.dispatcher()
        draining = asyncio.create_task(dispatcher.drain(project))
        await until(lambda: gate.waiting == 4)

        stopping = asyncio.create_task(dispatcher.stop(timedelta(seconds=20)))
        await asyncio.sleep(0.05)
        gate.opened.set()
        await stopping
        await draining

        assert await desk.statuses(project) == {"SENT": 4, "QUEUED": 26}
        assert desk.push.under_way == 0
        await dispatcher.drain(project)
        assert gate.waiting == 4
        await desk.drain(desk.dispatcher(), project)
        assert await desk.statuses(project) == {"SENT": 30}
        assert set(desk.push.keys.values()) == {1}


async def test_stopping_gives_back_what_was_claimed_ahead(module_database_url: str) -> None:
    async with open_desk(module_database_url) as desk:
        project = await desk.project()
        dispatcher = desk.dispatcher()
        await desk.enqueue_many(project, LANE_LIMIT + 10)
        await desk.drain(dispatcher, project)
        gate = Gate()
        desk.webhook.script = gate
        waiting = await desk.enqueue(project, LANE_LIMIT + 20)
        await dispatcher.drain(project)
        await until(lambda: dispatcher.stats().sending == LANE_LIMIT)
        assert await desk.statuses(project) == {"DELIVERED": LANE_LIMIT + 10, "SENDING": LANE_LIMIT + 20}

        stopping = asyncio.create_task(dispatcher.stop(timedelta(seconds=20)))
        await asyncio.sleep(0)
        gate.opened.set()
        await stopping

        assert await desk.statuses(project) == {"DELIVERED": 2 * LANE_LIMIT + 10, "QUEUED": 20}
        found = [await desk.delivery(project, each) for each in waiting]
        assert sum(each.attempt_count for each in found) == LANE_LIMIT, "what was not attempted is not counted"


async def test_stopping_does_not_wait_longer_than_its_grace(module_database_url: str) -> None:
    async with open_desk(module_database_url) as desk:
        project = await desk.project()
        gate = Gate()
        desk.push.script = desk.webhook.script = gate
        (push,) = await desk.enqueue(project, channel=Channel.PUSH)
        (webhook,) = await desk.enqueue(project)
        dispatcher = desk.dispatcher()
        await dispatcher.drain(project)
        await until(lambda: gate.waiting == 2)

        began = monotonic()
        await dispatcher.stop(timedelta(seconds=3.2))

        assert monotonic() - began < 3
        assert await desk.steps(project) == {
            push: ["QUEUED", "SENDING", "UNCERTAIN"],
            webhook: ["QUEUED", "SENDING", "RETRYING"],
        }


async def test_a_cancelled_drain_leaves_nothing_behind(module_database_url: str) -> None:
    async with open_desk(module_database_url, max_size=4) as desk:
        project = await desk.project()
        dispatcher = desk.dispatcher()
        for number in range(40):
            await desk.enqueue(project, 1, channel=Channel.PUSH)
            drain = asyncio.create_task(dispatcher.drain(project))
            for _ in range(number):
                await asyncio.sleep(0)
            drain.cancel()
            await asyncio.wait([drain])
        await dispatcher.settled()

        await desk.drain(dispatcher, project)

        assert (dispatcher.stats().held, dispatcher.stats().sending) == (0, 0)
        await desk.end_leases(project)
        await dispatcher.take_over(project)
        statuses = await desk.statuses(project)
        assert statuses["SENT"] + statuses.get("UNCERTAIN", 0) == 40
        assert set(desk.push.keys.values()) == {1}
        await desk.steps(project)


async def test_a_connection_that_breaks_in_a_settlement_delays_it_and_loses_nothing(module_database_url: str) -> None:
    class CutOnce(MemoryChannel):
        async def settle(self, connection: asyncpg.Connection, **arguments: Any) -> Sequence[NewEvent]:
            if not self.settled:
                async with other.connection() as cutting:
                    await cutting.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
            return await super().settle(connection, **arguments)

    async with (
        open_desk(module_database_url) as desk,
        open_database(module_database_url, min_size=1, max_size=1) as other,
    ):
        project = await desk.project()
        (push,) = await desk.enqueue(project, channel=Channel.PUSH)
        desk.push = CutOnce(Channel.PUSH, repeatable=False)
        dispatcher = desk.dispatcher()

        await desk.drain(dispatcher, project)

        assert dispatcher.stats().retries > 0
        assert await desk.steps(project) == {push: ["QUEUED", "SENDING", "SENT"]}
        assert (await desk.events(project))["push.sent"] == 1


async def test_a_full_lane_is_filled_again_without_anybody_asking(module_database_url: str) -> None:
    async with open_desk(module_database_url) as desk:
        project = await desk.project()
        await desk.enqueue(project, 40)

        await desk.drain(desk.dispatcher(lane_limit=3, process_limit=8), project)

        assert await desk.statuses(project) == {"DELIVERED": 40}
        assert desk.webhook.most_under_way <= 3


async def test_a_host_that_fails_is_left_alone_and_nothing_is_counted_against_what_waits(
    module_database_url: str,
) -> None:
    seconds = 0.0
    async with open_desk(module_database_url) as desk:
        project = await desk.project()
        desk.webhook.script = lambda message: (
            Deferred(error=BUSY, is_account=True) if message.dispatch_key == HOST else accept(message)
        )
        await desk.enqueue(project, 3 * FAILURES_TO_OPEN)
        await desk.enqueue(project, 5, dispatch_key=OTHER)
        dispatcher = desk.dispatcher(monotonic=lambda: monotonic() + seconds)

        await desk.drain(dispatcher, project)

        statuses = await desk.statuses(project)
        assert statuses["DELIVERED"] == 5
        assert FAILURES_TO_OPEN <= statuses["RETRYING"] < 2 * FAILURES_TO_OPEN
        assert statuses["QUEUED"] == 3 * FAILURES_TO_OPEN - statuses["RETRYING"]
        assert dispatcher.stats().open_breakers == 1

        # Half-open: one is let through, and its success opens the way for all.
        seconds = 120.0
        desk.clock.advance(seconds=10)
        desk.webhook.script = accept
        await desk.drain(dispatcher, project)
        assert await desk.statuses(project) == {"DELIVERED": 3 * FAILURES_TO_OPEN + 5}
        assert dispatcher.stats().open_breakers == 0


async def test_ten_hanging_hosts_delay_nobody_else(module_database_url: str) -> None:
    async with open_desk(module_database_url) as desk:
        project, lively = await desk.project(), await desk.project()
        gate = Gate()
        desk.webhook.script = lambda message: accept(message) if message.dispatch_key == OTHER else gate(message)
        for number in range(10):
            await desk.enqueue_many(project, 100, dispatch_key=f"https://hangs-{number}.example:443")
        await desk.enqueue(project, 200, dispatch_key=OTHER)
        await desk.enqueue(lively, 200, dispatch_key=OTHER)
        dispatcher = desk.dispatcher()

        await asyncio.gather(dispatcher.drain(project), dispatcher.drain(lively))
        await until(lambda: sum(dispatcher.stats().settled.values()) == 400)

        by_host = Counter(message.dispatch_key for message in desk.webhook.received)
        assert by_host[OTHER] == 400
        assert all(count < 100 for host, count in by_host.items() if host != OTHER)
        gate.opened.set()
        await dispatcher.stop(timedelta(seconds=10))


async def test_a_hundred_thousand_deliveries_of_one_project_do_not_delay_another_ones(module_database_url: str) -> None:
    async with open_desk(module_database_url) as desk:
        large, small = await desk.project(), await desk.project()
        await desk.enqueue_many(large, 100_000)
        dispatcher = desk.dispatcher()
        drain = asyncio.create_task(dispatcher.drain(large))
        await until(lambda: len(desk.webhook.received) > 500)

        (single,) = await desk.enqueue(small, dispatch_key=OTHER)
        before = len(desk.webhook.received)
        await dispatcher.drain(small)
        await until(lambda: single in {message.key for message in desk.webhook.received[before:]})

        # Counted, not timed: so many others were sent meanwhile.
        assert len(desk.webhook.received) - before < 1_000
        await drain
        await dispatcher.stop(timedelta(seconds=10))


async def test_due_projects_are_found_by_a_few_look_ups(database_url: str) -> None:
    async with open_desk(database_url) as desk:
        projects = [await desk.project() for _ in range(3)]
        async with desk.database.connection() as connection:
            await connection.execute(
                "INSERT INTO deliveries (project_id, delivery_id, channel, status, dispatch_key, content,"
                " retry_schedule, created_at, next_attempt_at)"
                " SELECT $1, gen_random_uuid(), 'WEBHOOK', 'QUEUED', $2, '{}', '{2}', CAST($3 AS timestamptz),"
                " CAST($3 AS timestamptz) + interval '1 day'"
                " FROM generate_series(1, 50000)",
                projects[0],
                HOST,
                START,
            )
        await desk.enqueue(projects[1], 20, next_attempt_at=START + timedelta(days=1))
        await desk.enqueue(projects[1], 5, dispatch_key=OTHER)
        await desk.enqueue(projects[2], 5, next_attempt_at=START + timedelta(seconds=1))

        async with desk.database.connection() as connection:
            assert await find_due_projects(connection, now=START) == [projects[1]]
            assert set(await find_due_projects(connection, now=START + timedelta(days=2))) == set(projects)
            explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statements('dispatch')['find_due_projects']}"
            ((plan,),) = await connection.fetch(explain, START)
        top = msgspec.json.decode(plan)[0]["Plan"]
        assert top["Shared Hit Blocks"] + top["Shared Read Blocks"] < 100


async def test_deliveries_are_looked_up_one_by_one_in_a_table_without_statistics(database_url: str) -> None:
    ids = [uuid4() for _ in range(100)]
    nothing = [None] * 100
    async with open_desk(database_url) as desk:
        project = await desk.project()
        await desk.enqueue_many(project, 40_000)
        async with desk.database.connection() as connection:
            for statement, arguments in (
                ("deliveries.read_deliveries", [ids]),
                ("deliveries.lock_deliveries", [ids]),
                ("dispatch.write_claims", [ids, *[nothing] * 14, START, uuid4(), timedelta(seconds=60), True]),
                ("dispatch.write_settlements", [ids, *[nothing] * 16, START, "WorkerLost", True]),
            ):
                family, name = statement.split(".")
                plan = await connection.fetch(f"EXPLAIN {statements(family)[name]}", project, *arguments)
                scans = [line for (line,) in plan if re.search(r"Scan .*deliveries", line)]
                assert scans, statement
                assert all("using deliveries_pkey on deliveries" in line for line in scans), (statement, scans)
