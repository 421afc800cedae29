"""Ten hosts that take connections and never answer, with two thousand deliveries for them: nobody else waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest

from tests.acceptance.chaos.deployment import Deployment
from tests.acceptance.chaos_deliveries.shop import EGRESS, Shop, count_statuses, open_shops, until_counted
from tests.acceptance.running import eventually
from tests.peers.receiver import WebhookReceiver

HOSTS = 10
DELIVERIES = 200
"""For each of them."""
PROBES = 5
PROMISE_SECONDS = 1.0


class HangingHost:
    """Accepts, reads, and says nothing."""

    def __init__(self) -> None:
        self.connections = 0
        self.url = ""
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> HangingHost:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    async def _take(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path_factory.mktemp("hanging"), gateways=1, settings=EGRESS)
    try:
        asyncio.run(deployment.open())
        yield deployment
    finally:
        deployment.close()


@pytest.fixture
async def hosts() -> AsyncIterator[list[HangingHost]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(HangingHost()) for _ in range(HOSTS)]


async def seconds_to_arrive(shop: Shop, receiver: WebhookReceiver, event_id: str) -> float:
    """From the request of `track` to the receiver."""
    before, began = len(receiver.requests), time.monotonic()
    await shop.track("user.signed_up", [event_id])
    await eventually(lambda: len(receiver.requests) > before, seconds=30, what=event_id)
    return time.monotonic() - began


async def test_hosts_that_hang_delay_neither_another_project_nor_another_host(
    deployment: Deployment, hosts: list[HangingHost]
) -> None:
    async with open_shops(deployment, others=1) as (shop, other_shop), WebhookReceiver.running() as receiver:
        for host in hosts:
            await shop.add_endpoint(f"{host.url}/hook", ["order.*"])
        await shop.add_receiver(receiver, "/same-project", ["user.*"])
        await other_shop.add_receiver(receiver, "/other-project", ["user.*"])
        # Given two thousand deliveries, and every host hanging
        await shop.track("order.placed", [f"hang-{number}" for number in range(DELIVERIES)])
        await eventually(lambda: all(host.connections for host in hosts), seconds=15, what="connections")
        await until_counted(deployment, lambda counted: counted.total() == HOSTS * DELIVERIES, seconds=15)

        # When somebody else has one
        waits = {}
        for number in range(PROBES):
            waits[f"other project {number}"] = await seconds_to_arrive(other_shop, receiver, f"other-{number}")
            waits[f"same project {number}"] = await seconds_to_arrive(shop, receiver, f"same-{number}")
        statuses = await count_statuses(deployment)

    # Then it arrives at once, and the two thousand are still there
    print(f"\nlongest {max(waits.values()):.3f} s, {sum(host.connections for host in hosts)} requests hang")
    assert max(waits.values()) < PROMISE_SECONDS, waits
    assert {request.verified for request in receiver.requests} == {True}
    assert statuses.total() == HOSTS * DELIVERIES + 2 * PROBES
    assert HOSTS <= statuses["SENDING"] < HOSTS * DELIVERIES
