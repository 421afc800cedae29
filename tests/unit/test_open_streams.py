"""Open streams: places per holder, and what is delivered paid in batches."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from transport.application import Account
from transport.execution import open_streams
from transport.execution.open_streams import OpenStreams


@dataclass(eq=False)
class Stream:
    delivered: int = 0


@dataclass
class Purse:
    """An account that writes down what it is charged."""

    charged: list[float] = field(default_factory=list)
    paid: asyncio.Event = field(default_factory=asyncio.Event)
    standing: Any = None

    def take(self, _points: int) -> None:
        return None

    def charge(self, points: float) -> None:
        self.charged.append(points)
        self.paid.set()

    async def until(self, points: float) -> None:
        """Until so many have been charged."""
        async with asyncio.timeout(5):
            while sum(self.charged) < points:
                self.paid.clear()
                await self.paid.wait()


def enter(
    streams: OpenStreams, stream: Stream, holder: str | None, account: Account | None = None, cost: int = 1
) -> bool:
    return streams.enter(stream, holder=holder, account=account, cost_of_item=cost)


def test_a_holder_has_so_many_places_and_gets_them_back() -> None:
    streams = OpenStreams(2)
    first, second, third = Stream(), Stream(), Stream()

    assert enter(streams, first, "ada")
    assert enter(streams, second, "ada")
    assert not enter(streams, third, "ada")
    assert enter(streams, Stream(), "bob")
    assert all(enter(streams, Stream(), None) for _ in range(5))
    assert len(streams) == 8

    streams.leave(first)
    streams.leave(first)
    streams.leave(third)

    assert enter(streams, third, "ada")
    assert not enter(streams, Stream(), "ada")


async def test_what_was_delivered_is_paid_when_a_stream_ends() -> None:
    streams, purse = OpenStreams(9), Purse()
    plain, deep, idle = Stream(), Stream(), Stream()
    enter(streams, plain, "ada", purse)
    enter(streams, deep, "ada", purse, 21)
    enter(streams, idle, "ada", purse)

    plain.delivered, deep.delivered = 300, 100
    for stream in (plain, deep, idle, plain):
        streams.leave(stream)

    assert purse.charged == [3.0, 21.0]


async def test_open_streams_pay_again_and_again_and_only_for_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_streams, "CHARGED_SECONDS", 0.02)
    streams, purse = OpenStreams(100), Purse()
    opened = [Stream() for _ in range(50)]
    for stream in opened:
        enter(streams, stream, "ada", purse)
        stream.delivered = 100

    await purse.until(50)
    opened[0].delivered = 150
    await purse.until(50.5)
    for stream in opened:
        streams.leave(stream)

    assert sum(purse.charged) == 50.5
    assert len(purse.charged) == 51
