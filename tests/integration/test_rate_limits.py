"""Buckets of points: against a model where nothing is shared, and by several gateways on a real Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.rate_limits import MAX_BUCKETS, SHARE, Account, RateLimits, Refusal
from launch.embedded import EmbeddedValkey
from tests.integration.stream_support import until

NOWHERE = "redis://127.0.0.1:1"
LIMIT = 1_600
SLOW = 1
"""Points a second: what time restores during a test does not matter."""


async def take(account: Account, points: int) -> Refusal | None:
    answer = account.take(points)
    return await answer if isinstance(answer, Awaitable) else answer


@asynccontextmanager
async def gateways(
    url: str, count: int, *, limit: int = LIMIT, restore_rate: int = SLOW
) -> AsyncIterator[list[RateLimits]]:
    """So many gateways' views of one Redis."""
    async with AsyncExitStack() as stack:
        made = [RateLimits(url, limit=limit, restore_rate=restore_rate) for _ in range(count)]
        for each in made:
            each.start()
            stack.push_async_callback(each.stop)
        yield made


# One gateway alone, with a clock of its own

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(1, 150)),
        st.tuples(st.just("charge"), st.integers(-50, 150)),
        st.tuples(st.just("wait"), st.integers(0, 20)),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(STEPS)
def test_a_bucket_alone_is_a_token_bucket(steps: list[tuple[str, int]]) -> None:
    now = [100.0]
    account = RateLimits(NOWHERE, limit=100, restore_rate=10, now=lambda: now[0]).account("ada")
    model = 100.0
    for step, amount in steps:
        if step == "wait":
            now[0] += amount
            model = min(100.0, model + 10 * amount)
        elif step == "charge":
            account.charge(amount)
            model = min(100.0, model - amount)
        else:
            answer = account.take(amount)
            if model >= amount:
                assert answer is None
                model -= amount
            else:
                assert answer == Refusal(100 * (amount - int(model)))
        assert account.remaining == max(0, int(model))


def test_after_the_time_that_a_refusal_names_there_is_enough() -> None:
    now = [0.0]
    account = RateLimits(NOWHERE, limit=100, restore_rate=3, now=lambda: now[0]).account("ada")
    assert account.take(100) is None

    refusal = account.take(10)

    assert refusal == Refusal(3334)
    now[0] += 3.333
    assert isinstance(account.take(10), Refusal)
    now[0] += 0.001
    assert account.take(10) is None


def test_a_debt_is_no_less_than_nothing_and_has_to_be_restored_first() -> None:
    now = [0.0]
    account = RateLimits(NOWHERE, limit=100, restore_rate=10, now=lambda: now[0]).account("ada")

    account.charge(250)

    assert account.remaining == 0
    assert account.take(10) == Refusal(16_000)
    now[0] += 16
    assert account.take(10) is None


def test_holders_have_a_bucket_each_and_few_are_kept() -> None:
    limits = RateLimits(NOWHERE, limit=100, restore_rate=1)
    holders = [uuid4() for _ in range(MAX_BUCKETS + 10)]
    ada = limits.account(holders[0])
    assert ada.take(100) is None

    for holder in holders:
        assert limits.account(holder).remaining == (0 if holder == holders[0] else 100)

    assert len(limits._accounts) == MAX_BUCKETS + 1  # ada's stays: Redis does not know of it
    assert len({limits.account(holder).key for holder in holders[:50]}) == 50
    assert not any(str(holder) in limits.account(holder).key for holder in holders[:50])


# Several, and Redis


async def test_what_one_gateway_takes_the_others_know_of(redis_url: str) -> None:
    holder = uuid4()
    async with gateways(redis_url, 2) as (first, second):
        assert await take(first.account(holder), 100) is None
        assert (await first.account(holder).settle()).remaining == LIMIT - 100
        assert (await second.account(holder).settle()).remaining == LIMIT - 100

        assert await take(second.account(holder), LIMIT - 100) is None
        assert (await first.account(holder).settle()).remaining < 5
        assert isinstance(await take(first.account(holder), 50), Refusal)


