"""The garbage collector of a process that serves for a long time."""

from __future__ import annotations

import gc

THRESHOLDS = (50_000, 20, 50)
"""Allocations before the youngest generation is searched, and how many searches of one before the next older."""


def settle_collector() -> None:
    """What is loaded by now stays: the collector need not look at it again, and need not look at each batch.

    A batch of a thousand events makes tens of thousands of objects and no cycles. With the default thresholds looking
    for some took a fifth of a gateway's CPU.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
