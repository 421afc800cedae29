"""A worker that is asked to stop while sends are under way: they end, they are written down, nothing is sent twice."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from launch import processes
from tests.acceptance.chaos.deployment import Deployment
from tests.acceptance.chaos_deliveries.shop import EGRESS, Shop, count_statuses, open_shops
from tests.acceptance.running import eventually
from tests.peers.receiver import Reply, WebhookReceiver
from tests.peers.twilio import TakeAndStall, TwilioPeer

EVENTS = 30
SLOW_SECONDS = 3.0
DRAIN_SECONDS = 20.0
SUPERVISED_SECONDS = 2.5
"""After this the supervisor kills."""
PHONE = "+14155550101"
CONFIGURE = """mutation ($input: ConfigureProviderInput!) {
  configureProvider(input: $input) { userErrors { message path } } }"""
SEND_SMS = """mutation ($to: [String!]) {
  sendSms(input: {to: $to, body: "Your code is 1234."}) { queued userErrors { message } } }"""


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Everything but a worker."""
    deployment = Deployment(tmp_path_factory.mktemp("stopping"), gateways=1, settings=EGRESS)
    try:
        asyncio.run(deployment.open())
        deployment.workers[0].end()
        yield deployment
    finally:
        deployment.close()


@pytest.fixture
async def receiver() -> AsyncIterator[WebhookReceiver]:
    async with WebhookReceiver.running() as running:
        yield running


@pytest.fixture
async def shop(deployment: Deployment) -> AsyncIterator[Shop]:
    """A project of the test's own."""
    async with open_shops(deployment, others=1) as shops:
        yield shops[1]


@pytest.fixture
def supervised(deployment: Deployment, tmp_path: Path) -> Iterator[processes.Child]:
    """A worker as `run` starts it."""
    with (tmp_path / "worker.log").open("wb") as output:
        process = processes.launch(
            [sys.executable, "cli.py", "worker", "--supervised"],
            orphan_signal=signal.SIGKILL,
            output=output,
            stdin=subprocess.PIPE,
            environment=deployment.environment,
        )
    assert process.stdin is not None
    os.write(process.stdin.fileno(), processes.GO)
    try:
        yield process
    finally:
        processes.end(process, signal.SIGKILL, 5)
        process.stdin.close()


def arrivals(receiver: WebhookReceiver) -> Counter[str]:
    """How often each event came."""
    return Counter(request.event_id for request in receiver.requests)


async def seconds_until_ended(process: subprocess.Popen[bytes]) -> float:
    """After SIGTERM, with exit code 0."""
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 2 * DRAIN_SECONDS) == 0
    return time.monotonic() - began


async def changed(deployment: Deployment, before: Counter[str]) -> dict[str, int]:
    now = await count_statuses(deployment)
    return {status: now[status] - before[status] for status in now if now[status] != before[status]}


async def test_sigterm_lets_slow_sends_end_and_leaves_the_rest_to_others(
    deployment: Deployment, shop: Shop, receiver: WebhookReceiver
) -> None:
    # Given a receiver that takes its time with the first requests of many
    receiver.scripts["/hook"] = [Reply(after=SLOW_SECONDS)] * EVENTS
    await shop.add_receiver(receiver, "/hook", ["order.*"])
    before = await count_statuses(deployment)
    await shop.track("order.placed", [f"slow-{number}" for number in range(EVENTS)])
    worker = deployment.workers[0]
    worker.launch()
    assert worker.process is not None
    await eventually(lambda: receiver.requests, seconds=15, what="a request")
    await asyncio.sleep(0.2)

    # When its worker is told to stop
    seconds = await seconds_until_ended(worker.process)

    # Then what had begun is delivered, and the rest is as if nobody had touched it
    under_way = len(receiver.requests)
    assert seconds < DRAIN_SECONDS
    assert 0 < under_way < EVENTS
    assert await changed(deployment, before) == {"DELIVERED": under_way, "QUEUED": EVENTS - under_way}
    assert worker.logged_errors() == []

    # And the next worker does the rest, once each
    receiver.scripts["/hook"].clear()
    worker.launch()
    await eventually(lambda: len(receiver.requests) >= EVENTS, seconds=15, what="the rest")
    await seconds_until_ended(worker.process)
    assert await changed(deployment, before) == {"DELIVERED": EVENTS}
    assert set(arrivals(receiver).values()) == {1}
    assert all(request.verified for request in receiver.requests)


async def test_a_supervised_worker_ends_in_time_and_says_what_it_does_not_know(
    deployment: Deployment, shop: Shop, receiver: WebhookReceiver, supervised: processes.Child
) -> None:
    # Given a webhook and a text message that are not answered before the supervisor would kill
    receiver.scripts["/hook"] = [Reply(after=SLOW_SECONDS)]
    await shop.add_receiver(receiver, "/hook", ["order.*"], retrySchedule=[1])
    before = await count_statuses(deployment)
    async with TwilioPeer.running() as twilio:
        twilio.scripts[PHONE] = [TakeAndStall()]
        await shop.run(CONFIGURE, input={"kind": "TWILIO", "settings": twilio.settings(), "secrets": twilio.secrets()})
        await shop.track("order.placed", ["supervised"])
        await shop.run(SEND_SMS, to=[PHONE])
        await eventually(lambda: receiver.requests and twilio.messages, seconds=15, what="both")

        seconds = await seconds_until_ended(supervised)

        # Then one is tried again by another worker, and of the other nobody knows, so nobody repeats it
        assert seconds < SUPERVISED_SECONDS
        assert await changed(deployment, before) == {"RETRYING": 1, "UNCERTAIN": 1}
        worker = deployment.workers[0]
        worker.launch()
        assert worker.process is not None
        await eventually(lambda: len(receiver.requests) == 2, seconds=15, what="the second attempt")
        await seconds_until_ended(worker.process)
        assert await changed(deployment, before) == {"DELIVERED": 1, "UNCERTAIN": 1}
        assert list(arrivals(receiver).values()) == [2]
        assert len(twilio.messages) == 1
