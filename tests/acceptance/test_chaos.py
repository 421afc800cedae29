"""The claim of the product, held against everything that can fail: a stream never loses, repeats or reorders.

Two gateways, a worker, PostgreSQL and Valkey as processes; writers over HTTP and subscribers over WebSockets and
server-sent events, as our users have them. For `SENDORA_CHAOS_SECONDS` (default 20) a script of random faults breaks
everything, several at a time: gateways are killed, stopped and paused, also with commits that they have not announced;
Valkey is killed, paused, emptied and cut off; PostgreSQL loses its backends or is killed; sockets are cut, the worker
is killed, keys are revoked. Then everybody comes back once more and what each of them received is compared with the
table, by SQL. `SENDORA_CHAOS_SEED` repeats a run's choices.
"""

from __future__ import annotations

import os
import random
import secrets
from pathlib import Path

from tests.acceptance.chaos.deployment import Deployment
from tests.acceptance.chaos.run import Chaos

SECONDS = float(os.environ.get("SENDORA_CHAOS_SECONDS", "20"))
SEED = int(os.environ.get("SENDORA_CHAOS_SEED", secrets.randbits(32)))
MAX_GATEWAY_BYTES = 256 * 1024 * 1024
"""A gateway takes about 100 MB when it has started; its rings, buffers and queues are bounded."""
LATE_SECONDS = 2.5
"""Two seconds are promised while Redis is away; the rest is for a machine that does other things too."""
PROMPT_SECONDS = 1.5
"""One second is promised for the end of a revoked key's streams while Redis is well, and much less for the rest."""


async def test_whatever_fails_each_subscriber_receives_exactly_the_table(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    chaos = Chaos(deployment, random.Random(SEED))
    try:
        await deployment.open()
        await chaos.run(SECONDS)
    finally:
        deployment.close()

    report = chaos.report()
    print(f"\nseed {SEED}\n{report.text}")
    assert report.violations == []
    assert report.logged_errors == []
    assert report.counts["fault: gateway killed"] + report.counts["fault: gateway stopped"] > 0
    assert report.received > 100
    assert report.largest_gateway_bytes < MAX_GATEWAY_BYTES
    for name, spread in (report.late | report.revoked).items():
        assert spread.p95 < (LATE_SECONDS if name.endswith("without Redis") else PROMPT_SECONDS), name