async def test_a_view_is_settled_soon_without_anybody_waiting(redis_url: str) -> None:
    holder = uuid4()
    async with gateways(redis_url, 2) as (first, second):
        account = first.account(holder)
        assert account.take(LIMIT // SHARE) is None

        await until(lambda: account.is_settled)

        assert (await second.account(holder).settle()).remaining <= LIMIT - LIMIT // SHARE + 1


async def test_what_is_given_back_is_everybodys(redis_url: str) -> None:
    holder = uuid4()
    async with gateways(redis_url, 2) as (first, second):
        assert await take(first.account(holder), 1_000) is None
        first.account(holder).charge(-900)
        await first.account(holder).settle()

        assert (await second.account(holder).settle()).remaining >= LIMIT - 100


async def test_many_ask_at_once_and_only_as_many_get_as_there_are(redis_url: str) -> None:
    holder = uuid4()
    async with gateways(redis_url, 3) as made:
        answers = await asyncio.gather(*(take(made[number % 3].account(holder), 200) for number in range(30)))

        assert sum(answer is None for answer in answers) == LIMIT // 200
        assert all(answer is None or answer.retry_after_ms > 100_000 for answer in answers)


TURNS = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 400), st.booleans()), min_size=1, max_size=60)


@settings(max_examples=15, deadline=None)
@given(TURNS)
def test_gateways_together_give_little_more_than_there_is(
    redis_server: EmbeddedValkey, turns: list[tuple[int, int, bool]]
) -> None:
    asyncio.run(_take_turns(redis_server.url, turns))


async def _take_turns(url: str, turns: list[tuple[int, int, bool]]) -> None:
    """Each turn one gateway takes; some settle. Never is more given than the bucket held and the bound lets slip."""
    holder, given_out, began = uuid4(), 0, monotonic()
    async with gateways(url, 3) as made:
        for gateway, points, settles in turns:
            account = made[gateway].account(holder)
            if await take(account, points) is None:
                given_out += points
            if settles:
                await account.settle()
        restored = (monotonic() - began + 1) * SLOW
        assert given_out <= LIMIT + 2 * LIMIT / SHARE + restored

        for each in made:
            await each.account(holder).settle()
        left = (await made[0].account(holder).settle()).remaining
        assert abs(left - max(0, LIMIT - given_out)) <= restored


async def test_without_redis_each_gateway_goes_by_its_own_view_at_once(own_redis: EmbeddedValkey) -> None:
    own_redis.stop()
    async with gateways(own_redis.url, 1) as (alone,):
        account = alone.account(uuid4())
        began = monotonic()

        assert await take(account, 1_500) is None
        assert isinstance(await take(account, 1_500), Refusal)
        assert (await account.settle()).remaining in (100, 101)
        assert monotonic() - began < 1


async def test_redis_killed_and_back_learns_what_is_lacking_and_no_more(own_redis: EmbeddedValkey) -> None:
    holder = uuid4()
    async with gateways(own_redis.url, 2, restore_rate=10_000) as (first, second):
        account = first.account(holder)
        await account.settle()
        own_redis.stop()
        for _ in range(6):  # six buckets, as they are restored
            assert await take(account, 1_600) is None
            await asyncio.sleep(0.17)
        own_redis.start()
        await until(lambda: account.is_settled)

        assert (await second.account(holder).settle()).remaining >= 0
        await asyncio.sleep(0.2)
        assert (await second.account(holder).settle()).remaining == LIMIT
        assert (await first.account(holder).settle()).remaining == LIMIT


async def test_what_was_taken_is_settled_when_a_gateway_stops(redis_url: str) -> None:
    holder = uuid4()
    async with gateways(redis_url, 1) as (first,):
        first.account(holder).charge(700)
    async with gateways(redis_url, 1) as (second,):
        assert (await second.account(holder).settle()).remaining in range(LIMIT - 700, LIMIT - 690)


async def test_who_asks_and_goes_takes_nothing(redis_url: str) -> None:
    holder = uuid4()
    async with gateways(redis_url, 1) as (first,):
        account = first.account(holder)
        asking = asyncio.create_task(take(account, 1_000))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.sleep(0.05)

        assert (await account.settle()).remaining == LIMIT


async def test_a_refusal_asks_nobody(redis_url: str) -> None:
    async with gateways(redis_url, 1) as (first,):
        account = first.account(uuid4())
        account.charge(5_000)

        assert isinstance(account.take(1), Refusal)
