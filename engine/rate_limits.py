"""Rate limits: one bucket of points per holder of credentials, shared by all gateways in Redis.

A bucket holds up to `limit` points and gets `restore_rate` back every second; an operation takes what it costs, or is
refused. The bucket itself is in Redis. Each gateway keeps a view of those it has seen lately, decides by it without
waiting for anything, and settles with Redis every `SETTLE_SECONDS`, all of them in one script.

Guarantees: by its view a gateway gives at most a `SHARE`-th of what the bucket held when it last looked; beyond that it
asks Redis first, which is exact. So all gateways together overshoot by at most (gateways − 1) / SHARE of the limit, and
only within one interval of settling; it is a loan, because the bucket goes below zero and operations wait until it is
restored. A refusal is never waited for: a view may promise too much, but not too little.
While Redis is away each gateway goes by its own view alone, as if it were the only one; nothing fails. When Redis is
back it learns what the buckets lack, and not what has long been restored.

Leaves to others: what an operation costs (the transport), and who holds what (`holder` is any value whose `repr` is
equal for equal credentials; Redis sees only its digest).
Stops when `stop` is awaited; what is not settled then is settled once more, or forgotten if Redis is away.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from math import ceil
from time import monotonic

import msgspec
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from engine.tasks import end_tasks

LIMIT = 500_000
"""Points of a full bucket: twenty-five of the dearest operations at once, or five million events in batches."""
RESTORE_RATE = 50_000
"""Points that come back in a second: more than one gateway can serve of anything but batches."""

SETTLE_SECONDS = 0.1
"""Between two settlements: how old a gateway's view of what others have taken may be."""
SHARE = 16
"""By its view a gateway gives this part of what was there. Up to that many gateways can hardly overshoot at all."""
REDIS_TIMEOUT = 0.25
"""Seconds for an answer of Redis. Somebody may be waiting: one slower than this is away."""
RETRY_SECONDS = 1.0
"""For which nobody asks Redis again that has not answered."""
SCRIPT_BUCKETS = 500
"""In one call of the script, which keeps Redis for about a millisecond then."""
MAX_BUCKETS = 10_000
"""Views that are kept, about 500 bytes each. The least recently used go; Redis has what they were."""
KEPT_SECONDS = 60
"""For which Redis keeps a bucket that is full again: as good as none."""

_KEY = "sendora:rate:"
_logger = logging.getLogger(__name__)

_SCRIPT = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local limit, rate, kept = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local answer = {}
for place, key in ipairs(KEYS) do
  local taken, wanted = tonumber(ARGV[2 + 2 * place]), tonumber(ARGV[3 + 2 * place])
  local held = redis.call('HMGET', key, 'points', 'at')
  local points = limit
  if held[1] then
    points = math.min(limit, tonumber(held[1]) + math.max(0, now - tonumber(held[2])) * rate)
  end
  points = math.min(limit, points - taken)
  local granted = 0
  if wanted > 0 and points >= wanted then
    points = points - wanted
    granted = 1
  end
  redis.call('HSET', key, 'points', string.format('%.3f', points), 'at', string.format('%.6f', now))
  redis.call('EXPIRE', key, math.ceil(kept + (limit - points) / rate))
  answer[2 * place - 1] = string.format('%.3f', points)
  answer[2 * place] = granted
