"""A worker whose attempts, leases and heartbeats last seconds, so that what it leaves behind is taken over at once.

`python -m tests.acceptance.chaos_workflows.worker_with_short_lease`, with the settings of `cli.py worker`.
"""

from __future__ import annotations

from datetime import timedelta

import engine.workers.followers
import engine.workers.jobs
from tests.acceptance.chaos_deliveries import worker_with_short_lease

if __name__ == "__main__":
    engine.workers.jobs.HEARTBEAT_TIMEOUT = timedelta(seconds=2)
    engine.workers.jobs.POLL_INTERVAL = timedelta(seconds=1)
    engine.workers.followers.LEASE = timedelta(seconds=2)
    worker_with_short_lease.main()
