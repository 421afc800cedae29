"""A circuit breaker: whether a host or an account is worth trying now. A pure state machine; time is handed in.

CLOSED ── `FAILURES_TO_OPEN` in a row ──► OPEN ── its time is over ──► HALF-OPEN: one attempt at a time
   ▲                                        ▲                              │
   └───────────── any success ──────────────┴────────── a failure ─────────┘

Each opening without a success in between lasts twice as long as the one before. While it is open nothing is attempted
and so nothing is counted against a delivery: what waits, waits. Time is real, in seconds of a monotonic clock.
"""

from __future__ import annotations

import msgspec

FAILURES_TO_OPEN = 10
"""In a row: fewer may be the luck of one moment with many attempts at once."""
FIRST_OPEN_SECONDS = 2.0
"""As long as the first wait of the default schedule."""
MAX_OPEN_SECONDS = 60.0
"""Somebody who mends a host sees deliveries come again within this time."""


class Breaker(msgspec.Struct, frozen=True):
    """A breaker's state. The default is CLOSED.

    `failures` in a row while closed; `openings` since the last success; `open_until` while it is not closed;
    `is_probing`: the one attempt of HALF-OPEN is under way.
    """

    failures: int = 0
    openings: int = 0
    open_until: float | None = None
    is_probing: bool = False

    @property
    def is_closed(self) -> bool:
        """Attempts are not restricted."""
        return self.open_until is None


def room(breaker: Breaker, now: float) -> int | None:
    """How many attempts may begin: none, one, or as many as one likes (None)."""
    if breaker.open_until is None:
        return None
    return 0 if breaker.is_probing or now < breaker.open_until else 1


def began(breaker: Breaker) -> Breaker:
    """An attempt begins. Only where there was room."""
    return breaker if breaker.is_closed else msgspec.structs.replace(breaker, is_probing=True)


def abandoned(breaker: Breaker) -> Breaker:
    """An attempt that had begun was not made after all: another one may be."""
    return msgspec.structs.replace(breaker, is_probing=False)


def succeeded() -> Breaker:
    """Host or account answered, whatever it said of the message."""
    return Breaker()


def failed(breaker: Breaker, now: float, *, was_probe: bool) -> Breaker:
    """Host or account did not answer, or turned everything away."""
    if breaker.open_until is not None:
        # What began before it opened tells nothing new.
        return _opened(breaker, now) if was_probe else breaker
    failures = breaker.failures + 1
    return Breaker(failures, breaker.openings) if failures < FAILURES_TO_OPEN else _opened(breaker, now)


def _opened(breaker: Breaker, now: float) -> Breaker:
    seconds = min(FIRST_OPEN_SECONDS * 2 ** min(breaker.openings, 10), MAX_OPEN_SECONDS)
    return Breaker(0, breaker.openings + 1, now + seconds)