end
return answer
"""
"""For each key: give back what time has restored, take what was spent, and what is wanted if it is there."""


class Standing(msgspec.Struct, frozen=True):
    """What a holder has left, in points."""

    limit: int
    remaining: int
    restore_rate: int


class Refusal(msgspec.Struct, frozen=True):
    """There is not enough left. After so long there is, if nobody takes it first."""

    retry_after_ms: int


class Account:
    """One holder's bucket, as this gateway sees it."""

    __slots__ = ("_flying", "_limits", "_points", "_seen", "_spent", "_updated", "key", "limit", "restore_rate")

    def __init__(self, limits: RateLimits, key: str) -> None:
        self.key = key
        self.limit = limits.limit
        self.restore_rate = limits.restore_rate
        self._limits = limits
        self._points = float(limits.limit)
        """What is left, by this view; below zero it is a debt."""
        self._updated = limits.now()
        self._seen = float(limits.limit)
        """What there was at the last settlement."""
        self._spent = 0.0
        """Since then; below zero where more was given back than taken."""
        self._flying = 0.0
        """What Redis is being told now."""

    @property
    def remaining(self) -> int:
        """Points left by this gateway's view. A debt shows as nothing."""
        left = self._restored()
        return int(left) if left > 0 else 0

    @property
    def is_settled(self) -> bool:
        """Whether Redis knows of everything that was taken here."""
        return not (self._spent or self._flying)

    def take(self, points: int) -> Refusal | asyncio.Future[Refusal | None] | None:
        """Take so many points, or be refused. A future where Redis has to be asked first."""
        left = self._restored()
        if left < points:
            return self.refusal(points)
        spent = self._spent + points
        if spent + self._flying <= self._seen / SHARE or self._limits.is_alone:
            if not self._spent:
                self._limits.settle_soon(self)  # else it has been said
            self._points = left - points
            self._spent = spent
            return None
        return self._limits.ask(self, points)

    def charge(self, points: float) -> None:
        """Take so many points in any case, below zero too. Fewer than none are given back."""
        self._points -= points
        self._spent += points
        self._limits.settle_soon(self)

    async def settle(self) -> Standing:
        """What the holder has left as Redis knows it; by this gateway's view while Redis is away."""
        if not self._limits.is_alone:
            await self._limits.ask(self, 0)
        return Standing(self.limit, self.remaining, self.restore_rate)

    # What `RateLimits` calls

    def tell(self) -> float:
        """What Redis is to be told now. `told` or `untold` follows."""
        spent, self._spent = self._spent, 0.0
        self._flying += spent
        return spent

    def told(self, spent: float, left: float) -> None:
        """Redis has taken note, and holds so many points."""
        self._flying -= spent
        self._seen = max(left, 0.0)
        self._points = left - self._spent - self._flying
        self._updated = self._limits.now()

    def untold(self, spent: float) -> None:
        """Redis is away. It will be told no more than the bucket lacks: the rest has been restored by then."""
        self._flying -= spent
        self._spent = min(self._spent + spent, self._limits.limit - self._restored())

    def decide(self, points: int) -> Refusal | None:
        """As if this gateway were the only one."""
        if self._restored() < points:
            return self.refusal(points)
        self.charge(points)
        return None

    def refusal(self, points: int) -> Refusal:
        """How long it takes until so many are there."""
        return Refusal(max(1, ceil(1000 * (points - self._restored()) / self.restore_rate)))

    def _restored(self) -> float:
        """Once more than anything else in here: without `min`, which costs as much as all the rest."""
        now = self._limits.now()
        left = self._points + (now - self._updated) * self.restore_rate
        self._points = left = left if left < self.limit else float(self.limit)
        self._updated = now
        return left


class _Question(msgspec.Struct, frozen=True):
    """What Redis is to be told of an account, and whether so many points are there. Without `answer` nobody waits."""

    account: Account
    wanted: int
    answer: asyncio.Future[Refusal | None] | None


