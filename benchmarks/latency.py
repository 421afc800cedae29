"""How long from `track` to the subscriber, at a steady rate on one project?

Data: `--rate` (default 500) single events a second from `--callers` (default 64) keep-alive connections for `--seconds`
(default 20), one WebSocket subscriber to everything. Each event carries its number; the clock starts when the request
is written and stops when the frame is read, both in the client process.

Shows: p50, p90, p99 and worst in ms (goal: p50 under 15, p99 under 60), and the rate that was really reached. Counts
only when every event arrived exactly once, in order.

Command: `python -m benchmarks.latency [--rate 500] [--callers 64] [--seconds 20]`
"""

from __future__ import annotations

import argparse
import asyncio
import time
from dataclasses import dataclass

import aiohttp
import orjson

from benchmarks.harness import BenchmarkError, Gateway, gateway, open_subscribers, wait_until_received

STREAM = "subscription { eventStream { cursor node { seq eventType userId properties } } }"
TRACK = "mutation ($input: TrackInput!) { track(input: $input) { event { seq } userErrors { message } } }"
WARM_UP_SECONDS = 2


@dataclass
class Schedule:
    """Hands out due times, so that a slow answer does not slow the others down."""

    started: float
    rate: int
    total: int
    taken: int = 0

    def take(self) -> float | None:
        """When the next event is due, or None when all are taken."""
        if self.taken == self.total:
            return None
        self.taken += 1
        return self.started + self.taken / self.rate


async def run(server: Gateway, rate: int, callers: int, seconds: int) -> None:
    """Track at the given rate and report the percentiles."""
    (subscriber,) = await open_subscribers(server, STREAM, [{}], timed=True)
    sent: dict[int, float] = {}
    connector = aiohttp.TCPConnector(limit=callers)
    async with aiohttp.ClientSession(connector=connector) as session:
        for duration, record in ((WARM_UP_SECONDS, {}), (seconds, sent)):
            schedule = Schedule(time.perf_counter(), rate, rate * duration)
            started = time.perf_counter()
            await asyncio.gather(*(call(server, session, schedule, record) for _ in range(callers)))
            took = time.perf_counter() - started
    total = rate * (seconds + WARM_UP_SECONDS)
    await wait_until_received([subscriber], total)
    if subscriber.seqs != list(range(subscriber.seqs[0], subscriber.seqs[0] + total)):
        raise BenchmarkError("the subscriber does not hold every event once and in order")
    arrived = dict(zip(subscriber.seqs, subscriber.arrivals, strict=True))
    delays = sorted((arrived[seq] - at) * 1000 for seq, at in sent.items())
    p50, p90, p99 = (delays[int(len(delays) * part)] for part in (0.5, 0.9, 0.99))
    print(
        f"track to subscriber at {rate * seconds / took:.0f} events/s, {callers} callers: "
        f"p50 {p50:.1f} ms, p90 {p90:.1f} ms, p99 {p99:.1f} ms, worst {delays[-1]:.1f} ms"
    )


async def call(server: Gateway, session: aiohttp.ClientSession, schedule: Schedule, sent: dict[int, float]) -> None:
    """One caller: waits for its turn, tracks, notes the seq that it was given."""
    url = f"http://127.0.0.1:{server.port}/graphql"
    headers = {**server.headers, "content-type": "application/json"}
    event = {"eventType": "order.placed", "userId": "user-1", "properties": {"amount": 12.5, "currency": "EUR"}}
    body = orjson.dumps({"query": TRACK, "variables": {"input": {"event": event}}})
    while (due := schedule.take()) is not None:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        at = time.perf_counter()
        async with session.post(url, data=body, headers=headers) as response:
            answer = orjson.loads(await response.read())
        if answer.get("errors") or answer["data"]["track"]["userErrors"]:
            raise BenchmarkError(f"track was refused: {answer}")
        sent[answer["data"]["track"]["event"]["seq"]] = at


def main() -> None:
    """One run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=500)
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--seconds", type=int, default=20)
    arguments = parser.parse_args()
    with gateway() as server:
        asyncio.run(run(server, arguments.rate, arguments.callers, arguments.seconds))


if __name__ == "__main__":
    main()
