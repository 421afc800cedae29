"""How much server CPU does one delivered message cost when many subscribers watch the same stream?

Data: `--events` events (default 200) of about 300 bytes, published one after another, to `--subscribers` (default
1,000) WebSockets that all sent the same document. Second part: the same number of subscribers, each filtering on
another user, so that an event is for exactly one of them; compared with a single subscriber who gets every event.

Shows: µs of CPU of the server process per delivered message (ours includes taking the events in over HTTP and reading
them back from Redis; the peers make theirs in memory), and for the second part events per second until all arrived.
A run counts only when each subscriber holds exactly its events, in order.

Command: `python -m benchmarks.fan_out [--subscribers 1000] [--events 200]`
"""

from __future__ import annotations

import argparse
import asyncio
import time

import aiohttp

from benchmarks.harness import (
    BenchmarkError,
    Gateway,
    Server,
    gateway,
    open_subscribers,
    peer,
    peers,
    wait_until_received,
)

SELECTION = "{ cursor node { id seq eventType timestamp userId properties } }"
EVERYTHING = f"subscription {{ eventStream {SELECTION} }}"
ONE_USER = f"subscription ($user: String!) {{ eventStream(filter: {{userId: $user}}) {SELECTION} }}"
TRACK = "mutation ($input: TrackInput!) { track(input: $input) { duplicate userErrors { message } } }"
PROPERTIES = {"amount": 12.5, "currency": "EUR", "items": [{"sku": "A-1", "quantity": 2}], "coupon": None}


async def publish(server: Server, first: int, count: int, users: int, callers: int) -> None:
    """Make `count` events happen on the server: through its public API for ours, from memory for a peer."""
    async with aiohttp.ClientSession() as session:
        if not isinstance(server, Gateway):
            url = f"http://127.0.0.1:{server.port}/publish?from={first}&count={count}&users={users}"
            async with session.get(url) as response:
                response.raise_for_status()
            return
        numbers = iter(range(first, first + count))

        async def call() -> None:
            for number in numbers:
                event = {"eventType": "order.placed", "userId": f"user-{number % users}", "properties": PROPERTIES}
                body = {"query": TRACK, "variables": {"input": {"event": event}}}
                url = f"http://127.0.0.1:{server.port}/graphql"
                async with session.post(url, json=body, headers=server.headers) as response:
                    answer = await response.json(content_type=None)
                if answer.get("errors") or answer["data"]["track"]["userErrors"]:
                    raise BenchmarkError(f"track was refused: {answer}")

        await asyncio.gather(*(call() for _ in range(callers)))


async def same_document(server: Server, subscribers: int, events: int) -> float:
    """µs of server CPU per delivered message."""
    opened = await open_subscribers(server, EVERYTHING, [{}] * subscribers)
    await publish(server, 1, 20, 1, callers=1)
    await wait_until_received(opened, 20 * subscribers)
    before = server.cpu_seconds()
    await publish(server, 21, events, 1, callers=1)
    await wait_until_received(opened, (20 + events) * subscribers)
    spent = server.cpu_seconds() - before
    for subscriber in opened:
        _check_dense(server, subscriber.seqs, 20 + events)
        subscriber.close()
    await asyncio.sleep(0.5)
    return spent * 1e6 / (events * subscribers)


async def many_filters(server: Server, subscribers: int, events: int) -> tuple[float, float]:
    """Events per second until all have arrived: one subscriber to everything, then `subscribers` on a user each."""
    rates = []
    for variables, query, users in (
        ([{}], EVERYTHING, 1),
        ([{"user": f"user-{n}"} for n in range(subscribers)], ONE_USER, subscribers),
    ):
        opened = await open_subscribers(server, query, variables)
        started = time.perf_counter()
        await publish(server, 100_000, events, users, callers=64)
        await wait_until_received(opened, events)
        rates.append(events / (time.perf_counter() - started))
        for subscriber, wanted in zip(opened, variables, strict=True):
            if subscriber.seqs != sorted(set(subscriber.seqs)):
                raise BenchmarkError(f"{server.name}: repeated or out of order")
            if "user" in wanted and not subscriber.users <= {wanted["user"]}:
                raise BenchmarkError(f"{server.name}: an event reached somebody who had not asked for it")
            subscriber.close()
        await asyncio.sleep(0.5)
    return rates[0], rates[1]


def _check_dense(server: Server, seqs: list[int], count: int) -> None:
    if len(seqs) != count or seqs != list(range(seqs[0], seqs[0] + count)):
        raise BenchmarkError(f"{server.name}: a subscriber holds {len(seqs)} items, not {count} in order")


def main() -> None:
    """Run ours and every peer, one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subscribers", type=int, default=1000)
    parser.add_argument("--events", type=int, default=200)
    arguments = parser.parse_args()
    count, events = arguments.subscribers, arguments.events
    print(f"fan-out, {count} subscribers, {events} events: server CPU per delivered message")
    with gateway() as ours:
        cost = asyncio.run(same_document(ours, count, events))
        print(f"  {'sendora':20} {cost:8.1f} µs", flush=True)
        one, many = asyncio.run(many_filters(ours, count, 2000))
    for name, command in peers().items():
        with peer(name, command) as server:
            theirs = asyncio.run(same_document(server, count, events))
        print(f"  {name:20} {theirs:8.1f} µs  {theirs / cost:6.1f} × ours", flush=True)
    print(f"filters, 2000 events: one subscriber {one:.0f} events/s; {count} on a user each {many:.0f} events/s,")
    print(f"  {one / many:.2f} times slower (goal: at most 2)")


if __name__ == "__main__":
    main()