class RateLimits:
    """The buckets of all holders that speak to this gateway. Belongs to one event loop."""

    def __init__(
        self, url: str, *, limit: int = LIMIT, restore_rate: int = RESTORE_RATE, now: Callable[[], float] = monotonic
    ) -> None:
        self.limit = limit
        self.restore_rate = restore_rate
        self.now = now
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=1,
            timeout=REDIS_TIMEOUT,
            socket_timeout=REDIS_TIMEOUT,
            socket_connect_timeout=REDIS_TIMEOUT,
            # never twice: what was taken would be taken again
            retry=Retry(NoBackoff(), 0),
        )
        self._redis: Redis = Redis.from_pool(pool)
        self._script = self._redis.register_script(_SCRIPT)
        self._accounts: OrderedDict[Hashable, Account] = OrderedDict()
        self._questions: deque[_Question] = deque()
        self._unsettled: dict[Account, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._alone_until = 0.0

    @property
    def is_alone(self) -> bool:
        """Whether nobody asks Redis: it has not answered a moment ago, or this has not begun."""
        return self._task is None or self._alone_until > self.now()

    def start(self) -> None:
        """Begin settling."""
        self._task = asyncio.create_task(self._run(), name="rate-limits")

    async def stop(self) -> None:
        """Settle once more, if Redis is there, and end."""
        await end_tasks([self._task])
        if self._timer is not None:
            self._timer.cancel()
        self._gather()
        while self._questions and not self.is_alone:
            await self._settle(self._batch())
        self._task = None
        await self._redis.aclose()

    def account(self, holder: Hashable) -> Account:
        """The bucket of a holder. What counts as one is whatever is equal."""
        account = self._accounts.get(holder)
        if account is None:
            return self._open(holder)
        self._accounts.move_to_end(holder)
        return account

    def settle_soon(self, account: Account) -> None:
        """Tell Redis of this account with the others."""
        self._unsettled[account] = None
        if self._timer is None and self._task is not None:
            self._timer = asyncio.get_running_loop().call_later(SETTLE_SECONDS, self._ring)

    def ask(self, account: Account, wanted: int) -> asyncio.Future[Refusal | None]:
        """Take so many points where they really are. Never fails."""
        answer: asyncio.Future[Refusal | None] = asyncio.get_running_loop().create_future()
        self._questions.append(_Question(account, wanted, answer))
        self._wake.set()
        return answer

    def _open(self, holder: Hashable) -> Account:
        account = Account(self, _KEY + hashlib.blake2b(repr(holder).encode(), digest_size=16).hexdigest())
        self._accounts[holder] = account
        if len(self._accounts) > MAX_BUCKETS:
            oldest = next(iter(self._accounts))
            if self._accounts[oldest].is_settled:
                del self._accounts[oldest]
            else:
                self._accounts.move_to_end(oldest)
        return account

    def _ring(self) -> None:
        self._timer = None
        self._gather()
        self._wake.set()

    def _gather(self) -> None:
        self._questions.extend(_Question(account, 0, None) for account in self._unsettled)
        self._unsettled.clear()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            await self._settle(self._batch())
            if not self._questions:
                self._wake.clear()

    def _batch(self) -> list[_Question]:
        return [self._questions.popleft() for _ in range(min(len(self._questions), SCRIPT_BUCKETS))]

    async def _settle(self, questions: list[_Question]) -> None:
        """Tell and ask Redis. Whatever happens, every question has an answer then."""
        told = [question.account.tell() for question in questions]
        try:
            answers = None if self.is_alone else await self._call(questions, told)
        except (RedisError, OSError, TimeoutError) as error:
            _logger.info("rate_limits.redis_away", extra={"reason": type(error).__name__})
            self._alone_until = self.now() + RETRY_SECONDS
            answers = None
        except BaseException:
            self._give_up(questions, told)
            raise
        if answers is None:
            self._give_up(questions, told)
            return
        for question, spent, left, granted in zip(questions, told, answers[::2], answers[1::2], strict=True):
            question.account.told(spent, float(left))
            _answer(question, None if granted or not question.wanted else question.account.refusal(question.wanted))

    async def _call(self, questions: list[_Question], told: list[float]) -> list[bytes | int]:
        arguments = [number for each, spent in zip(questions, told, strict=True) for number in (spent, each.wanted)]
        async with asyncio.timeout(REDIS_TIMEOUT):
            answers: list[bytes | int] = await self._script(
                keys=[question.account.key for question in questions],
                args=[self.limit, self.restore_rate, KEPT_SECONDS, *arguments],
            )
        return answers

    def _give_up(self, questions: list[_Question], told: list[float]) -> None:
        """Decide here, and tell Redis later."""
        for question, spent in zip(questions, told, strict=True):
            account = question.account
            account.untold(spent)
            self.settle_soon(account)
            if question.answer is not None and not question.answer.done():
                question.answer.set_result(account.decide(question.wanted))


def _answer(question: _Question, refusal: Refusal | None) -> None:
    if question.answer is None:
        return
    if not question.answer.done():
        question.answer.set_result(refusal)
    elif refusal is None and question.wanted:
        question.account.charge(-question.wanted)  # who asked has gone
